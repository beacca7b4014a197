"""LiDAR carving: what a LiDAR alone can know of the space around a vehicle, with no weights and nothing learned.

A voxel is

* **occupied** where a beam ended,
* **ground** where beams ended on the ground only (`occ_perception.ops.ground`),
* **free** where a beam passed through and none ended (`occ_perception.ops.ray_traversal`, exact),
* **unknown** everywhere else.

Free says that a beam passed, not that every litre was seen to be empty: a voxel is a block of 0.4 m.  One exception: a
voxel that the fitted ground runs through is never free.  Between two rings on the road a beam crosses its upper part
only, and a kerb or a hole could be in the rest, so it stays unknown.

Past sweeps (`occ_perception.models.lidar_memory`) fill in what this sweep does not look at.  Newer evidence wins: a
beam through a voxel erases an earlier return in it, so what moves leaves no trail; a return in this sweep outweighs
any beam.  Where old returns and old beams meet in a voxel, the return stands until a sweep looks through the voxel.
Only beams that come back look through anything: what vanishes from before the open sky is remembered until it expires.

Where a beam starts: sweeps come motion compensated, their points are where they were at the sweep's stamp, but each
beam left from where the sensor was when it was fired.  With ``LidarSweep.offsets_s`` and the vehicle's motion (from the
second frame on) origins are moved there.  Without, all beams are taken to start at the sensor's position at the stamp.
Then origins of beams fired early are off by up to speed x sweep time (nuScenes: 0.45 m at 9 m/s), and free space is,
by that much next to the sensor and less towards the return, in proportion to the distance that is left.

Not handled: rain, snow, dust and mirrors. They make returns in the air (occupied) and beams behind walls (free).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import VoxelGrid, check_rigid, inverse, transform_points
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput
from occ_perception.models.lidar_carving_config import LidarCarvingConfig
from occ_perception.models.lidar_memory import (
    Beams,
    CarvingMemory,
    Returns,
    join_beams,
    newest_per_part,
    no_beams,
    voxels_of,
)
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN
from occ_perception.ops.ground import Footprint, GroundSurface, feet, fit_ground, on_ground
from occ_perception.ops.ray_traversal import last_beam_through

logger = logging.getLogger(__name__)

_LONGEST_SWEEP_S = 0.5
_OCCUPIED, _GROUND = GEOMETRY.id_of("occupied"), GEOMETRY.id_of("ground")


class LidarCarving:
    """A `PerceptionModel` that carves free space with LiDAR beams; runs on one CPU core."""

    image_spec: ImageSpec | None = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, config: LidarCarvingConfig | None = None) -> None:
        self.config = config or LidarCarvingConfig()
        self.info = ModelInfo("lidar-carving", GEOMETRY, self.config.grid)

    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Carve one frame; see `PerceptionModel.step`.

        A frame without LiDAR shows what is remembered and not yet too old; the rest is unknown.

        Raises:
            InvalidInputError: point times that are not one per point, or a pose that is not a rigid transform.
        """
        frame, grid, clock = inputs.frame, self.config.grid, _StageClock()
        motion = _Motion.since(state, frame.stamp_ns, prev_ego_from_ego)
        with clock.stage("recall"):
            past = self._recall(frame, state, motion)
        with clock.stage("returns"):
            now = self._beams(frame, motion)
        with clock.stage("ground"):
            hits, voxels, holds_ground = self._hits(now)
            occupied, ground = _marked(hits, voxels, grid)
        with clock.stage("traversal"):
            beams = join_beams(past.beams, now)
            # This sweep ranks above the others, even if it comes late or twice.
            rank = np.concatenate([past.beams.rank(), np.full(len(now.ends), len(past.sweeps_ns))])
            newest = last_beam_through(beams.origins, beams.ends, grid, rank)
        with clock.stage("fusion"):
            seen_through = (newest >= len(past.beams.ends)) & ~occupied
            returns, voxels = self._still_standing(past.returns, seen_through)
            for now_mask, past_mask in zip((occupied, ground), _marked(returns, voxels, grid), strict=True):
                now_mask |= past_mask
            ground &= ~occupied
            foot = feet(ground, occupied)
            occupied, ground = occupied | foot, ground & ~foot
            free = (newest >= 0) & ~occupied & ~ground
            output = _output(occupied, ground, free & ~holds_ground)
        with clock.stage("remember"):
            if _poses_known(frame):
                output.state = CarvingMemory(
                    frame.stamp_ns,
                    tuple(sorted({*past.sweeps_ns, *now.sweep_ns[:1].tolist()})),
                    newest_per_part(hits, returns, grid),
                    beams.select(_named(newest[free], len(beams.ends))),
                )
            else:  # this sweep may lie some way off: it is shown, not remembered
                output.state = past
        output.state_frames = len(past.sweeps_ns)
        output.stages_ms = clock.milliseconds
        return output

    def _recall(self, frame: Frame, state: CarvingMemory | None, motion: _Motion | None) -> CarvingMemory:
        """What is remembered, in this frame's vehicle frame."""
        if state is None or motion is None:
            return CarvingMemory(frame.stamp_ns)
        return state.at(frame.stamp_ns, motion.ego_from_prev_ego, self.config.past_sweeps, self.config.max_age_s)

    def _beams(self, frame: Frame, motion: _Motion | None) -> Beams:
        """All usable beams of the frame's sweeps, float64 in the vehicle frame at the anchor stamp."""
        newest_ns = max((sweep.stamp_ns for sweep in frame.lidar), default=frame.stamp_ns)
        beams = no_beams()
        for sweep in frame.lidar:
            if frame.stamp_ns - sweep.stamp_ns > self.config.max_age_s * 1e9:
                logger.warning("LiDAR sweep left out: %.3f s old", (frame.stamp_ns - sweep.stamp_ns) * 1e-9)
                continue
            points, offsets_s = self._usable(sweep)
            anchor_from_sweep = _anchor_from_sweep(frame, sweep)
            ends = transform_points(anchor_from_sweep, points)
            sensor = transform_points(anchor_from_sweep, sweep.ego_from_lidar[None, :3, 3])
            if motion is not None and offsets_s is not None:
                sensor = sensor + offsets_s[:, None] * motion.velocity_of(sensor[0])
            stamps = np.full(len(ends), newest_ns)  # of several LiDARs in a set: one sweep, as far as memory goes
            beams = join_beams(beams, Beams(np.broadcast_to(sensor, ends.shape), ends, stamps))
        return beams

    def _usable(self, sweep: LidarSweep) -> tuple[np.ndarray, np.ndarray | None]:
        """Points that are finite, in range and not the vehicle itself, float64 in its frame at the sweep, and times.

        Raises:
            InvalidInputError: the times are not one per point.
        """
        offsets_s = sweep.offsets_s
        if offsets_s is not None and offsets_s.shape != (len(sweep.points),):
            raise InvalidInputError(
                f"LiDAR sweep: expected {len(sweep.points)} point times, got shape {offsets_s.shape}"
            )
        points = sweep.points[:, :3].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm(points, axis=1)
            usable = np.flatnonzero((distance >= self.config.min_range) & (distance <= self.config.max_range))  # no NaN
        points = transform_points(check_rigid(sweep.ego_from_lidar, "ego_from_lidar"), points[usable])
        other = ~self.config.own_vehicle.contains(points)
        return points[other], None if offsets_s is None else _plausible(offsets_s[usable[other]])

    def _hits(self, beams: Beams) -> tuple[Returns, np.ndarray, np.ndarray]:
        """Ends of beams inside the grid, the linear indices int64 [N] of their voxels, and where the ground runs.

        Returns:
            (returns, their voxels, bool [X, Y, Z]: voxels that the fitted ground surface runs through)
        """
        grid, vehicle = self.config.grid, self.config.own_vehicle
        footprint = Footprint(
            (vehicle.rear, -vehicle.half_width), (vehicle.front, vehicle.half_width), self.config.ground_height
        )
        surface = fit_ground(beams.ends, grid, footprint, self.config.ground)
        voxels, inside = voxels_of(beams.ends, grid)
        points, voxels = beams.ends[inside], voxels[inside]
        is_ground = on_ground(points, voxels // grid.size[2], surface, self.config.ground)
        return Returns(points, is_ground, beams.sweep_ns[inside]), voxels, _holding(surface, grid)

    def _still_standing(self, returns: Returns, seen_through: np.ndarray) -> tuple[Returns, np.ndarray]:
        """Remembered returns in the grid, all but ground only where no beam and not the vehicle has gone through.

        Returns:
            (returns, int64 linear indices of their voxels)
        """
        voxels, inside = voxels_of(returns.points, self.config.grid)
        gone = seen_through.ravel()[voxels] | self.config.own_vehicle.contains(returns.points)
        standing = inside & (returns.ground | ~gone)
        return returns.select(standing), voxels[standing]


@dataclass(frozen=True)
class _Motion:
    """How the vehicle moved since the state's frame."""

    ego_from_prev_ego: np.ndarray  # float64 [4, 4]
    elapsed_s: float

    @classmethod
    def since(cls, state: CarvingMemory | None, stamp_ns: int, prev_ego_from_ego: Tensor | None) -> _Motion | None:
        if state is None or prev_ego_from_ego is None or stamp_ns <= state.stamp_ns:
            return None
        transform = check_rigid(prev_ego_from_ego.cpu().numpy(), "prev_ego_from_ego")
        return cls(inverse(transform), (stamp_ns - state.stamp_ns) * 1e-9)

    def velocity_of(self, mount: np.ndarray) -> np.ndarray:
        """Mean velocity over ground of a point of the vehicle ([3], metres), turning included, m/s [3]."""
        return (mount - transform_points(self.ego_from_prev_ego, mount[None])[0]) / self.elapsed_s


def _plausible(offsets_s: np.ndarray) -> np.ndarray:
    """Point times, float64 [N]; 0 where they are no times within a sweep (not finite, or absolute)."""
    plausible = np.abs(offsets_s) <= _LONGEST_SWEEP_S  # NaN is not
    if not plausible.all():
        logger.warning("%d of %d LiDAR point times are not within a sweep: ignored", (~plausible).sum(), len(plausible))
    return np.where(plausible, offsets_s, 0.0).astype(np.float64)


def _poses_known(frame: Frame) -> bool:
    """Whether everything in the frame can be placed in the fixed frame."""
    return frame.odom_from_ego is not None and all(sweep.odom_from_ego is not None for sweep in frame.lidar)


def _anchor_from_sweep(frame: Frame, sweep: LidarSweep) -> np.ndarray:
    """From the vehicle at the sweep's stamp to the vehicle at the anchor stamp; identity if a pose is missing."""
    if frame.odom_from_ego is None or sweep.odom_from_ego is None:
        return np.eye(4)
    return inverse(frame.odom_from_ego) @ check_rigid(sweep.odom_from_ego, "odom_from_ego of the LiDAR sweep")


def _marked(returns: Returns, voxels: np.ndarray, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with returns that are not ground, and with returns that are, bool [X, Y, Z] each."""
    occupied, ground = np.zeros(grid.size, bool), np.zeros(grid.size, bool)
    occupied.ravel()[voxels[~returns.ground]] = True
    ground.ravel()[voxels[returns.ground]] = True
    return occupied, ground


def _holding(surface: GroundSurface, grid: VoxelGrid) -> np.ndarray:
    """Voxels that a ground surface runs through (at the middle of their column), bool [X, Y, Z]."""
    x, y = (grid.lower[a] + (np.arange(grid.size[a]) + 0.5) * grid.voxel_size for a in (0, 1))
    columns = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    level = np.floor((surface.at(columns) - grid.lower[2]) / grid.voxel_size).reshape(grid.size[:2])
    return level[:, :, None] == np.arange(grid.size[2])


def _named(indices: np.ndarray, count: int) -> np.ndarray:
    """bool [count]: which of 0..count-1 occur."""
    named = np.zeros(count, bool)
    named[indices] = True
    return named


def _output(occupied: np.ndarray, ground: np.ndarray, free: np.ndarray) -> ModelOutput:
    semantics = np.full(occupied.shape, UNKNOWN, np.uint8)
    visibility = np.full(occupied.shape, Visibility.UNKNOWN, np.uint8)
    for mask, class_id, seen in (
        (free, FREE, Visibility.FREE_SEEN),
        (ground, _GROUND, Visibility.OCCUPIED_SEEN),
        (occupied, _OCCUPIED, Visibility.OCCUPIED_SEEN),
    ):
        semantics[mask], visibility[mask] = class_id, seen
    return ModelOutput(torch.from_numpy(semantics), torch.from_numpy(visibility))


class _StageClock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.milliseconds[name] = (time.perf_counter() - start) * 1e3
