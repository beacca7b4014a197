"""Multilinear interpolation as a sparse weighted row sum.

Sampling a map of C channels at N points is ``sum_k weight[n, k] * table[row[n, k]]`` with the map seen as a
channels-last table [rows, C].  ``embedding_bag`` does exactly this in one pass with no intermediate; on a CPU it is
tens of times faster than ``grid_sample`` (3-D: 24 ms against 1.7 s for 640 000 points of 32 channels, 2 threads).
The plain reference is ``torch.nn.functional.grid_sample(align_corners=True, padding_mode="zeros")``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Taps(NamedTuple):
    """For each of N output points, K table rows (int32) and their weights; both [N, K]. Outside taps weigh 0."""

    rows: Tensor
    weights: Tensor


def bilinear_taps(x: Tensor, y: Tensor, width: int, height: int) -> Taps:
    """Taps of points (x, y) in index units on a map whose rows are ordered y * width + x. Inputs of any one shape."""
    (xs, x_weights), (ys, y_weights) = _axis_taps(x.flatten(), width), _axis_taps(y.flatten(), height)
    rows = ys[:, :, None] * width + xs[:, None, :]
    weights = y_weights[:, :, None] * x_weights[:, None, :]
    return Taps(rows.flatten(1), weights.flatten(1))


def trilinear_taps(x: Tensor, y: Tensor, z: Tensor, size: tuple[int, int, int]) -> Taps:
    """Taps of points in index units on a volume of ``size`` (x, y, z) with rows ordered (y * nx + x) * nz + z."""
    plane = bilinear_taps(x, y, size[0], size[1])
    zs, z_weights = _axis_taps(z.flatten(), size[2])
    rows = plane.rows[:, :, None] * size[2] + zs[:, None, :]
    weights = plane.weights[:, :, None] * z_weights[:, None, :]
    return Taps(rows.flatten(1), weights.flatten(1))


def _axis_taps(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Lower and upper neighbour along one axis: indices int32 [N, 2] (kept inside) and weights [N, 2]."""
    # Far points are pulled to just outside first, so that the integer conversion cannot overflow.
    position = position.clamp(-2.0, length + 1.0)
    lower = position.floor()
    indices = torch.stack([lower, lower + 1], dim=-1)
    weights = torch.stack([lower + 1 - position, position - lower], dim=-1)
    inside = (indices >= 0) & (indices <= length - 1)
    return indices.clamp(0, length - 1).to(torch.int32), weights * inside


def interpolate_rows(table: Tensor, taps: Taps) -> Tensor:
    """Weighted sums of table rows: table [R, C] -> [N, C] float32 (or the table's float64)."""
    values = table if table.dtype in (torch.float32, torch.float64) else table.float()
    return F.embedding_bag(taps.rows, values, mode="sum", per_sample_weights=taps.weights.to(values.dtype))


def volume_to_rows(volume: Tensor) -> Tensor:
    """[B, C, *space] -> channels-last table [B * prod(space), C]; a view when the memory is channels-last."""
    return volume.movedim(1, -1).reshape(-1, volume.shape[1])


def rows_to_volume(rows: Tensor, batch: int, space: tuple[int, ...]) -> Tensor:
    """The inverse of ``volume_to_rows``: a channels-last view [B, C, *space]."""
    return rows.view(batch, *space, rows.shape[1]).movedim(-1, 1)
