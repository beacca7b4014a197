"""Tracks: how objects move, who is who, what is hidden, and numbers that are not given away too soon."""

import numpy as np
import pytest

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import VoxelGrid, VoxelGroups, rigid
from occ_perception.instances import MAX_ID, objects_from_voxels, thing_voxels
from occ_perception.occupancy import Instance, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D
from occ_perception.tracking.association import ClassTable
from occ_perception.tracking.identities import RESTING, IdPool
from occ_perception.tracking.motion import EndsFilter
from occ_perception.tracking.settings import TrackingSettings
from occ_perception.tracking.track import Detections, turned_towards
from occ_perception.tracking.tracker import Tracker

GRID = VoxelGrid((-10.0, -10.0, 0.0), 0.4, (50, 50, 5))
CAR, TRUCK, PERSON, BICYCLE = (OCC3D.id_of(n) for n in ("car", "truck", "pedestrian", "bicycle"))
STEP_NS = 100_000_000


class Film:
    """A tracker that is shown frames of blocks: (class, first cell, last cell) with an optional velocity."""

    def __init__(self, **settings) -> None:
        self.tracker = Tracker(OCC3D, GRID, TrackingSettings(**settings))
        self.stamp_ns = 0
        self.visibility = np.full(GRID.size, Visibility.OCCLUDED, np.uint8)

    def show(self, *blocks, pose: np.ndarray | None = None, velocities=(), steps: int = 1):
        """The next frame: (ids of the blocks in order, the objects that are not seen)."""
        self.stamp_ns += steps * STEP_NS
        semantics, ids = np.full(GRID.size, FREE, np.uint8), np.zeros(GRID.size, np.uint16)
        flow = np.full((*GRID.size, 2), np.nan, np.float32)
        for number, (class_id, low, high) in enumerate(blocks, start=1):
            cells = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
            semantics[cells], ids[cells] = class_id, number
            if number <= len(velocities):
                flow[cells] = velocities[number - 1]
        groups = thing_voxels(ids, semantics, OCC3D)
        objects = objects_from_voxels(groups, semantics, GRID, OCC3D, flow=flow)
        detections = Detections.of(objects, groups, GRID, self.stamp_ns, np.eye(4) if pose is None else pose)
        seen, hidden = self.tracker.update(detections, self.visibility)
        self.seen = seen
        return [item.id for item in seen], hidden


def block(x: int, y: int, length: int = 10, width: int = 5, class_id: int = CAR):
    return class_id, (x, y, 0), (x + length - 1, y + width - 1, 3)


# --- Motion


def ends_over_time(seconds: float, hz: float, low, high, noise: float = 0.0) -> EndsFilter:
    """Filter of an object whose ends along x are at low(t) and high(t)."""
    random = np.random.default_rng(0)
    at = lambda t: np.array([[low(t), 0.0], [high(t), 2.0]]) + random.normal(0, noise, (2, 2))  # noqa: E731
    motion = EndsFilter(at(0.0))
    for k in range(1, round(seconds * hz) + 1):
        motion.update(at(k / hz), 1 / hz)
    return motion


@pytest.mark.parametrize("hz", [2, 10, 20])
def test_velocity_of_what_moves(hz):
    motion = ends_over_time(2.0, hz, lambda t: -7 * t, lambda t: 4 - 7 * t, noise=0.1)
    np.testing.assert_allclose(motion.velocity, [-7.0, 0.0], atol=0.4)
    assert motion.velocity_std < 1.0


def test_what_comes_into_view_or_is_covered_does_not_move():
    growing = ends_over_time(0.5, 10, lambda t: 0.0, lambda t: 0.5 + 8 * t)
    shrinking = ends_over_time(0.5, 10, lambda t: 4 * t, lambda t: 4.5)
    assert growing.velocity.tolist() == shrinking.velocity.tolist() == [0.0, 0.0]


