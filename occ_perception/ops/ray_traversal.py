"""Which voxels do beams pass through?  Exact, for all beams at once, without stepping along any of them.

A segment visits its start voxel and then one more voxel at every grid plane it crosses.  The crossings of one beam
with the planes of one axis (a *run*) are evenly spaced: crossing ``j`` enters a cell of that axis known exactly,
as an integer, at a position along the other two axes that is linear in ``j``.  So the voxels visited are three
arithmetic progressions per beam, and the order along the beam does not matter (Amanatides and Woo 1987 walk the same
crossings one by one).  Runs of similar length are evaluated together in small blocks that stay in the cache.

Rounding: the position along the other two axes is float32 in voxels, off by at most about 2e-5 voxels in a grid of a
few hundred cells (8 micrometres at 0.4 m).  A beam that passes closer than that to an edge between voxels may be given
the neighbour across the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import VoxelGrid

_BLOCK_ELEMENTS = 16384  # crossings evaluated at a time: a few temporaries of 64 KiB, within the L2 cache


@dataclass(frozen=True)
class Segments:
    """The parts of beams that lie inside a grid, in voxels from the grid's minimum corner.

    Attributes:
        beam: int64 [M], which beam each part is of (beams that miss the grid have none).
        start, end: float64 [3, M], x, y and z.
        ends_inside: bool [M], the beam itself ends here; False where it goes on beyond the border.
    """

    beam: np.ndarray
    start: np.ndarray
    end: np.ndarray
    ends_inside: np.ndarray


def clip_to_grid(origins: np.ndarray, ends: np.ndarray, grid: VoxelGrid) -> Segments:
    """Cut beams to the inside of a grid (slab method).

    Args:
        origins: [N, 3] (or [3], common to all) where beams start, metres in the grid's frame, finite.
        ends: [N, 3] where they end, finite.
    """
    size = np.asarray(grid.size, np.float64)[:, None]
    start, end = (np.ascontiguousarray(((np.atleast_2d(p) - grid.lower) / grid.voxel_size).T) for p in (origins, ends))
    start = np.broadcast_to(start, end.shape)
    direction = end - start
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        to_lower, to_upper = -start / direction, (size - start) / direction
    near, far = np.minimum(to_lower, to_upper), np.maximum(to_lower, to_upper)
    parallel = direction == 0  # such a beam is between the two planes of the axis for ever, or never
    if parallel.any():
        between = (start >= 0) & (start < size)
        near[parallel] = np.where(between, -np.inf, np.inf)[parallel]
        far[parallel] = np.where(between, np.inf, -np.inf)[parallel]
    enter = np.maximum(near.max(axis=0), 0.0)
    leave = np.minimum(far.min(axis=0), 1.0)
    beam = np.flatnonzero(enter <= leave)
    start, end, direction = start[:, beam], end[:, beam], direction[:, beam]
    ends_inside = np.all((end >= 0) & (end < size), axis=0)
    clipped_end = np.where(ends_inside, end, start + leave[beam] * direction)
    return Segments(
        beam,
        np.clip(start + enter[beam] * direction, 0.0, size),
        np.clip(clipped_end, 0.0, size),
        ends_inside,
    )


def last_beam_through(
    origins: np.ndarray, ends: np.ndarray, grid: VoxelGrid, rank: np.ndarray | None = None
) -> np.ndarray:
    """For each voxel a beam that passes through it; -1 where none does.

    A beam passes through its origin's voxel and every further one up to, and not including, the voxel it ends in; one
    that ends outside the grid passes through all voxels up to the border.

    Args:
        origins: [N, 3] (or [3], common to all) where beams start, metres in the grid's frame, finite.
        ends: [N, 3] where they end (the returns), finite.
        rank: non-negative integers [N], few different ones; of several beams through a voxel, one of the highest rank
            is named.  None: any of them is.

    Returns:
        int32 [X, Y, Z], index into the beams, or -1.
    """
    segments = clip_to_grid(origins, ends, grid)
    ranks = np.zeros(len(segments.beam), np.int64) if rank is None else np.asarray(rank)[segments.beam]
    padded = np.full(np.prod(_padded_size(grid)), -1, np.int32)
    starts, axes = _runs(segments, ranks, grid)
    for value in np.unique(ranks):
        padded[starts.cell[starts.of_rank(value)]] = starts.beam[starts.of_rank(value)]
        for runs in axes:
            _write_runs(padded, runs, runs.of_rank(value))
    return np.ascontiguousarray(padded.reshape(_padded_size(grid))[1:-1, 1:-1, 1:-1])


@dataclass(frozen=True)
class _Runs:
    """Crossings of beams with the planes of one axis, ordered by rank and then by falling length; arrays are [R].

    Attributes:
        beam: int32.
        rank: of the beams.
        count: int32, crossings in the run.
        cell: int32, the crossed axis' part of the linear index after the first crossing.
        stride: int32, its change per crossing.
        position: float32, where the first crossing is along the two other axes, voxels.
        slope: float32, their change per crossing.
        other_strides: linear index strides of the two other axes.
    """

    beam: np.ndarray
    rank: np.ndarray
    count: np.ndarray
    cell: np.ndarray
    stride: np.ndarray
    position: tuple[np.ndarray, np.ndarray]
    slope: tuple[np.ndarray, np.ndarray]
    other_strides: tuple[int, int]

    def of_rank(self, value: int) -> slice:
        return slice(*np.searchsorted(self.rank, (value, value + 1)))


@dataclass(frozen=True)
class _Starts:
    """Start voxels of beams, ordered by rank; arrays are [S]."""

    beam: np.ndarray
    rank: np.ndarray
    cell: np.ndarray

    def of_rank(self, value: int) -> slice:
        return slice(*np.searchsorted(self.rank, (value, value + 1)))


def _padded_size(grid: VoxelGrid) -> tuple[int, int, int]:
    """One cell more on every side, so that rounding at the border cannot leave the array."""
    return (grid.size[0] + 2, grid.size[1] + 2, grid.size[2] + 2)


def _runs(segments: Segments, ranks: np.ndarray, grid: VoxelGrid) -> tuple[_Starts, tuple[_Runs, ...]]:
    """Start voxels, and runs along x, y and z, in the padded grid."""
    _, size_y, size_z = _padded_size(grid)
    strides = (size_y * size_z, size_z, 1)
    last_index = np.asarray(grid.size)[:, None] - 1
    direction = segments.end - segments.start
    first_cell = np.minimum(segments.start.astype(np.int32), last_index)  # positions are >= 0: the cast is the floor
    last_cell = np.minimum(segments.end.astype(np.int32), last_index)
    step = np.sign(last_cell - first_cell)
    count = np.abs(last_cell - first_cell)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Crossing j of a run happens at the fraction first_time + j * spacing of the segment.
        spacing = step / direction
        first_time = (first_cell + (step > 0) - segments.start) / direction
    has_start = _leave_out_end_voxel(count, first_time, spacing, segments.ends_inside)
    beam = segments.beam.astype(np.int32)

    def runs_along(axis: int, others: tuple[int, int]) -> _Runs:
        order = _order(ranks, count[axis])
        n, time, gap = count[axis][order], first_time[axis][order], spacing[axis][order]
        gap[n == 1] = 0.0  # the slope of a run of one is not used, and could be infinite
        along = [direction[other][order] for other in others]
        begin = [segments.start[other][order] + 1.0 for other in others]
        return _Runs(
            beam=beam[order],
            rank=ranks[order],
            count=n,
            cell=(first_cell[axis][order] + step[axis][order] + 1) * np.int32(strides[axis]),
            stride=step[axis][order] * np.int32(strides[axis]),
            position=((begin[0] + time * along[0]).astype(np.float32), (begin[1] + time * along[1]).astype(np.float32)),
            slope=((gap * along[0]).astype(np.float32), (gap * along[1]).astype(np.float32)),
            other_strides=(strides[others[0]], strides[others[1]]),
        )

    order = _order(ranks, has_start.astype(np.int32))
    starts = _Starts(beam[order], ranks[order], np.asarray(strides, np.int32) @ (first_cell[:, order] + 1))
    return starts, (runs_along(0, (1, 2)), runs_along(1, (0, 2)), runs_along(2, (0, 1)))


def _order(ranks: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Indices of the runs that are not empty, by rank and then by falling length."""
    longest = int(count.max(initial=0))
    key = ranks * (longest + 1) + (longest - count)
    # numpy sorts 16 bit integers by radix, which is several times faster.
    key = key.astype(np.uint16) if key.max(initial=0) < 2**16 else key
    order = np.argsort(key, kind="stable")
    return order[count[order] > 0]


