"""ALOcc as a `PerceptionModel`: frames and poses in, a class grid in the project's axes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.layers.stage_monitor import FiniteMonitor, StageTimer, all_of, check_finite_weights
from occ_perception.models.alocc import LIFTING_STRIDE, ALOcc
from occ_perception.models.alocc_config import NUSCENES_CAMERAS, ALOccConfig, alocc_config
from occ_perception.models.alocc_geometry import (
    camera_tensors,
    cells_in_lidar_grid,
    lidar_depth_of,
    lidar_from_anchor,
    published_grid,
    stereo_motion,
)
from occ_perception.models.alocc_types import ALOccInputs, ALOccOutput, ALOccState
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput
from occ_perception.models.camera_inputs import CameraPoses, camera_poses, check_images
from occ_perception.occupancy import ModelInfo
from occ_perception.ontology import FREE, UNKNOWN, ontology_by_name
from occ_perception.ops.precision import Precision, arithmetic

# A session replaces its state when (almost) one trained interval has passed; see `Session`.
_INTERVAL_SHARE = 0.9


@dataclass
class ALOccStream:
    """The state of one stream between frames; ``spent`` once its memory went into a later frame's state."""

    model: str
    stamp_ns: int
    network: ALOccState
    poses: CameraPoses
    image_size: tuple[int, int]
    frames: int
    spent: bool = False


@dataclass
class ALOccModelOutput(ModelOutput):
    """`ModelOutput` with the scores of every class, sigmoid, float32 [X, Y, Z, classes], when asked for."""

    scores: Tensor | None = field(default=None)


