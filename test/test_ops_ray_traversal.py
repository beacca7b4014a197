"""Exact beam traversal against a brute-force reference: every voxel's box is intersected with every segment."""

import numpy as np
import pytest

from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.ops.ray_traversal import clip_to_grid, last_beam_through

GRID = VoxelGrid(origin=(-2.0, 1.0, -0.7), voxel_size=0.3, size=(13, 10, 7))


def chord_lengths(origin: np.ndarray, end: np.ndarray, grid: VoxelGrid, grow: float = 0.0) -> np.ndarray:
    """Length (metres) of the segment inside each voxel, its faces moved out by ``grow``; -1 where they miss."""
    lower = grid.center_of(np.arange(grid.num_voxels)) - grid.voxel_size / 2 - grow
    upper = lower + grid.voxel_size + 2 * grow
    direction = end - origin
    enter, leave = np.zeros(grid.num_voxels), np.ones(grid.num_voxels)
    for axis in range(3):
        if direction[axis] == 0:
            outside = (origin[axis] < lower[:, axis]) | (origin[axis] > upper[:, axis])
            leave[outside] = -np.inf
        else:
            times = np.stack([lower[:, axis] - origin[axis], upper[:, axis] - origin[axis]]) / direction[axis]
            enter, leave = np.maximum(enter, times.min(axis=0)), np.minimum(leave, times.max(axis=0))
    return np.where(enter <= leave, (leave - enter) * np.linalg.norm(direction), -1.0).reshape(grid.size)


def check_beam(origin: np.ndarray, end: np.ndarray, grid: VoxelGrid) -> None:
    passed = last_beam_through(origin, end[None], grid) == 0
    tolerance = 1e-4 * grid.voxel_size
    surely = chord_lengths(origin, end, grid, grow=-tolerance) > tolerance
    possibly = chord_lengths(origin, end, grid, grow=tolerance) >= 0
    cells, inside = grid.cells_of(end[None])
    if inside[0]:
        end_voxel = tuple(cells[0])
        assert not passed[end_voxel] or chord_lengths(origin, end, grid)[end_voxel] <= tolerance
        surely[end_voxel] = False
    assert np.all(passed[surely]), f"voxels crossed but not found: {np.argwhere(surely & ~passed)}"
    assert np.all(possibly[passed]), f"voxels found but not crossed: {np.argwhere(passed & ~possibly)}"


@pytest.mark.parametrize("where", ["inside", "leaving", "through", "short"])
def test_random_beams_equal_brute_force(where):
    rng = np.random.default_rng(["inside", "leaving", "through", "short"].index(where))
    extent = GRID.upper - GRID.lower
    for _ in range(150):
        origin = GRID.lower + rng.random(3) * extent
        end = GRID.lower + rng.random(3) * extent
        if where == "leaving":
            end = origin + rng.normal(size=3) * 5
        elif where == "through":
            origin, end = GRID.lower - rng.random(3) * 3, GRID.upper + rng.random(3) * 3
            swap = rng.random(3) < 0.5
            origin, end = np.where(swap, end, origin), np.where(swap, origin, end)
        elif where == "short":
            end = origin + rng.normal(size=3) * 0.1
        check_beam(origin, end, GRID)


def test_beams_along_axes_planes_and_edges_equal_brute_force():
    centre, edge = np.array([-0.35, 2.35, 0.35]), GRID.lower + 0.3 * np.array([4, 3, 2])
    for origin in (centre, edge):
        for axis in range(3):
            for length in (-9.0, -0.6, -0.3, 0.3, 0.6, 9.0):
                end = origin.copy()
                end[axis] += length
                check_beam(origin, end, GRID)


def test_exact_diagonal_visits_neighbours_of_edges_only():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (6, 6, 6))
    passed = last_beam_through(np.array([0.5, 0.5, 0.5]), np.array([[5.5, 5.5, 5.5]]), grid) == 0
    assert all(passed[i, i, i] for i in range(5))
    assert np.abs(np.diff(np.argwhere(passed), axis=1)).max() <= 1


def test_end_voxel_is_left_out_even_if_the_beam_starts_there():
    origin, end = np.array([-1.9, 1.1, -0.6]), np.array([[-1.75, 1.2, -0.5]])
    assert np.all(last_beam_through(origin, end, GRID) == -1)


def test_voxel_column_of_a_beam_ending_on_a_border():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (5, 1, 1))
    towards_upper = last_beam_through(np.array([0.5, 0.5, 0.5]), np.array([[3.0, 0.5, 0.5]]), grid)
    assert towards_upper.ravel().tolist() == [0, 0, 0, -1, -1]  # the return belongs to cell 3
    towards_lower = last_beam_through(np.array([4.5, 0.5, 0.5]), np.array([[3.0, 0.5, 0.5]]), grid)
    assert towards_lower.ravel().tolist() == [-1, -1, -1, -1, 0]  # also cell 3: half-open cells
    beyond = last_beam_through(np.array([0.5, 0.5, 0.5]), np.array([[5.0, 0.5, 0.5]]), grid)
    assert beyond.ravel().tolist() == [0, 0, 0, 0, 0]  # the upper border is outside


def test_beams_that_miss_the_grid_or_there_are_none():
    ends = np.array([[10.0, 10.0, 10.0], [-5.0, 0.0, 0.0]])
    assert np.all(last_beam_through(np.array([10.0, 0.0, 0.0]), ends, GRID) == -1)
    assert np.all(last_beam_through(np.zeros(3), np.zeros((0, 3)), GRID) == -1)
    assert len(clip_to_grid(np.array([10.0, 0.0, 0.0]), ends, GRID).beam) == 0


def test_higher_rank_wins_and_every_named_beam_really_passes():
    rng = np.random.default_rng(3)
    origins = GRID.lower + rng.random((200, 3)) * (GRID.upper - GRID.lower)
    ends = origins + rng.normal(size=(200, 3)) * 2
    rank = rng.integers(0, 4, 200)
    together = last_beam_through(origins, ends, GRID, rank)
    each = np.stack(
        [last_beam_through(o, e[None], GRID).ravel() == 0 for o, e in zip(origins, ends, strict=True)]
    )  # [beams, voxels]
    best = np.where(each, rank[:, None], -1).max(axis=0)
    named = together.ravel()
    assert np.array_equal(named >= 0, best >= 0)
    found = np.flatnonzero(named >= 0)
    assert np.array_equal(rank[named[found]], best[found])
    assert np.all(each[named[found], found])


def test_many_beams_in_the_full_grid_equal_brute_force():
    rng = np.random.default_rng(4)
    origin = np.array([0.94, 0.0, 1.84])
    ends = origin + rng.normal(size=(12, 3)) * [30, 30, 2]
    for end in ends:
        check_beam(origin, end, OCC3D_GRID)
