"""Deformable sampling written for reading: one gather per level and corner.  What the fast versions must equal.

All versions share one form: a table of rows, seen as one or more regular maps ("levels"), from which every output
(n, head) sums ``points`` multilinearly interpolated rows per level.  A level may have two axes (images) or three
(volumes); positions are normalised, 0 and 1 being the outer edges of the first and the last cell.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """One regular map inside a table of rows; sizes and strides (in rows) follow the order of the coordinates."""

    first_row: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def sample_levels_reference(
    table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of interpolated rows; cells outside a level count as zero rows.

    Args:
        table: [R, heads, d].
        levels: L maps of D axes.
        first_rows: table row at which the maps of each output begin, integer [N].
        locations: normalised coordinates [N, heads, L, P, D]; a sample with NaN or infinity counts as outside.
        weights: [N, heads, L, P].

    Returns:
        [N, heads, d] in the type of ``weights``.
    """
    total = weights.new_zeros(locations.shape[0], *table.shape[1:])
    for index, level in enumerate(levels):
        positions = cell_positions(locations[:, :, index], level)
        rows = (first_rows.long() + level.first_row)[:, None, None]
        sampled = _interpolate(table, level, rows, positions)
        total = total + (weights[:, :, index, :, None] * sampled).sum(dim=2)
    return total


def cell_positions(locations: Tensor, level: Level) -> Tensor:
    """Normalised [..., D] to index units: the centre of cell i lies at i.

    What is not finite or far is moved to just outside: it reads nothing, gets no gradient and fits an integer.
    """
    sizes = locations.new_tensor(level.sizes)
    positions = locations * sizes - 0.5
    return torch.where((positions > -2) & (positions < sizes + 1), positions, -2.0)


def _interpolate(table: Tensor, level: Level, first_rows: Tensor, positions: Tensor) -> Tensor:
    """Rows [N, heads, P, d] at positions [N, heads, P, D]; first_rows [N, 1, 1]."""
    heads = torch.arange(table.shape[1], device=table.device)[None, :, None]
    sizes, strides = (torch.tensor(v, device=table.device) for v in (level.sizes, level.strides))
    lower = positions.detach().floor()
    sampled = torch.zeros((), dtype=positions.dtype, device=table.device)
    for corner in itertools.product((0, 1), repeat=len(level.sizes)):
        cell = lower + lower.new_tensor(corner)
        share = (1 - (positions - cell).abs()).prod(dim=-1)
        cell = cell.long()
        inside = ((cell >= 0) & (cell < sizes)).all(dim=-1)
        rows = first_rows + (torch.where(inside[..., None], cell, 0) * strides).sum(dim=-1)
        sampled = sampled + torch.where(inside, share, 0.0)[..., None] * table[rows, heads].to(positions.dtype)
    return sampled