def test_noise_of_what_stands_is_no_motion():
    speeds = [np.abs(ends_over_time(s, 10, lambda t: 0, lambda t: 4, noise=0.12).velocity).max() for s in (1, 2, 3)]
    assert max(speeds) < 0.4


def test_an_end_that_jumps_was_covered_and_changes_no_velocity():
    motion = ends_over_time(1.0, 10, lambda t: 5 * t, lambda t: 4 + 5 * t if t < 0.95 else 7.5)
    np.testing.assert_allclose(motion.velocity, [5.0, 0.0], atol=0.3)


def test_velocity_is_uncertain_at_first():
    assert ends_over_time(0.0, 10, lambda t: 0, lambda t: 4).velocity_std == 10.0
    stds = [ends_over_time(n / 10, 10, lambda t: 0, lambda t: 4).velocity_std for n in range(12)]
    assert stds == sorted(stds, reverse=True)
    assert stds[1] > 1.0 > stds[8]


# --- Numbers


def test_numbers_ascend_wrap_and_leave_out_those_in_use_and_those_just_given_back():
    pool = IdPool()
    assert pool.draw(3, set()) == [1, 2, 3]
    pool.draw(40_000, set())
    assert pool.draw(MAX_ID - 40_005, set())[-1] == MAX_ID - 2
    pool.give_back([3, 4])
    assert pool.draw(4, {1, 5}) == [MAX_ID - 1, MAX_ID, 2, 6]


def test_no_number_is_reused_right_after_over_several_rounds():
    pool, live, given_back = IdPool(), [], {}
    for count in range(0, 150_000, 500):
        drawn = pool.draw(500, set(live))
        assert not set(drawn) & set(live)
        assert all(1 <= i <= MAX_ID and count - given_back.get(i, -RESTING) >= RESTING for i in drawn)
        live += drawn
        if len(live) > 3000:
            pool.give_back(live[:500])
            given_back |= dict.fromkeys(live[:500], count + 500)
            live = live[500:]
    assert len(given_back) == MAX_ID


def test_more_objects_than_numbers_are_refused():
    with pytest.raises(InvalidInputError, match="at most 61439 objects at once, got 61440"):
        IdPool().draw(MAX_ID - RESTING + 1, set())


# --- Who is who


def test_ids_do_not_depend_on_the_order_of_the_objects():
    film = Film()
    a, b, c = block(5, 5), block(5, 20), block(30, 5)
    first, _ = film.show(a, b, c)
    assert sorted(first) == [1, 2, 3]
    assert film.show(c, a, b)[0] == [first[2], first[0], first[1]]


def test_fast_objects_keep_their_ids_by_their_flow_though_they_do_not_overlap():
    film = Film()
    velocity = ((30.0, 0.0), (-30.0, 0.0))  # 7.5 cells a frame: each is next where the other one is now
    first, _ = film.show(block(10, 5, 6), block(17, 5, 6), velocities=velocity)
    second, _ = film.show(block(17, 5, 6), block(10, 5, 6), velocities=velocity)
    assert second == first


def test_small_objects_keep_their_ids_by_distance():
    film = Film()
    walker = lambda x: block(x, 20, 1, 1, PERSON)  # noqa: E731
    first, _ = film.show(walker(10), walker(20))
    assert film.show(walker(11), walker(19))[0] == first
    assert film.show(walker(16), walker(19))[0] == [3, first[1]]  # 2 m in 0.1 s is somebody else


