"""Ray casting against the reference evaluator's rays and against a plain walk, one ray and one cell at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.ops.ray_casting import cast_rays

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_walk(size, origin, direction):
    """Cells along one ray as (cell, entry, exit, axis entered through), by the book (benchmarks.md 2.3)."""
    length = math.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
    unit = [value / length for value in direction]
    cell = [math.trunc(value) for value in origin]
    step = [1 if value >= 0 else -1 for value in unit]
    t_max = [
        (cell[a] + (step[a] > 0) - origin[a]) / unit[a] if unit[a] != 0 else float(np.finfo(np.float64).max)
        for a in range(3)
    ]
    t_delta = [step[a] / unit[a] if unit[a] != 0 else float(np.finfo(np.float64).max) for a in range(3)]
    path, entry, axis = [], 0.0, -1
    for _ in range(1001):
        inside = all(0 <= cell[a] < size[a] for a in range(3))
        if path and not inside:
            break
        crossed = min((2, 1, 0), key=t_max.__getitem__)  # the first of equals: z before y before x
        if inside:
            path.append((tuple(cell), entry, t_max[crossed], axis))
        entry, axis = t_max[crossed], crossed
        cell[crossed] += step[crossed]
        t_max[crossed] += t_delta[crossed]
    return path


def plain_hit(occupied, origin, direction):
    """(distance, entry distance, cell, face axis, hit) of one ray."""
    path = plain_walk(occupied.shape, origin, direction)
    if not path:
        return -1.0, -1.0, (0, 0, 0), -1, False
    for cell, entry, leave, axis in path:
        if occupied[cell]:
            return leave, entry, cell, axis, True
    cell, _, leave, _ = path[-1]
    return leave, leave, cell, -1, False


def random_rays(size, count, seed):
    """Rays from inside, from on cell faces and corners, from outside; general, axis-aligned and diagonal."""
    generator = np.random.default_rng(seed)
    origins = generator.uniform(-0.6, 1.6, (count, 3)) * size
    origins[: count // 2] = generator.uniform(0, 1, (count // 2, 3)) * size
    origins[::5] = np.round(origins[::5])
    origins[1::5] = np.floor(origins[1::5]) + 0.5
    directions = generator.normal(size=(count, 3))
    directions[::3] = generator.integers(-1, 2, (len(directions[::3]), 3))
    directions[(directions == 0).all(axis=1)] = (0.0, -1.0, 0.0)
    return origins, directions


@pytest.mark.parametrize(("size", "share", "seed"), [((20, 17, 6), 0.02, 0), ((9, 9, 9), 0.3, 1), ((1, 30, 2), 0.0, 2)])
def test_agrees_with_plain_walk(size, share, seed):
    occupied = np.random.default_rng(seed).random(size) < share
    origins, directions = random_rays(np.asarray(size), 600, seed)
    hits = cast_rays(torch.from_numpy(occupied), torch.from_numpy(origins), torch.from_numpy(directions))
    expected = [plain_hit(occupied, o, d) for o, d in zip(origins.tolist(), directions.tolist(), strict=True)]
    distance, entry, cell, axis, hit = (np.array(column) for column in zip(*expected, strict=True))
    started_inside = ((np.trunc(origins) >= 0) & (np.trunc(origins) < size)).all(axis=1)
    assert started_inside.any()
    assert (~started_inside).any()
    np.testing.assert_array_equal(hits.hit.numpy(), hit)
    np.testing.assert_array_equal(hits.cell.numpy(), cell)
    np.testing.assert_array_equal(hits.face_axis.numpy(), axis)
    np.testing.assert_array_equal(hits.distance.numpy()[started_inside], distance.astype(np.float32)[started_inside])
    np.testing.assert_allclose(hits.distance.numpy(), distance, rtol=1e-6)
    np.testing.assert_allclose(hits.entry_distance.numpy(), entry, rtol=1e-6)


def test_reference_unit_rays_exactly(shared: Path):
    golden = np.load(shared / "golden" / "metrics_raycast.npz")
    origins = torch.from_numpy(golden["origin_vox"]).double()
    directions = torch.from_numpy(golden["endpoint_vox"]).double() - origins
    hits = cast_rays(torch.from_numpy(golden["occupied"]), origins, directions)
    np.testing.assert_array_equal(hits.cell.numpy(), golden["hit_cell_xyz"])
    np.testing.assert_array_equal(hits.distance.numpy(), golden["dist_vox"])


def test_several_grids_at_once_equal_one_by_one():
    generator = torch.Generator().manual_seed(3)
    grids = torch.rand((3, 16, 12, 5), generator=generator) < torch.tensor([0.01, 0.1, 0.0])[:, None, None, None]
    origins, directions = (torch.from_numpy(a) for a in random_rays(np.array([16, 12, 5]), 500, 4))
    together = cast_rays(grids, origins, directions)
    for g in range(3):
        alone = cast_rays(grids[g], origins, directions)
        for name in ("distance", "entry_distance", "cell", "face_axis", "hit"):
            assert torch.equal(getattr(together, name)[g], getattr(alone, name)), name


def test_far_origins_arrive_and_no_rays_is_fine():
    occupied = torch.zeros((8, 8, 8), dtype=torch.bool)
    occupied[5, 4, 4] = True
    origins = torch.tensor([[-1e6, 4.5, 4.5], [5.5, 4.5, 3e5], [-1e9, -1e9, 9.0]], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -2.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    hits = cast_rays(occupied, origins, directions)
    assert hits.hit.tolist() == [True, True, False]
    assert hits.entry_distance.tolist() == pytest.approx([1e6 + 5, 3e5 - 5, -1.0])
    assert hits.face_axis.tolist() == [0, 2, -1]
    assert cast_rays(occupied, origins[:0], directions[:0]).hit.shape == (0,)


@pytest.mark.parametrize(
    ("origins", "directions", "message"),
    [
        ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], "non-zero"),
        ([[0.0, 0.0, 0.0]], [[1.0, float("nan"), 0.0]], "finite"),
        ([[float("inf"), 0.0, 0.0]], [[1.0, 0.0, 0.0]], "finite"),
        ([[0.0, 0.0]], [[1.0, 0.0]], r"\[R, 3\]"),
        ([[0, 0, 0]], [[1, 0, 0]], "float"),
        ([[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]] * 2, "one direction per origin"),
    ],
)
def test_bad_rays_are_named(origins, directions, message):
    with pytest.raises(InvalidInputError, match=message):
        cast_rays(torch.zeros(2, 2, 2, dtype=torch.bool), torch.tensor(origins), torch.tensor(directions))


@pytest.mark.parametrize("occupied", [torch.zeros(2, 2), torch.zeros(2, 2, 2), torch.zeros(8, 2, 2, 2).bool()])
def test_bad_grids_are_named(occupied):
    with pytest.raises(InvalidInputError, match="occupied"):
        cast_rays(occupied, torch.zeros(1, 3), torch.ones(1, 3))
