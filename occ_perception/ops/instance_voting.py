"""Instance ids for thing voxels by a vote of the object voxels around them (OffsetOcc, arXiv 2505.09562, section 3.4).

Every voxel with a thing label counts the voxels of each object within Manhattan distance r and takes the id with the
most; without a single vote it becomes free.  A dense count needs every cell of the ball (1159 for r = 9) for every
voxel of the grid.  Almost all of that is avoidable, and the result stays exact:

1. r rounds of 6-neighbour dilation are the Manhattan ball, so the highest and the lowest id in every ball cost 6 r
   shifted maxima each.  None: no vote.  Equal: one candidate, nothing to count.
2. Only voxels between two objects are counted, some thousands, in blocks of bounded memory.

``panoptic_vote_reference`` is the dense count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError
from occ_perception.ops.threads import one_torch_thread

MAXIMUM_ID = 2**16 - 1
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_BLOCK = 2**20
"""Cells gathered, and counters kept, at a time."""


class PanopticVote(NamedTuple):
    """Grids after the vote: labels in the type of the labels that came in, ids in the type of the ids that came in."""

    semantics: Tensor
    instances: Tensor


def panoptic_vote(
    semantics: Tensor,
    instance_grid: Tensor,
    radius: int = 9,
    *,
    things: Sequence[int],
    free: int,
    object_classes: Tensor | None = None,
) -> PanopticVote:
    """Give every thing voxel the id with most votes within Manhattan distance ``radius``, or make it free.

    A tie goes to the id already at the voxel if it is among the tied ones, else to the lowest: number the objects by
    falling score.  Voxels of other labels keep their label and get id 0.

    Args:
        semantics: labels [X, Y, Z], any signed integer type or uint8.
        instance_grid: id of the object each voxel was written by [X, Y, Z], 0 = none, at most 65535, of such a type.
        radius: in voxels; 0 keeps only voxels that an object covers.
        things: labels that have instances.
        free: label of a thing voxel without a vote.
        object_classes: label of each object [I], object i at i - 1; if given, only objects of a voxel's own label
            vote for it.

    Raises:
        InvalidInputError: shapes, types or ids are not as above.
    """
    objects = _check(semantics, instance_grid, radius, object_classes)
    with one_torch_thread():  # two hundred short operations
        thing = _is_one_of(semantics, things)
        winner = _winners(semantics, instance_grid, radius, thing, objects, object_classes)
    return _apply(semantics, instance_grid.dtype, thing, winner, free)


def panoptic_vote_reference(
    semantics: Tensor,
    instance_grid: Tensor,
    radius: int = 9,
    *,
    things: Sequence[int],
    free: int,
    object_classes: Tensor | None = None,
) -> PanopticVote:
    """The same by counting every object around every voxel: a convolution of one-hot ids with the ball."""
    objects = _check(semantics, instance_grid, radius, object_classes)
    one_hot = F.one_hot(instance_grid.long(), objects + 1).movedim(-1, 0).float()
    votes = F.conv3d(one_hot[:, None], _ball(radius, one_hot.device).float()[None, None], padding=radius)
    votes = votes.flatten(1).T.round().long()
    winner = _decide(votes, instance_grid.flatten(), semantics.flatten(), object_classes)
    thing = _is_one_of(semantics, things)
    return _apply(semantics, instance_grid.dtype, thing, winner.view(semantics.shape), free)


def _winners(
    semantics: Tensor,
    instance_grid: Tensor,
    radius: int,
    thing: Tensor,
    objects: int,
    object_classes: Tensor | None,
) -> Tensor:
    """Winning id of every thing voxel, 0 without a vote, int64 [X, Y, Z]; elsewhere anything."""
    highest, lowest = _extreme_ids(instance_grid, objects, radius)
    winner = highest.long()
    if object_classes is not None:
        winner = torch.where(_class_of(object_classes)[winner] == semantics, winner, 0)
    contested = (thing & (highest != lowest)).flatten().nonzero()[:, 0]
    own = instance_grid.flatten()[contested]
    for block, votes in _count_votes(instance_grid, contested, objects, radius):
        labels = semantics.flatten()[contested[block]]
        winner.view(-1)[contested[block]] = _decide(votes, own[block], labels, object_classes)
    return winner


def _is_one_of(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    """bool, shape of ``labels``; without a copy of ``wanted`` to the device."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for label in wanted:
        found |= labels == label
    return found


def _extreme_ids(instance_grid: Tensor, objects: int, radius: int) -> Tensor:
    """Highest and lowest id within reach of every voxel, 0 where there is none: [2, X, Y, Z]."""
    ids = instance_grid.to(torch.int16 if objects < 2**15 - 1 else torch.int32)
    mirrored = torch.where(ids > 0, objects + 1 - ids, 0)  # so that a maximum finds the lowest too
    reach = torch.stack([ids, mirrored])
    for _ in range(radius):
        reach = _dilate(reach)
    reach[1] = torch.where(reach[1] > 0, objects + 1 - reach[1], 0)
    return reach


