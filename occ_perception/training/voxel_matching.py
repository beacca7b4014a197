"""Assignments of OffsetOcc: queries to objects, predicted voxels to true voxels (arXiv 2505.09562, section 3.3).

The paper pads the n true voxels of an object to the K predicted ones and solves K x K; the padding costs nothing, so
the rectangular n x K problem has the same solutions (every true voxel is served, the other predictions stay free).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError, NumericsError

MatchingMode = Literal["exact", "pruned"]


class ObjectMatch(NamedTuple):
    """M matched pairs, ordered by query: int64 [M] rows of the queries and of the objects."""

    queries: Tensor
    objects: Tensor


class VoxelMatch(NamedTuple):
    """M matched pairs of one object, ordered by true voxel.

    Attributes:
        predictions: int64 [M], which predicted voxel serves it.
        truth: int64 [M], true voxel; all n of them, unless there are more than predictions.
        left_out: how many true voxels were left out, at random, because there were more than predictions.
    """

    predictions: Tensor
    truth: Tensor
    left_out: int


@torch.no_grad()
def match_objects(
    logits: Tensor,
    centers: Tensor,
    classes: Tensor,
    true_centers: Tensor,
    class_weight: float = 0.5,
    center_weight: float = 0.02,
) -> ObjectMatch:
    """Cheapest assignment of queries to objects by focal class cost and centre distance (spec 6.1).

    Args:
        logits: sigmoid class logits [Q, C].
        centers: predicted centres [Q, 3], metres.
        classes: class of each object, integer [G], in [0, C).
        true_centers: [G, 3], metres.
        class_weight, center_weight: the paper's lambda 1 and 2.

    Returns:
        min(Q, G) pairs, on the device of ``logits``.

    Raises:
        NumericsError: a cost is not finite.
    """
    distance = torch.cdist(centers.float(), true_centers.float())
    cost = class_weight * focal_matching_cost(logits.float(), classes) + center_weight * distance
    rows, columns = linear_sum_assignment(_finite(cost.cpu().numpy(), "objects"))
    return ObjectMatch(torch.from_numpy(rows).to(logits.device), torch.from_numpy(columns).to(logits.device))


def focal_matching_cost(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal cost of giving each query each object's class: logits [Q, C], classes [G] -> [Q, G]."""
    chosen = logits[:, classes]
    probability = chosen.sigmoid()
    positive = alpha * (1 - probability) ** gamma * F.softplus(-chosen)
    negative = (1 - alpha) * probability**gamma * F.softplus(chosen)
    return positive - negative


def match_voxels(
    predicted: Tensor,
    scores: Tensor,
    truth: Tensor,
    mode: MatchingMode = "exact",
    generator: torch.Generator | None = None,
) -> VoxelMatch:
    """Cheapest assignment of one prediction to every true voxel of an object; cost: distance minus score (spec 6.2).

    Args:
        predicted: voxel positions [K, 3], metres.
        scores: probability that each is occupied [K].
        truth: true voxel centres [n, 3], metres, in the same frame.
        mode: "exact", or "pruned": among the cheapest predictions of every true voxel, proven to be optimal, else
            exact after all.
        generator: draws which true voxels are left out when there are more than predictions.

    Raises:
        NumericsError: a position or score is not finite.
        InvalidInputError: shapes do not fit.
    """
    return match_voxels_of_objects(predicted[None], scores[None], [truth], mode, generator)[0]


@torch.no_grad()
def match_voxels_of_objects(
    predicted: Tensor,
    scores: Tensor,
    truth: Sequence[Tensor],
    mode: MatchingMode = "exact",
    generator: torch.Generator | None = None,
) -> list[VoxelMatch]:
    """``match_voxels`` for O objects: predicted [O, K, 3], scores [O, K], truth O x [n, 3]."""
    if predicted.ndim != 3 or scores.shape != predicted.shape[:2] or len(truth) != len(predicted):
        raise InvalidInputError(
            f"voxel matching: expected [O, K, 3], [O, K] and O lists of true voxels, got {tuple(predicted.shape)}, "
            f"{tuple(scores.shape)} and {len(truth)}"
        )
    return [_match(*each, generator) for each in zip(predicted, scores, truth, strict=True)]


def _match(predicted: Tensor, scores: Tensor, truth: Tensor, generator: torch.Generator | None) -> VoxelMatch:
    kept = torch.arange(len(truth))
    if len(truth) > len(predicted):
        kept = torch.randperm(len(truth), generator=generator)[: len(predicted)].sort().values
    kept = kept.to(truth.device)
    cost = torch.cdist(truth[kept].float(), predicted.float()) - scores.float()
    _, columns = linear_sum_assignment(_finite(cost.cpu().numpy(), "voxels"))
    return VoxelMatch(torch.from_numpy(columns).to(truth.device), kept, len(truth) - len(kept))


def _finite(cost: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(cost).all():
        raise NumericsError(f"matching of {what}: positions and scores must be finite")
    return cost
