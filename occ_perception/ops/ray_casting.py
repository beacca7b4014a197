"""Ray casting in voxel grids, for many rays at once, on CPU or GPU.

First hits have the conventions of the RayIoU reference evaluator (benchmarks.md 2.3), see `voxel_walk`; the
benchmark's depth is the distance at which a ray *leaves* the cell it hits.  Several grids can be cast at once: they
share the walk, which costs more than looking cells up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.ops.voxel_walk import Size, VoxelWalk, length_of, start_walk, unravel

MAX_GRIDS = 7
_BORDER = 0xFF  # code of cells around the grid: "occupied" in every grid, and bit 7, which no grid uses


@dataclass(frozen=True)
class RayHits:
    """What each ray met.  The leading dimension G is there only if several grids were cast.

    Attributes:
        distance: float32 [(G,) R], voxels; where the ray leaves the cell it hit (the benchmark's depth).  On a miss
            where it leaves the grid; -1 if it never entered the grid.
        entry_distance: float32 [(G,) R], voxels; where the ray enters the cell it hit (0 if it starts in it), for
            rendering.  On a miss equal to ``distance``.
        cell: int32 [(G,) R, 3]; the cell hit; on a miss the last cell inside, (0, 0, 0) if it never entered.
        face_axis: int8 [(G,) R]; axis (0 x, 1 y, 2 z) normal to the face through which the ray came into the cell it
            hit; -1 if it started in that cell or hit nothing.
        hit: bool [(G,) R].
    """

    distance: Tensor
    entry_distance: Tensor
    cell: Tensor
    face_axis: Tensor
    hit: Tensor


def cast_rays(occupied: Tensor, origins: Tensor, directions: Tensor) -> RayHits:
    """Find the first occupied cell along each ray; only the border of the grid ends a ray that hits nothing.

    Args:
        occupied: bool or uint8 [X, Y, Z] (non-zero = occupied), or [G, X, Y, Z] with G <= 7 grids for the same rays.
        origins: float [R, 3], voxels from the grid's minimum corner; may lie outside the grid.
        directions: float [R, 3], voxels; any length but zero.

    Raises:
        InvalidInputError: wrong shape, dtype or device; a ray that is not finite or has no direction.
    """
    grids = occupied.unsqueeze(0) if occupied.dim() == 3 else occupied
    volume = _bordered_codes(grids)
    _check_rays(origins, directions, occupied.device)
    num_grids, size = grids.shape[0], (grids.shape[1], grids.shape[2], grids.shape[3])
    hits = _no_hits(num_grids, origins.shape[0], occupied.device)
    walk = start_walk(origins, directions, size)
    wanted = torch.full_like(walk.ray, 2**num_grids - 1, dtype=torch.uint8)  # bits of grids not yet hit
    while walk.ray.numel():
        codes = volume.index_select(0, walk.index)
        ended = (codes & wanted).nonzero().squeeze(1)
        if ended.numel():
            found = codes[ended] & wanted[ended]
            _record(hits, walk, ended, found, codes[ended] == _BORDER, size)
            wanted[ended] ^= found
            walk.halt(ended[wanted[ended] == 0])
            if walk.worth_dropping():
                keep = wanted.nonzero().squeeze(1)
                wanted = wanted[keep]
                walk.keep(keep)
        walk.advance()
    return hits if occupied.dim() == 4 else RayHits(*(getattr(hits, field.name)[0] for field in fields(hits)))


def _bordered_codes(grids: Tensor) -> Tensor:
    """One byte per cell of the volume with its border: bit g = occupied in grid g; uint8 [(X+2)(Y+2)(Z+2)]."""
    if grids.dim() != 4 or not 1 <= grids.shape[0] <= MAX_GRIDS or 0 in grids.shape:
        raise InvalidInputError(
            f"occupied: expected [X, Y, Z] or [G, X, Y, Z] with 1 <= G <= {MAX_GRIDS}, got {list(grids.shape)}"
        )
    if grids.dtype not in (torch.bool, torch.uint8):
        raise InvalidInputError(f"occupied: expected bool or uint8, got {grids.dtype}")
    x, y, z = grids.shape[1:]
    volume = torch.full((x + 2, y + 2, z + 2), _BORDER, dtype=torch.uint8, device=grids.device)
    if volume.numel() >= 2**31:
        raise InvalidInputError(f"occupied: grids of at most 2^31 cells can be cast, got {[x, y, z]}")
    codes = torch.zeros((x, y, z), dtype=torch.uint8, device=grids.device)
    for bit, grid in enumerate(grids):
        codes |= (grid != 0).to(torch.uint8) << bit
    volume[1:-1, 1:-1, 1:-1] = codes
    return volume.view(-1)


def _check_rays(origins: Tensor, directions: Tensor, device: torch.device) -> None:
    for name, value in (("origins", origins), ("directions", directions)):
        if value.dim() != 2 or value.shape[1] != 3 or not value.is_floating_point():
            raise InvalidInputError(f"{name}: expected float [R, 3], got {value.dtype} {list(value.shape)}")
        if value.device != device:
            raise InvalidInputError(f"{name}: expected on {device} like the grid, got {value.device}")
    if origins.shape != directions.shape:
        raise InvalidInputError(f"expected one direction per origin, got {len(origins)} and {len(directions)}")
    length = length_of(directions.double().T)
    usable = torch.isfinite(origins).all(dim=1) & torch.isfinite(length) & (length > 0)
    if not bool(usable.all()):
        first = int((~usable).nonzero()[0])
        raise InvalidInputError(
            f"rays: expected finite origins and directions of non-zero length, got {int((~usable).sum())} others, "
            f"first ray {first}: origin {origins[first].tolist()}, direction {directions[first].tolist()}"
        )


def _no_hits(num_grids: int, num_rays: int, device: torch.device) -> RayHits:
    shape = (num_grids, num_rays)
    return RayHits(
        distance=torch.full(shape, -1.0, device=device),
        entry_distance=torch.full(shape, -1.0, device=device),
        cell=torch.zeros((*shape, 3), dtype=torch.int32, device=device),
        face_axis=torch.full(shape, -1, dtype=torch.int8, device=device),
        hit=torch.zeros(shape, dtype=torch.bool, device=device),
    )


def _record(hits: RayHits, walk: VoxelWalk, ended: Tensor, found: Tensor, left_grid: Tensor, size: Size) -> None:
    """Write what the rays at positions ``ended`` met: bits of grids in ``found``, or the end of the grid."""
    entry = walk.entry[ended]
    distance = torch.where(left_grid, entry, walk.exit_distance()[ended]).float()
    index = torch.where(left_grid, walk.previous_index(ended), walk.index[ended])
    cell = torch.stack(unravel(index, size), dim=1)
    axis = torch.where(left_grid, -1, walk.axis[ended])
    for grid in range(hits.hit.shape[0]):
        here = (found >> grid & 1).bool()
        ray = walk.ray[ended[here]]
        hits.distance[grid, ray] = distance[here]
        hits.entry_distance[grid, ray] = entry[here].float()
        hits.cell[grid, ray] = cell[here]
        hits.face_axis[grid, ray] = axis[here]
        hits.hit[grid, ray] = ~left_grid[here]
