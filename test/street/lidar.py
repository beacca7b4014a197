"""A spinning LiDAR on the made-up street: 32 beams x 1084 columns, one clockwise turn, compensated to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import inverse
from street.world import Boxes, StreetWorld

COLUMNS, RINGS = 1084, 32
PERIOD_NS = 50_000_000
_ELEVATIONS = np.deg2rad(np.linspace(-30.0, 10.5, RINGS))
_AZIMUTHS = np.pi / 2 - 2 * np.pi / COLUMNS * np.arange(COLUMNS)  # vehicle axes, from the left and clockwise


@dataclass(frozen=True)
class LidarScan:
    """One turn.

    Attributes:
        points: float32 [N, 4], x, y, z (metres, LiDAR frame at the stamp) and intensity 0..255.
        rings: uint16 [N], 0 = lowest beam.
        offsets_s: float32 [N], when each point was measured relative to the stamp (<= 0).
    """

    points: np.ndarray
    rings: np.ndarray
    offsets_s: np.ndarray


class StreetLidar:
    """Measures the world from a moving vehicle.

    Args:
        world: what to measure.
        ego_from_lidar: mounting pose, float64 [4, 4].
        pose: vehicle pose at stamps: int64 [T] -> (x, y, heading) each float64 [T].
        time_s: seconds since the start of a stamp.
        seed: of the noise; one stamp always has the same noise.
    """

    max_range = 75.0
    range_noise = 0.02
    drop_out = 0.05

    def __init__(
        self,
        world: StreetWorld,
        ego_from_lidar: np.ndarray,
        pose: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
        time_s: Callable[[int], float],
        seed: int,
    ) -> None:
        self._world, self._ego_from_lidar, self._pose, self._time_s, self._seed = (
            world,
            ego_from_lidar,
            pose,
            time_s,
            seed,
        )

    def scan(self, stamp_ns: int, noise: bool = True) -> LidarScan:
        """The turn that ends at a stamp."""
        stamps = stamp_ns - (COLUMNS - 1 - np.arange(COLUMNS)) * PERIOD_NS // COLUMNS
        x, y, heading = self._pose(stamps)
        mount = self._ego_from_lidar[:3, 3]
        c, s = np.cos(heading), np.sin(heading)
        origins = np.stack(
            [x + c * mount[0] - s * mount[1], y + s * mount[0] + c * mount[1], np.full(COLUMNS, mount[2])], -1
        )
        azimuths = heading + _AZIMUTHS
        ranges, albedo = self._cast(origins, azimuths, stamps, stamp_ns)
        if noise:
            rng = np.random.default_rng([self._seed, stamp_ns])
            ranges = ranges + rng.normal(0, self.range_noise, ranges.shape)
            ranges[rng.random(ranges.shape) < self.drop_out] = np.inf
        column, ring = np.nonzero(ranges < self.max_range)
        distance = ranges[column, ring][:, None]
        level = np.cos(_ELEVATIONS)[ring]
        directions = np.stack(
            [level * np.cos(azimuths[column]), level * np.sin(azimuths[column]), np.sin(_ELEVATIONS)[ring]], -1
        )
        world_points = origins[column] + distance * directions
        lidar_from_world = inverse(_level_pose(x[-1], y[-1], heading[-1]) @ self._ego_from_lidar)
        points = world_points @ lidar_from_world[:3, :3].T + lidar_from_world[:3, 3]
        points = np.concatenate([points, albedo[column, ring][:, None]], 1).astype(np.float32)
        offsets = ((stamps[column] - stamp_ns) * 1e-9).astype(np.float32)
        return LidarScan(points, ring.astype(np.uint16), offsets)

    def _cast(
        self, origins: np.ndarray, azimuths: np.ndarray, stamps: np.ndarray, stamp_ns: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Range (inf = none) and intensity of every beam, float64 [columns, rings]."""
        with np.errstate(divide="ignore"):
            to_ground = np.where(_ELEVATIONS < 0, -1.0 / np.sin(_ELEVATIONS), np.inf)
        ranges = origins[:, 2:] * to_ground
        intensity = np.full(ranges.shape, 15.0)
        boxes = self._world.boxes(self._time_s(stamp_ns))
        lag = (stamps - stamp_ns) * 1e-9
        reach = self.max_range + np.linalg.norm(boxes.sizes, axis=1) / 2
        near = np.linalg.norm(boxes.centers[:, :2] - origins[-1, :2], axis=1) < reach
        for b in np.flatnonzero(near).tolist():
            columns = self._columns_towards(boxes, b, origins, azimuths)
            distance = _box_ranges(boxes, b, origins[columns], azimuths[columns], lag[columns])
            nearer = distance < ranges[columns]
            ranges[columns] = np.where(nearer, distance, ranges[columns])
            intensity[columns] = np.where(nearer, 20.0 + 0.4 * boxes.colors[b].mean(), intensity[columns])
        return ranges, intensity

    @staticmethod
    def _columns_towards(boxes: Boxes, b: int, origins: np.ndarray, azimuths: np.ndarray) -> np.ndarray:
        """Columns whose beams can meet a box: those within its bounding circle."""
        offset = boxes.centers[b, :2] - origins[:, :2]
        distance = np.linalg.norm(offset, axis=1)
        # Half a metre more than the circle: the box may move that far within the turn.
        radius = np.linalg.norm(boxes.sizes[b, :2]) / 2 + 0.5 + 0.05 * np.linalg.norm(boxes.velocities[b])
        spread = np.arcsin(np.clip(radius / np.maximum(distance, 1e-6), 0, 1))
        difference = np.arctan2(offset[:, 1], offset[:, 0]) - azimuths
        difference = np.abs((difference + np.pi) % (2 * np.pi) - np.pi)
        return np.flatnonzero((difference <= spread) | (distance <= radius))


def _box_ranges(boxes: Boxes, b: int, origins: np.ndarray, azimuths: np.ndarray, lag_s: np.ndarray) -> np.ndarray:
    """Range to one box, inf where missed, float64 [columns, rings]; the box is where it was at each column's time."""
    center = boxes.centers[b, :2] + lag_s[:, None] * boxes.velocities[b]
    offset = origins[:, :2] - center
    c, s = np.cos(boxes.yaws[b]), np.sin(boxes.yaws[b])
    local = (c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0])
    start = np.stack([*local, origins[:, 2] - boxes.centers[b, 2]], -1)[:, None]
    turned = (azimuths - boxes.yaws[b])[:, None]
    level, rise = np.cos(_ELEVATIONS)[None], np.broadcast_to(np.sin(_ELEVATIONS), (len(azimuths), RINGS))
    rays = np.stack([level * np.cos(turned), level * np.sin(turned), rise], -1)
    half = boxes.sizes[b] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        enter = ((-np.copysign(half, rays) - start) / rays).max(-1)
        leave = ((np.copysign(half, rays) - start) / rays).min(-1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def _level_pose(x: float, y: float, heading: float) -> np.ndarray:
    """World from ego of a vehicle flat on the ground, float64 [4, 4]."""
    c, s = np.cos(heading), np.sin(heading)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]])
