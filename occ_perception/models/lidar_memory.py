"""What LiDAR carving remembers of past sweeps: returns, and the beams that are still the newest to have seen a voxel.

Nothing is ever resampled.  Returns and beams are kept as geometry, move with the vehicle exactly, and are entered into
the grid of each frame anew; so remembered free space is space that some beam really crossed, to the voxel.

* A return is kept (the newest in each eighth of a voxel) until a later sweep looks through its voxel or it expires.
  Ground is not erased that way: beams that skim over it pass through the voxels it lies in.
* A beam is kept while it is the newest one through at least one free voxel.  A few ten thousand beams, about as many as
  one sweep has, stand for the free space of eleven sweeps.

Measured on a simulated street (32 rings, 9 m/s, turning, ten past sweeps), over the free voxels that only the past has
seen, against carving all ten past sweeps in full.  Beams kept this way: 94 % of them are free, and none that no beam
crossed; 24 000 beams, about 20 ms per frame.  One point per voxel: 37 %.  A grid fixed to odometry, read at voxel
centres: 96 %, and 4 % as many again that no beam crossed; the same grid eroded by the voxel's extent: 82 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from occ_perception.geometry import VoxelGrid, transform_points


@dataclass(frozen=True)
class Returns:
    """Points where beams ended, in the vehicle frame.

    Attributes:
        points: float32 [N, 3], metres.
        ground: bool [N], it is on the ground.
        sweep_ns: int64 [N], stamp of its sweep.
    """

    points: np.ndarray
    ground: np.ndarray
    sweep_ns: np.ndarray

    def select(self, which: np.ndarray) -> Returns:
        return Returns(self.points[which].astype(np.float32), self.ground[which], self.sweep_ns[which])

    def since(self, sweep_ns: int) -> Returns:
        return self.select(self.sweep_ns >= sweep_ns)

    def moved(self, dst_from_src: np.ndarray) -> Returns:
        return Returns(transform_points(dst_from_src, self.points), self.ground, self.sweep_ns)


@dataclass(frozen=True)
class Beams:
    """Straight paths of light, in the vehicle frame.

    Attributes:
        origins, ends: float32 [M, 3], metres.
        sweep_ns: int64 [M], stamp of its sweep.
    """

    origins: np.ndarray
    ends: np.ndarray
    sweep_ns: np.ndarray

    def select(self, which: np.ndarray) -> Beams:
        return Beams(self.origins[which].astype(np.float32), self.ends[which].astype(np.float32), self.sweep_ns[which])

    def rank(self) -> np.ndarray:
        """0 for the oldest sweep, 1 for the next, ..., int64 [M]."""
        return np.unique(self.sweep_ns, return_inverse=True)[1]


def no_returns() -> Returns:
    return Returns(np.zeros((0, 3), np.float32), np.zeros(0, bool), np.zeros(0, np.int64))


def no_beams() -> Beams:
    return Beams(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


def join_returns(first: Returns, second: Returns) -> Returns:
    return Returns(
        np.concatenate([first.points, second.points]),
        np.concatenate([first.ground, second.ground]),
        np.concatenate([first.sweep_ns, second.sweep_ns]),
    )


def join_beams(first: Beams, second: Beams) -> Beams:
    return Beams(
        np.concatenate([first.origins, second.origins]),
        np.concatenate([first.ends, second.ends]),
        np.concatenate([first.sweep_ns, second.sweep_ns]),
    )


@dataclass(frozen=True)
class CarvingMemory:
    """State of `LidarCarving` between frames; never changed in place.

    Attributes:
        stamp_ns: of the frame whose vehicle frame the geometry is in.
        sweeps_ns: stamps of the sweeps remembered, rising.
        returns, beams: the geometry.
        dropped: returns that are no evidence of anything (own vehicle, too near); their voxels are not free.
    """

    stamp_ns: int
    sweeps_ns: tuple[int, ...] = ()
    returns: Returns = field(default_factory=no_returns)
    beams: Beams = field(default_factory=no_beams)
    dropped: Returns = field(default_factory=no_returns)

    def at(self, stamp_ns: int, ego_from_prev_ego: np.ndarray, max_sweeps: int, max_age_s: float) -> CarvingMemory:
        """The memory in the vehicle frame of another stamp, without what has expired."""
        oldest_ns = stamp_ns - round(max_age_s * 1e9)
        alive = tuple(s for s in self.sweeps_ns if s >= oldest_ns)[-max_sweeps:] if max_sweeps > 0 else ()
        if not alive:
            return CarvingMemory(stamp_ns)
        beams = self.beams.select(self.beams.sweep_ns >= alive[0])
        return CarvingMemory(
            stamp_ns,
            alive,
            self.returns.since(alive[0]).moved(ego_from_prev_ego),
            Beams(
                transform_points(ego_from_prev_ego, beams.origins),
                transform_points(ego_from_prev_ego, beams.ends),
                beams.sweep_ns,
            ),
            self.dropped.since(alive[0]).moved(ego_from_prev_ego),
        )


def voxels_of(points: np.ndarray, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Linear indices int64 [N] of the voxels points [N, 3] are in, and which are inside at all (the others get 0)."""
    cells, inside = grid.cells_of(points)
    return grid.linear_index(cells), inside


def newest_per_part(newer: Returns, older: Returns, grid: VoxelGrid) -> Returns:
    """The returns of both, one for each eighth (half by half by half) of a voxel, newer ones first."""
    size_x, size_y, size_z = grid.size
    halves = VoxelGrid(grid.origin, grid.voxel_size / 2, (2 * size_x, 2 * size_y, 2 * size_z))
    both = join_returns(newer, older)
    _, first = np.unique(voxels_of(both.points, halves)[0], return_index=True)
    return both.select(first)
