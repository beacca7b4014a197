"""Assignments of OffsetOcc: queries to objects, predicted voxels to true voxels (arXiv 2505.09562, section 3.3).

The paper pads the n true voxels of an object to the K predicted ones and solves K x K; the padding costs nothing, so
the rectangular n x K problem has the same solutions (every true voxel is served, the other predictions stay free).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from occ_perception.errors import InvalidInputError, NumericsError
from occ_perception.training.pruned_assignment import pruned_assignment

MatchingMode = Literal["exact", "pruned"]
_ENTRIES = 2**25  # of cost matrices formed at a time, 128 MB


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
    distance = torch.cdist(centers.float(), true_centers.float(), compute_mode="donot_use_mm_for_euclid_dist")
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
        mode: "exact", or "pruned": proven to cost at most 1 mm per true voxel more (see ``pruned_assignment``); two to
            three times as fast for 800 voxels, no faster for few or for an object the predictions do not reach over.
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
    objects, count = predicted.shape[:2]
    fits = predicted.shape == (objects, count, 3) and scores.shape == (objects, count) and len(truth) == objects
    if not fits or any(points.shape != (len(points), 3) for points in truth):
        raise InvalidInputError(
            f"voxel matching: expected predictions [O, K, 3], scores [O, K] and O times [n, 3], got "
            f"{tuple(predicted.shape)}, {tuple(scores.shape)} and {[tuple(points.shape) for points in truth]}"
        )
    kept = [_fitting(len(points), count, generator) for points in truth]
    served = [points[rows.to(points.device)] for points, rows in zip(truth, kept, strict=True)]
    solve = pruned_assignment if mode == "pruned" else _exact_assignment
    matches: list[VoxelMatch | None] = [None] * len(truth)
    for number, cost in _costs(predicted.float(), scores.float(), served):
        columns = torch.from_numpy(solve(_finite(cost, "voxels"))).to(predicted.device)
        rows = kept[number].to(predicted.device)
        matches[number] = VoxelMatch(columns, rows, len(truth[number]) - len(rows))
    return [match for match in matches if match is not None]


def _fitting(count: int, room: int, generator: torch.Generator | None) -> Tensor:
    """Indices of all ``count`` true voxels, or of ``room`` random ones if there are more, ascending."""
    if count <= room:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:room].sort().values


def _costs(predicted: Tensor, scores: Tensor, truth: list[Tensor]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the object, its cost matrix float32 [n, K]); objects of like size share one computation."""
    order = sorted(range(len(truth)), key=lambda number: len(truth[number]))
    while order:
        tallest = max(1, len(truth[order[-1]]) * predicted.shape[1])
        group = order[-max(1, _ENTRIES // tallest) :]
        order = order[: -len(group)]
        padded = pad_sequence([truth[number] for number in group], batch_first=True).float()
        # Not by a matrix product: in ego coordinates that is wrong by millimetres where it matters.
        distance = torch.cdist(padded, predicted[group], compute_mode="donot_use_mm_for_euclid_dist")
        cost = (distance - scores[group][:, None]).cpu().numpy()
        yield from ((number, cost[place, : len(truth[number])]) for place, number in enumerate(group))


def _exact_assignment(cost: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(cost)[1]


def _finite(cost: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(cost).all():
        raise NumericsError(f"matching of {what}: positions and scores must be finite")
    return cost