@pytest.mark.parametrize(
    ("class_id", "size", "spacing", "steps"),
    [(PERSON, 1, 2, 1), (CAR, (10, 5), 12, 5), (CAR, (10, 5), 14, 5)],
    ids=["people 0.8 m apart, 10 Hz", "cars 4.8 m apart, 2 Hz", "cars 5.6 m apart, 2 Hz"],
)
@pytest.mark.parametrize("frames", [1, 5])
def test_who_stays_in_place_stays_who_it_is_when_one_neighbour_goes_and_another_comes(
    class_id, size, spacing, steps, frames
):
    """A stays, B on one side of it vanishes, C appears on the other: two pairs could be made, B to A and A to C."""
    length, width = (size, size) if isinstance(size, int) else size
    at = lambda place: block(18 + place * spacing, 20, length, width, class_id)  # noqa: E731
    film = Film()
    for _ in range(frames):
        (a, b), _ = film.show(at(0), at(1), steps=steps)
    stayed, came = film.show(at(0), at(-1), steps=steps)[0]
    assert stayed == a
    assert came not in (a, b)


def test_car_and_truck_are_taken_for_each_other_but_not_for_a_pedestrian():
    film = Film()
    (car,), _ = film.show(block(10, 10))
    assert film.show(block(10, 10, class_id=TRUCK))[0] == [car]
    assert film.show(block(10, 10, class_id=PERSON))[0] != [car]
    assert film.show(block(10, 10))[0] == [car]


def test_the_right_class_goes_before_the_larger_overlap():
    film = Film()
    (car,), _ = film.show(block(10, 10, 10))
    truck, same = film.show(block(8, 10, 7, class_id=TRUCK), block(15, 10, 7))[0]
    assert same == car
    assert truck != car


def test_classes_of_any_label_set():
    table = ClassTable.of(OCC3D)
    assert table.group[CAR] == table.group[TRUCK] != table.group[BICYCLE]
    assert len(set(ClassTable.of(GEOMETRY).group)) == 2


def test_the_vehicle_turns_and_drives_and_the_objects_stay_who_they_are():
    film = Film()
    place = np.array([[3.0, 4.0, 0.8], [3.0, -4.0, 0.8], [-4.0, 0.0, 0.8]])
    expected = None
    for k in range(30):
        pose = rigid([0.05 * k, 0.02 * k, 0.0], [0, 0, np.sin(0.05 * k), np.cos(0.05 * k)])  # a whole half turn
        local = (place - pose[:3, 3]) @ pose[:3, :3]
        cells, _ = GRID.cells_of(local)
        blocks = [block(int(x) - 3, int(y) - 3, 6, 6) for x, y, _ in cells]
        ids, hidden = film.show(*blocks, pose=pose)
        expected = expected or ids
        assert ids == expected
        assert not hidden


def test_boxes_without_voxels_are_tracked_by_their_centres():
    tracker = Tracker(OCC3D, GRID, TrackingSettings())
    unseen = np.zeros(GRID.size, np.uint8)

    def show(stamp_ns, *centers):
        objects = tuple(
            Instance(i + 90, CAR, 0.5, (x, y, 1.0), (4.0, 2.0, 1.5), 0.3, (np.nan,) * 3)
            for i, (x, y) in enumerate(centers)
        )
        return tracker.update(Detections.of(objects, VoxelGroups.none(), GRID, stamp_ns, np.eye(4)), unseen)

    assert [item.id for item in show(1, (0, 0), (5, 5))[0]] == [1, 2]
    for k in range(1, 12):
        seen, _ = show(1 + k * STEP_NS, (5, 5), (0.4 * k, 0))
        assert [item.id for item in seen] == [2, 1]
    assert seen[1].velocity == pytest.approx((4.0, 0.0, 0.0), abs=0.3)
    _, hidden = show(1 + 12 * STEP_NS, (5, 5))
    assert [(item.id, item.occluded) for item in hidden] == [(1, True)]
    assert hidden[0].center == pytest.approx((4.8, 0.0, 1.0), abs=0.2)
    _, hidden = show(1 + 13 * STEP_NS)
    assert sorted(item.id for item in hidden) == [1, 2]


# --- What is hidden


