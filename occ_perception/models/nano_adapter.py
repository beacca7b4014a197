"""`nano` as a `PerceptionModel`: frames in; classes, flow and instances in the project's axes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.layers.column_scores import BestClasses, ColumnScores
from occ_perception.layers.stage_monitor import FiniteMonitor, StageTimer, all_of, check_finite_weights
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.models.base import ImageSpec, LidarSight, ModelInput, ModelOutput
from occ_perception.models.camera_inputs import check_images
from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.models.nano import FEATURE_STRIDE, Nano, expected_velocity
from occ_perception.models.nano_config import NanoConfig
from occ_perception.models.nano_geometry import lidar_passed, sensor_tensors
from occ_perception.models.nano_instances import instance_grid
from occ_perception.models.nano_types import (
    NanoInputs,
    NanoOutput,
    NanoState,
    columns_from_grid,
    features_on_grid,
    grid_from_columns,
)
from occ_perception.occupancy import ModelInfo
from occ_perception.ontology import FREE, ontology_by_name
from occ_perception.ops.relabel import relabel


@dataclass(frozen=True)
class NanoStream:
    """The state of one stream between frames."""

    network: NanoState
    frames: int


class NanoModel:
    """`nano` behind the `PerceptionModel` protocol; works with cameras, LiDAR, or both.

    Args:
        config: sizes.
        network: with its weights; it is folded and moved to the device here.
        device: where it runs.
        weights: fingerprint for the published grids.
        trained_on: in words.
        own_vehicle: LiDAR returns inside are the vehicle itself; the default is nuScenes' car.
        voxel_features: whether outputs carry the features of every voxel, before they meet the class prototypes.

    Raises:
        WeightsError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        config: NanoConfig,
        network: Nano,
        device: torch.device | str = "cpu",
        weights: str = "none",
        trained_on: str = "",
        own_vehicle: OwnVehicle | None = None,
        voxel_features: bool = False,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        check_finite_weights(network, config.name)
        self.network = network.to(self.device).prepare_for_inference(voxel_features)
        ontology = ontology_by_name(config.label_set)
        self.info = ModelInfo(config.name, ontology, config.grid, weights, trained_on, hidden_is_unknown=True)
        self.image_spec: ImageSpec | None = ImageSpec(
            *config.image_size, NUSCENES_CAMERAS, (1600, 900), config.resize, optional=True
        )
        self.uses_lidar = True
        self.history_interval_s = config.frame_interval if config.use_history else 0.0
        self._own_vehicle = own_vehicle or OwnVehicle()
        things = torch.zeros(256, dtype=torch.bool)
        things[list(self.info.ontology.thing_ids)] = True
        self._is_thing = things.to(self.device)

    @torch.inference_mode()
    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Perceive one frame; see `PerceptionModel.step`.

        Raises:
            InvalidInputError: neither a usable image nor a LiDAR sweep, or a state of another model.
            NumericsError: a stage produced NaN or infinity; the message names the first.
        """
        if state is not None and not isinstance(state, NanoStream):
            raise InvalidInputError(f"temporal state is of {type(state).__name__}, expected {self.config.name}")
        network_inputs = self._network_inputs(inputs, prev_ego_from_ego)
        finite, timer = FiniteMonitor(), StageTimer(self.device)
        observe = all_of(finite, timer)
        output, after = self.network(network_inputs, state.network if state else None, observe)
        best = cast("ColumnScores", output.scores).best()  # a network prepared for inference has them
        observe("voxels", best.scores)
        finite.raise_if_not_finite()
        result = self._published(output, best)
        timer("published", result.semantics)
        result.stages_ms = timer.stages_ms()
        result.state = NanoStream(after, (state.frames if state else 0) + 1) if self.config.use_history else None
        result.state_frames = state.frames if state else 0
        result.lidar_used = bool(inputs.frame.lidar)
        result.lidar_sight = self._lidar_sight(inputs, network_inputs.lidar_columns)
        return result

    def _network_inputs(self, inputs: ModelInput, motion: Tensor | None) -> NanoInputs:
        sensors = sensor_tensors(inputs, self.config, self._own_vehicle, self.device)
        if any(inputs.present):
            images = check_images(inputs, self.config.name, FEATURE_STRIDE).to(self.device)
            if not all(inputs.present):
                images = images[torch.tensor(inputs.present, device=images.device)]
        elif sensors.has_lidar:
            images = torch.zeros(0, 3, *self.config.image_size, device=self.device)
        else:
            raise InvalidInputError(f"{self.config.name}: no camera of {list(inputs.cameras)} and no LiDAR delivered")
        ego_motion = torch.eye(4, dtype=torch.float64) if motion is None else motion.double().cpu()
        return NanoInputs(
            images[None],
            sensors.cameras,
            torch.ones(1, len(images), dtype=torch.bool, device=self.device),
            columns_from_grid(sensors.lidar_occupancy),
            sensors.lidar_depth,
            torch.tensor([sensors.has_lidar], device=self.device),
            ego_motion[None].to(self.device),
            torch.tensor([motion is None], device=self.device),
        )

    def _lidar_sight(self, inputs: ModelInput, columns: Tensor) -> LidarSight | None:
        """Where beams ended, and, if not all cameras tell what is free, where they went."""
        if not inputs.frame.lidar:
            return None
        complete = len(inputs.present) == len(NUSCENES_CAMERAS) and all(inputs.present)
        passed = None if complete else lidar_passed(inputs, self.config, self._own_vehicle).to(self.device)
        return LidarSight(grid_from_columns(columns)[0], passed)

    def _published(self, output: NanoOutput, best: BestClasses) -> ModelOutput:
        """Coarse columns to [X, Y, Z]: the best class, its probability, flow and instances of things."""
        classes, confidence = self._on_grid(best.classes), self._on_grid(best.confidence)
        semantics = relabel(classes, classes == self.config.free_class, FREE)
        things = self._is_thing.index_select(0, semantics.flatten().int()).view(semantics.shape)
        velocity = expected_velocity(output.flow_logits)[0].permute(2, 1, 0)  # [X / 2, Y / 2, 2]
        velocity = velocity.repeat_interleave(2, 0).repeat_interleave(2, 1)
        flow = velocity[:, :, None] * things[..., None]
        heatmap = grid_from_columns(output.heatmap[..., None])[0, ..., 0]
        offsets = grid_from_columns(output.offsets[..., None, :])[0, ..., 0, :]
        instances = instance_grid(things, heatmap, offsets, self.config.voxel_size)
        return ModelOutput(
            semantics,
            confidence=confidence,
            flow=flow,
            instances=instances,
            voxel_features=None if output.voxel_features is None else features_on_grid(output.voxel_features)[0],
        )

    def _on_grid(self, columns: Tensor) -> Tensor:
        """Values of the voxels of coarse columns, [1, Y, X, 4 Z] -> [X, Y, Z]."""
        return grid_from_columns(columns.unflatten(-1, (2, 2, self.config.grid_size[2])))[0]


def create_nano(weights: Path | None, device: torch.device, own_vehicle: OwnVehicle | None = None) -> NanoModel:
    """`nano` with the weights of a safetensors file; without a file its weights are random and it says so.

    Raises:
        WeightsError: the file does not hold this model's weights.
    """
    from occ_perception.checkpoints.loading import load_weights

    config = NanoConfig()
    network = Nano(config).eval()
    if weights is None:
        return NanoModel(config, network, device, "untrained", "nothing (random weights)", own_vehicle)
    loaded = load_weights(network, config.name, weights)
    return NanoModel(config, network, device, loaded.fingerprint, loaded.trained_on, own_vehicle)


__all__ = ["NanoModel", "NanoStream", "create_nano"]
