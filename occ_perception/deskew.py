"""Motion compensation of LiDAR sweeps: every point to where the vehicle was at the sweep's stamp.

A spinning LiDAR measures for a tenth of a second while the vehicle drives on; at 20 m/s the first and the last point of
a raw sweep are 2 m apart in where they were measured from.  Between the poses at the first point, at the stamp and at
the last point the vehicle is taken to move and to turn (about one axis) at constant rates.  Things that move themselves
stay smeared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.frame import LidarSweep
from occ_perception.geometry import check_rigid, inverse, transform_points


def sweep_span(offsets_s: np.ndarray) -> tuple[float, float]:
    """First and last time of a sweep's points relative to its stamp, seconds; (0, 0) if there are no points."""
    return (float(offsets_s.min()), float(offsets_s.max())) if len(offsets_s) else (0.0, 0.0)


def deskew(sweep: LidarSweep, odom_from_first_ego: np.ndarray, odom_from_last_ego: np.ndarray) -> LidarSweep:
    """A raw sweep, compensated to its stamp.

    Args:
        sweep: with its own pose and finite point times; the stamp may be at its start, its end or between.
        odom_from_first_ego, odom_from_last_ego: poses of the vehicle at the first and the last point's time.

    Raises:
        InvalidInputError: no pose, times that are not one per point, or a pose that is not a rigid transform.
    """
    if sweep.odom_from_ego is None or sweep.offsets_s is None or sweep.offsets_s.shape != (len(sweep.points),):
        raise InvalidInputError(f"LiDAR sweep: expected a pose and {len(sweep.points)} point times to compensate it")
    ego_from_odom = inverse(check_rigid(sweep.odom_from_ego, "odom_from_ego of the LiDAR sweep"))
    knots = {0.0: np.zeros(6)}
    for time, pose in zip(sweep_span(sweep.offsets_s), (odom_from_first_ego, odom_from_last_ego), strict=True):
        if time != 0.0:
            knots[time] = _twist(ego_from_odom @ check_rigid(pose, "odom_from_ego within the LiDAR sweep"))
    times = sorted(knots)
    motion = np.stack([np.interp(sweep.offsets_s, times, [knots[t][i] for t in times]) for i in range(6)], axis=1)
    at_point = transform_points(sweep.ego_from_lidar, sweep.points[:, :3].astype(np.float64))
    at_stamp = _rotated(at_point, motion[:, 3:]) + motion[:, :3]
    points = sweep.points.copy()
    points[:, :3] = transform_points(inverse(sweep.ego_from_lidar), at_stamp)
    return replace(sweep, points=points)


def _twist(transform: np.ndarray) -> np.ndarray:
    """Translation (metres) and rotation vector (radians, less than half a turn) of a rigid transform, float64 [6]."""
    rotation = transform[:3, :3]
    twice_sine_axis = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine = np.linalg.norm(twice_sine_axis) / 2
    angle = np.arctan2(sine, (np.trace(rotation) - 1) / 2)
    scale = angle / (2 * sine) if sine > 1e-9 else 0.5
    return np.concatenate([transform[:3, 3], scale * twice_sine_axis])


def _rotated(points: np.ndarray, rotation_vectors: np.ndarray) -> np.ndarray:
    """Each point [N, 3] turned by its rotation vector [N, 3] (Rodrigues)."""
    angle = np.linalg.norm(rotation_vectors, axis=1, keepdims=True)
    axis = rotation_vectors / np.maximum(angle, 1e-12)
    across = np.cross(axis, points)
    return points + np.sin(angle) * across + (1 - np.cos(angle)) * np.cross(axis, across)
