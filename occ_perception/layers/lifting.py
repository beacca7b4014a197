"""Adaptive lifting: image features onto a voxel grid by depth, transfer and soft filling (specs/alocc.md section 5)."""

import torch
from torch import Tensor, nn

from occ_perception.layers.depth_transfer import ExtraPoints
from occ_perception.ops.frustum import CameraTensors, image_to_ego
from occ_perception.ops.interpolation import rows_to_volume, volume_to_rows
from occ_perception.ops.voxel_pooling import (
    GridSpec,
    VoxelTaps,
    nearest_tap,
    points_near,
    soft_filling_taps,
    voxel_pooling,
)


class GridParameters(nn.Module):
    """The lifting grid as the published files store it: three frozen 3-vectors, checked on import, never used."""

    def __init__(self, grid: GridSpec) -> None:
        super().__init__()
        interval, origin = torch.tensor(grid.interval), torch.tensor(grid.origin)
        self.dx = nn.Parameter(interval, requires_grad=False)
        self.bx = nn.Parameter(origin + interval / 2, requires_grad=False)
        self.nx = nn.Parameter(torch.tensor(grid.cells, dtype=torch.float32), requires_grad=False)


def lift(
    context: Tensor,
    geometry: Tensor,
    extra: ExtraPoints | None,
    frustum: Tensor,
    cameras: CameraTensors,
    grid: GridSpec,
    soft: bool = True,
    least: float = 0.0,
) -> Tensor:
    """Sum over cameras, pixels and depths of probability x trilinear weight x context feature.

    Args:
        context: [B * N, C, h, w].
        geometry: occupied probability [B, N, D, h, w]; zero for a camera that is missing.
        extra: inter-object points [B * N, 27, ...], or None.
        frustum: (u, v, d) [D, h, w, 3].
        cameras: calibration of B x N cameras.
        grid: where to.
        soft: spread every point over the voxels around it (soft filling); False: all to the nearest (lift-splat).
        least: points with a probability of at most this are left out.

    Returns:
        [B, C, Y, X, Z] (channels-last memory), in ego coordinates; Z is dropped when the grid is one cell high.
    """
    batch, count, _, height, width = geometry.shape
    points = frustum.expand(batch, count, *frustum.shape)
    scores = geometry
    if extra is not None:
        present = (geometry.flatten(2).sum(-1) > 0)[..., None, None, None]
        points = torch.cat([points, extra.points.unflatten(0, (batch, count))], dim=2)
        scores = torch.cat([scores, extra.scores.unflatten(0, (batch, count)) * present], dim=2)
    positions = image_to_ego(points, cameras).reshape(-1, 3)
    pixel = torch.arange(batch * count * height * width, device=context.device, dtype=torch.int32)
    pixel = pixel.view(batch, count, 1, height, width).expand_as(scores).flatten()
    sample = torch.arange(batch, device=context.device, dtype=torch.int32).repeat_interleave(scores[0].numel())
    weights = scores.flatten()
    if positions.device.type == "cpu":  # half of the points lie outside; on a GPU leaving them out would be a sync
        near = points_near(positions, grid)
        near = near[weights[near] > least] if least > 0 else near
        positions, pixel, sample, weights = (values[near] for values in (positions, pixel, sample, weights))
    elif least > 0:
        weights = torch.where(weights > least, weights, 0.0)
    taps = soft_filling_taps(positions, grid) if soft else nearest_tap(positions, grid)
    rows = _rows_of_samples(batch, sample, taps, grid)
    volume = voxel_pooling(volume_to_rows(context), pixel, weights, rows, batch * grid.voxels)
    x, y, z = grid.cells
    return rows_to_volume(volume, batch, (y, x) if z == 1 else (y, x, z))


def _rows_of_samples(batch: int, sample: Tensor, taps: VoxelTaps, grid: GridSpec) -> VoxelTaps:
    """Shift the voxel rows of sample b by b grids; outside stays outside of all."""
    if batch == 1:
        return taps
    shifted = torch.where(taps.rows < grid.voxels, taps.rows + sample[:, None] * grid.voxels, batch * grid.voxels)
    return VoxelTaps(shifted.to(torch.int32), taps.weights)
