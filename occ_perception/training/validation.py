"""Scores of a task on a validation source: scenes as streams, the project's metrics, merged over all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from occ_perception.errors import ConfigurationError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.metrics.voxel_panoptic import VoxelPanopticQuality
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.learner import Learner
from occ_perception.training.loader import Batch, BatchLoader
from occ_perception.training.order import validation_order
from occ_perception.training.task import FrameSource, InstanceTask, TrainingTask
from occ_perception.training.validation_truth import CLASSES, INSTANCES, VISIBLE, TruthWanted
from occ_perception.training.voxel_pictures import Pair

Metric = TypeVar("Metric", bound=Accumulator)


@dataclass
class ValidationResult:
    """Figures 0..1 over all processes, and this process' pictures' material."""

    values: dict[str, float]
    per_class: dict[str, float]
    frames: int
    pairs: list[Pair] = field(default_factory=list)


class Validator:
    """Scores a network on one source, again and again.

    Raises:
        ConfigurationError: no frames, or objects shall be scored of a task that does not tell them apart.
    """

    def __init__(self, source: FrameSource, task: TrainingTask, config: TrainingConfig, ranks: Ranks) -> None:
        self._task, self._config, self._ranks = task, config, ranks
        settings = config.validation
        self._instance_task = _instance_task(task) if settings.metric == "PQ" else None
        self._loader = BatchLoader(
            source, task, config.loader, config.seed, ranks.device.type == "cuda",
            augment=False, truth=TruthWanted(settings.mask, self._instance_task is not None),
        )  # fmt: skip
        lengths = source.scene_lengths
        scenes = [scene for scene in range(len(lengths)) if lengths[scene]]
        wanted = min(settings.scenes or len(scenes), len(scenes))
        chosen = [scenes[i * len(scenes) // wanted] for i in range(wanted)]
        slots = max(1, min(settings.batch_size, len(chosen) // ranks.shard.count))
        if not chosen:
            raise ConfigurationError("validation source: no labelled frames")
        self._slots, self._order = slots, validation_order(lengths, chosen, slots, ranks.shard)

    def run(self, learner: Learner, stopped: Callable[[], bool] = lambda: False) -> ValidationResult | None:
        """Score the (averaged) weights; the network is left in training mode with its own weights.

        Returns:
            None if ``stopped`` said so in between (a single process only: several wait for each other).
        """
        learner.network.eval()
        try:
            if learner.average is None:
                return self._scored(learner, stopped)
            with learner.average.applied(learner.network):
                return self._scored(learner, stopped)
        finally:
            learner.network.train()

    @torch.no_grad()
    def _scored(self, learner: Learner, stopped: Callable[[], bool]) -> ValidationResult | None:
        mask, label_set = self._config.validation.mask, self._task.description.label_set
        metric, objects = SemanticIoU(label_set, mask), VoxelPanopticQuality(label_set, mask)
        steps, pairs, state = self._order.length, [], None
        drawn = {steps * (i + 1) // (self._config.validation.pictures + 1) for i in range(self._pictures)}
        for step, batch in enumerate(self._loader.steps(self._order, self._slots, 0, steps)):
            if self._ranks.control is None and stopped():
                return None
            classes, instances, state = self._answer(learner, batch, state)
            _update(metric, batch, classes)
            if instances is not None:
                _update_objects(objects, batch, classes, instances)
            if step in drawn and batch.counts[0]:
                pairs.append(Pair(batch.tensors[CLASSES][0].numpy(), classes[0].numpy(), batch.samples[0]))
        return self._merged(metric, objects, pairs)

    def _answer(self, learner: Learner, batch: Batch, state: Any) -> tuple[Tensor, Tensor | None, Any]:
        """Classes and, if they are scored, instances of a batch, on the CPU; and the state after it."""
        moved = batch.to(self._ranks.device)
        starts = moved.starts if state is not None else (True,) * len(moved.starts)
        with learner.arithmetic():
            if self._instance_task is not None:
                answer = self._instance_task.evaluate_instances(learner.network, moved.tensors, state, starts)
                return answer.classes.cpu(), answer.instances.cpu(), answer.state
            classes, after = self._task.evaluate(learner.network, moved.tensors, state, starts)
        return classes.cpu(), None, after

    @property
    def _pictures(self) -> int:
        return self._config.validation.pictures if self._ranks.is_main else 0

    def _merged(self, metric: SemanticIoU, objects: VoxelPanopticQuality, pairs: list[Pair]) -> ValidationResult:
        total = self._total(metric)
        result = total.compute()
        per_class = dict(zip(result.class_names, result.per_class["IoU"], strict=True))
        values = dict(result.values)
        if self._instance_task is not None:
            values |= self._total(objects).compute().values
        return ValidationResult(values, per_class, total.frames, pairs)

    def _total(self, metric: Metric) -> Metric:
        """Over all processes."""
        total = type(metric)(**metric.settings)
        for text in self._ranks.gathered(metric.to_json()):
            total.merge(Accumulator.from_json(text))
        return total


def _instance_task(task: TrainingTask) -> InstanceTask:
    if not isinstance(task, InstanceTask):
        raise ConfigurationError(
            f"validation.metric: PQ needs a task with instances (panoptic), that of {task.description.model} has none"
        )
    return task


def _update(metric: SemanticIoU, batch: Batch, classes: Tensor) -> None:
    for row, counts in enumerate(batch.counts):
        if counts:
            truth, visible = (_array(batch.tensors[name][row]) for name in (CLASSES, VISIBLE))
            metric.update(truth, _array(classes[row]), visible)


def _update_objects(metric: VoxelPanopticQuality, batch: Batch, classes: Tensor, instances: Tensor) -> None:
    for row, counts in enumerate(batch.counts):
        if counts:
            truth, ids, visible = (_array(batch.tensors[name][row]) for name in (CLASSES, INSTANCES, VISIBLE))
            metric.update(truth, ids, _array(classes[row]), _array(instances[row]), visible)


def _array(values: Tensor) -> Any:
    return np.ascontiguousarray(values.numpy())
