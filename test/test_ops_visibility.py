"""Camera visibility: free needs to be seen."""

import numpy as np
import pytest
import torch

from occ_perception.ops.visibility import (
    FREE_SEEN,
    OCCLUDED,
    OCCUPIED_SEEN,
    SEEN_BY_NO_CAMERA,
    CameraVisibility,
    with_lidar,
)

SIZE = (60, 60, 12)
LOWER = (-12.0, -12.0, -1.0)
INTRINSICS = torch.tensor([[300.0, 0, 200], [0, 300, 100], [0, 0, 1]], dtype=torch.float64)


def forward_camera(height: float = 1.5) -> torch.Tensor:
    """ego_from_camera of a camera at the origin that looks along +x."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose[2, 3] = height
    return pose


def scene() -> torch.Tensor:
    """A flat floor and a wall 4 m ahead that is 4 m wide and 2 m high."""
    occupied = torch.zeros(SIZE, dtype=torch.bool)
    occupied[:, :, :2] = True
    occupied[40, 25:35, 2:7] = True
    return occupied


def visibility(occupied: torch.Tensor, block: int | None) -> np.ndarray:
    op = CameraVisibility(LOWER, 0.4, SIZE, torch.device("cpu"))
    op.steps_per_block = block
    return op(occupied, [("front", INTRINSICS, forward_camera(), 400, 200)]).numpy()


def test_wall_hides_what_is_behind_it_and_nothing_is_seen_behind_the_camera() -> None:
    result = visibility(scene(), 16)
    assert result[40, 30, 4] == OCCUPIED_SEEN
    assert result[36, 30, 4] == FREE_SEEN
    assert (result[42:58, 29:31, 2:4] == OCCLUDED).all()
    assert result[45, 38, 5] == FREE_SEEN  # beside the wall
    assert (result[:28] == SEEN_BY_NO_CAMERA).all()


def test_a_grazed_floor_is_seen_all_over_and_what_is_below_is_not() -> None:
    result = visibility(scene(), 16)
    floor, below = result[:, :, 1], result[:, :, 0]
    open_air = result[:, :, 2] == FREE_SEEN
    assert open_air.sum() > 150
    assert not (floor[open_air] == OCCLUDED).any()  # but it may lie below the picture's edge
    assert (floor[open_air] == OCCUPIED_SEEN).mean() > 0.85
    assert not (below == OCCUPIED_SEEN).any()
    assert (floor[44:58, 29:31] == OCCLUDED).all()  # behind the wall


def test_every_free_voxel_has_a_clear_line_to_the_camera() -> None:
    occupied = scene()
    result = visibility(occupied, 16)
    centers = LOWER + (np.argwhere(result == FREE_SEEN) + 0.5) * 0.4
    camera = np.array([0, 0, 1.5])
    # March along the line and ask whether it passes through the middle of the wall's cells.
    for fraction in np.linspace(0.02, 0.98, 60):
        cells = np.floor((camera + fraction * (centers - camera) - LOWER) / 0.4).astype(int)
        inner = occupied.numpy()[tuple(cells.T)] & (cells[:, 0] == 40) & (cells[:, 1] > 25) & (cells[:, 1] < 34)
        assert not (inner & (cells[:, 2] > 2) & (cells[:, 2] < 6) & (centers[:, 0] > 4.8)).any()


def test_blocks_of_steps_change_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    occupied = torch.rand(SIZE, generator=generator) < 0.02
    whole = visibility(occupied, None)
    for block in (1, 7, 16):
        np.testing.assert_array_equal(visibility(occupied, block), whole)


@pytest.mark.parametrize("x", [0.0, -20.0])  # the second is outside of the grid and looks into it
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_voxels_met_once_are_those_of_all_samples(x: float, share: float) -> None:
    """The table without repetitions against the plain rule on every half-voxel sample."""
    occupied = torch.rand(SIZE, generator=torch.Generator().manual_seed(4)).flatten() < share
    padded = torch.cat([occupied, torch.zeros(1, dtype=torch.bool)]).to(torch.uint8)
    op = CameraVisibility(LOWER, 0.4, SIZE, torch.device("cpu"))
    pose = forward_camera()
    pose[0, 3] = x
    samples = op._samples(INTRINSICS, pose, 400, 200).long()
    hits = padded[samples]
    expected = torch.zeros_like(padded)
    expected[samples[torch.cumsum(hits, dim=1) - hits == 0]] = 1
    seen, table = torch.zeros_like(padded), op._table("camera", INTRINSICS, pose, 400, 200)
    op._mark_seen(padded, table.blocks, seen)
    assert torch.equal(seen[:-1], expected[:-1])
    assert expected[:-1].any()
    assert torch.equal(table.covered[:-1].nonzero().flatten(), torch.unique(samples)[:-1])


def test_tables_follow_the_calibration_key() -> None:
    op = CameraVisibility(LOWER, 0.4, SIZE, torch.device("cpu"))
    low = op(scene(), [("a", INTRINSICS, forward_camera(1.5), 400, 200)])
    high = op(scene(), [("b", INTRINSICS, forward_camera(3.0), 400, 200)])
    assert not torch.equal(low, high)
    assert torch.equal(low, op(scene(), [("a", INTRINSICS, forward_camera(1.5), 400, 200)]))


def test_no_camera_sees_nothing() -> None:
    op = CameraVisibility(LOWER, 0.4, SIZE, torch.device("cpu"))
    assert (op(scene(), []) == SEEN_BY_NO_CAMERA).all()


def test_lidar_adds_what_it_measured_and_takes_free_away() -> None:
    unseen = torch.zeros(6, 1, 1, dtype=torch.uint8)
    occupied = torch.tensor([0, 0, 1, 1, 0, 0], dtype=torch.bool).view(6, 1, 1)
    hits = torch.tensor([0, 0, 0, 1, 1, 0], dtype=torch.bool).view(6, 1, 1)
    passed = torch.tensor([1, 1, 0, 0, 1, 0], dtype=torch.bool).view(6, 1, 1)
    both = with_lidar(unseen, occupied, hits, passed).flatten().tolist()
    # Beams went through the first two; the third has a face towards them; the fourth sent one back; so did the fifth,
    # which is said to be free; nothing is known of the last.
    assert both == [FREE_SEEN, FREE_SEEN, OCCUPIED_SEEN, OCCUPIED_SEEN, OCCLUDED, SEEN_BY_NO_CAMERA]
    seen_free = torch.full_like(unseen, FREE_SEEN)
    without_beams = with_lidar(seen_free, occupied, hits, None).flatten().tolist()
    assert without_beams == [FREE_SEEN, FREE_SEEN, FREE_SEEN, OCCUPIED_SEEN, OCCLUDED, FREE_SEEN]
