"""What of a frame's LiDAR sweeps carving can use: beams, the returns that were dropped, and what there is to say.

A return on the own vehicle, or nearer than ``min_range``, is no evidence of an obstacle.  It is no evidence of
emptiness either: whoever stands there looks just like a part of the vehicle.  So where such a return was is kept
(`Sensed.dropped`), and nothing that other beams say makes it free.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import check_rigid, inverse, transform_points
from occ_perception.models.lidar_carving_config import LidarCarvingConfig
from occ_perception.models.lidar_memory import (
    Beams,
    CarvingMemory,
    Returns,
    join_beams,
    join_returns,
    no_beams,
    no_returns,
)

logger = logging.getLogger(__name__)

_LONGEST_SWEEP_S = 0.5


@dataclass(frozen=True)
class Motion:
    """How the vehicle moved since the state's frame."""

    ego_from_prev_ego: np.ndarray  # float64 [4, 4]
    elapsed_s: float

    @classmethod
    def since(cls, state: CarvingMemory | None, stamp_ns: int, prev_ego_from_ego: Tensor | None) -> Motion | None:
        """None if there is no state, no pose, or no time between them.

        Raises:
            InvalidInputError: not a rigid transform.
        """
        if state is None or prev_ego_from_ego is None or stamp_ns <= state.stamp_ns:
            return None
        transform = check_rigid(prev_ego_from_ego.cpu().numpy(), "prev_ego_from_ego")
        return cls(inverse(transform), (stamp_ns - state.stamp_ns) * 1e-9)

    def velocity_of(self, mount: np.ndarray) -> np.ndarray:
        """Mean velocity over ground of a point of the vehicle ([3], metres), turning included, m/s [3]."""
        return (mount - transform_points(self.ego_from_prev_ego, mount[None])[0]) / self.elapsed_s


@dataclass(frozen=True)
class Sensed:
    """All sweeps of a frame, float64 in the vehicle frame at the anchor stamp.

    Attributes:
        beams: those that carve.
        dropped: returns on the own vehicle or too near; what is there is not known.
        notes: what was left out and why, in words.
    """

    beams: Beams
    dropped: Returns
    notes: tuple[str, ...] = ()


def sense(frame: Frame, motion: Motion | None, config: LidarCarvingConfig) -> Sensed:
    """What the sweeps of a frame say.

    Raises:
        InvalidInputError: point times that are not one per point, or a pose that is not a rigid transform.
    """
    newest_ns = max((sweep.stamp_ns for sweep in frame.lidar), default=frame.stamp_ns)
    beams, dropped, notes = no_beams(), no_returns(), []
    for sweep in frame.lidar:
        age_s = (frame.stamp_ns - sweep.stamp_ns) * 1e-9
        if age_s > config.max_age_s:
            notes.append(f"LiDAR sweep left out: {age_s:.1f} s old")
            continue
        usable = _usable(sweep, config, notes)
        anchor_from_sweep = _anchor_from_sweep(frame, sweep)
        ends = transform_points(anchor_from_sweep, usable.points)
        sensor = transform_points(anchor_from_sweep, sweep.ego_from_lidar[None, :3, 3])
        if motion is not None and usable.offsets_s is not None:
            sensor = sensor + usable.offsets_s[:, None] * motion.velocity_of(sensor[0])
        stamps = np.full(len(ends), newest_ns)  # of several LiDARs in a set: one sweep, as far as memory goes
        beams = join_beams(beams, Beams(np.broadcast_to(sensor, ends.shape), ends, stamps))
        dropped = join_returns(dropped, _dropped(transform_points(anchor_from_sweep, usable.dropped), newest_ns))
    for note in notes:
        logger.warning("%s", note)
    return Sensed(beams, dropped, tuple(notes))


@dataclass(frozen=True)
class _Usable:
    """One sweep, float64 in the vehicle frame at its stamp."""

    points: np.ndarray
    dropped: np.ndarray
    offsets_s: np.ndarray | None


def _usable(sweep: LidarSweep, config: LidarCarvingConfig, notes: list[str]) -> _Usable:
    """Points that are finite, in range and not the vehicle itself, with times; and those that are too near or on it.

    Raises:
        InvalidInputError: the times are not one per point.
    """
    offsets_s = sweep.offsets_s
    if offsets_s is not None and offsets_s.shape != (len(sweep.points),):
        raise InvalidInputError(f"LiDAR sweep: expected {len(sweep.points)} point times, got shape {offsets_s.shape}")
    points = sweep.points[:, :3].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.linalg.norm(points, axis=1)
        finite = np.flatnonzero(distance <= config.max_range)  # no NaN
    points = transform_points(check_rigid(sweep.ego_from_lidar, "ego_from_lidar"), points[finite])
    clear = (distance[finite] >= config.min_range) & ~config.own_vehicle.contains(points)
    if not clear.any():
        notes.append(f"0 of {len(sweep.points)} LiDAR points usable")
    offsets_s = None if offsets_s is None else _plausible(offsets_s[finite[clear]], notes)
    return _Usable(points[clear], points[~clear & (distance[finite] > 0)], offsets_s)  # 0: a beam that did not return


def _plausible(offsets_s: np.ndarray, notes: list[str]) -> np.ndarray:
    """Point times, float64 [N]; 0 where they are no times within a sweep (not finite, or absolute)."""
    plausible = np.abs(offsets_s) <= _LONGEST_SWEEP_S  # NaN is not
    if not plausible.all():
        notes.append(f"{(~plausible).sum()} of {len(plausible)} LiDAR point times are not within a sweep: ignored")
    return np.where(plausible, offsets_s, 0.0).astype(np.float64)


def _dropped(points: np.ndarray, sweep_ns: int) -> Returns:
    return Returns(points, np.zeros(len(points), bool), np.full(len(points), sweep_ns))


def _anchor_from_sweep(frame: Frame, sweep: LidarSweep) -> np.ndarray:
    """From the vehicle at the sweep's stamp to the vehicle at the anchor stamp; identity if a pose is missing."""
    if frame.odom_from_ego is None or sweep.odom_from_ego is None:
        return np.eye(4)
    return inverse(frame.odom_from_ego) @ check_rigid(sweep.odom_from_ego, "odom_from_ego of the LiDAR sweep")
