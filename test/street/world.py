"""A small made-up street: a road that bends, sidewalks, buildings, parked and moving cars; closed form everywhere.

Simple on purpose and seeded.  The world frame is z up, metres, ground at z = 0, and the road starts at the origin along
+x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from occ_perception.geometry import VoxelGrid, inverse, transform_points
from occ_perception.ontology import FREE, OCC3D

ROAD_HALF_WIDTH = 6.0
"""Driveable to this distance from the road's centre line, metres: a lane and a row of parked cars on each side."""
SIDEWALK_HALF_WIDTH = 9.0
"""Sidewalk from the road's edge to this distance from the centre line, metres; terrain beyond."""

_CLASSES = {name: OCC3D.id_of(name) for name in ("car", "manmade", "driveable_surface", "sidewalk", "terrain")}


@dataclass(frozen=True)
class Road:
    """Centre line: straight, a bend to the left, straight; addressed by length ``s`` and offset ``d`` (left > 0)."""

    straight: float = 40.0
    radius: float = 90.0
    turn: float = np.pi / 3

    def at(self, s: np.ndarray | float, d: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(x, y, heading) of points given along the road, metres and radians."""
        s = np.asarray(s, np.float64)
        heading = np.clip((s - self.straight) / self.radius, 0.0, self.turn)
        before = np.minimum(s, self.straight)
        after = np.maximum(s - self.straight - self.radius * self.turn, 0.0)
        x = before + self.radius * np.sin(heading) + after * np.cos(heading) - d * np.sin(heading)
        y = self.radius * (1 - np.cos(heading)) + after * np.sin(heading) + d * np.cos(heading)
        return x, y, heading

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, d) of ground points, in the points' own float type; inverse of `at` on the street itself."""
        dx, dy = x - self.straight, self.radius - y
        heading = np.clip(np.arctan2(dx, dy), 0.0, self.turn).astype(x.dtype)
        sine, cosine = np.sin(heading), np.cos(heading)
        # Relative to the foot point on the (extended) arc: along its tangent, and to its left.
        along = (dx - self.radius * sine) * cosine - (dy - self.radius * cosine) * sine
        left = -(dx - self.radius * sine) * sine - (dy - self.radius * cosine) * cosine
        return self.straight + self.radius * heading + along, left


@dataclass(frozen=True)
class Boxes:
    """Axis-up boxes at one instant (or one per row of instants): everything that is not ground.

    Attributes:
        centers: float64 [B, 3], metres.
        sizes: float64 [B, 3], length, width, height, metres.
        yaws: float64 [B], radians.
        velocities: float64 [B, 2], m/s.
        class_ids: uint8 [B], Occ3D classes.
        colors: float32 [B, 3], RGB 0..255.
    """

    centers: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray
    velocities: np.ndarray
    class_ids: np.ndarray
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.yaws)

    def corners(self) -> np.ndarray:
        """The eight corners of each box, float64 [B, 8, 3]."""
        signs = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij"), -1).reshape(1, 8, 3)
        local = signs * self.sizes[:, None]
        cosine, sine = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        x = cosine * local[..., 0] - sine * local[..., 1]
        y = sine * local[..., 0] + cosine * local[..., 1]
        return np.stack([x, y, local[..., 2]], -1) + self.centers[:, None]


