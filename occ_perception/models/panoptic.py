"""The Object Module and the Panoptic Module on top of any base model (OffsetOcc, arXiv 2505.09562, section 3.3).

A base model gives a class for every voxel and features of the voxels, at any resolution: as a network, a tensor
[B, C, X', Y', Z']; as a `PerceptionModel`, `ModelOutput.voxel_features`.  `PanopticHead` finds objects in the features,
`PanopticModel` gives the base's thing voxels to them.
"""

from __future__ import annotations

import math
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import VoxelGrid
from occ_perception.layers.object_grid import FoundObjects, find_objects, instance_grid, is_covered, object_cells
from occ_perception.layers.object_module import ObjectModule, ObjectPredictions
from occ_perception.layers.stage_monitor import (
    FiniteMonitor,
    StageObserver,
    StageTimer,
    all_of,
    check_finite_weights,
    ignore_stages,
)
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput, PerceptionModel
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.occupancy import Instance, ModelInfo
from occ_perception.ontology import FREE
from occ_perception.ops.instance_voting import panoptic_vote
from occ_perception.ops.precision import Precision, arithmetic, full_precision

BaseNetwork = TypeVar("BaseNetwork", bound=nn.Module)


class PanopticScene(NamedTuple):
    """What the modules make of one sample."""

    semantics: Tensor  # the base's, with FREE for things that no object claims; [X, Y, Z]
    instances: Tensor  # int32 [X, Y, Z], 0 for none
    objects: tuple[Instance, ...]  # id, class, score and centre as the head says; boxes are fitted to voxels later


