"""What goes into an ALOcc network each frame, what comes out, and what it remembers.

Inside the network grids are [B, C, Y, X(, Z)]; ``models/alocc_adapter.py`` converts at the border to [X, Y, Z].
"""

from typing import NamedTuple

from torch import Tensor

from occ_perception.layers.history_fusion import HistoryState
from occ_perception.ops.frustum import CameraTensors


class ALOccInputs(NamedTuple):
    """One frame of B streams with N cameras each."""

    images: Tensor  # [B, N, 3, H, W] normalised
    cameras: CameraTensors
    previous_from_current_camera: Tensor | None  # [B, N, 4, 4], stereo variants
    previous_from_current_ego: Tensor  # [B, 4, 4]
    starts: tuple[bool, ...] = (True,)  # per stream: first frame of its sequence
    stereo_known: Tensor | None = None  # [B, N] bool; False: no previous image, the camera is its own partner
    camera_mask: Tensor | None = None  # [B, N] bool; a False camera contributes nothing
    lidar_depth: Tensor | None = (
        None  # [B, N, h, w] depth bin of the nearest hit, -1 without (gt-depth variants, training)
    )
    previous_images: Tensor | None = None  # stereo partner under this frame's augmentation; training only
    guidance: "Guidance | None" = None


class Guidance(NamedTuple):
    """Ground truth mixed into a training step (specs/alocc.md sections 5.1 and 9)."""

    depth_mix: float = 0.0  # share of the LiDAR depth in the lifting
    flow_scores: Tensor | None = None  # correlation of one-hot ground-truth maps, like ``correlation_scores``
    flow_mix: float = 0.0  # its share


class ALOccState(NamedTuple):
    """What one frame leaves for the next; every tensor belongs to the frame's own grid and cameras."""

    history: HistoryState | None
    stereo_features: Tensor | None  # C2 [B, N, 256, H/4, W/4]
    flow_map: Tensor | None  # [B, Y, X, F]
    bda: Tensor  # [B, 3, 3]


class ALOccOutput(NamedTuple):
    """Scores of one frame, internal axes (Y, X, Z)."""

    logits: Tensor  # [B, queries, Y, X, Z]; query 0 is void, query c + 1 is class c
    flow: Tensor | None  # [B, Y, X, Z, 2] = (v_y, v_x) m/s
    flow_logits: Tensor | None  # [B, 176, Y, X, Z], in training mode only
    depth: Tensor  # surface depth distribution [B, N, D, h, w]
    context: Tensor  # [B, N, C, h, w]
    voxel_features: Tensor | None = None  # [B, F, Y, X, Z]; None where the classes are scored without making them

    def features_on_grid(self) -> Tensor | None:
        """The voxel features on the published axes, [B, F, X, Y, Z]."""
        return None if self.voxel_features is None else self.voxel_features.transpose(2, 3)
