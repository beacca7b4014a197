"""Deformable sampling as sparse weighted row sums: the fast version in plain PyTorch, on any device.

A sample of weight w is 2^D table rows with weights w * share, so an output is one bag of ``embedding_bag``: no
[samples, channels] intermediate exists.  The taps themselves (a row and a weight each) are formed in blocks and again
in the backward pass, which bounds memory; the gradient of the table is the transposed sum, taps sorted by row.  The
order of every summation is fixed: results are repeatable bit for bit.

(``interpolation.bilinear_taps`` forms the taps of one map; doing all levels at once is 1.5 times as fast.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from occ_perception.ops.deformable_attention_reference import Level

_TAPS_FORWARD = 2**20
_TAPS_BACKWARD = 2**22  # every block sums the whole table once: fewer, larger blocks
_TAPS_GATHERED = 2**17  # stays in the cache


def sample_levels_rows(
    table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """The same as ``sample_levels_reference``; not differentiable twice."""
    return _SampleLevels.apply(table, levels, first_rows, locations, weights)


class _SampleLevels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(table, first_rows, locations, weights)
        ctx.levels = levels
        rows = table.to(weights.dtype).reshape(-1, table.shape[2])
        output = weights.new_empty(len(locations), table.shape[1], table.shape[2])
        for block in _blocks(locations, _TAPS_FORWARD):
            index, share = _taps(levels, first_rows[block], locations[block], weights[block])
            output[block] = _bag_sum(rows, index, share).view_as(output[block])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None]:
        table, first_rows, locations, weights = ctx.saved_tensors
        of_table, _, _, of_locations, of_weights = ctx.needs_input_grad
        rows = table.to(weights.dtype).reshape(-1, table.shape[2])
        table_gradient = torch.zeros_like(rows) if of_table else None
        location_gradient, weight_gradient = torch.empty_like(locations), torch.empty_like(weights)
        for block in _blocks(locations, _TAPS_BACKWARD):
            outputs = gradient[block].reshape(-1, table.shape[2])
            sampled = [t[block].detach().requires_grad_() for t in (locations, weights)]
            with torch.enable_grad():
                index, share = _taps(ctx.levels, first_rows[block], *sampled)
            if of_locations or of_weights:
                gradients = torch.autograd.grad(share, sampled, _effects(rows, index, outputs))
                location_gradient[block], weight_gradient[block] = gradients
            if table_gradient is not None:
                table_gradient += _transposed_sum(len(rows), index, share.detach(), outputs)
        if table_gradient is not None:
            table_gradient = table_gradient.view_as(table).to(table.dtype)
        return table_gradient, None, None, location_gradient, weight_gradient


def _blocks(locations: Tensor, taps: int) -> Iterator[slice]:
    """Slices of the outputs that have about ``taps`` taps each."""
    taps_per_output = locations[0].numel() // locations.shape[-1] << locations.shape[-1] if len(locations) else 1
    size = max(1, taps // taps_per_output)
    return (slice(start, start + size) for start in range(0, len(locations), size))


def _taps(levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the table seen as [R * heads, d], int32, and their weights: both [N * heads, taps of an output]."""
    sizes = locations.new_tensor([level.sizes for level in levels])[:, None]
    starts = torch.tensor([level.first_row for level in levels], device=locations.device)
    strides = torch.tensor([level.strides for level in levels], dtype=torch.int32, device=locations.device)[:, None]
    positions = locations * sizes - 0.5
    # What is not finite or far is moved to just outside: it weighs nothing and fits an integer.
    positions = torch.where((positions > -2) & (positions < sizes + 1), positions, -2.0)
    axes = zip(positions.unbind(-1), sizes.unbind(-1), strides.unbind(-1), strict=True)
    neighbours = [_axis_neighbours(*axis) for axis in axes]

    heads = torch.arange(locations.shape[1], dtype=torch.int32, device=locations.device)
    base = (first_rows[:, None] + starts).to(torch.int32)[:, None, :, None] * len(heads) + heads[:, None, None]
    index = torch.stack([base + sum(row for row, _ in c) * len(heads) for c in itertools.product(*neighbours)], -1)
    share = torch.stack([_product(weights, [part for _, part in c]) for c in itertools.product(*neighbours)], -1)
    return index.flatten(2).flatten(0, 1), share.flatten(2).flatten(0, 1)


def _axis_neighbours(position: Tensor, size: Tensor, stride: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper neighbour along one axis: row offset int32 (kept inside) and share of the weight."""
    lower = position.detach().floor()
    fraction = position - lower
    neighbours = []
    for cell, share in ((lower, 1 - fraction), (lower + 1, fraction)):
        inside = (cell >= 0) & (cell < size)
        row = torch.where(inside, cell, 0).to(torch.int32) * stride
        neighbours.append((row, share * inside))
    return neighbours


def _product(first: Tensor, others: list[Tensor]) -> Tensor:
    for other in others:
        first = first * other
    return first


def _bag_sum(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """sum_k share[n, k] * rows[index[n, k]]: [N, d]."""
    return F.embedding_bag(index, rows, mode="sum", per_sample_weights=share)


def _effects(rows: Tensor, index: Tensor, outputs: Tensor) -> Tensor:
    """rows[index[n, k]] . output[n], the derivative by every share: [N, K]."""
    effects = torch.empty_like(index, dtype=rows.dtype)
    size = max(1, _TAPS_GATHERED // index.shape[1])
    for part in (slice(start, start + size) for start in range(0, len(index), size)):
        torch.sum(F.embedding(index[part], rows).mul_(outputs[part, None]), dim=-1, out=effects[part])
    return effects


def _transposed_sum(count: int, index: Tensor, share: Tensor, outputs: Tensor) -> Tensor:
    """For each of ``count`` rows the sum over its taps of share * output: [count, d]."""
    row, order = torch.sort(index.flatten(), stable=True)
    first = torch.searchsorted(row, torch.arange(count, dtype=torch.int32, device=row.device), out_int32=True)
    bag = torch.div(order, index.shape[1], rounding_mode="floor").to(torch.int32)
    return F.embedding_bag(bag, outputs, first, mode="sum", per_sample_weights=share.flatten()[order])
