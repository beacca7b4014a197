"""Samples of all that never moves in a scene, made once and found again by place."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.scene import Scene
from occ_perception.data.synthetic.surface import Samples, thinned, triangle_points
from occ_perception.geometry import VoxelGrid

PITCH_M = 0.15
"""Samples of a surface are at most this far apart: a third of a voxel."""
_TILE_M = 8.0


class StaticSamples:
    """Samples of what stands still, sorted by square tiles of the ground, so that those near a place are few slices.

    Args:
        scene: the scene; what is too far from its vehicle's path for any grid is left out.
        grid: of the labels, in the vehicle's frame.
    """

    def __init__(self, scene: Scene, grid: VoxelGrid) -> None:
        self._reach = float(np.abs([grid.lower[:2], grid.upper[:2]]).max()) * np.sqrt(2)
        corners = scene.static.corners()
        path = scene.ego.poses(np.arange(0.0, scene.duration_s + 0.5, 0.5))[:, :3, 3]
        chosen = np.flatnonzero(self._may_matter(corners, path, grid))
        points, owner = triangle_points(corners[chosen], PITCH_M)
        class_ids = scene.static.class_ids[chosen[owner]]
        kept = np.flatnonzero(self._is_near(points, path, grid))
        kept = kept[thinned(points[kept], class_ids[kept], PITCH_M * 0.6)]
        points, class_ids = points[kept], class_ids[kept]
        self._lower = points[:, :2].min(axis=0, initial=0.0)
        tiles = np.floor((points[:, :2] - self._lower) / _TILE_M).astype(np.int64)
        self._tiles = tiles.max(axis=0, initial=0) + 1
        key = tiles[:, 0] * self._tiles[1] + tiles[:, 1]
        order = np.argsort(key, kind="stable")
        self._starts = np.searchsorted(key[order], np.arange(self._tiles.prod() + 1))
        self._samples = Samples(
            np.ascontiguousarray(points[order].T), class_ids[order], np.zeros(len(order), np.uint16)
        )

    def near(self, position: np.ndarray) -> Samples:
        """Samples of all tiles that the grid around a position [3] can touch."""
        first, last = (
            np.clip(np.floor((position[:2] + sign * self._reach - self._lower) / _TILE_M), 0, self._tiles - 1)
            for sign in (-1, 1)
        )
        rows = np.arange(first[0], last[0] + 1, dtype=np.int64) * self._tiles[1]
        return Samples.joined(
            [
                self._samples.take(slice(self._starts[row + int(first[1])], self._starts[row + int(last[1]) + 1]))
                for row in rows
            ]
        )

    def _may_matter(self, corners: np.ndarray, path: np.ndarray, grid: VoxelGrid) -> np.ndarray:
        """Triangles that can have a part in a grid on the path, bool [F]."""
        lower, upper = corners.min(axis=1), corners.max(axis=1)
        path_lower, path_upper = path.min(axis=0), path.max(axis=0)
        level = np.array([self._reach, self._reach])
        beside = (upper[:, :2] < path_lower[:2] - level) | (lower[:, :2] > path_upper[:2] + level)
        above_or_below = (lower[:, 2] > path_upper[2] + grid.upper[2]) | (upper[:, 2] < path_lower[2] + grid.lower[2])
        return ~(beside.any(axis=1) | above_or_below)

    def _is_near(self, points: np.ndarray, path: np.ndarray, grid: VoxelGrid) -> np.ndarray:
        """Points that can be in a grid on the path, bool [N], decided per metre of the ground."""
        near = (points[:, 2] > path[:, 2].min() + grid.lower[2]) & (points[:, 2] < path[:, 2].max() + grid.upper[2])
        lower = points[:, :2].min(axis=0, initial=0.0)
        square = np.floor(points[:, :2] - lower).astype(np.int64)
        size = square.max(axis=0, initial=0) + 1
        centers = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in size), indexing="ij"), -1) + lower
        reached = np.zeros(tuple(size), bool)
        for position in path:
            reached |= np.hypot(*np.moveaxis(centers - position[:2], -1, 0)) < self._reach + 5.0
        return near & reached[tuple(square.T)]
