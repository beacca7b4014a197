"""What cameras and LiDAR looked through: straight beams with true ends, and the voxels they prove to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.lidar import LidarScan
from occ_perception.data.synthetic.renderer import RenderedImage
from occ_perception.data.synthetic.scene import Trajectory
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, transform_points
from occ_perception.ops.ray_traversal import last_beam_through

_BEYOND_M = 500.0  # depth at which beams into the sky end: outside any grid
_SPACING_RAD = 0.009  # between beams: a voxel at 45 m
_FINER_ROWS, _NEAR_M = 3, 12.0  # rows are three times as close together for what is farther than this


@dataclass(frozen=True)
class Beams:
    """N straight beams in the world frame.

    Attributes:
        origins: float64 [N, 3], metres.
        ends: float64 [N, 3], on a surface, or far away in the sky.
        marks_end: bool [N], whether the surface at the end counts as seen (not that of a moving object which was
            measured at another time, nor the sky).
    """

    origins: np.ndarray
    ends: np.ndarray
    marks_end: np.ndarray

    @staticmethod
    def joined(parts: list[Beams]) -> Beams:
        """All of several."""
        return Beams(
            np.concatenate([part.origins for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([part.marks_end for part in parts]),
        )


def camera_beams(
    rig: CameraRig, images: Mapping[str, RenderedImage], world_from_ego: Mapping[str, np.ndarray]
) -> Beams:
    """Beams through a lattice of pixels up to the surface that each of them shows.

    Args:
        rig: the cameras; images: what they see.
        world_from_ego: pose of the vehicle at each image's stamp.
    """
    return Beams.joined([_image_beams(rig[name], image, world_from_ego[name]) for name, image in images.items()])


def _image_beams(camera: PinholeCamera, image: RenderedImage, world_from_ego: np.ndarray) -> Beams:
    columns = _lattice(camera.width, camera.intrinsics[0, 0] * _SPACING_RAD)
    rows = _lattice(camera.height, camera.intrinsics[1, 1] * _SPACING_RAD / _FINER_ROWS)
    depth = image.depth[np.ix_(rows, columns)].astype(np.float64)
    hits = np.isfinite(depth)
    # Rows close to each other are for the road far away, which they meet many metres apart.
    wanted = hits & (depth > _NEAR_M)
    wanted[::_FINER_ROWS] = True
    row, column = np.nonzero(wanted)
    pixels = np.stack([columns[column] + 0.5, rows[row] + 0.5, np.ones(len(row))], 1)
    ends = pixels @ np.linalg.inv(camera.intrinsics).T
    ends *= np.where(hits, depth, _BEYOND_M)[wanted][:, None]
    world_from_camera = world_from_ego @ camera.ego_from_camera
    origins = np.broadcast_to(world_from_camera[:3, 3], ends.shape)
    return Beams(origins, transform_points(world_from_camera, ends), hits[wanted])


def _lattice(size: int, stride: float) -> np.ndarray:
    """Evenly spaced whole pixels, int64."""
    return np.arange(max(stride, 1.0) / 2, size, max(stride, 1.0)).astype(np.int64)


def lidar_beams(
    scan: LidarScan, time_s: float, ego: Trajectory, ego_from_lidar: np.ndarray, ends_not_marked: np.ndarray
) -> Beams:
    """Beams of a sweep, each from where the sensor was when it fired.

    Args:
        scan: the sweep.
        time_s: its end, to which its points refer.
        ego: path of the vehicle.
        ego_from_lidar: mounting pose, float64 [4, 4].
        ends_not_marked: instances whose surface does not count as seen.
    """
    offsets, column = np.unique(scan.offsets_s, return_inverse=True)
    origins = (ego.poses(time_s + offsets.astype(np.float64)) @ ego_from_lidar)[:, :3, 3]
    ends = transform_points(ego.pose(time_s) @ ego_from_lidar, scan.points[:, :3].astype(np.float64))
    return Beams(origins[column], ends, ~np.isin(scan.instances, ends_not_marked))


def seen_voxels(beams: Beams, grid_from_world: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Voxels that a beam passes through, or on whose surface it ends; bool [X, Y, Z]."""
    origins = transform_points(grid_from_world, beams.origins)
    ends = transform_points(grid_from_world, beams.ends)
    seen = last_beam_through(origins, ends, grid) >= 0
    cells, inside = grid.cells_of(ends[beams.marks_end])
    seen[tuple(cells[inside].T)] = True
    return seen
