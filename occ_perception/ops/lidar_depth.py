"""LiDAR points as a depth map on a camera's feature grid (specs/alocc.md section 10.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LidarDepth(NamedTuple):
    """Nearest LiDAR return per feature cell."""

    depth: Tensor  # float32 [h, w] metres, 0 where nothing was hit
    point: Tensor  # int64 [h, w] index of the point, -1 where nothing was hit


def lidar_depth_map(
    points_camera: Tensor,
    intrins: Tensor,
    affine: Tensor,
    image_size: tuple[int, int],
    stride: int,
    depth_range: tuple[float, float],
) -> LidarDepth:
    """Project points into a network image and keep the nearest of each cell of ``stride`` x ``stride`` pixels.

    Args:
        points_camera: [P, 3] in the camera's optical frame; non-finite points are ignored.
        intrins: [3, 3] of the original image.
        affine: [3, 3] original to network pixels (may rotate and flip).
        image_size: (H, W) of the network image.
        stride: pixels per cell.
        depth_range: start (kept) and stop (not kept), metres.
    """
    depth = points_camera[:, 2]
    ahead = ((depth >= depth_range[0]) & (depth < depth_range[1])).nonzero().squeeze(1)  # most are not, of a sweep
    pixel = points_camera[ahead] @ intrins.mT
    pixel = torch.cat([pixel[:, :2] / pixel[:, 2:], torch.ones_like(pixel[:, 2:])], dim=1) @ affine.mT
    nearest = nearest_depth_map(pixel[:, :2], depth[ahead], image_size, stride, depth_range)
    index_or_none = torch.cat([ahead, ahead.new_tensor([-1])])  # -1 takes the last
    return LidarDepth(nearest.depth, index_or_none[nearest.point])


def nearest_depth_map(
    pixels: Tensor, depth: Tensor, image_size: tuple[int, int], stride: int, depth_range: tuple[float, float]
) -> LidarDepth:
    """The nearest of the points whose pixels lie in each cell.

    Args:
        pixels: (u, v) of each point in the network image, [P, 2]; NaN lies nowhere.
        depth: of each point along the optical axis, [P].
        image_size, stride, depth_range: see `lidar_depth_map`.
    """
    u, v = torch.round(pixels[:, 0]), torch.round(pixels[:, 1])
    height, width = image_size
    kept = (depth >= depth_range[0]) & (depth < depth_range[1])
    kept &= (u >= 0) & (u < width) & (v >= 0) & (v < height)
    index = kept.nonzero().squeeze(1)
    cell = (v[index] // stride).long() * (width // stride) + (u[index] // stride).long()
    return _nearest(depth[index].float(), index, cell, (height // stride, width // stride))


def _nearest(depth: Tensor, index: Tensor, cell: Tensor, size: tuple[int, int]) -> LidarDepth:
    """The smallest depth of each cell, and the first point that has it."""
    cells = size[0] * size[1]
    nearest = torch.full((cells,), torch.inf, device=depth.device).scatter_reduce_(0, cell, depth, "amin")
    first = torch.full((cells,), torch.iinfo(torch.int64).max, device=depth.device)
    at_nearest = depth == nearest[cell]
    first.scatter_reduce_(0, cell[at_nearest], index[at_nearest], "amin")
    hit = torch.isfinite(nearest)
    return LidarDepth(torch.where(hit, nearest, 0.0).view(size), torch.where(hit, first, -1).view(size))


def depth_bins(depth: Tensor, start: float, step: float, bins: int) -> Tensor:
    """Bin of each depth, int64, -1 where there is no hit (0) or the depth is beyond the bins."""
    index = torch.floor((depth - (start - step)) / step).long() - 1
    return torch.where((depth > 0) & (index >= 0) & (index < bins), index, -1)
