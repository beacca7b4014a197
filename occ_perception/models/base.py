"""What a `Session` asks of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from occ_perception.frame import Frame
from occ_perception.occupancy import Instance, ModelInfo


@dataclass(frozen=True)
class ImageSpec:
    """The images a model wants.

    Attributes:
        height, width: network input size, pixels.
        cameras: names in the order the weights were trained with; empty = the rig's own order.
        resize_from: the original image size (width, height) that ``resize`` refers to.
        resize: factor from the original image to the resized one (0.44 for ALOcc: 1600x900 -> 704x396); images of other
            sizes are scaled to the same resized width.
        mean, std: normalisation per network channel, on 0..255 values.
        bgr: network channel 0 is blue.
        optional: the model also works on a frame without a single image (with its LiDAR).
    """

    height: int
    width: int
    cameras: tuple[str, ...] = ()
    resize_from: tuple[int, int] = (1600, 900)
    resize: float = 0.44
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    bgr: bool = False
    optional: bool = False


@dataclass(frozen=True)
class ModelInput:
    """One frame as a model sees it.

    Attributes:
        frame: the measurements with poses and calibration (images in it need not be decoded).
        cameras: names of the cameras in network order (all that are configured, present or not).
        present: which of them really delivered an image, same order.
        images: float32 [N, 3, h, w] normalised, on the model's device; rows of absent cameras are zero and must not be
            used; None if the model needs no images.
        image_affines: float64 [N, 3, 3], original pixels -> network input pixels, same order.
    """

    frame: Frame
    cameras: tuple[str, ...] = ()
    present: tuple[bool, ...] = ()
    images: torch.Tensor | None = None
    image_affines: torch.Tensor | None = None


class LidarSight(NamedTuple):
    """What LiDAR beams met of a model's grid, bool [X, Y, Z]."""

    hits: torch.Tensor  # voxels with a return
    passed: torch.Tensor | None  # voxels that beams went through; None = not computed


@dataclass
class ModelOutput:
    """What a model says of one frame; tensors may live on any device, arrays are indexed ``[x, y, z]``.

    Attributes:
        semantics: uint8 [X, Y, Z], classes of the model's ontology, or FREE, or UNKNOWN.
        visibility: uint8 [X, Y, Z] `Visibility` if the model itself knows (a carving model does); None: the session
            derives it from the cameras that were present (and ``lidar_sight``), and turns what was not seen into
            UNKNOWN.
        lidar_sight: what the LiDAR saw, of models that use one without knowing the visibility.
        prediction: uint8 [X, Y, Z], what benchmarks score if that is not ``semantics`` (a paper's own post-processing
            that may delete what was seen); never published.
        confidence: uint8 [X, Y, Z] or None.
        flow: float [X, Y, Z, 2] m/s or None.
        instances: int [X, Y, Z] or None; whole numbers that tell the objects of this frame apart, 0 = none.  Ids that
            last are `tracking`'s, and so is the list of objects.
        objects: with ``instances``, what else is known of these numbers (only the scores count); without, boxes.
        state: opaque temporal state for the next frame.
        state_frames: how many past frames are in the state that was used.
        stages_ms: wall time by stage.
        notes: what the model had to leave out and why, in words, for diagnostics.
        lidar_used: whether any LiDAR point took part; None: whenever there was a sweep and the model uses LiDAR.
        voxel_features: float [C, X', Y', Z'], features on the model's grid at any resolution, of models that were told
            to keep them: what `models.panoptic` works on; or None.
    """

    semantics: torch.Tensor
    visibility: torch.Tensor | None = None
    lidar_sight: LidarSight | None = None
    prediction: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    flow: torch.Tensor | None = None
    instances: torch.Tensor | None = None
    objects: tuple[Instance, ...] = ()
    state: Any = None
    state_frames: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lidar_used: bool | None = None
    voxel_features: torch.Tensor | None = None


class PerceptionModel(Protocol):
    """A streaming model: stateless itself, the state is handed in and out.

    Attributes:
        info: name, label set, grid, weights.
        image_spec: the images it wants; None if it needs none.
        uses_lidar: whether LiDAR sweeps are of use to it.
        history_interval_s: time between the frames its temporal state was trained with; 0 = every frame.  At a higher
            rate the session keeps the state of the last frame that was at least (almost) this long ago.
    """

    info: ModelInfo
    image_spec: ImageSpec | None
    uses_lidar: bool
    history_interval_s: float

    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: torch.Tensor | None) -> ModelOutput:
        """Perceive one frame.

        Args:
            inputs: the frame.
            state: what an earlier call returned, or None at the start of a sequence.
            prev_ego_from_ego: float64 [4, 4], from this frame's ego to the ego of the state's frame; None iff state is.

        Raises:
            InvalidInputError: the frame cannot be used at all.
            NumericsError: a stage produced NaN or infinity.
        """
        ...
