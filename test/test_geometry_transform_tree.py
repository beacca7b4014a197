"""The transform tree against poses known in closed form."""

import numpy as np
import pytest

from occ_perception.errors import (
    AfterLastError,
    BeforeFirstError,
    InvalidInputError,
    NoPathError,
    TransformGapError,
    UnknownFrameError,
)
from occ_perception.geometry import TransformTree, inverse, rigid

SECOND = 1_000_000_000
SPEED, YAW_RATE, RADIUS = 8.0, 0.4, 20.0  # a drive around a circle: 8 m/s at 20 m radius


def yaw_quaternion(yaw: float) -> np.ndarray:
    return np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def circle_pose(stamp_ns: int) -> np.ndarray:
    """odom_from_ego on the circle, exact at any time."""
    angle = YAW_RATE * stamp_ns * 1e-9
    return rigid([RADIUS * np.sin(angle), RADIUS * (1 - np.cos(angle)), 0.0], yaw_quaternion(angle))


CAMERA_MOUNT = ([1.7, 0.1, 1.5], [-0.5, 0.5, -0.5, 0.5])


@pytest.fixture
def drive() -> TransformTree:
    tree = TransformTree(history_s=100.0)
    tree.set("map", "odom", 0, [100.0, 200.0, 0.0], yaw_quaternion(1.0), static=True)
    tree.set("base_link", "cam_front", 0, *CAMERA_MOUNT, static=True)
    for stamp in range(0, 5 * SECOND + 1, SECOND // 50):
        angle = YAW_RATE * stamp * 1e-9
        position = [RADIUS * np.sin(angle), RADIUS * (1 - np.cos(angle)), 0.0]
        tree.set("odom", "base_link", stamp, position, yaw_quaternion(angle))
    return tree


def test_exact_at_the_stamps(drive: TransformTree) -> None:
    for stamp in (0, SECOND, 3 * SECOND + SECOND // 50):
        np.testing.assert_allclose(drive.lookup("odom", "base_link", stamp), circle_pose(stamp), atol=1e-12)


def test_interpolation_follows_the_circle(drive: TransformTree) -> None:
    rng = np.random.default_rng(0)
    for stamp in rng.integers(0, 5 * SECOND, 200).tolist():
        got = drive.lookup("odom", "base_link", stamp)
        # Rotation is a slerp at constant rate: exact. Position is a chord: sagitta v^2 dt^2 / (8 r) = 0.16 mm.
        np.testing.assert_allclose(got[:3, :3], circle_pose(stamp)[:3, :3], atol=1e-9)
        np.testing.assert_allclose(got[:3, 3], circle_pose(stamp)[:3, 3], atol=2e-4)


def test_multi_hop_in_both_directions(drive: TransformTree) -> None:
    stamp = 2 * SECOND
    map_from_odom = rigid([100.0, 200.0, 0.0], yaw_quaternion(1.0))
    expected = map_from_odom @ circle_pose(stamp) @ rigid(*CAMERA_MOUNT)
    np.testing.assert_allclose(drive.lookup("map", "cam_front", stamp), expected, atol=1e-9)
    np.testing.assert_allclose(drive.lookup("cam_front", "map", stamp), inverse(expected), atol=1e-9)
    np.testing.assert_allclose(drive.lookup("odom", "odom", stamp), np.eye(4), atol=1e-12)


def test_time_travel_is_the_motion_between_two_stamps(drive: TransformTree) -> None:
    early, late = SECOND, 4 * SECOND
    got = drive.lookup_time_travel("base_link", late, "cam_front", early, fixed="odom")
    expected = inverse(circle_pose(late)) @ circle_pose(early) @ rigid(*CAMERA_MOUNT)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_half_turn_interpolates_the_short_way_whatever_the_quaternion_sign() -> None:
    tree = TransformTree()
    tree.set("odom", "base_link", 0, [0, 0, 0], yaw_quaternion(3.0))
    tree.set("odom", "base_link", SECOND, [0, 0, 0], -yaw_quaternion(3.2))
    expected = rigid([0, 0, 0], yaw_quaternion(3.1))
    np.testing.assert_allclose(tree.lookup("odom", "base_link", SECOND // 2), expected, atol=1e-9)


def test_late_and_repeated_transforms_find_their_place() -> None:
    tree = TransformTree(max_gap_s=2.0)
    for stamp, x in ((0, 0.0), (2, 2.0), (1, 5.0), (1, 1.0)):
        tree.set("odom", "base_link", stamp * SECOND, [x, 0, 0], [0, 0, 0, 1])
    assert tree.lookup("odom", "base_link", SECOND // 2)[0, 3] == pytest.approx(0.5)
    assert tree.lookup("odom", "base_link", SECOND)[0, 3] == 1.0


def test_never_extrapolates_and_says_by_how_much(drive: TransformTree) -> None:
    with pytest.raises(BeforeFirstError, match=r"1\.000 s before"):
        drive.lookup("odom", "base_link", -SECOND)
    with pytest.raises(AfterLastError, match=r"2\.000 s after"):
        drive.lookup("odom", "base_link", 7 * SECOND)
    drive.lookup("map", "odom", 7 * SECOND)  # static edges hold at every time
    assert drive.coverage("map", "cam_front") == (0, 5 * SECOND)
    assert drive.coverage("base_link", "cam_front") is None


def test_named_errors(drive: TransformTree) -> None:
    with pytest.raises(UnknownFrameError, match=r"base_link.*cam_front"):
        drive.lookup("odom", "base_footprint", 0)
    drive.set("world", "drone", 0, [0, 0, 0], [0, 0, 0, 1])
    with pytest.raises(NoPathError, match="world"):
        drive.lookup("odom", "drone", 0)
    with pytest.raises(InvalidInputError, match="cycle"):
        drive.set("cam_front", "map", 0, [0, 0, 0], [0, 0, 0, 1])
    for bad in ([np.nan, 0, 0, 1], [0, 0, 0, 0]):
        with pytest.raises(InvalidInputError):
            drive.set("odom", "base_link", 0, [0, 0, 0], bad)
    with pytest.raises(InvalidInputError):
        drive.set("odom", "base_link", 0, [0, np.inf, 0], [0, 0, 0, 1])
    np.testing.assert_allclose(drive.lookup("odom", "base_link", 0), np.eye(4), atol=1e-12)


def test_memory_is_bounded_in_time_and_in_number() -> None:
    tree = TransformTree(history_s=1.0, max_samples=50)
    for i in range(1000):
        tree.set("odom", "base_link", i * SECOND // 20, [i, 0, 0], [0, 0, 0, 1])
    first, last = tree.coverage("odom", "base_link")
    assert last == 999 * SECOND // 20
    assert last - first == SECOND
    for i in range(1000):  # a flood within one second: the number is the bound
        tree.set("odom", "base_link", last + i, [i, 0, 0], [0, 0, 0, 1])
    assert len(tree._edges["base_link"].samples) == 50


def test_holes_are_not_interpolated_over() -> None:
    tree = TransformTree(max_gap_s=0.5)
    for stamp, x in ((0, 0.0), (SECOND // 2, 1.0), (10 * SECOND, 90.0)):
        tree.set("odom", "base_link", stamp, [x, 0, 0], [0, 0, 0, 1])
    assert tree.lookup("odom", "base_link", SECOND // 4)[0, 3] == pytest.approx(0.5)
    with pytest.raises(TransformGapError, match=r"nothing for 9\.500 s"):
        tree.lookup("odom", "base_link", 5 * SECOND)
    assert tree.lookup("odom", "base_link", 10 * SECOND)[0, 3] == 90.0


def test_a_frame_for_every_track_does_not_fill_the_memory() -> None:
    tree = TransformTree(history_s=1.0, max_edges=100)
    tree.set("base_link", "cam_front", 0, *CAMERA_MOUNT, static=True)
    for track in range(1000):
        tree.set("odom", f"track_{track}", track * SECOND // 10, [0, 0, 0], [0, 0, 0, 1])
    assert len(tree._edges) <= 100
    assert len(tree.frames) <= 110
    tree.lookup("odom", "track_999", 999 * SECOND // 10)
    tree.lookup("base_link", "cam_front", 0)
    more = [f"more_{k}" for k in range(200)]
    with pytest.raises(InvalidInputError, match="100 frames at once"):
        [tree.set("odom", name, 100 * SECOND, [0, 0, 0], [0, 0, 0, 1]) for name in more]


def test_clear_keeps_what_does_not_move(drive: TransformTree) -> None:
    drive.clear()
    drive.lookup("map", "odom", 0)
    with pytest.raises(UnknownFrameError):
        drive.lookup("odom", "base_link_gone", 0)
    with pytest.raises(NoPathError):
        drive.lookup("odom", "base_link", 0)