class ALOccModel:
    """One ALOcc variant behind the `PerceptionModel` protocol.

    The published grid is the ego frame at the frame's anchor stamp; the weights were trained with CAM_FRONT as the
    anchor.  Confidence is the sigmoid score of the winning class, the score the authors rank classes by.

    Args:
        config: the variant.
        network: with its weights; it is folded and moved to the device here.
        device: where it runs.
        weights: fingerprint for the published grids.
        trained_on: in words.
        precision: arithmetic of the convolutions; the geometry and the history stay float32.
        class_scores: whether outputs carry the scores of every class.
        half_history: keep the stored volumes in float16, half the memory.
        voxel_features: whether outputs carry the features of every voxel, before they meet the class prototypes.

    Raises:
        ConfigurationError: voxel features were asked for, but they lie in LiDAR axes.
        WeightsError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        config: ALOccConfig,
        network: ALOcc,
        device: torch.device | str = "cpu",
        weights: str = "none",
        trained_on: str = "",
        precision: Precision = "float32",
        class_scores: bool = False,
        half_history: bool = False,
        voxel_features: bool = False,
    ) -> None:
        if voxel_features and config.lidar_axes:
            raise ConfigurationError(f"{config.name}: its voxel features are not on the published grid")
        self.config = config
        self.device = torch.device(device)
        # NaN in its weights would be hidden by the fused ReLU (``ops/fused_conv.py``).
        check_finite_weights(network, config.name)
        self.network = network.to(self.device).prepare_for_inference(voxel_features)
        self.network.history_dtype = torch.float16 if half_history else torch.float32
        self.info = ModelInfo(
            config.name,
            ontology_by_name(config.label_set),
            published_grid(config),
            weights,
            trained_on,
            hidden_is_unknown=config.mask_trained,
        )
        width, height = config.source_image_size[1], config.source_image_size[0]
        self.image_spec: ImageSpec | None = ImageSpec(
            *config.image_size, NUSCENES_CAMERAS, (width, height), config.resize, bgr=True
        )
        self.uses_lidar = config.uses_lidar_depth or config.lidar_axes
        self.history_interval_s = config.frame_interval if config.history_frames else 0.0
        self._precision = precision
        self._class_scores = class_scores
        self._voxel_features = voxel_features

    @torch.inference_mode()
    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Perceive one frame; see `PerceptionModel.step`.

        ``state`` is consumed when at least one trained interval has passed since its frame: its memory becomes the new
        state's.  Before that it is returned unchanged.

        Raises:
            InvalidInputError: wrong images, calibration or poses, or a state that is not of this model and grid.
            NumericsError: a stage produced NaN or infinity; the message names the first.
        """
        check_images(inputs, self.config.name, LIFTING_STRIDE)
        poses = camera_poses(inputs)
        stream = self._checked_stream(inputs, state, prev_ego_from_ego)
        replace = stream is None or self._replaces(stream, inputs.frame.stamp_ns)
        network_inputs, network_state = self._network_inputs(inputs, poses, stream, prev_ego_from_ego)
        finite, timer = FiniteMonitor(), StageTimer(self.device)
        observe = all_of(finite, timer)
        if stream is not None and replace:
            stream.spent = True
        with arithmetic(self.device, self._precision):
            update: Literal["overwrite", "keep"] = "overwrite" if replace else "keep"
            output, network_state = self.network(network_inputs, network_state, observe, update)
        finite.raise_if_not_finite()
        result = self._published(output)
        if self.config.lidar_axes:
            result = self._in_vehicle_axes(result, lidar_from_anchor(inputs.frame))
        result.stages_ms = timer.stages_ms()
        result.state_frames = stream.frames if stream else 0
        result.state = stream
        if replace:
            frames = min((stream.frames if stream else 0) + 1, max(self.config.history_frames, 1))
            size = network_inputs.images.shape[-2:]
            result.state = ALOccStream(
                self.config.name, inputs.frame.stamp_ns, network_state, poses, (size[0], size[1]), frames
            )
        return result

    def _replaces(self, stream: ALOccStream, stamp_ns: int) -> bool:
        return (stamp_ns - stream.stamp_ns) * 1e-9 >= _INTERVAL_SHARE * self.history_interval_s

    def _checked_stream(self, inputs: ModelInput, state: Any, motion: Tensor | None) -> ALOccStream | None:
        if state is None:
            return None
        if not isinstance(state, ALOccStream) or state.model != self.config.name:
            other = state.model if isinstance(state, ALOccStream) else type(state).__name__
            raise InvalidInputError(f"temporal state is of {other}, expected {self.config.name}")
        if state.spent:
            raise InvalidInputError("temporal state was already used up by a later frame")
        if inputs.images is not None and tuple(inputs.images.shape[-2:]) != state.image_size:
            raise InvalidInputError(
                f"temporal state is of {state.image_size} images, this frame's are {tuple(inputs.images.shape[-2:])}"
            )
        self._check_grid(state.network)
        if motion is None or motion.shape != (4, 4) or not bool(torch.isfinite(motion).all()):
            raise InvalidInputError("temporal state needs a finite 4x4 prev_ego_from_ego")
        return state

    def _check_grid(self, state: ALOccState) -> None:
        if state.history is None:
            return
        x, y, z = self.config.lifting_cells
        expected = (y, x, self.config.lifted_channels) if z == 1 else (y, x, z, self.config.lifted_channels)
        got = tuple(state.history.frames.shape[2:])
        if got != expected:
            raise InvalidInputError(f"temporal state is of another grid: expected cells {expected}, got {got}")

    def _network_inputs(
        self, inputs: ModelInput, poses: CameraPoses, stream: ALOccStream | None, motion: Tensor | None
    ) -> tuple[ALOccInputs, ALOccState | None]:
        """Only the cameras that are present enter the network; the others contribute nothing."""
        images = check_images(inputs, self.config.name, LIFTING_STRIDE)
        present = torch.tensor(inputs.present)
        if not all(inputs.present):
            images = images[present.to(images.device)]
        network_state = None if stream is None else stream.network
        camera_motion, known = None, None
        if self.config.stereo:
            camera_motion, known, rows = stereo_motion(poses, None if stream is None else stream.poses, self.device)
            if network_state is not None and network_state.stereo_features is not None:
                features = network_state.stereo_features.index_select(1, rows)
                network_state = network_state._replace(stereo_features=features)
        lidar = None
        if self.config.uses_lidar_depth:
            lidar = lidar_depth_of(inputs, poses, self.config, (images.shape[-2], images.shape[-1]), LIFTING_STRIDE)
        ego_motion = torch.eye(4, dtype=torch.float64) if motion is None else motion.double().cpu()
        network_inputs = ALOccInputs(
            images.to(self.device)[None],
            camera_tensors(
                inputs, poses, self.device, lidar_from_anchor(inputs.frame) if self.config.lidar_axes else None
            ),
            camera_motion,
            ego_motion[None].to(self.device),
            starts=(stream is None,),
            stereo_known=known,
            lidar_depth=None if lidar is None else lidar.to(self.device),
        )
        return network_inputs, network_state

    def _in_vehicle_axes(self, output: ALOccModelOutput, transform: np.ndarray) -> ALOccModelOutput:
        """Nearest-cell resampling of a grid in LiDAR axes; what lies outside of it is unknown."""
        cells, inside = (t.to(self.device) for t in cells_in_lidar_grid(self.config, self.info.grid, transform))
        size = self.info.grid.size
        semantics = torch.where(inside, output.semantics.flatten()[cells], UNKNOWN).view(size)
        output.semantics = semantics.to(torch.uint8)
        if output.confidence is not None:
            output.confidence = (output.confidence.flatten()[cells] * inside).view(size)
        if output.scores is not None:
            output.scores = (output.scores.flatten(0, 2)[cells] * inside[:, None]).view(*size, -1)
        return output

    def _published(self, output: ALOccOutput) -> ALOccModelOutput:
        """Internal [Y, X, Z] scores to [X, Y, Z] classes; void is dropped, free gets the project's id."""
        config = self.config
        # QUIRK (section 12): SurroundOcc has no class 0, its argmax starts at 1.
        skipped = 1 if config.label_set == "surroundocc" else 0
        # QUIRK (section 8): float32 sigmoid saturates above 16.6; ties go to the lowest class.
        # In place: nothing reads the logits after this.
        scores = output.logits[0, 1 + skipped :].float().sigmoid_().movedim(0, -1).transpose(0, 1)
        confidence, best = scores.max(dim=-1)
        classes = best + skipped
        semantics = torch.where(classes == config.free_class, FREE, classes).to(torch.uint8)
        # Internally (v_y, v_x) on [Y, X, Z]; the authors publish float16.
        flow = None if output.flow is None else output.flow[0].transpose(0, 1).flip(-1).half().float()
        return ALOccModelOutput(
            semantics.contiguous(),
            confidence=(confidence * 255).round().to(torch.uint8),
            flow=flow,
            scores=scores if self._class_scores else None,
            voxel_features=self._kept_features(output),
        )

    def _kept_features(self, output: ALOccOutput) -> Tensor | None:
        features = output.features_on_grid() if self._voxel_features else None
        return None if features is None else features[0]


def create_alocc(
    name: str,
    weights: Path | None,
    device: torch.device,
    precision: Precision = "float32",
    class_scores: bool = False,
) -> ALOccModel:
    """A variant with the weights of a safetensors file; without a file its weights are random and it says so.

    Raises:
        ConfigurationError: no such variant.
        WeightsError: the file does not hold this variant's weights.
    """
    from occ_perception.checkpoints.loading import load_weights

    config = alocc_config(name)
    network = ALOcc(config).eval()
    if weights is None:
        return ALOccModel(config, network, device, "untrained", "nothing (random weights)", precision, class_scores)
    loaded = load_weights(network, config.name, weights)
    return ALOccModel(config, network, device, loaded.fingerprint, loaded.trained_on, precision, class_scores)


__all__ = ["ALOccModel", "ALOccModelOutput", "ALOccStream", "create_alocc"]