def _dilate(grids: Tensor) -> Tensor:
    """Maximum of every voxel and its six neighbours, in each grid of [G, X, Y, Z]."""
    wider = grids.clone()
    for axis in (1, 2, 3):
        pairs = grids.shape[axis] - 1
        below, above = wider.narrow(axis, 0, pairs), wider.narrow(axis, 1, pairs)
        torch.maximum(below, grids.narrow(axis, 1, pairs), out=below)
        torch.maximum(above, grids.narrow(axis, 0, pairs), out=above)
    return wider


def _count_votes(instance_grid: Tensor, voxels: Tensor, objects: int, radius: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of ``voxels`` (flat indices) and the votes there for every id, int64 [block, I + 1]; id 0 is no vote."""
    padded = F.pad(instance_grid.to(torch.int32), (radius,) * 6)
    y_stride, z_stride = padded.shape[1] * padded.shape[2], padded.shape[2]
    x, y, z = torch.unravel_index(voxels, instance_grid.shape)
    corner = (x * y_stride + y * z_stride + z).to(torch.int32)  # of the box around the ball
    x, y, z = _ball(radius, padded.device).nonzero(as_tuple=True)
    offsets = (x * y_stride + y * z_stride + z).to(torch.int32)
    size = max(1, _BLOCK // max(len(offsets), objects + 1))
    rows = torch.arange(size, dtype=torch.int32, device=padded.device)[:, None] * (objects + 1)
    for start in range(0, len(voxels), size):
        block = slice(start, start + size)
        cells = corner[block, None] + offsets
        counters = padded.view(-1).index_select(0, cells.flatten()).view_as(cells) + rows[: len(cells)]
        votes = torch.bincount(counters.flatten(), minlength=len(cells) * (objects + 1))
        yield block, votes.view(-1, objects + 1)


def _decide(votes: Tensor, own: Tensor, labels: Tensor, object_classes: Tensor | None) -> Tensor:
    """Winning id of V voxels, int64, 0 without a vote; votes [V, I + 1], their own ids and labels [V]."""
    ids = torch.arange(votes.shape[1], device=votes.device)
    votes = votes * (ids > 0)
    if object_classes is not None:
        votes = votes * (_class_of(object_classes) == labels[:, None])
    # Votes, then whether the voxel has the id already, then the lower id: no two ids are equally good.
    winner = ((2 * votes + (ids == own[:, None])) * len(ids) - ids).argmax(dim=1)
    return torch.where(votes.gather(1, winner[:, None])[:, 0] > 0, winner, 0)


def _class_of(object_classes: Tensor) -> Tensor:
    """Class by id, [I + 1], -1 for "no object"."""
    return F.pad(object_classes.long(), (1, 0), value=-1)


def _apply(semantics: Tensor, id_type: torch.dtype, thing: Tensor, winner: Tensor, free: int) -> PanopticVote:
    instances = torch.where(thing, winner, 0)
    return PanopticVote(semantics.masked_fill(thing & (instances == 0), free), instances.to(id_type))


def _ball(radius: int, device: torch.device) -> Tensor:
    """What lies within Manhattan distance ``radius`` of the centre, bool [2r + 1, 2r + 1, 2r + 1]."""
    axis = torch.arange(-radius, radius + 1, device=device).abs()
    return axis[:, None, None] + axis[:, None] + axis <= radius


def _check(semantics: Tensor, instance_grid: Tensor, radius: int, object_classes: Tensor | None) -> int:
    """Number of objects; raises if anything does not fit."""
    if semantics.ndim != 3 or semantics.shape != instance_grid.shape or not semantics.numel():
        raise InvalidInputError(
            f"panoptic vote: expected labels and ids [X, Y, Z], got {tuple(semantics.shape)} and "
            f"{tuple(instance_grid.shape)}"
        )
    for name, grid in (("labels", semantics), ("ids", instance_grid)):
        if grid.dtype not in _INTEGERS:
            raise InvalidInputError(f"panoptic vote: {name} must be signed integers or uint8, got {grid.dtype}")
    if radius < 0:
        raise InvalidInputError(f"panoptic vote: radius must not be negative, got {radius}")
    lowest, highest = (int(v) for v in torch.stack(torch.aminmax(instance_grid)).tolist())
    if lowest < 0 or highest > MAXIMUM_ID:
        raise InvalidInputError(f"panoptic vote: ids must be in [0, {MAXIMUM_ID}], got {lowest}..{highest}")
    if object_classes is None:
        return highest
    if highest > len(object_classes):
        raise InvalidInputError(f"panoptic vote: id {highest}, but classes of {len(object_classes)} objects")
    return len(object_classes)
