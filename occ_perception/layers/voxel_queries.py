"""Voxel queries: fixed sinusoidal embeddings of the cells of a grid (OffsetOcc, arXiv 2505.09562, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.errors import ConfigurationError

# The slowest wave turns by about one radian over the 100 cells of an axis, the fastest by one radian per cell.
_TEMPERATURE = 100.0


def sinusoidal_queries(cells: tuple[int, int, int], channels: int) -> Tensor:
    """One embedding per cell, values in [-1, 1], float32 [X, Y, Z, channels].

    The channels are shared out among the axes: x and y get an even number of about a third, z the rest (128 channels:
    44, 44, 40); each share holds the sines, then the cosines of one axis.

    Raises:
        ConfigurationError: ``channels`` is odd or too few for three axes.
    """
    share = 2 * -(-channels // 6)
    rest = channels - 2 * share
    if channels % 2 or rest < 2:
        raise ConfigurationError(f"voxel queries: expected an even number of channels from 10 on, got {channels}")
    x, y, z = (_axis(count, width) for count, width in zip(cells, (share, share, rest), strict=True))
    parts = (x[:, None, None], y[None, :, None], z[None, None, :])
    return torch.cat([part.expand(*cells, -1) for part in parts], dim=-1)


def _axis(count: int, channels: int) -> Tensor:
    """Waves of falling frequency along one axis, [count, channels]."""
    exponents = torch.arange(channels // 2, dtype=torch.float64) / (channels // 2)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * _TEMPERATURE**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def cell_references(cells: tuple[int, int, int]) -> Tensor:
    """Centres of the cells, normalised: 0 and 1 are the faces of the grid; float32 [X * Y * Z, 3]."""
    axes = [(torch.arange(count, dtype=torch.float32) + 0.5) / count for count in cells]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
