"""Class scores of voxel columns at inference: a linear map of each column's features, made a few columns at a time.

All scores of a grid are tens of megabytes that only the best class and its probability are wanted of; a few columns'
stay in the cache while they are made, compared and summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COLUMNS_PER_CHUNK = 200  # times 18 classes of 64 voxels are 0.9 MB, an L2 cache


class BestClasses(NamedTuple):
    """What is most likely in every voxel of the columns [...]."""

    classes: Tensor  # uint8 [..., V]; of equal scores the first
    confidence: Tensor  # uint8 [..., V], its softmax probability in 1 / 255
    scores: Tensor  # float32 [..., V], its score


@dataclass(frozen=True)
class ColumnScores:
    """Scores of all classes for the V voxels of every column.

    Attributes:
        features: of the columns, float32 [..., C].
        weight: float32 [classes * V, C], row class * V + voxel.
        bias: float32 [classes * V].
        classes: how many.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    classes: int

    @classmethod
    def of(cls, head: nn.Linear, bev: Tensor, classes: int) -> ColumnScores:
        """What ``head`` makes of every cell of a bird's-eye view [B, C, Y, X]."""
        return cls(bev.movedim(1, -1), head.weight, head.bias, classes)

    @property
    def voxels(self) -> int:
        """Of a column."""
        return len(self.bias) // self.classes

    def all(self) -> Tensor:
        """Every score, [..., classes, V]."""
        return F.linear(self.features, self.weight, self.bias).unflatten(-1, (self.classes, -1))

    def best(self) -> BestClasses:
        """The best class of every voxel, without holding the scores of all of them at once."""
        space, columns = self.features.shape[:-1], self.features.flatten(0, -2)
        # On a GPU the launches of many small operations would take longer than the memory traffic they save.
        chunk = min(_COLUMNS_PER_CHUNK if columns.device.type == "cpu" else len(columns), len(columns))
        scores = columns.new_empty(chunk, len(self.bias))
        is_best = torch.empty_like(scores)
        parts = [self._best_of(part, scores[: len(part)], is_best[: len(part)]) for part in columns.split(chunk)]
        return BestClasses(*(torch.cat(values).unflatten(0, space) for values in zip(*parts, strict=True)))

    def _best_of(self, columns: Tensor, scores: Tensor, is_best: Tensor) -> BestClasses:
        """Best classes of columns [N, C]; ``scores`` and ``is_best`` are memory to work in, [N, classes * V]."""
        torch.addmm(self.bias, columns, self.weight.T, out=scores)
        scores, is_best = (values.unflatten(-1, (self.classes, -1)) for values in (scores, is_best))
        best = scores.amax(dim=1, keepdim=True)
        # Written as floats, so that all of it is vectorised, which torch.max with its indices is not: a class counts
        # down to 1, and the largest number among the best is the first class of them.
        torch.eq(scores, best, out=is_best)
        countdown = torch.arange(self.classes, 0, -1, dtype=is_best.dtype, device=is_best.device)
        classes = self.classes - is_best.mul_(countdown[:, None]).amax(dim=1)
        # exp(x) = 2^(x / ln 2), of which PyTorch's vectorised form is three times as fast.
        total = scores.sub_(best).mul_(1 / math.log(2)).exp2_().sum(dim=1)
        confidence = total.reciprocal_().mul_(255).round_()
        return BestClasses(classes.to(torch.uint8), confidence.to(torch.uint8), best.squeeze(1))


__all__ = ["BestClasses", "ColumnScores"]
