"""From the project's frames to the tensors of `nano`: camera calibration, LiDAR voxels, measured depth."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid, inverse, transform_points
from occ_perception.models.alocc_geometry import camera_tensors, lidar_depth_maps
from occ_perception.models.base import ModelInput
from occ_perception.models.camera_inputs import camera_poses
from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.models.nano import FEATURE_STRIDE
from occ_perception.models.nano_config import NanoConfig
from occ_perception.ops.frustum import CameraTensors
from occ_perception.ops.lidar_depth import depth_bins
from occ_perception.ops.ray_traversal import last_beam_through


class SensorTensors(NamedTuple):
    """One frame's calibration and LiDAR, batch of one; only the cameras that delivered an image."""

    cameras: CameraTensors
    lidar_occupancy: Tensor  # bool [1, X, Y, Z] voxels with a return
    lidar_depth: Tensor  # int64 [1, n, h, w], -1 without a return
    lidar_point: Tensor  # int64 [1, n, h, w], which point of the sweep that is (non-finite ones left out), -1 without
    has_lidar: bool


def sensor_tensors(
    inputs: ModelInput,
    config: NanoConfig,
    own_vehicle: OwnVehicle,
    device: torch.device,
    grid_from_anchor: np.ndarray | None = None,
) -> SensorTensors:
    """What the network is told about a frame besides its images.

    Args:
        inputs: the frame; at least its pose or the sensors' mounting must be there.
        config: sizes.
        own_vehicle: returns inside are the vehicle itself.
        device: where to.
        grid_from_anchor: float64 [4, 4], if the grid is not the ego frame at the anchor stamp (training labels).
    """
    inputs = with_finite_points(inputs)
    size = config.image_size
    cells = (size[0] // FEATURE_STRIDE, size[1] // FEATURE_STRIDE)
    cameras = _no_cameras(device)
    depth = point = torch.full((1, sum(inputs.present), *cells), -1, device=device)
    if any(inputs.present):
        poses = camera_poses(inputs)
        cameras = camera_tensors(inputs, poses, device, grid_from_anchor)
        if inputs.frame.lidar:
            maps = lidar_depth_maps(inputs, poses, (config.depth_start, config.depth_stop), size, FEATURE_STRIDE)
            metres = torch.stack([nearest.depth for nearest in maps])[None]
            depth = depth_bins(metres, config.depth_start, config.depth_step, config.depth_bins).to(device)
            point = torch.stack([nearest.point for nearest in maps])[None].to(device)
    occupied = lidar_occupancy(inputs, config, own_vehicle, grid_from_anchor)
    return SensorTensors(cameras, occupied[None].to(device), depth, point, bool(inputs.frame.lidar))


def lidar_occupancy(
    inputs: ModelInput, config: NanoConfig, own_vehicle: OwnVehicle, grid_from_anchor: np.ndarray | None = None
) -> Tensor:
    """Voxels of the grid that hold a return of the newest sweep, bool [X, Y, Z]."""
    grid = VoxelGrid(config.grid_origin, config.voxel_size, config.grid_size)
    occupied = torch.zeros(grid.num_voxels, dtype=torch.bool)
    if inputs.frame.lidar:
        points = lidar_in_anchor(inputs)
        points = points[~own_vehicle.contains(points)]
        if grid_from_anchor is not None:
            points = transform_points(grid_from_anchor, points)
        cells, inside = grid.cells_of(points)
        occupied[torch.from_numpy(grid.linear_index(cells[inside]))] = True
    return occupied.view(config.grid_size)


def lidar_passed(inputs: ModelInput, config: NanoConfig, own_vehicle: OwnVehicle) -> Tensor:
    """Voxels of the grid that the beams of the newest sweep went through, bool [X, Y, Z]."""
    inputs = with_finite_points(inputs)
    points = lidar_in_anchor(inputs)
    ends = points[~own_vehicle.contains(points)]
    grid = VoxelGrid(config.grid_origin, config.voxel_size, config.grid_size)
    return torch.from_numpy(last_beam_through(_anchor_from_lidar(inputs)[:3, 3], ends, grid) >= 0)


def lidar_in_anchor(inputs: ModelInput) -> np.ndarray:
    """The newest sweep's points in the ego frame at the anchor stamp, float64 [P, 3]."""
    points = inputs.frame.lidar[-1].points[:, :3].astype(np.float64)
    return transform_points(_anchor_from_lidar(inputs), points)


def _anchor_from_lidar(inputs: ModelInput) -> np.ndarray:
    sweep, frame = inputs.frame.lidar[-1], inputs.frame
    if frame.odom_from_ego is None or sweep.odom_from_ego is None:
        return sweep.ego_from_lidar
    return inverse(frame.odom_from_ego) @ sweep.odom_from_ego @ sweep.ego_from_lidar


def with_finite_points(inputs: ModelInput) -> ModelInput:
    """The frame without LiDAR points that are NaN or infinite."""
    if not inputs.frame.lidar:
        return inputs
    sweep = inputs.frame.lidar[-1]
    finite = np.isfinite(sweep.points[:, :3]).all(axis=1)
    if finite.all():
        return inputs
    kept = replace(sweep, points=sweep.points[finite], offsets_s=None)
    return replace(inputs, frame=replace(inputs.frame, lidar=(kept,)))


def _no_cameras(device: torch.device) -> CameraTensors:
    matrices, vectors = torch.zeros(1, 0, 3, 3, device=device), torch.zeros(1, 0, 3, device=device)
    return CameraTensors(matrices, vectors, matrices, matrices, vectors, torch.eye(3, device=device)[None])
