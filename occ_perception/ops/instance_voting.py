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

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError

MAXIMUM_ID = 2**16 - 1
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
        semantics: labels [X, Y, Z], any integer type.
        instance_grid: id of the object each voxel was written by [X, Y, Z], 0 = none, at most 65535, any signed
            integer type or uint8.
        radius: in voxels; 0 keeps only voxels that an object covers.
        things: labels that have instances.
        free: label of a thing voxel without a vote.
        object_classes: label of each object [I], object i at i - 1; if given, only objects of a voxel's own label
            vote for it.

    Raises:
        InvalidInputError: shapes, types or ids are not as above.
    """
    _check(semantics, instance_grid, radius, object_classes)
    return panoptic_vote_reference(
        semantics, instance_grid, radius, things=things, free=free, object_classes=object_classes
    )


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
    objects = int(instance_grid.max()) if instance_grid.numel() else 0
    ids = torch.arange(1, objects + 1, device=instance_grid.device)[:, None, None, None]
    votes = F.conv3d((instance_grid == ids).float()[:, None], _ball(radius, ids.device)[None, None], padding=radius)
    votes = votes[:, 0].round().long()
    if object_classes is not None:
        votes = votes * (semantics == object_classes[:objects, None, None, None])
    none = votes.sum(dim=0) == 0
    # Votes decide, then whether the voxel already has the id, then the lower id.
    preference = votes * (2 * objects + 2) + (instance_grid == ids) * (objects + 1) + (objects - ids)
    winner = preference.argmax(dim=0) + 1 if objects else torch.zeros_like(none, dtype=torch.long)
    thing = torch.isin(semantics, semantics.new_tensor(things))
    instances = torch.where(thing & ~none, winner, 0).to(instance_grid.dtype)
    return PanopticVote(torch.where(thing & none, free, semantics).to(semantics.dtype), instances)


def _ball(radius: int, device: torch.device) -> Tensor:
    """1 within Manhattan distance ``radius`` of the centre, float32 [2r + 1, 2r + 1, 2r + 1]."""
    axis = torch.arange(-radius, radius + 1, device=device).abs()
    return (axis[:, None, None] + axis[:, None] + axis <= radius).float()


def _check(semantics: Tensor, instance_grid: Tensor, radius: int, object_classes: Tensor | None) -> None:
    if semantics.ndim != 3 or semantics.shape != instance_grid.shape:
        raise InvalidInputError(
            f"panoptic vote: expected labels and ids [X, Y, Z], got {tuple(semantics.shape)} and "
            f"{tuple(instance_grid.shape)}"
        )
    for name, grid in (("labels", semantics), ("ids", instance_grid)):
        if grid.is_floating_point() or grid.dtype == torch.bool:
            raise InvalidInputError(f"panoptic vote: {name} must be integers, got {grid.dtype}")
    if radius < 0:
        raise InvalidInputError(f"panoptic vote: radius must not be negative, got {radius}")
    if instance_grid.numel():
        lowest, highest = (int(v) for v in torch.stack(torch.aminmax(instance_grid)).tolist())
        if lowest < 0 or highest > MAXIMUM_ID:
            raise InvalidInputError(f"panoptic vote: ids must be in [0, {MAXIMUM_ID}], got {lowest}..{highest}")
        if object_classes is not None and highest > len(object_classes):
            raise InvalidInputError(f"panoptic vote: id {highest} but classes of {len(object_classes)} objects")
