"""What goes into `nano` each frame, what comes out, and what it remembers.

Inside the network maps are [B, C, Y, X]; a voxel grid is kept as coarse columns, [B, Y, X, 2 (y), 2 (x), Z, ...]: voxel
(x, y, z) is ``[..., y // 2, x // 2, y % 2, x % 2, z]``.  `columns_from_grid` and `grid_from_columns` convert.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from occ_perception.layers.column_scores import ColumnScores
from occ_perception.ops.frustum import CameraTensors


class NanoInputs(NamedTuple):
    """One frame of B streams with N cameras each."""

    images: Tensor  # [B, N, 3, H, W] normalised; N may be 0
    cameras: CameraTensors
    camera_mask: Tensor  # [B, N] bool; a False camera contributes nothing
    lidar_columns: Tensor  # [B, Y, X, 2, 2, Z] bool, voxels that hold a LiDAR return; all False without LiDAR
    lidar_depth: Tensor  # [B, N, h, w] int64 depth bin of the nearest return, -1 without
    lidar_mask: Tensor  # [B] bool, whether there was a sweep
    previous_from_current_ego: Tensor  # [B, 4, 4] float64
    starts: Tensor  # [B] bool: first frame of its stream


class NanoState(NamedTuple):
    """What one frame leaves for the next, in the frame's own grid; channels-last."""

    fused: Tensor  # [B, Y, X, C]
    matching: Tensor  # [B, Y, X, M]
    bda: Tensor  # [B, 3, 3]


class NanoOutput(NamedTuple):
    """One frame, coarse layout."""

    voxel_features: Tensor | None  # [B, Y, X, 2, 2, Z, F]; times the prototypes are the class scores
    prototypes: Tensor  # [classes, F]
    scores: ColumnScores | None  # of the columns [B, Y, X] and their 4 Z voxels; a network prepared for inference only
    flow_logits: Tensor  # [B, 2 (x, y), bins, Y, X], grid axes after ``bda``
    heatmap: Tensor  # [B, Y, X, 2, 2] logits: is an object's centre here
    offsets: Tensor  # [B, Y, X, 2, 2, 2] (x, y) metres from the voxel column to its object's centre
    depth: Tensor | None  # surface depth distribution [B, N, D, h, w]; None without cameras
    cell_features: Tensor | None = None  # [n, F, 4 Z] voxel features of the coarse cells that were asked for instead
    image_logits: Tensor | None = None  # class of what a feature cell shows [B, N, classes - 1, h, w]; training only


def columns_from_grid(grid: Tensor) -> Tensor:
    """[B, X, Y, Z, ...] -> [B, Y / 2, X / 2, 2, 2, Z, ...]; a view."""
    x, y = grid.shape[1:3]
    split = grid.unflatten(2, (y // 2, 2)).unflatten(1, (x // 2, 2))  # [B, x, x2, y, y2, Z, ...]
    return split.permute(0, 3, 1, 4, 2, *range(5, split.ndim))


def grid_from_columns(columns: Tensor) -> Tensor:
    """[B, Y / 2, X / 2, 2, 2, ...] -> [B, X, Y, ...]."""
    moved = columns.permute(0, 2, 4, 1, 3, *range(5, columns.ndim))
    return moved.flatten(3, 4).flatten(1, 2)


def features_on_grid(voxel_features: Tensor) -> Tensor:
    """``NanoOutput.voxel_features`` on the published grid, [B, F, X, Y, Z]."""
    return grid_from_columns(voxel_features).movedim(-1, 1)
