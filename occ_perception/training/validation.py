"""Scores of a task on a validation source: scenes as streams, the project's metrics, merged over all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.errors import ConfigurationError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.learner import Learner
from occ_perception.training.loader import TRUTH, VISIBLE, Batch, BatchLoader
from occ_perception.training.order import validation_order
from occ_perception.training.task import FrameSource, TrainingTask
from occ_perception.training.voxel_pictures import Pair


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
        ConfigurationError: no such source.
    """

    def __init__(self, source: FrameSource, task: TrainingTask, config: TrainingConfig, ranks: Ranks) -> None:
        self._task, self._config, self._ranks = task, config, ranks
        settings = config.validation
        self._loader = BatchLoader(
            source, task, config.loader, config.seed, ranks.device.type == "cuda",
            augment=False, truth_mask=settings.mask,
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
        metric = SemanticIoU(self._task.description.label_set, self._config.validation.mask)
        steps, pairs, state = self._order.length, [], None
        drawn = {steps * (i + 1) // (self._config.validation.pictures + 1) for i in range(self._pictures)}
        for step, batch in enumerate(self._loader.steps(self._order, self._slots, 0, steps)):
            if self._ranks.control is None and stopped():
                return None
            moved = batch.to(self._ranks.device)
            starts = moved.starts if state is not None else (True,) * len(moved.starts)
            with learner.arithmetic():
                classes, state = self._task.evaluate(learner.network, moved.tensors, state, starts)
            _update(metric, batch, classes.cpu())
            if step in drawn and batch.counts[0]:
                pairs.append(Pair(batch.tensors[TRUTH][0].numpy(), classes[0].cpu().numpy(), batch.samples[0]))
        return self._merged(metric, pairs)

    @property
    def _pictures(self) -> int:
        return self._config.validation.pictures if self._ranks.is_main else 0

    def _merged(self, metric: SemanticIoU, pairs: list[Pair]) -> ValidationResult:
        total = SemanticIoU(metric.ontology.name, metric.mask)
        for text in self._ranks.gathered(metric.to_json()):
            total.merge(Accumulator.from_json(text))
        result = total.compute()
        per_class = dict(zip(result.class_names, result.per_class["IoU"], strict=True))
        return ValidationResult(dict(result.values), per_class, total.frames, pairs)


def _update(metric: SemanticIoU, batch: Batch, classes: Tensor) -> None:
    for row, counts in enumerate(batch.counts):
        if counts:
            truth, visible = (_array(batch.tensors[name][row]) for name in (TRUTH, VISIBLE))
            metric.update(truth, _array(classes[row]), visible)


def _array(values: Tensor) -> Any:
    return np.ascontiguousarray(values.numpy())