class StreetWorld:
    """The street with everything on it.

    Args:
        seed: two worlds of one seed are equal.
        length: how far along the road things stand, metres.
    """

    def __init__(self, seed: int = 0, length: float = 300.0) -> None:
        self.road = Road()
        self.length = length
        self._rng = np.random.default_rng(seed)
        rows = [*self._buildings(), *self._parked_cars(), *self._moving_cars()]
        table = np.array([row[:8] for row in rows])
        self._s, self._d, self._yaw_offset, self._speed = table[:, :4].T
        self._sizes, self._bottom = table[:, 4:7], table[:, 7]
        self._class_ids = np.array([row[8] for row in rows], np.uint8)
        self._colors = np.array([row[9] for row in rows], np.float32)

    # One row per box: s, d, yaw relative to the road, speed along it, length, width, height, bottom, class, color.
    def _buildings(self) -> list[tuple]:
        rows = []
        for side in (-1, 1):
            s = -60.0
            while s < self.length:
                length, width = self._rng.uniform(10, 22), self._rng.uniform(8, 12)
                d = side * (SIDEWALK_HALF_WIDTH + self._rng.uniform(1, 5) + width / 2)
                color = self._rng.uniform(110, 220) * self._rng.uniform(0.8, 1.0, 3)
                height = self._rng.uniform(5, 14)
                rows.append((s + length / 2, d, 0, 0, length, width, height, 0, _CLASSES["manmade"], color))
                s += length + self._rng.uniform(2, 12)
        return rows

    def _parked_cars(self) -> list[tuple]:
        rows = []
        for side in (-1, 1):
            s = -50.0
            while s < self.length:
                size = self._rng.uniform((4.0, 1.7, 1.4), (4.9, 1.9, 1.8))
                yaw = self._rng.normal(0, 0.03)
                color = self._rng.uniform(30, 230, 3)
                rows.append((s, side * 4.8, yaw, 0, *size, 0, _CLASSES["car"], color))
                s += 5.5 + self._rng.exponential(9.0)
        return rows

    def _moving_cars(self) -> list[tuple]:
        leading = (22.0, -1.75, 0, 7.0, 4.5, 1.8, 1.5, 0, _CLASSES["car"], np.array([200.0, 40.0, 40.0]))
        oncoming = (90.0, 1.75, np.pi, -8.0, 4.6, 1.8, 1.5, 0, _CLASSES["car"], np.array([40.0, 60.0, 200.0]))
        return [leading, oncoming]

    def boxes(self, time_s: float) -> Boxes:
        """All boxes at a time since the start, seconds."""
        x, y, heading = self.road.at(self._s + self._speed * time_s, self._d)
        velocities = self._speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
        centers = np.stack([x, y, self._bottom + self._sizes[:, 2] / 2], -1)
        return Boxes(centers, self._sizes, heading + self._yaw_offset, velocities, self._class_ids, self._colors)

    def ground_classes(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Occ3D class of the ground at points, uint8 of the points' shape."""
        distance = np.abs(self.road.coordinates(x, y)[1])
        edges = [distance < ROAD_HALF_WIDTH, distance < SIDEWALK_HALF_WIDTH]
        return np.select(edges, [_CLASSES["driveable_surface"], _CLASSES["sidewalk"]], _CLASSES["terrain"]).astype(
            np.uint8
        )

    def occupancy(self, time_s: float, world_from_ego: np.ndarray, grid: VoxelGrid) -> np.ndarray:
        """What every voxel holds, uint8 [X, Y, Z]: an Occ3D class, or FREE; seen or not.

        A cell is occupied when a box overlaps it (boxes are solid) or the ground surface passes through it.
        """
        semantics = np.full(grid.size, FREE, np.uint8)
        centers = grid.centers()
        world = transform_points(world_from_ego, centers.reshape(-1, 3).astype(np.float64)).reshape(*grid.size, 3)
        half = grid.voxel_size / 2
        on_ground = np.abs(world[..., 2]) <= half
        semantics[on_ground] = self.ground_classes(world[..., 0][on_ground], world[..., 1][on_ground])
        boxes = self.boxes(time_s)
        reach = np.linalg.norm(boxes.sizes, axis=1) / 2 + np.linalg.norm(grid.upper - grid.lower) / 2
        middle = transform_points(world_from_ego, ((grid.lower + grid.upper) / 2)[None])[0]
        for b in np.flatnonzero(np.linalg.norm(boxes.centers - middle, axis=1) < reach):
            window = self._window(boxes.corners()[b], world_from_ego, grid)
            offset = world[window] - boxes.centers[b]
            cosine, sine = np.cos(boxes.yaws[b]), np.sin(boxes.yaws[b])
            local = np.stack(
                [cosine * offset[..., 0] + sine * offset[..., 1], cosine * offset[..., 1] - sine * offset[..., 0]], -1
            )
            # The cell is a square turned against the box: its extent along the box's axes.
            turn = boxes.yaws[b] - np.arctan2(world_from_ego[1, 0], world_from_ego[0, 0])
            margin = half * (abs(np.cos(turn)) + abs(np.sin(turn)))
            inside = (np.abs(local) < boxes.sizes[b, :2] / 2 + margin).all(-1)
            inside &= np.abs(offset[..., 2]) < boxes.sizes[b, 2] / 2 + half
            inside &= ~on_ground[window]
            semantics[window][inside] = boxes.class_ids[b]
        return semantics

    @staticmethod
    def _window(corners: np.ndarray, world_from_ego: np.ndarray, grid: VoxelGrid) -> tuple[slice, slice, slice]:
        """Cells around a box, so that a voxel far away costs nothing."""
        local = transform_points(inverse(world_from_ego), corners)
        first = np.floor((local.min(0) - grid.lower) / grid.voxel_size).astype(int) - 1
        last = np.ceil((local.max(0) - grid.lower) / grid.voxel_size).astype(int) + 1
        first, last = np.clip(first, 0, grid.size), np.clip(last, 0, grid.size)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return x, y, z

    @cached_property
    def ground_texture(self) -> np.ndarray:
        """Random brightness of the ground, float32 [256, 256], repeats every 64 m."""
        return np.random.default_rng(7).uniform(0.85, 1.1, (256, 256)).astype(np.float32)
