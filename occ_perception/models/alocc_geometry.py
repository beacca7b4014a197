"""From the project's frames (named transforms, float64) to ALOcc's camera tensors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame
from occ_perception.geometry import VoxelGrid, check_rigid, inverse, transform_points
from occ_perception.models.alocc_config import ALOccConfig
from occ_perception.models.base import ModelInput
from occ_perception.models.camera_inputs import CameraPoses, checked_intrinsics, image_affines
from occ_perception.ops.frustum import CameraTensors
from occ_perception.ops.lidar_depth import LidarDepth, depth_bins, lidar_depth_map


class DepthRange(Protocol):
    """The depth bins of a model's configuration, metres."""

    @property
    def depth_start(self) -> float: ...
    @property
    def depth_stop(self) -> float: ...
    @property
    def depth_step(self) -> float: ...
    @property
    def depth_bins(self) -> int: ...


def lidar_from_anchor(frame: Frame) -> np.ndarray:
    """Ego frame at the anchor stamp to the LiDAR at its own stamp, for models whose grid has LiDAR axes.

    Raises:
        InvalidInputError: no sweep tells where the LiDAR is.
    """
    if not frame.lidar:
        raise InvalidInputError("this model's grid lies in the LiDAR frame: expected a LiDAR sweep, got none")
    sweep = frame.lidar[-1]
    mount = check_rigid(sweep.ego_from_lidar, "ego_from_lidar")
    if frame.odom_from_ego is None or sweep.odom_from_ego is None:
        return inverse(mount)
    return inverse(check_rigid(sweep.odom_from_ego, "lidar: odom_from_ego") @ mount) @ frame.odom_from_ego


def cells_in_lidar_grid(config: ALOccConfig, published: VoxelGrid, transform: np.ndarray) -> tuple[Tensor, Tensor]:
    """Which cell of the network's grid the centre of each published voxel falls into.

    Returns:
        linear index of the cell (0 where there is none) and whether there is one, both [X * Y * Z].
    """
    network_grid = VoxelGrid(config.grid_origin, config.voxel_size, config.grid_size)
    centres = transform_points(transform, published.centers().reshape(-1, 3).astype(np.float64))
    cells, inside = network_grid.cells_of(centres)
    return torch.from_numpy(network_grid.linear_index(cells)), torch.from_numpy(inside)


def published_grid(config: ALOccConfig) -> VoxelGrid:
    """The grid a variant is published on, in the ego frame at the anchor stamp."""
    if not config.lidar_axes:
        return VoxelGrid(config.grid_origin, config.voxel_size, config.grid_size)
    x, y, z = config.grid_origin
    # The LiDAR of the training vehicle is 1.84 m above base_link.
    return VoxelGrid((x, y, z + 2.0), config.voxel_size, config.grid_size)


def camera_tensors(
    inputs: ModelInput, poses: CameraPoses, device: torch.device, grid_from_anchor: np.ndarray | None = None
) -> CameraTensors:
    """Calibration of the present cameras as the network takes it, float32, batch of one."""
    affines = image_affines(inputs, poses)
    intrinsics = np.stack([checked_intrinsics(inputs.frame, name) for name in poses.names])
    post_rots = np.zeros_like(affines)
    post_rots[:, :2, :2] = affines[:, :2, :2]
    post_rots[:, 2, 2] = 1
    post_trans = affines[:, :, 2] * np.array([1.0, 1.0, 0.0])
    transforms = poses.anchor_from_camera if grid_from_anchor is None else grid_from_anchor @ poses.anchor_from_camera
    bda = np.eye(3)
    tensors = (transforms[:, :3, :3], transforms[:, :3, 3], intrinsics, post_rots, post_trans, bda)
    return CameraTensors(*(_to(device, array[None]) for array in tensors))


def stereo_motion(
    poses: CameraPoses, earlier: CameraPoses | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Motion of every camera since the earlier frame.

    Returns:
        previous_from_current [1, n, 4, 4] float32 (identity where there is no earlier image), whether there is one
        [1, n] bool, and the row of each camera in the earlier frame [n] (0 where there is none).
    """
    motion = np.tile(np.eye(4), (len(poses.names), 1, 1))
    rows = np.zeros(len(poses.names), np.int64)
    known = np.zeros(len(poses.names), bool)
    if earlier is not None and earlier.odom_from_camera is not None and poses.odom_from_camera is not None:
        for index, name in enumerate(poses.names):
            if name in earlier.names:
                rows[index], known[index] = earlier.names.index(name), True
                motion[index] = inverse(earlier.odom_from_camera[rows[index]]) @ poses.odom_from_camera[index]
    return _to(device, motion[None]), torch.from_numpy(known[None]).to(device), torch.from_numpy(rows).to(device)


def lidar_depth_of(
    inputs: ModelInput, poses: CameraPoses, config: DepthRange, size: tuple[int, int], stride: int
) -> Tensor | None:
    """Depth bin of the nearest LiDAR return per feature cell, int64 [1, n, h, w]; None when there is no sweep."""
    if not inputs.frame.lidar:
        return None
    maps = lidar_depth_maps(inputs, poses, (config.depth_start, config.depth_stop), size, stride)
    bins = [depth_bins(m.depth, config.depth_start, config.depth_step, config.depth_bins) for m in maps]
    return torch.stack(bins)[None]


def lidar_depth_maps(
    inputs: ModelInput, poses: CameraPoses, depth_range: tuple[float, float], size: tuple[int, int], stride: int
) -> list[LidarDepth]:
    """The nearest return of the newest sweep per feature cell, for each present camera."""
    sweep = inputs.frame.lidar[-1]
    to_camera = inverse(poses.anchor_from_camera)
    source = sweep.ego_from_lidar
    if poses.odom_from_camera is not None and sweep.odom_from_ego is not None:
        to_camera = inverse(poses.odom_from_camera)
        source = sweep.odom_from_ego @ sweep.ego_from_lidar
    affines = torch.from_numpy(image_affines(inputs, poses))
    maps = []
    for name, camera_from_world, affine in zip(poses.names, to_camera, affines, strict=True):
        points = torch.from_numpy(transform_points(camera_from_world @ source, sweep.points[:, :3].astype(np.float64)))
        intrinsics = torch.from_numpy(inputs.frame.rig[name].intrinsics)
        maps.append(lidar_depth_map(points, intrinsics, affine, size, stride, depth_range))
    return maps


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float().to(device)