def _leave_out_end_voxel(
    count: np.ndarray, first_time: np.ndarray, spacing: np.ndarray, ends_inside: np.ndarray
) -> np.ndarray:
    """Shorten, in place, the run of each beam that enters the voxel the beam ends in.

    Returns:
        bool [M]: whether the start voxel counts as passed (it does not if the beam ends in it).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        last_time = np.where(count > 0, first_time + (count - 1) * spacing, -1.0)
    axis = last_time.argmax(axis=0)
    moves = count.any(axis=0)
    ends = np.flatnonzero(ends_inside & moves)
    count[axis[ends], ends] -= 1
    return moves | ~ends_inside


def _write_runs(padded: np.ndarray, runs: _Runs, part: slice) -> None:
    """Write the beam of each run of ``part`` into the voxels it enters; ``padded`` is flat and changed in place."""
    stop = part.stop
    begin = part.start
    if begin == stop:
        return
    counter = np.arange(runs.count[begin], dtype=np.int32)
    stride_0, stride_1 = (np.int32(s) for s in runs.other_strides)
    while begin < stop:
        # The rows of a block are as long as its first run; shorter runs repeat their last crossing.
        longest = int(runs.count[begin])
        block = slice(begin, min(begin + max(_BLOCK_ELEMENTS // longest, 1), stop))
        crossing = np.minimum(counter[:longest], runs.count[block, None] - 1)
        steps = crossing.astype(np.float32)
        index = crossing * runs.stride[block, None]
        index += runs.cell[block, None]
        for position, slope, stride in zip(runs.position, runs.slope, (stride_0, stride_1), strict=True):
            cell = steps * slope[block, None]
            cell += position[block, None]
            index += cell.astype(np.int32) * stride  # positions are >= 0: the cast is the floor
        padded[index] = runs.beam[block, None]
        begin = block.stop
