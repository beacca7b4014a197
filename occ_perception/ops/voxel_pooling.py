"""Soft voxel filling: every image feature is spread over the grid corners around its 3-D points and summed per voxel.

The result is a sparse matrix (voxels x pixels) times the pixel features.  The fast version sorts the matrix entries
by voxel (a radix sort) and lets ``embedding_bag`` sum each voxel's run: no [points, channels] intermediate, no
atomics, a fixed order of summation.  ``voxel_pooling_reference`` is the plain ``index_add``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class GridSpec(NamedTuple):
    """A regular grid: voxel i is centred at origin + i * interval (metres); ``cells`` counts (x, y, z)."""

    origin: tuple[float, float, float]
    interval: tuple[float, float, float]
    cells: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.cells[0] * self.cells[1] * self.cells[2]


class VoxelTaps(NamedTuple):
    """For P points, K voxels each: int32 rows (y * nx + x) * nz + z, or ``voxels`` when outside, and weights."""

    rows: Tensor
    weights: Tensor


def soft_filling_taps(points: Tensor, grid: GridSpec) -> VoxelTaps:
    """Trilinear corners of metric points [P, 3].  A grid one cell high has 4 corners per point, others 8."""
    origin, interval = points.new_tensor(grid.origin), points.new_tensor(grid.interval)
    coordinates = ((points - origin) / interval).unbind(-1)
    axes = [_corners(c, n) for c, n in zip(coordinates, grid.cells, strict=True)]
    (x, wx, in_x), (y, wy, in_y), (z, wz, in_z) = axes
    rows = (y[:, :, None, None] * grid.cells[0] + x[:, None, :, None]) * grid.cells[2] + z[:, None, None, :]
    weights = wy[:, :, None, None] * wx[:, None, :, None] * wz[:, None, None, :]
    inside = in_y[:, :, None, None] & in_x[:, None, :, None] & in_z[:, None, None, :]
    rows = torch.where(inside, rows, grid.voxels)
    return VoxelTaps(rows.flatten(1), (weights * inside).flatten(1))


def points_near(points: Tensor, grid: GridSpec) -> Tensor:
    """Indices of the metric points [P, 3] that have a voxel around them at all, in order."""
    origin, interval = points.new_tensor(grid.origin), points.new_tensor(grid.interval)
    beyond = torch.tensor(grid.cells, dtype=points.dtype, device=points.device)
    coordinates = (points - origin) / interval
    return ((coordinates > -1) & (coordinates < beyond)).all(dim=-1).nonzero().squeeze(1)


def nearest_tap(points: Tensor, grid: GridSpec) -> VoxelTaps:
    """The voxel that holds each metric point [P, 3], with weight 1: what soft filling replaces (lift-splat)."""
    origin, interval = points.new_tensor(grid.origin), points.new_tensor(grid.interval)
    cells = torch.tensor(grid.cells, device=points.device)
    # Far points are pulled to just outside, so that the integer conversion cannot overflow.
    index = ((points - origin) / interval).round().clamp(min=-1.0).minimum(cells.to(points.dtype)).to(torch.int32)
    inside = ((index >= 0) & (index < cells)).all(dim=-1, keepdim=True)
    x, y, z = index.unbind(-1)
    row = ((y * grid.cells[0] + x) * grid.cells[2] + z)[:, None]
    return VoxelTaps(torch.where(inside, row, grid.voxels).to(torch.int32), inside.to(points.dtype))


def _corners(coordinate: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate cells along one axis, [P, K] each: int32 index, weight 1 - |distance|, and whether it is inside."""
    if cells == 1:
        weight = (1 - coordinate.abs()).clamp(min=0)[:, None]
        return torch.zeros_like(weight, dtype=torch.int32), weight, weight > 0
    # Far points are pulled to just outside, so that the integer conversion cannot overflow.
    coordinate = coordinate.clamp(-2.0, cells + 1.0)
    lower = coordinate.floor()
    index = torch.stack([lower, lower + 1], dim=-1)
    weight = torch.stack([lower + 1 - coordinate, coordinate - lower], dim=-1)
    inside = (index >= 0) & (index < cells)
    return index.to(torch.int32), weight, inside


def voxel_pooling(features: Tensor, rows: Tensor, scores: Tensor, taps: VoxelTaps, voxels: int) -> Tensor:
    """Sum of score * weight * feature over all points, per voxel.

    Args:
        features: pixel features [R, C].
        rows: feature row of each point, integer [P].
        scores: probability of each point [P].
        taps: voxels and weights of each point [P, K].
        voxels: number of voxels V.

    Returns:
        [V, C] in the dtype of ``features``.
    """
    corners = taps.rows.shape[1]
    voxel, order = torch.sort(taps.rows.flatten(), stable=True)
    first = torch.searchsorted(voxel, torch.arange(voxels + 1, dtype=voxel.dtype, device=voxel.device))
    values = (taps.weights * scores[:, None]).flatten()[order]
    pixels = rows.to(torch.int32)[order // corners]
    # One bag more than voxels: it takes the entries outside the grid and is cut off.
    pooled = F.embedding_bag(
        pixels, features, first.to(torch.int32), mode="sum", per_sample_weights=values.to(features.dtype)
    )
    return pooled[:voxels]


def voxel_pooling_reference(features: Tensor, rows: Tensor, scores: Tensor, taps: VoxelTaps, voxels: int) -> Tensor:
    """The same sums by ``index_add`` over a materialised [P * K, C]."""
    values = (taps.weights * scores[:, None])[..., None] * features[rows.long()][:, None]
    pooled = features.new_zeros(voxels + 1, features.shape[1])
    pooled.index_add_(0, taps.rows.flatten().long(), values.flatten(0, 1))
    return pooled[:voxels]
