"""Deformable attention sampling: in image features (packed query-camera hits), in flat maps and in voxel volumes.

Deformable DETR (arXiv 2010.04159) section 3 with BEVFormer's hits (arXiv 2203.17270 section 3.3).  A query does not
look at a whole map but at a few learned locations; the result of a head is the weighted sum of the interpolated
values there.  Values outside a map are zero, coordinates are normalised with 0 and 1 at the outer edges of the map
(``grid_sample`` with ``align_corners=False`` at 2 * location - 1).

A location that is NaN or infinite counts as outside: it adds nothing and receives no gradient (nothing raises,
because finding out would stop a GPU).  NaN in values or weights propagates.

CUDA tensors go through Triton kernels where triton is installed, others through row sums in plain PyTorch; those are
also used on CUDA under ``torch.use_deterministic_algorithms``.  The reference beside them is for reading and tests.
"""

from __future__ import annotations

import functools
import importlib.util
import math

import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.ops.deformable_attention_reference import Level
from occ_perception.ops.deformable_attention_rows import sample_levels_rows

MapShapes = tuple[tuple[int, int], ...]
"""(height, width) of the levels of a multi-scale feature map, in the order of their tokens."""


def deformable_attention_2d(
    values: Tensor, shapes: MapShapes, maps: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention of packed hits, each of which looks at one map.

    Args:
        values: channels-last tokens of M maps [M, S, heads, d]: the levels one after the other, each row-major, so
            S = sum of height * width; any float type.
        shapes: (height, width) of the L levels.
        maps: map that each hit reads, integer [H].
        locations: (x, y) [H, heads, L, P, 2] normalised, float32 or float64.
        weights: [H, heads, L, P], usually softmax over L * P.

    Returns:
        [H, heads * d] in the type of ``values`` (sums are formed in the type of ``locations``).

    Raises:
        InvalidInputError: shapes or types do not fit together.
    """
    levels = _map_levels(shapes)
    _check_2d(values, shapes, maps, locations, weights)
    tokens = values.shape[1]
    output = _sample(values.flatten(0, 1), levels, maps * tokens, locations, weights)
    return output.flatten(1).to(values.dtype)


def dense_deformable_attention_2d(values: Tensor, shapes: MapShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same where every query of a sample looks at the one map of that sample (bird's-eye-view attention).

    Args:
        values: [B, S, heads, d].
        shapes: (height, width) of the L levels.
        locations: (x, y) [B, Q, heads, L, P, 2] normalised.
        weights: [B, Q, heads, L, P].

    Returns:
        [B, Q, heads * d] in the type of ``values``.
    """
    if locations.ndim != 6 or weights.ndim != 5 or locations.shape[0] != values.shape[0]:
        raise InvalidInputError(
            f"deformable attention: expected locations [B, Q, heads, L, P, 2] and weights [B, Q, heads, L, P] with "
            f"B={values.shape[0]}, got {tuple(locations.shape)} and {tuple(weights.shape)}"
        )
    batch, queries = locations.shape[:2]
    maps = torch.arange(batch, device=values.device).repeat_interleave(queries)
    packed = deformable_attention_2d(values, shapes, maps, locations.flatten(0, 1), weights.flatten(0, 1))
    return packed.unflatten(0, (batch, queries))


def deformable_attention_3d(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention in a voxel volume, trilinear.

    Args:
        values: channels-last volume [B, X, Y, Z, heads, d]; any float type.
        locations: (x, y, z) [B, Q, heads, P, 3] normalised to the volume, float32 or float64.
        weights: [B, Q, heads, P], usually softmax over P.

    Returns:
        [B, Q, heads * d] in the type of ``values``.

    Raises:
        InvalidInputError: shapes or types do not fit together.
    """
    _check_3d(values, locations, weights)
    batch, x, y, z = values.shape[:4]
    queries = locations.shape[1]
    level = Level(0, (x, y, z), (y * z, z, 1))
    first_rows = (torch.arange(batch, device=values.device) * (x * y * z)).repeat_interleave(queries)
    packed = (locations.flatten(0, 1)[:, :, None], weights.flatten(0, 1)[:, :, None])
    output = _sample(values.flatten(0, 3), (level,), first_rows, *packed)
    return output.flatten(1).to(values.dtype).unflatten(0, (batch, queries))


@functools.lru_cache(maxsize=64)
def sizes_tensor(sizes: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sizes as a tensor [L, D] that is copied to its device once: a copy for every call would wait for the device."""
    with torch.inference_mode(False):  # so that a first call for inference does not spoil later training
        return torch.tensor(sizes, dtype=dtype, device=device)


def _sample(table: Tensor, levels: tuple[Level, ...], first_rows: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """[N, heads, d] in the type of ``locations`` by the fastest version for the device; see the reference."""
    weights = weights.to(locations.dtype)
    if table.is_cuda and _triton_is_installed() and not torch.are_deterministic_algorithms_enabled():
        from occ_perception.ops.deformable_attention_triton import sample_levels_triton

        return sample_levels_triton(table, levels, first_rows, locations, weights)
    return sample_levels_rows(table, levels, first_rows, locations, weights)


@functools.lru_cache(maxsize=1)
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.lru_cache(maxsize=64)
def _map_levels(shapes: MapShapes) -> tuple[Level, ...]:
    """Levels of concatenated row-major maps; coordinates are (x, y)."""
    levels, first = [], 0
    for height, width in shapes:
        levels.append(Level(first, (width, height), (1, width)))
        first += height * width
    return tuple(levels)


def _check_2d(values: Tensor, shapes: MapShapes, maps: Tensor, locations: Tensor, weights: Tensor) -> None:
    tokens = sum(math.prod(shape) for shape in shapes)
    if values.ndim != 4 or values.shape[1] != tokens:
        raise InvalidInputError(f"deformable attention: expected values [M, {tokens}, heads, d], got {values.shape}")
    expected = (maps.shape[0], values.shape[2], len(shapes), weights.shape[-1])
    _check_samples(expected, 2, locations, weights)


def _check_3d(values: Tensor, locations: Tensor, weights: Tensor) -> None:
    if values.ndim != 6:
        raise InvalidInputError(f"deformable attention: expected values [B, X, Y, Z, heads, d], got {values.shape}")
    expected = (values.shape[0], *locations.shape[1:2], values.shape[4], weights.shape[-1])
    _check_samples(expected, 3, locations, weights)


def _check_samples(expected: tuple[int, ...], axes: int, locations: Tensor, weights: Tensor) -> None:
    if tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, axes) or not weights.shape[-1]:
        raise InvalidInputError(
            f"deformable attention: expected weights {expected} and locations {(*expected, axes)} with at least one "
            f"point, got {tuple(weights.shape)} and {tuple(locations.shape)}"
        )
    if locations.dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(f"deformable attention: locations must be float32 or float64, got {locations.dtype}")
