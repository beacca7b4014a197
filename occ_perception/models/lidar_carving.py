"""LiDAR carving: what a LiDAR alone can know of the space around a vehicle, with no weights and nothing learned.

A voxel is

* **occupied** where a beam ended,
* **ground** where beams ended on the ground only (`occ_perception.ops.ground`),
* **free** where a beam passed through and none ended (`occ_perception.ops.ray_traversal`, exact),
* **unknown** everywhere else.

Free says that a beam passed, not that every litre was seen to be empty: a voxel is a block of 0.4 m.  One exception: a
voxel that the fitted ground runs through is never free.  Between two rings on the road a beam crosses its upper part
only, and a kerb or a hole could be in the rest, so it stays unknown.

A return that was dropped (on the own vehicle, or nearer than ``min_range``) makes nothing occupied, but beams that
cross its voxel do not make it free either: a person in front of a robot whose box is set too large must not be erased.
And voxels whose centre is in the own vehicle's box are never free, dropped returns or not: within the box every return
is taken for the vehicle, so nobody checks whether it is empty.  (By the centre, so that the box is what was asked for
to half a voxel; a voxel across the border is still told by the returns in either part of it.)

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

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.frame import Frame
from occ_perception.geometry import VoxelGrid
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput
from occ_perception.models.lidar_carving_beams import Motion, Sensed, sense
from occ_perception.models.lidar_carving_config import LidarCarvingConfig
from occ_perception.models.lidar_memory import (
    Beams,
    CarvingMemory,
    Returns,
    join_beams,
    newest_per_part,
    voxels_of,
)
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN
from occ_perception.ops.ground import Footprint, GroundSurface, feet, fit_ground, on_ground
from occ_perception.ops.ray_traversal import last_beam_through

_OCCUPIED, _GROUND = GEOMETRY.id_of("occupied"), GEOMETRY.id_of("ground")


class LidarCarving:
    """A `PerceptionModel` that carves free space with LiDAR beams; runs on one CPU core."""

    image_spec: ImageSpec | None = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, config: LidarCarvingConfig | None = None) -> None:
        self.config = config or LidarCarvingConfig()
        grid = self.config.grid
        self.info = ModelInfo("lidar-carving", GEOMETRY, grid)
        centers = grid.center_of(np.arange(grid.num_voxels))
        self._own_voxels = self.config.own_vehicle.contains(centers).reshape(grid.size)

    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Carve one frame; see `PerceptionModel.step`.

        A frame without usable LiDAR shows what is remembered, for ``max_age_alone_s``; the rest is unknown.

        Raises:
            InvalidInputError: point times that are not one per point, or a pose that is not a rigid transform.
        """
        frame, grid, clock = inputs.frame, self.config.grid, _StageClock()
        motion = Motion.since(state, frame.stamp_ns, prev_ego_from_ego)
        with clock.stage("returns"):
            sensed = sense(frame, motion, self.config)
            now, lidar_used = sensed.beams, len(sensed.beams.ends) > 0
        with clock.stage("recall"):
            remembered = self._recall(frame, state, motion, self.config.max_age_s)
            past = remembered if lidar_used else self._recall(frame, state, motion, self.config.max_age_alone_s)
        with clock.stage("ground"):
            hits, voxels, holds_ground = self._hits(now)
            occupied, ground = _marked(hits, voxels, grid)
        with clock.stage("traversal"):
            beams = join_beams(past.beams, now)
            # This sweep ranks above the others, even if it comes late or twice.
            rank = np.concatenate([past.beams.rank(), np.full(len(now.ends), len(past.sweeps_ns))])
            newest = last_beam_through(beams.origins, beams.ends, grid, rank)
        with clock.stage("fusion"):
            looked_through = newest >= len(past.beams.ends)
            dropped, holds_dropped = self._dropped(sensed, past, looked_through | occupied | ground)
            returns, voxels = self._still_standing(past.returns, looked_through & ~occupied & ~holds_dropped)
            for now_mask, past_mask in zip((occupied, ground), _marked(returns, voxels, grid), strict=True):
                now_mask |= past_mask
            ground &= ~occupied
            foot = feet(ground, occupied)
            occupied, ground = occupied | foot, ground & ~foot
            free = (newest >= 0) & ~occupied & ~ground & ~holds_dropped & ~self._own_voxels
            output = _output(occupied, ground, free & ~holds_ground)
        with clock.stage("remember"):
            if not _poses_known(frame):  # this sweep may lie some way off: it is shown, not remembered
                output.state = remembered
            elif not lidar_used:
                output.state = replace(remembered, dropped=dropped)
            else:
                output.state = CarvingMemory(
                    frame.stamp_ns,
                    tuple(sorted({*past.sweeps_ns, *now.sweep_ns[:1].tolist()})),
                    newest_per_part(hits, returns, grid),
                    beams.select(_named(newest[free], len(beams.ends))),
                    dropped,
                )
        output.state_frames = len(past.sweeps_ns)
        output.lidar_used = lidar_used
        output.notes = sensed.notes if lidar_used else (*sensed.notes, *_age_note(remembered, past))
        output.stages_ms = clock.milliseconds
        return output

    def _recall(
        self, frame: Frame, state: CarvingMemory | None, motion: Motion | None, max_age_s: float
    ) -> CarvingMemory:
        """What is remembered, in this frame's vehicle frame."""
        if state is None or motion is None:
            return CarvingMemory(frame.stamp_ns)
        return state.at(frame.stamp_ns, motion.ego_from_prev_ego, self.config.past_sweeps, max_age_s)

    def _dropped(self, sensed: Sensed, past: CarvingMemory, looked_at: np.ndarray) -> tuple[Returns, np.ndarray]:
        """Dropped returns, now or where nothing newer tells what is there, and their voxels, bool [X, Y, Z]."""
        grid = self.config.grid
        voxels, inside = voxels_of(past.dropped.points, grid)
        older = past.dropped.select(inside & ~looked_at.ravel()[voxels])
        newer = sensed.dropped.select(voxels_of(sensed.dropped.points, grid)[1])
        dropped = newest_per_part(newer, older, grid)
        return dropped, _marked(dropped, voxels_of(dropped.points, grid)[0], grid)[0]

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


def _age_note(remembered: CarvingMemory, shown: CarvingMemory) -> tuple[str, ...]:
    """What to say of a frame that no beam of its own took part in."""
    if not remembered.sweeps_ns:
        return ()
    age_s = (remembered.stamp_ns - remembered.sweeps_ns[-1]) * 1e-9
    if shown.sweeps_ns:
        return (f"free space is remembered, newest sweep {age_s:.2f} s old",)
    return (f"no free space: the newest sweep is {age_s:.2f} s old",)


def _poses_known(frame: Frame) -> bool:
    """Whether everything in the frame can be placed in the fixed frame."""
    return frame.odom_from_ego is not None and all(sweep.odom_from_ego is not None for sweep in frame.lidar)


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
