"""Deformable sampling on CUDA: one Triton kernel forward, one backward, for maps and volumes.

A program sums the samples of a block of outputs and one head: positions, taps and partial sums stay in registers, the
d channels of a row are one contiguous read, and nothing but the result is written.  The backward kernel goes the same
way once more and adds to the gradient of the table atomically (the order of those additions, so the last bits, vary
from run to run).  Coordinates and sums have the type of ``locations`` (float32 or float64), rows any float type.

Importing this module needs triton.  TRITON_INTERPRET=1 in the environment before that runs it on a CPU, slowly.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

from occ_perception.ops.deformable_attention_reference import Level

_OUTPUTS_PER_PROGRAM = 64


def sample_levels_triton(
    table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """The same as ``sample_levels_reference``; not differentiable twice."""
    return _SampleLevels.apply(table, levels, first_rows, locations, weights)


class _SampleLevels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        tensors = [tensor.contiguous() for tensor in (table, first_rows.long(), locations, weights)]
        ctx.save_for_backward(*tensors)
        ctx.levels = levels
        output = weights.new_empty(len(locations), *table.shape[1:])
        _launch(_forward_kernel, levels, tensors, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor]:
        table, _, locations, weights = ctx.saved_tensors
        table_gradient = torch.zeros_like(table, dtype=weights.dtype) if ctx.needs_input_grad[0] else None
        gradients = torch.empty_like(locations), torch.empty_like(weights)
        # Without a gradient of the table the kernel never writes to that pointer; any will do.
        pointer = weights if table_gradient is None else table_gradient
        _launch(
            _backward_kernel,
            ctx.levels,
            ctx.saved_tensors,
            gradient.contiguous(),
            pointer,
            *gradients,
            of_table=table_gradient is not None,
        )
        if table_gradient is not None:
            table_gradient = table_gradient.to(table.dtype)
        return table_gradient, None, None, *gradients


def _launch(kernel: Any, levels: tuple[Level, ...], inputs: Any, *others: Tensor, **options: bool) -> None:
    table, _, locations, weights = inputs
    outputs, heads, _, points = weights.shape
    if not outputs:
        return
    with torch.cuda.device_of(table):  # Triton launches on the current device
        kernel[(triton.cdiv(outputs, _OUTPUTS_PER_PROGRAM), heads)](
            *inputs,
            _level_table(levels, locations.device),
            *others,
            outputs,
            len(levels),
            points,
            heads=heads,
            channels=table.shape[2],
            axes=locations.shape[-1],
            outputs=_OUTPUTS_PER_PROGRAM,
            channel_block=triton.next_power_of_2(table.shape[2]),
            enable_fp_fusion=True,
            **options,
        )


@functools.lru_cache(maxsize=64)
def _level_table(levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """Each level's first row, sizes and strides, int32 [L, 1 + 2 D]; copied to the device once."""
    rows = [(level.first_row, *level.sizes, *level.strides) for level in levels]
    return torch.tensor(rows, dtype=torch.int32, device=device)