def test_what_is_hidden_moves_on_fades_and_is_itself_again():
    film = Film()
    for k in range(10):
        (car,), hidden = film.show(block(2 + k, 10))
        assert not hidden
    assert film.seen[0].velocity[0] == pytest.approx(4.0, abs=0.4)
    scores = []
    for k in range(10, 19):
        ids, hidden = film.show()
        assert ids == []
        (item,) = hidden
        assert (item.id, item.occluded, item.class_id) == (car, True, CAR)
        assert item.center[0] == pytest.approx(-10 + 0.4 * (2 + k + 5), abs=0.6)
        scores.append(item.score)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(0.9)
    assert film.show(block(2 + 19, 10))[0] == [car]


def test_after_a_second_it_is_forgotten_and_its_number_is_not_given_away():
    film = Film()
    film.show(block(10, 10))
    (car,), _ = film.show(block(10, 10))
    assert film.show()[1][0].id == car
    assert film.show(steps=10)[1][0].id == car
    assert film.show()[1] == ()
    assert film.show(block(10, 10))[0] != [car]
    longer = Film(memory_s=3.0)
    longer.show(block(10, 10))
    longer.show(block(10, 10))
    longer.show(steps=25)
    assert longer.show(block(10, 10))[0] == [1]


def test_no_memory_at_all():
    film = Film(memory_s=0.0)
    for _ in range(3):
        assert film.show(block(10, 10))[0] == [1]
    assert film.show()[1] == ()
    assert film.show(block(10, 10))[0] == [2]