class PanopticHead(nn.Module):
    """The Object Module behind a projection of the base's features to its own number of channels.

    Args:
        config: sizes and thresholds.
        grid: what the features cover, at the resolution of the base's classes.
        in_channels: C of the base's features.
        things: class ids of the base's label set that have instances.
    """

    thing_ids: Tensor

    def __init__(self, config: PanopticConfig, grid: VoxelGrid, in_channels: int, things: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.grid, self.things = config, grid, things
        self.register_buffer("thing_ids", torch.tensor(things), persistent=False)
        same = in_channels == config.channels
        self.projection: nn.Module = nn.Identity() if same else nn.Linear(in_channels, config.channels)
        self.objects = ObjectModule(
            grid,
            len(things),
            config.channels,
            config.queries,
            config.layers,
            config.heads,
            config.points,
            config.hidden,
            config.offsets_per_side,
        )

    def forward(self, voxel_features: Tensor, observe: StageObserver = ignore_stages) -> ObjectPredictions:
        """Voxel features [B, C, X', Y', Z'] -> what each object query found."""
        observe("voxel_features", voxel_features)
        if self.config.feature_stride > 1:
            with full_precision(voxel_features):
                voxel_features = F.avg_pool3d(voxel_features.float(), self.config.feature_stride)
        predictions = self.objects(self.projection(voxel_features.movedim(1, -1)))
        observe("objects.classes", predictions.class_logits)
        observe("objects.centres", predictions.centres)
        return predictions

    def find(self, predictions: ObjectPredictions, sample: int) -> FoundObjects:
        """The objects of one sample, best first."""
        config = self.config
        return find_objects(self.objects, predictions, sample, config.score_threshold, config.offset_threshold)

    def merge(self, semantics: Tensor, objects: FoundObjects) -> PanopticScene:
        """The Panoptic Module: classes of the base [X, Y, Z] and objects of the head to classes with instances."""
        cells = object_cells(objects, self.grid)
        if self.config.covered_share is not None:
            covered = is_covered(cells, objects.classes, self.config.covered_share)
            cells = torch.where(covered[:, None], -1, cells)
        classes = self.thing_ids[objects.classes]
        vote = panoptic_vote(
            semantics,
            instance_grid(cells, self.grid.size),
            self.config.voting_radius,
            things=self.things,
            free=FREE,
            object_classes=classes if self.config.same_class else None,
        )
        return PanopticScene(vote.semantics, vote.instances, self._instances(objects, classes, vote.instances))

    def _instances(self, objects: FoundObjects, classes: Tensor, instances: Tensor) -> tuple[Instance, ...]:
        """The objects that have voxels, best first, in one copy to the host.

        Their size is one voxel: the head predicts none, and a `Session` fits boxes to the voxels.
        """
        labels = instances.flatten().long()
        voxels = labels.new_zeros(len(classes) + 1).index_add_(0, labels, torch.ones_like(labels))[1:]
        columns = (voxels[:, None], classes[:, None], objects.scores[:, None], objects.centres)
        rows = torch.cat([column.double() for column in columns], dim=1).tolist()
        size, unknown = (self.grid.voxel_size,) * 3, (math.nan,) * 3
        return tuple(
            Instance(row + 1, int(class_id), score, (x, y, z), size, 0.0, unknown)
            for row, (count, class_id, score, x, y, z) in enumerate(rows)
            if count
        )


class PanopticNetwork(nn.Module, Generic[BaseNetwork]):
    """A base network and the head on it: what stage 2 trains, and what a weights file holds.  The base is frozen."""

    base: BaseNetwork

    def __init__(self, base: BaseNetwork, head: PanopticHead) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.head = head

    def train(self, mode: bool = True) -> PanopticNetwork[BaseNetwork]:
        """Training mode for the head only: the base's normalisation statistics stay as they are."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, voxel_features: Tensor) -> ObjectPredictions:
        """Features that the base made, [B, C, X', Y', Z'] -> what each object query found."""
        return self.head(voxel_features)


class PanopticModel:
    """A base model that keeps its voxel features, made panoptic.

    Voxels of thing classes get the id of the object that most nearby object voxels belong to.  Those without any nearby
    object keep their class and get no id; only in `ModelOutput.prediction`, for benchmarks, are they free as in the
    paper.  ``objects`` say the head's class and score of each id; what a `Session` publishes has the class of the
    voxels, and the head's score where the two classes agree (see `instances.objects_from_voxels`).

    Args:
        base: with ``ModelOutput.voxel_features``; stuff and everything else is as it says.
        head: with its weights; it is moved to the device here.
        info: of the whole; None: that of the base.
        device: the base's.
        precision: arithmetic of the head's matrix products.

    Raises:
        ConfigurationError: the head is made for another grid than the base's.
        WeightsError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        base: PerceptionModel,
        head: PanopticHead,
        info: ModelInfo | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.base = base
        self.device = torch.device(device)
        self.info = info or base.info
        if head.grid != base.info.grid:
            raise ConfigurationError(
                f"{self.info.name}: expected a head on the base's grid {base.info.grid}, got one on {head.grid}"
            )
        check_finite_weights(head, f"{self.info.name}: object module")
        self.head = head.to(self.device).eval().requires_grad_(False)
        self.image_spec: ImageSpec | None = base.image_spec
        self.uses_lidar = base.uses_lidar
        self.history_interval_s = base.history_interval_s
        self._precision = precision

    @torch.inference_mode()
    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Perceive one frame; see `PerceptionModel.step`.

        Raises:
            InvalidInputError: the base refuses the frame, or gives no voxel features.
            NumericsError: a stage produced NaN or infinity; the message names the first.
        """
        output = self.base.step(inputs, state, prev_ego_from_ego)
        features, output.voxel_features = output.voxel_features, None
        if features is None:
            raise InvalidInputError(f"{self.info.name}: the base model {self.base.info.name} keeps no voxel features")
        finite, timer = FiniteMonitor(), StageTimer(self.device)
        observe = all_of(finite, timer)
        with arithmetic(self.device, self._precision):
            predictions = self.head(features[None], observe)
        finite.raise_if_not_finite()
        objects = self.head.find(predictions, 0)
        timer("objects.shapes", objects.points)
        scene = self.head.merge(output.semantics, objects)
        timer("panoptic", scene.semantics)
        # The paper frees thing voxels that no object claims.  A benchmark may score that; a vehicle is told what the
        # base saw there, without an object: a missed pedestrian is not free space.
        output.prediction = scene.semantics
        output.instances, output.objects = scene.instances, scene.objects
        output.stages_ms = {**output.stages_ms, **timer.stages_ms()}
        return output