@triton.jit
def _own_outputs(
    first_rows: tl.tensor, output_count: tl.tensor, heads: tl.constexpr, outputs: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """What this program sums: (output, head) as one index, the head, which exist, and where their maps begin."""
    number, head = tl.program_id(0) * outputs + tl.arange(0, outputs), tl.program_id(1)
    valid = number < output_count
    return number.to(tl.int64) * heads + head, head, valid, tl.load(first_rows + number, mask=valid, other=0)


@triton.jit
def _axis(
    locations: tl.tensor, sample: tl.tensor, valid: tl.tensor, level: tl.tensor, axis: tl.constexpr, axes: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Positions of the samples on one axis in index units, and the size and stride of that axis in this level."""
    size, stride = tl.load(level + 1 + axis), tl.load(level + 1 + axes + axis)
    position = tl.load(locations + sample * axes + axis, mask=valid, other=-1.0) * size - 0.5
    # What is not finite or far goes to just outside: it has no neighbours and fits an integer.
    return tl.where((position > -2.0) & (position < size + 1.0), position, -2.0), size, stride


@triton.jit
def _neighbour(
    position: tl.tensor, size: tl.tensor, stride: tl.tensor, upper: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """One neighbour on one axis: row offset, share of the weight, derivative of the share, whether it is inside."""
    lower = tl.floor(position)
    cell = lower.to(tl.int32) + upper
    slope = 2.0 * upper - 1.0
    return cell.to(tl.int64) * stride, 1 - upper + slope * (position - lower), slope, (cell >= 0) & (cell < size)


@triton.jit
def _forward_kernel(
    table: tl.tensor,
    first_rows: tl.tensor,
    locations: tl.tensor,
    weights: tl.tensor,
    level_table: tl.tensor,
    output: tl.tensor,
    output_count: tl.tensor,
    level_count: tl.tensor,
    point_count: tl.tensor,
    heads: tl.constexpr,
    channels: tl.constexpr,
    axes: tl.constexpr,
    outputs: tl.constexpr,
    channel_block: tl.constexpr,
) -> None:
    item, head, valid, first = _own_outputs(first_rows, output_count, heads, outputs)
    channel = tl.arange(0, channel_block)[None, :]
    in_channels = channel < channels
    sample = item * level_count * point_count
    total = tl.zeros([outputs, channel_block], dtype=output.dtype.element_ty)
    for number_of_level in range(level_count):
        level = level_table + number_of_level * (1 + 2 * axes)
        base = first + tl.load(level)
        for _ in range(point_count):
            weight = tl.load(weights + sample, mask=valid, other=0.0)
            x, x_size, x_stride = _axis(locations, sample, valid, level, 0, axes)
            y, y_size, y_stride = _axis(locations, sample, valid, level, 1, axes)
            z, z_size, z_stride = tl.zeros_like(x), 1, 0  # a map is a volume of one layer
            if axes == 3:
                z, z_size, z_stride = _axis(locations, sample, valid, level, 2, axes)
            for corner in tl.static_range(2**axes):
                x_row, x_share, _, x_inside = _neighbour(x, x_size, x_stride, corner % 2)
                y_row, y_share, _, y_inside = _neighbour(y, y_size, y_stride, corner // 2 % 2)
                z_row, z_share, _, z_inside = _neighbour(z, z_size, z_stride, corner // 4)
                address = ((base + x_row + y_row + z_row) * heads + head)[:, None] * channels + channel
                readable = (x_inside & y_inside & z_inside & valid)[:, None] & in_channels
                value = tl.load(table + address, mask=readable, other=0.0).to(total.dtype)
                total += (weight * x_share * y_share * z_share)[:, None] * value
            sample += 1
    tl.store(output + item[:, None] * channels + channel, total, mask=valid[:, None] & in_channels)


@triton.jit
def _backward_kernel(
    table: tl.tensor,
    first_rows: tl.tensor,
    locations: tl.tensor,
    weights: tl.tensor,
    level_table: tl.tensor,
    gradient: tl.tensor,
    table_gradient: tl.tensor,
    location_gradient: tl.tensor,
    weight_gradient: tl.tensor,
    output_count: tl.tensor,
    level_count: tl.tensor,
    point_count: tl.tensor,
    heads: tl.constexpr,
    channels: tl.constexpr,
    axes: tl.constexpr,
    outputs: tl.constexpr,
    channel_block: tl.constexpr,
    of_table: tl.constexpr,
) -> None:
    item, head, valid, first = _own_outputs(first_rows, output_count, heads, outputs)
    channel = tl.arange(0, channel_block)[None, :]
    in_channels = channel < channels
    sample = item * level_count * point_count
    received = tl.load(gradient + item[:, None] * channels + channel, mask=valid[:, None] & in_channels, other=0.0)
    for number_of_level in range(level_count):
        level = level_table + number_of_level * (1 + 2 * axes)
        base = first + tl.load(level)
        for _ in range(point_count):
            weight = tl.load(weights + sample, mask=valid, other=0.0)
            x, x_size, x_stride = _axis(locations, sample, valid, level, 0, axes)
            y, y_size, y_stride = _axis(locations, sample, valid, level, 1, axes)
            z, z_size, z_stride = tl.zeros_like(x), 1, 0
            if axes == 3:
                z, z_size, z_stride = _axis(locations, sample, valid, level, 2, axes)
            of_weight, of_x, of_y, of_z = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
            for corner in tl.static_range(2**axes):
                x_row, x_share, x_slope, x_inside = _neighbour(x, x_size, x_stride, corner % 2)
                y_row, y_share, y_slope, y_inside = _neighbour(y, y_size, y_stride, corner // 2 % 2)
                z_row, z_share, z_slope, z_inside = _neighbour(z, z_size, z_stride, corner // 4)
                address = ((base + x_row + y_row + z_row) * heads + head)[:, None] * channels + channel
                readable = (x_inside & y_inside & z_inside & valid)[:, None] & in_channels
                value = tl.load(table + address, mask=readable, other=0.0).to(received.dtype)
                # What this row, at full weight, contributes; nothing if it is outside.
                effect = tl.sum(value * received, axis=1)
                of_weight += x_share * y_share * z_share * effect
                of_x += x_slope * y_share * z_share * effect
                of_y += x_share * y_slope * z_share * effect
                of_z += x_share * y_share * z_slope * effect
                if of_table:
                    part = (weight * x_share * y_share * z_share)[:, None] * received
                    tl.atomic_add(table_gradient + address, part, mask=readable, sem="relaxed")
            tl.store(weight_gradient + sample, of_weight, mask=valid)
            tl.store(location_gradient + sample * axes, weight * x_size * of_x, mask=valid)
            tl.store(location_gradient + sample * axes + 1, weight * y_size * of_y, mask=valid)
            if axes == 3:
                tl.store(location_gradient + sample * axes + 2, weight * z_size * of_z, mask=valid)
            sample += 1