@pytest.mark.parametrize("wrong", [{"memory_s": -1.0}, {"memory_s": float("nan")}, {"confirm_frames": 0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError, match="expected a memory of 0 s or more and 1 frame or more"):
        TrackingSettings(**wrong)


def test_only_what_was_seen_often_enough_is_listed_as_hidden():
    film = Film(confirm_frames=3)
    for _ in range(2):
        ids, _ = film.show(block(10, 10))
        assert ids == [1]
    assert film.show()[1] == ()
    assert film.show(block(10, 10))[0] == [1]  # but it kept its number
    assert [item.id for item in film.show()[1]] == [1]


def test_where_free_space_is_seen_nothing_is_hidden():
    film = Film()
    film.show(block(10, 10))
    (car,), _ = film.show(block(10, 10))
    film.visibility[:] = Visibility.FREE_SEEN
    assert film.show()[1] == ()
    film.visibility[:16] = Visibility.OCCLUDED  # most of it can be hidden
    assert [item.id for item in film.show()[1]] == [car]
    assert film.show(block(10, 10))[0] == [car]


def test_what_left_the_grid_is_not_listed():
    film = Film()
    for k in range(12):
        film.show(block(31 + k, 10, 8))
    (car,), _ = film.show(block(43, 10, 7))  # half out already
    assert [item.id for item in film.show()[1]] == [car]
    assert film.show(steps=7)[1] == ()


def test_nothing_is_listed_in_the_voxels_of_another_object():
    film = Film()
    film.show(block(10, 10))
    film.show(block(10, 10))
    ids, hidden = film.show(block(8, 8, 14, 9, PERSON))
    assert len(ids) == 1
    assert hidden == ()


# --- Merges and splits


def test_the_larger_keeps_the_number_of_two_that_become_one_and_the_other_has_its_own_again():
    film = Film()
    large, small = block(5, 10, 12), block(17, 10, 6)
    for _ in range(3):
        first, _ = film.show(large, small)
    for _ in range(8):
        (merged,), hidden = film.show(block(5, 10, 18))
        assert merged == first[0]
        assert hidden == ()
    assert film.show(small, large)[0] == first[::-1]


def test_what_is_lost_right_after_a_merge_is_listed_with_its_own_size():
    film = Film()
    for _ in range(3):
        film.show(block(5, 10, 12), block(17, 10, 6))
    own = film.seen[0].size
    film.show(block(5, 10, 18))
    assert film.seen[0].size[0] > own[0] + 2.0  # listed as it is seen
    _, hidden = film.show()
    (large,) = (item for item in hidden if item.id == 1)
    assert large.size == own
    assert large.center == pytest.approx((-5.6, -5.0, 0.8), abs=0.1)


def test_after_too_long_the_other_is_another():
    film = Film()
    large, small = block(5, 10, 12), block(17, 10, 6)
    for _ in range(3):
        first, _ = film.show(large, small)
    for _ in range(12):
        film.show(block(5, 10, 18))
    again, _ = film.show(large, small)
    assert again[0] == first[0]
    assert again[1] not in first


def test_merged_objects_that_move_part_with_their_own_numbers():
    film = Film()
    for k in range(8):
        first, _ = film.show(block(2 + k, 10, 12), block(14 + k, 10, 6))
    for k in range(8, 15):
        film.show(block(2 + k, 10, 18))
    assert film.show(block(2 + 15, 10, 12), block(14 + 15, 10, 6))[0] == first


def test_the_larger_part_keeps_the_number_and_a_moment_s_mistake_changes_nothing():
    film = Film()
    for _ in range(3):
        (whole,), _ = film.show(block(5, 10, 18))
    ids, _ = film.show(block(5, 10, 7), block(12, 10, 11))
    assert ids[1] == whole
    assert ids[0] != whole
    for _ in range(3):
        assert film.show(block(5, 10, 18)) == ([whole], ())


def test_parts_that_stay_parts_keep_their_numbers():
    film = Film()
    for _ in range(3):
        (whole,), _ = film.show(block(5, 10, 18))
    first, _ = film.show(block(5, 10, 12), block(17, 10, 6))
    assert first[0] == whole
    for _ in range(20):
        assert film.show(block(5, 10, 12), block(17, 10, 6))[0] == first


@pytest.mark.parametrize("larger", [0, 1])
def test_of_parts_of_about_the_same_size_the_larger_has_the_number_wherever_it_is(larger):
    film = Film()
    for k in range(3):
        (whole,), _ = film.show(block(5 + k, 10, 19))
    parts = (block(9, 10, 9), block(18, 10, 10)) if larger else (block(9, 10, 10), block(19, 10, 9))
    ids, _ = film.show(*parts)
    assert ids[larger] == whole
    assert film.show(block(10, 10, 19))[0] == [whole]


def test_the_larger_has_the_number_of_those_that_become_one_though_its_middle_is_farther():
    film = Film()
    for _ in range(3):
        first, _ = film.show(block(5, 10, 11), block(16, 10, 9))
    assert film.show(block(5, 10, 20))[0] == [first[0]]


def test_a_part_that_was_seen_some_times_does_not_take_the_whole():
    film = Film()
    for _ in range(5):
        (whole,), _ = film.show(block(5, 10, 18))
    for _ in range(3):
        ids, _ = film.show(block(5, 10, 9), block(14, 10, 9))
        assert whole in ids
    for _ in range(3):
        assert film.show(block(5, 10, 18))[0] == [whole]


def test_what_was_seen_but_once_before_it_was_hidden_in_another_has_its_number_again():
    film = Film()
    large, small = block(5, 10, 12), block(17, 10, 6)
    film.show(large)
    first, _ = film.show(large, small)
    film.show(block(5, 10, 18))
    assert film.show(large, small)[0] == first


def test_a_part_of_its_neighbour_is_not_what_is_hidden():
    film = Film()
    for _ in range(3):
        (hidden, beside), _ = film.show(block(5, 10, 6, 2), block(11, 10, 6, 2))
    ids, _ = film.show(block(11, 10, 2, 2), block(13, 10, 4, 2))
    assert ids[1] == beside
    assert ids[0] not in (hidden, beside)
    assert film.show(block(5, 10, 6, 2), block(11, 10, 6, 2))[0] == [hidden, beside]


# --- Few frames a second, and no velocities


def test_cars_that_pass_each_other_in_their_lanes_do_not_change_places():
    """Each is nearer to where the other one was, but cars do not move sideways."""
    film = Film()
    first, _ = film.show(block(12, 10), block(18, 18), steps=5)
    for k in range(1, 3):
        assert film.show(block(12 + 11 * k, 10), block(18 - 8 * k, 18), steps=5)[0] == first


def test_what_comes_into_the_grid_in_motion_is_itself_when_it_is_seen_as_a_whole():
    film = Film()
    (car,), _ = film.show(block(49, 10, 1), steps=5)
    for x in (39, 29, 19):  # 8 m/s; its rear end hardly seemed to move at first
        assert film.show(block(x, 10), steps=5)[0] == [car]


# --- Velocity and heading


def test_velocity_of_tracking_where_the_model_gives_none():
    film = Film()
    film.show(block(2, 10))
    assert np.isnan(film.seen[0].velocity).all()
    for k in range(1, 12):
        film.show(block(2 + k, 10))
    assert film.seen[0].velocity == pytest.approx((4.0, 0.0, 0.0), abs=0.3)
    assert film.seen[0].yaw == pytest.approx(0.0, abs=0.1)


def test_velocity_of_the_model_goes_before():
    film = Film()
    for k in range(12):
        film.show(block(2 + k, 10), velocities=((4.5, 0.25),))
    assert film.seen[0].velocity == pytest.approx((4.5, 0.25, 0.0))


def test_velocity_is_told_in_the_axes_of_the_grid():
    film = Film()
    pose = rigid([0, 0, 0], [0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    for k in range(12):
        film.show(block(2 + k, 10), pose=pose)
    assert film.seen[0].velocity == pytest.approx((4.0, 0.0, 0.0), abs=0.3)


def test_what_stops_keeps_its_front_ahead():
    film = Film()
    for k in range(12):
        film.show(block(30 - k, 10), velocities=((-4.0, 0.0),))
    assert abs(film.seen[0].yaw) == pytest.approx(np.pi, abs=0.1)
    for _ in range(3):
        film.show(block(19, 10), velocities=((0.0, 0.0),))
        assert abs(film.seen[0].yaw) == pytest.approx(np.pi, abs=0.1)


def test_turning_a_box_by_a_quarter_exchanges_length_and_width():
    item = Instance(1, CAR, 1.0, (0, 0, 0), (4.0, 2.0, 1.5), 0.1, (0, 0, 0))
    assert turned_towards(item, 0.3, np.pi / 2) == item
    aside = turned_towards(item, -1.5, np.pi / 2)
    assert (aside.yaw, aside.size) == (pytest.approx(0.1 - np.pi / 2), (2.0, 4.0, 1.5))
    behind = turned_towards(item, 3.0, np.pi)
    assert (behind.yaw, behind.size) == (pytest.approx(0.1 - np.pi), (4.0, 2.0, 1.5))


# --- What is no scene


def test_no_objects_at_all():
    film = Film()
    assert film.show() == ([], ())
    assert film.show(block(10, 10))[0] == [1]
    assert film.show()[0] == []


def test_thousands_of_objects_are_refused_and_the_next_frame_is_fine():
    film = Film()
    film.show(block(10, 10))
    ids = np.zeros(GRID.size, np.int32)
    ids.reshape(-1)[:5000] = np.arange(1, 5001)
    semantics = np.full(GRID.size, CAR, np.uint8)
    groups = thing_voxels(ids, semantics, OCC3D)
    objects = objects_from_voxels(groups, semantics, GRID, OCC3D)
    with pytest.raises(InvalidInputError, match="at most 2000 objects in a scene, got 5000 and 1 of the last 1 s"):
        film.tracker.update(Detections.of(objects, groups, GRID, 2 * STEP_NS, np.eye(4)), film.visibility)
    film.stamp_ns = 2 * STEP_NS
    assert film.show(block(10, 10))[0] == [1]
