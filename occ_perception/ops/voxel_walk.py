"""Walking rays through the cells of a voxel grid, all rays one cell per step (used by `ray_casting`).

The walk is the one of Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing", 1987, with the
conventions of the RayIoU reference evaluator (benchmarks.md 2.3): double arithmetic, a start cell truncated
toward zero, and ties that go z before y before x.

Cells are linear indices into the grid with a border of one cell around it, so a caller learns with one gather what
is in a cell and whether the ray has left the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

Size = tuple[int, int, int]  # cells along x, y, z

_NEVER = torch.finfo(torch.float64).max  # crossing distance along an axis in which the ray does not move
_MARGIN = 2.0  # cells that rays starting outside keep from the grid when they are moved up to it in one go
_DROP_SHARE = 8  # finished rays are dropped once they are more than 1/8 of those walking


@dataclass
class _Rays:
    """Rays at a cell each, as coordinates; N of the caller's R rays.

    Attributes:
        ray: int64 [N]; which of the caller's rays this is.
        cell: float64 [3, N], whole numbers.
        step: float64 [3, N]; +1 or -1.
        t_max: float64 [3, N]; distance at which the ray crosses the next cell face normal to x, y, z.
        t_delta: float64 [3, N]; distance between two such crossings.
        entry: float64 [N]; distance at which the cell was entered, 0 in the start cell.
        axis: int8 [N]; axis of the step that led here, -1 in the start cell.
    """

    ray: Tensor
    cell: Tensor
    step: Tensor
    t_max: Tensor
    t_delta: Tensor
    entry: Tensor
    axis: Tensor

    @classmethod
    def start(cls, origin: Tensor, unit: Tensor) -> _Rays:
        """Rays in the cells of their origins (float64 [3, R]) with unit directions (float64 [3, R])."""
        forward = unit >= 0
        step = forward * 2.0 - 1.0
        cell = origin.trunc()
        t_max = torch.where(unit == 0, _NEVER, (cell + forward - origin) / unit).clamp(max=_NEVER)
        t_delta = torch.where(unit == 0, _NEVER, step / unit).clamp(max=_NEVER)
        ray = torch.arange(origin.shape[1], device=origin.device)
        return cls(ray, cell, step, t_max, t_delta, torch.zeros_like(unit[0]), torch.full_like(ray, -1).to(torch.int8))

    def select(self, which: Tensor) -> _Rays:
        """The rays at positions or under a mask ``which``."""
        return _Rays(*(getattr(self, field.name)[..., which] for field in fields(self)))

    def inside(self, size: Size) -> Tensor:
        """Whether each ray's cell lies in a grid of ``size`` cells, bool [N]."""
        last = self.cell.new_tensor(size)[:, None] - 1
        return ((self.cell >= 0) & (self.cell <= last)).all(dim=0)


class VoxelWalk:
    """The rays that walk inside the grid: as `_Rays`, but a cell is one index into the bordered volume."""

    def __init__(self, rays: _Rays, size: Size) -> None:
        strides = rays.cell.new_tensor([(size[1] + 2) * (size[2] + 2), size[2] + 2, 1])[:, None]
        self.ray = rays.ray
        self.index = ((rays.cell + 1) * strides).sum(dim=0).int()
        self.t_max = list(rays.t_max.contiguous())
        self.t_delta = list(rays.t_delta.contiguous())
        self.stride = list((rays.step * strides).int().contiguous())
        self.entry = rays.entry
        self.axis = rays.axis
        self._halted = 0

    def exit_distance(self) -> Tensor:
        """Distance at which each ray leaves its current cell, float64 [N]."""
        return torch.minimum(torch.minimum(self.t_max[0], self.t_max[1]), self.t_max[2])

    def advance(self) -> None:
        """Move every ray that is not halted into its next cell."""
        self.entry, on_x, on_y, on_z = _next_crossing(*self.t_max)
        for t_max, t_delta, crossed in zip(self.t_max, self.t_delta, (on_x, on_y, on_z), strict=True):
            t_max += t_delta * crossed
        self.index = self.index + torch.where(on_z, self.stride[2], torch.where(on_y, self.stride[1], self.stride[0]))
        self.axis = on_y.to(torch.int8).add_(on_z, alpha=2)

    def previous_index(self, which: Tensor) -> Tensor:
        """Cells from which the rays at positions ``which`` (int64 [M]) made their last step, int32 [M]."""
        back = torch.stack([stride[which] for stride in self.stride])
        return self.index[which] - back.gather(0, self.axis[which].clamp(min=0).long()[None])[0]

    def halt(self, which: Tensor) -> None:
        """Let finished rays (positions int64 [M]) stand still until they are dropped."""
        for stride in self.stride:
            stride[which] = 0
        self._halted += which.numel()

    def worth_dropping(self) -> bool:
        """Whether so many rays stand still that moving the others together pays."""
        return self._halted * _DROP_SHARE > self.ray.numel()

    def keep(self, which: Tensor) -> None:
        """Drop all rays but those at positions ``which`` (int64 [M], ascending)."""
        if which.numel() == self.ray.numel():
            return
        for name in ("ray", "index", "entry", "axis"):
            setattr(self, name, getattr(self, name)[which])
        for name in ("t_max", "t_delta", "stride"):
            setattr(self, name, [row[which] for row in getattr(self, name)])
        self._halted = 0


