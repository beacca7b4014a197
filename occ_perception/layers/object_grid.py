"""From object queries to a grid of instance ids (OffsetOcc, arXiv 2505.09562, equation 1; specs/offsetocc.md 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid
from occ_perception.layers.object_module import ObjectModule, ObjectPredictions

_BLOCK = 2**14
"""Cells that are compared at a time."""


class FoundObjects(NamedTuple):
    """The n objects of one sample, best first: object i has id i + 1."""

    classes: Tensor  # int64 [n], position among the thing classes
    scores: Tensor  # [n], 0..1
    centres: Tensor  # [n, 3] metres
    points: Tensor  # [n, K, 3] metres: centre plus offsets
    belongs: Tensor  # bool [n, K]: which points are part of the object


def find_objects(
    module: ObjectModule, predictions: ObjectPredictions, sample: int, score_threshold: float, offset_threshold: float
) -> FoundObjects:
    """Decode the queries of a sample that score at least ``score_threshold``; the others are background.

    Waits for the device: only the host can know how many queries are kept.
    """
    scores, classes = predictions.class_logits[sample].sigmoid().max(dim=-1)
    scores, order = scores.sort(descending=True, stable=True)
    kept = order[scores >= score_threshold]
    shapes = module.shapes(predictions.embeddings[sample, kept])
    centres = predictions.centres[sample, kept]
    points = centres[:, None] + shapes.offsets
    return FoundObjects(
        classes[kept], scores[: len(kept)], centres, points, shapes.score_logits.sigmoid() >= offset_threshold
    )


def object_cells(objects: FoundObjects, grid: VoxelGrid) -> Tensor:
    """C-order index of the cell that each point lies in, int64 [n, K]; -1 outside the grid and where none belongs."""
    inside, index = objects.belongs, torch.zeros_like(objects.belongs, dtype=torch.int64)
    for axis, count in enumerate(grid.size):
        cell = torch.floor((objects.points[..., axis] - grid.origin[axis]) / grid.voxel_size)
        inside = inside & (cell >= 0) & (cell < count)
        index = index * count + torch.where(inside, cell, 0.0).long()
    return torch.where(inside, index, -1)


def instance_grid(cells: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Instance ids, int32 [X, Y, Z], 0 for none; where objects overlap the best one (the first row) has the voxel.

    Args:
        cells: of ``object_cells``, best object first, [n, K].
        size: cells (x, y, z) of the grid.
    """
    count = cells.shape[0]
    # A maximum over ranks is the same in any order of writing; one more cell takes what lies outside.
    ranks = torch.arange(count, 0, -1, dtype=torch.int32, device=cells.device)[:, None].expand_as(cells)
    total = size[0] * size[1] * size[2]
    best = torch.zeros(total + 1, dtype=torch.int32, device=cells.device)
    best.scatter_reduce_(0, torch.where(cells >= 0, cells, total).flatten(), ranks.flatten(), "amax")
    best = best[:total].view(size)
    return torch.where(best > 0, count + 1 - best, 0)


def is_covered(cells: Tensor, classes: Tensor, share: float) -> Tensor:
    """Which objects have more than ``share`` of their voxels in common with one better object of their class, bool [n].

    Args:
        cells: of ``object_cells``, best object first, [n, K].
        classes: [n].
        share: 0..1.
    """
    count = len(cells)
    rows, columns = (cells >= 0).nonzero(as_tuple=True)
    _, cell = cells[rows, columns].unique(return_inverse=True)
    common = torch.zeros(count, count, device=cells.device)
    for first in range(0, int(cell.max()) + 1 if len(cell) else 0, _BLOCK):
        block = (cell >= first) & (cell < first + _BLOCK)
        members = torch.zeros(count, _BLOCK, device=cells.device)
        members[rows[block], cell[block] - first] = 1
        common += members @ members.T
    sizes = common.diagonal().clamp(min=1)
    better = torch.ones(count, count, dtype=torch.bool, device=cells.device).tril(diagonal=-1)
    rivals = better & (classes[:, None] == classes)
    return (rivals & (common > share * sizes[:, None])).any(dim=1)
