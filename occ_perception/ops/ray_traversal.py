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
    crossings = _crossings(segments, grid)
    beams = segments.beam.astype(np.int32)
    starts = _start_voxels(segments, crossings, beams, ranks, grid)
    runs = [_runs_along(axis, segments, crossings, beams, ranks, grid) for axis in range(3)]
    padded = np.full(np.prod(_padded_size(grid)), -1, np.int32)
    for value in np.unique(ranks):
        for part in (starts, *runs):
            _write_runs(padded, part, slice(*np.searchsorted(part.rank, (value, value + 1))))
    return np.ascontiguousarray(padded.reshape(_padded_size(grid))[1:-1, 1:-1, 1:-1])


def _padded_size(grid: VoxelGrid) -> tuple[int, int, int]:
    """One cell more on every side, so that rounding at the border cannot leave the array."""
    return (grid.size[0] + 2, grid.size[1] + 2, grid.size[2] + 2)


def _strides(grid: VoxelGrid) -> tuple[np.int32, np.int32, np.int32]:
    """Of linear indices into the padded grid."""
    _, size_y, size_z = _padded_size(grid)
    return np.int32(size_y * size_z), np.int32(size_z), np.int32(1)


@dataclass(frozen=True)
class _Crossings:
    """Where segments cross the planes of each axis; arrays [3, M] unless noted.

    Attributes:
        first_cell: int32, of the start.
        step: int32, -1, 0 or 1.
        count: int32, planes crossed, without the one into the voxel a beam ends in.
        first_time: float64, of the first crossing, as a fraction of the segment (without meaning if there is none).
        spacing: float64, from one crossing to the next.
        passes_start: bool [M], whether the start voxel is passed: not if the beam ends in it.
    """

    first_cell: np.ndarray
    step: np.ndarray
    count: np.ndarray
    first_time: np.ndarray
    spacing: np.ndarray
    passes_start: np.ndarray


def _crossings(segments: Segments, grid: VoxelGrid) -> _Crossings:
    last_index = np.asarray(grid.size, np.int32)[:, None] - 1
    direction = segments.end - segments.start
    first_cell = np.minimum(segments.start.astype(np.int32), last_index)  # positions are >= 0: the cast is the floor
    last_cell = np.minimum(segments.end.astype(np.int32), last_index)
    step, count = np.sign(last_cell - first_cell), np.abs(last_cell - first_cell)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spacing = step / direction
        first_time = (first_cell + (step > 0) - segments.start) / direction
        last_time = np.where(count > 0, first_time + (count - 1) * spacing, -1.0)
    moves = count.any(axis=0)
    ends = np.flatnonzero(segments.ends_inside & moves)
    count[last_time[:, ends].argmax(axis=0), ends] -= 1  # the last crossing of all leads into the end voxel
    return _Crossings(first_cell, step, count, first_time, spacing, moves | ~segments.ends_inside)


@dataclass(frozen=True)
class _Runs:
    """Crossings of beams with the planes of one axis, ordered by rank and then by rising length; arrays are [R].

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
    other_strides: tuple[np.int32, np.int32]


def _runs_along(
    axis: int, segments: Segments, crossings: _Crossings, beams: np.ndarray, ranks: np.ndarray, grid: VoxelGrid
) -> _Runs:
    strides = _strides(grid)
    order = _order(ranks, crossings.count[axis])
    step, time = crossings.step[axis], crossings.first_time[axis]
    # The slope of a run of one is not needed, and could be infinite.
    spacing = np.where(crossings.count[axis] > 1, crossings.spacing[axis], 0.0)

    def along(other: int) -> tuple[np.ndarray, np.ndarray]:
        start, direction = segments.start[other], segments.end[other] - segments.start[other]
        with np.errstate(invalid="ignore", over="ignore"):  # of beams without a run, which are left out
            position, slope = start + 1.0 + time * direction, spacing * direction
            return position.astype(np.float32)[order], slope.astype(np.float32)[order]

    first, second = ((1, 2), (0, 2), (0, 1))[axis]
    position, slope = zip(along(first), along(second), strict=True)
    return _Runs(
        beam=beams[order],
        rank=ranks[order],
        count=crossings.count[axis][order],
        cell=((crossings.first_cell[axis] + step + 1) * strides[axis])[order],
        stride=(step * strides[axis])[order],
        position=position,
        slope=slope,
        other_strides=(strides[first], strides[second]),
    )


def _start_voxels(
    segments: Segments, crossings: _Crossings, beams: np.ndarray, ranks: np.ndarray, grid: VoxelGrid
) -> _Runs:
    """Start voxels as runs of one crossing each."""
    order = _order(ranks, crossings.passes_start.astype(np.int32))
    cell = np.asarray(_strides(grid)) @ (crossings.first_cell[:, order] + 1)
    zero = np.zeros(len(order), np.float32)
    one = np.ones(len(order), np.int32)
    nothing = np.int32(0)
    return _Runs(beams[order], ranks[order], one, cell, one, (zero, zero), (zero, zero), (nothing, nothing))


def _order(ranks: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Indices of the runs that are not empty, by rank and then by rising length."""
    key = ranks * (int(count.max(initial=0)) + 1) + count
    # numpy sorts 16 bit integers by radix, which is several times faster.
    key = key.astype(np.uint16) if key.max(initial=0) < 2**16 else key
    order = np.argsort(key, kind="stable")
    return order[count[order] > 0]


def _write_runs(padded: np.ndarray, runs: _Runs, part: slice) -> None:
    """Write the beam of each run of ``part`` into the voxels it enters; ``padded`` is flat and changed in place.

    Long runs come last, so that they, and few of them, are named where many beams pass.
    """
    if part.start == part.stop:
        return
    counter = np.arange(runs.count[part.stop - 1], dtype=np.int32)
    for block in reversed(_blocks(runs.count, part)):
        # The rows of a block are as long as its last run; shorter runs repeat their last crossing.
        crossing = np.minimum(counter[: runs.count[block.stop - 1]], runs.count[block, None] - 1)
        steps = crossing.astype(np.float32)
        index = crossing * runs.stride[block, None]
        index += runs.cell[block, None]
        for position, slope, stride in zip(runs.position, runs.slope, runs.other_strides, strict=True):
            cell = steps * slope[block, None]
            cell += position[block, None]
            index += cell.astype(np.int32) * stride  # positions are >= 0: the cast is the floor
        padded[index] = runs.beam[block, None]


def _blocks(count: np.ndarray, part: slice) -> list[slice]:
    """Cut a part of runs of rising length into blocks of limited area, last first."""
    blocks = []
    stop = part.stop
    while stop > part.start:
        start = max(stop - max(_BLOCK_ELEMENTS // int(count[stop - 1]), 1), part.start)
        blocks.append(slice(start, stop))
        stop = start
    return blocks
