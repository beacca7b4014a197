"""The loss of every training frame by itself, which is what active training ranks them by (specs/occfusion.md 10).

Losses of a training step cannot tell: a task may answer with one value for the whole batch, the weights change from
step to step, and augmentation makes an easy frame hard.  So every frame is measured alone, as it is, by the same
weights; that costs a forward pass per frame and cycle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.learner import Learner
from occ_perception.training.loader import BatchLoader
from occ_perception.training.order import validation_order
from occ_perception.training.task import FrameSource, TrainingTask


class FrameRanking:
    """Measures all frames of a source, shared among the processes, scene after scene as one stream each."""

    def __init__(self, source: FrameSource, task: TrainingTask, config: TrainingConfig, ranks: Ranks) -> None:
        self._task, self._ranks, self._seed = task, ranks, config.seed
        self._offsets = np.concatenate([[0], np.cumsum(source.scene_lengths)])
        self._order = validation_order(source.scene_lengths, range(len(source.scene_lengths)), 1, ranks.shard)
        self._loader = BatchLoader(
            source, task, config.loader, config.seed, pin_memory=ranks.device.type == "cuda", augment=False
        )

    def losses(self, learner: Learner, iteration: int, stopped: Callable[[], bool]) -> np.ndarray | None:
        """Sum of a frame's losses, float32 [frames of all scenes], the same on all processes; learns nothing.

        Args:
            learner: whose network is measured, with its own weights (not their average).
            iteration: for the task's schedules.
            stopped: asked on the way on every process.

        Returns:
            None if ``stopped`` said so on any process.
        """
        table = torch.full((int(self._offsets[-1]),), math.nan)
        devices = [self._ranks.device] if self._ranks.device.type == "cuda" else []
        with torch.no_grad(), without_chance(learner.network), torch.random.fork_rng(devices):
            if not self._measure(table, learner, iteration, stopped):
                return None
        for theirs in self._ranks.gathered(table):
            table = torch.where(torch.isnan(theirs), table, theirs)
        return table.numpy()

    def _measure(self, table: Tensor, learner: Learner, iteration: int, stopped: Callable[[], bool]) -> bool:
        """Fill in this process' rows; whether it came to the end."""
        state: Any = None
        rows, measured = [], []
        for batch in self._loader.steps(self._order, 1, 0, self._order.length):
            if self._ranks.any([stopped()])[0]:
                return False
            torch.manual_seed(self._seed)  # losses that draw points draw the same ones whichever process measures
            starts = batch.starts if state is not None else (True,)
            tensors = batch.to(self._ranks.device).tensors
            with learner.arithmetic():
                named, state = self._task.losses(learner.network, tensors, state, starts, iteration)
            if batch.counts[0]:
                scene, frame = batch.samples[0]
                rows.append(int(self._offsets[scene]) + frame)
                measured.append(torch.stack([loss.float().mean() for loss in named.values()]).sum())
        if rows:
            table[rows] = torch.stack(measured).cpu()
        return True


@contextmanager
def without_chance(network: nn.Module) -> Iterator[None]:
    """A network in training mode whose norms use, and keep, their running statistics, and which drops nothing out.

    Everything else stays in training mode: some outputs that losses want are made there only.
    """
    changed = [m for m in network.modules() if isinstance(m, _BatchNorm | _DropoutNd) and m.training]
    for module in changed:
        module.eval()
    try:
        yield
    finally:
        for module in changed:
            module.train()
