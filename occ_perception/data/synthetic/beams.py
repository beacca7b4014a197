"""What cameras and LiDAR looked through: straight beams with true ends, and the voxels they prove to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.lidar import LidarScan
from occ_perception.data.synthetic.renderer import RenderedImage
from occ_perception.data.synthetic.scene import Trajectory
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, inverse, transform_points
from occ_perception.ops.ray_traversal import last_beam_through

_BEYOND_M = 500.0  # depth at which beams into the sky end: outside any grid
_SPACING_RAD = 0.011  # between beams: a voxel at 36 m
_SURFACE_M, _SURFACE_SHARE = 0.2, 0.98  # a point so little behind a surface is on it


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

    def every(self, step: int) -> Beams:
        """One in so many."""
        return Beams(self.origins[::step], self.ends[::step], self.marks_end[::step])

    @staticmethod
    def joined(parts: list[Beams]) -> Beams:
        """All of several."""
        return Beams(
            np.concatenate([part.origins for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([part.marks_end for part in parts]),
        )


class CameraViews:
    """What the cameras of one set show.

    Args:
        rig: the cameras.
        images: what they see.
        world_from_ego: pose of the vehicle at each image's stamp.
    """

    def __init__(
        self, rig: CameraRig, images: Mapping[str, RenderedImage], world_from_ego: Mapping[str, np.ndarray]
    ) -> None:
        self._views = [
            (rig[name], image.depth, world_from_ego[name] @ rig[name].ego_from_camera) for name, image in images.items()
        ]

    def beams(self) -> Beams:
        """Beams through a lattice of pixels up to the surface that each of them shows."""
        return Beams.joined([_image_beams(*view) for view in self._views])

    def show(self, points: np.ndarray) -> np.ndarray:
        """Which points on surfaces, float64 [N, 3], world frame, are in an image with nothing before them; bool [N].

        Beams meet a road far away many metres apart; asked for by point, all of it is seen.
        """
        shown = np.zeros(len(points), bool)
        for camera, depth, world_from_camera in self._views:
            pixels, distance, visible = camera.project(transform_points(inverse(world_from_camera), points))
            visible = np.flatnonzero(visible)
            nearest = _inverse_depth(depth, pixels[visible])
            shown[visible] |= nearest * (distance[visible] * _SURFACE_SHARE - _SURFACE_M) <= 1.0
        return shown


def _image_beams(camera: PinholeCamera, depth: np.ndarray, world_from_camera: np.ndarray) -> Beams:
    stride = max(round(camera.intrinsics[0, 0] * _SPACING_RAD), 1)
    first = stride // 2
    depth = depth[first::stride, first::stride].astype(np.float64).ravel()
    v, u = np.mgrid[first : camera.height : stride, first : camera.width : stride] + 0.5
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], 1) @ np.linalg.inv(camera.intrinsics).T
    hits = np.isfinite(depth)
    ends = rays * np.where(hits, depth, _BEYOND_M)[:, None]
    origins = np.broadcast_to(world_from_camera[:3, 3], ends.shape)
    return Beams(origins, transform_points(world_from_camera, ends), hits)


def _inverse_depth(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """1/depth between the four pixels around each place [N, 2]; on a plane, which a road is, that is exact."""
    height, width = depth.shape
    place = np.clip(pixels - 0.5, 0.0, np.array([width - 1, height - 1]) - 1e-3)
    corner = place.astype(np.int64)
    right, down = (place - corner).T
    nearness = 1.0 / depth  # the sky's is 0
    index = corner[:, 1] * width + corner[:, 0]
    flat = nearness.ravel()
    upper = flat[index] * (1 - right) + flat[index + 1] * right
    lower = flat[index + width] * (1 - right) + flat[index + width + 1] * right
    return upper * (1 - down) + lower * down


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