def start_walk(origins: Tensor, directions: Tensor, size: Size) -> VoxelWalk:
    """Rays in their first cell inside the grid; those that never enter it are left out."""
    origin = origins.double().T
    unit = directions.double().T
    unit = unit / length_of(unit)
    rays = _Rays.start(origin, unit)
    inside = rays.inside(size)
    if not bool(inside.all()):
        near, far = _box_distances(origin, unit, size)
        rays = _approach(rays, near.masked_fill(inside, 0.0).clamp(min=0.0), far, inside, size)
    return VoxelWalk(rays, size)


def _approach(rays: _Rays, near: Tensor, far: Tensor, inside: Tensor, size: Size) -> _Rays:
    """Move rays that are not ``inside`` (bool [N]) up to the grid; returns all that are in it or enter it.

    Rays first jump to distance ``near``, where they reach a box a little larger than the grid, then walk until they
    are inside or beyond ``far``, where they leave that box.  The jump multiplies where the plain walk adds up, so
    distances may differ from it in the last bits of a double.
    """
    crossings = torch.ceil((near - rays.t_max) / rays.t_delta).clamp(min=0.0).masked_fill(inside, 0.0)
    rays.cell = rays.cell + crossings * rays.step
    rays.t_max = rays.t_max + crossings * rays.t_delta
    rays.entry = near
    rays = rays.select(inside | (near <= far))
    arrived = []
    for _ in range(sum(size) + 10 * int(_MARGIN)):  # more cells than any ray crosses in that box
        if not rays.ray.numel():
            break
        inside = rays.inside(size)
        arrived.append(rays.select(inside))
        rays = rays.select(~inside & (rays.entry <= far[rays.ray]))
        rays.entry, *crossed = _next_crossing(*rays.t_max)
        moves = torch.stack(crossed)
        rays.cell = rays.cell + rays.step * moves
        rays.t_max = rays.t_max + rays.t_delta * moves
        rays.axis = moves.int().argmax(dim=0).to(torch.int8)
    if not arrived:
        return rays
    return _Rays(*(torch.cat([getattr(part, field.name) for part in arrived], dim=-1) for field in fields(_Rays)))


def _next_crossing(t_x: Tensor, t_y: Tensor, t_z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance at which each ray leaves its cell, and whether through a face normal to x, y or z.

    The first axis to be crossed wins; ties go z before y before x.
    """
    distance = torch.minimum(torch.minimum(t_x, t_y), t_z)
    on_z = t_z == distance
    on_y = (t_y == distance) & ~on_z
    return distance, ~(on_y | on_z), on_y, on_z


def _box_distances(origin: Tensor, unit: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the grid enlarged by ``_MARGIN``; entry > exit if they miss it."""
    upper = origin.new_tensor(size)[:, None] + _MARGIN
    first = (-_MARGIN - origin) / unit
    second = (upper - origin) / unit
    between = (origin > -_MARGIN) & (origin < upper)
    parallel = torch.where(between, -torch.inf, torch.inf).double()  # such rays are between the two faces or never
    near = torch.where(unit == 0, parallel, torch.minimum(first, second)).amax(dim=0)
    far = torch.where(unit == 0, -parallel, torch.maximum(first, second)).amin(dim=0)
    return near, far


def length_of(vectors: Tensor) -> Tensor:
    """Euclidean length of vectors [3, N], summed x, y, z in this order; [N]."""
    x, y, z = vectors
    return torch.sqrt(x * x + y * y + z * z)


def unravel(index: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (x, y, z) of linear indices into the bordered volume, int32 [M] each."""
    row = size[2] + 2
    plane = (size[1] + 2) * row
    return (
        torch.div(index, plane, rounding_mode="floor") - 1,
        torch.div(index % plane, row, rounding_mode="floor") - 1,
        index % row - 1,
    )
