"""LiDAR carving on simulated scenes: what is occupied, free and unknown, with and without past sweeps."""

import dataclasses

import numpy as np
import pytest
import torch
from lidar_scenes import (
    EGO_FROM_LIDAR,
    SENSOR,
    START_NS,
    SWEEP_NS,
    ego_points,
    pose,
    scan,
    sweep_frame,
    world_from,
)

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, inverse, transform_points
from occ_perception.models.base import ModelInput
from occ_perception.models.lidar_carving import LidarCarving, LidarCarvingConfig, OwnVehicle
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN
from occ_perception.session import Session

OCCUPIED, GROUND = GEOMETRY.id_of("occupied"), GEOMETRY.id_of("ground")
GRID = OCC3D_GRID
CAR = ([8.0, -1.0, 0.2], [12.0, 1.0, 1.6])
WALL = ([-60.0, 8.0, 0.0], [90.0, 8.3, 5.0])
ALL_AROUND = [
    ([-45, -45, 0], [60, -44, 15]),
    ([-45, 44, 0], [60, 45, 15]),
    ([-45, -45, 0], [-44, 45, 15]),
    ([59, -45, 0], [60, 45, 15]),
]
"""Something behind everything: a beam that meets nothing comes back with nothing, and carves nothing."""


def carve(frames, config=None):
    """Occupancies of a stream of frames."""
    session = Session(LidarCarving(config))
    return [session.step(frame) for frame in frames]


def beams_to(points, **kwargs):
    """A frame whose sweep has these returns, given in the vehicle frame."""
    lidar = transform_points(inverse(EGO_FROM_LIDAR), np.asarray(points, np.float64)).astype(np.float32)
    return sweep_frame(kwargs.pop("k", 0), kwargs.pop("odom_from_ego", pose()), lidar, **kwargs)


def at(occupancy, *position):
    cell, inside = occupancy.grid.cells_of(np.array([position]))
    assert inside[0]
    return occupancy.semantics[tuple(cell[0])]


def check_consistency(occupancy):
    """Visibility says what the classes say."""
    expected = np.full(GRID.size, Visibility.OCCUPIED_SEEN, np.uint8)
    expected[occupancy.semantics == FREE] = Visibility.FREE_SEEN
    expected[occupancy.semantics == UNKNOWN] = Visibility.UNKNOWN
    assert np.array_equal(occupancy.visibility, expected)
    assert set(np.unique(occupancy.semantics)) <= {OCCUPIED, GROUND, FREE, UNKNOWN}


# -- one sweep


def test_one_beam_is_free_before_its_return_and_unknown_behind_it():
    (occupancy,) = carve([beams_to([[20.1, 0.1, 1.9]])])
    assert {at(occupancy, x, 0.1, 1.86) for x in np.arange(1.1, 19.8, 0.2)} == {FREE}
    assert at(occupancy, 20.1, 0.1, 1.9) == OCCUPIED
    assert {at(occupancy, x, 0.1, 1.9) for x in np.arange(20.5, 39, 0.4)} == {UNKNOWN}
    assert (occupancy.semantics != UNKNOWN).sum() == 49  # 48 voxels from x = 0.94 to the return, and the return's
    check_consistency(occupancy)


def test_beam_that_ends_beyond_the_grid_carves_up_to_the_border():
    (occupancy,) = carve([beams_to([[75.0, 0.1, 1.9]])])
    assert at(occupancy, 39.9, 0.1, 1.85) == FREE
    assert occupancy.counts() == {"free": 98, "unknown": GRID.num_voxels - 98}


def test_hit_beats_free():
    (occupancy,) = carve([beams_to([[20.1, 0.1, 1.9], [30.1, 0.1, 1.9], [39.1, 0.1, 1.9]])])
    assert [at(occupancy, x, 0.1, 1.9) for x in (20.1, 30.1, 39.1)] == [OCCUPIED] * 3
    assert at(occupancy, 35.0, 0.1, 1.9) == FREE


def test_scene_with_a_car_and_a_wall():
    points = scan(pose(), [CAR, WALL])
    (occupancy,) = carve([sweep_frame(0, pose(), points)])
    assert at(occupancy, 8.1, 0.1, 1.0) == OCCUPIED  # the car's rear
    assert at(occupancy, 14.0, 0.0, 0.5) == UNKNOWN  # its shadow
    assert at(occupancy, 0.0, 8.1, 2.1) == OCCUPIED  # the wall
    assert at(occupancy, 0.0, 10.0, 2.1) == UNKNOWN  # behind it
    assert at(occupancy, 6.0, 3.0, 0.9) == FREE
    cells, inside = GRID.cells_of(ego_points(points))
    labels = occupancy.semantics[tuple(cells[inside].T)]
    assert np.isin(labels, [OCCUPIED, GROUND]).all()
    check_consistency(occupancy)


def test_own_vehicle_and_near_returns_are_neither_hits_nor_beams():
    own = [[0.0, 0.5, 1.5], [3.9, -1.0, 0.5], [-1.0, 0.0, 2.0]]
    near = [[0.94, 0.0, 2.5]]  # 0.66 m above the sensor
    (occupancy,) = carve([beams_to(own + near)])
    assert (occupancy.semantics == UNKNOWN).all()
    config = LidarCarvingConfig(own_vehicle=OwnVehicle(0.0, 0.0, 0.0, 0.0), min_range=0.0)
    (occupancy,) = carve([beams_to(own + near)], config)
    assert (occupancy.semantics == OCCUPIED).sum() == 4


def test_own_vehicle_is_where_the_vehicle_was_at_the_sweep_not_at_the_anchor():
    beam = beams_to([[3.9, 0.0, 1.0]])  # on the bonnet at the sweep; 2 m ahead of the box in the anchor's frame
    anchored_behind = dataclasses.replace(beam, odom_from_ego=pose(x=-2.0))
    (occupancy,) = carve([anchored_behind])
    assert (occupancy.semantics == UNKNOWN).all()


def test_points_on_voxel_borders_and_grid_edges():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (8, 4, 4))
    config = LidarCarvingConfig(grid, OwnVehicle(0, 0, 0, 0), min_range=0.0)
    mount = np.eye(4)
    mount[:3, 3] = (0.5, 0.5, 0.5)

    def semantics(*end):
        points = (np.array([end]) - mount[:3, 3]).astype(np.float32)
        (occupancy,) = carve([Frame(0, lidar=(LidarSweep(0, points, mount, np.eye(4)),))], config)
        return occupancy.semantics

    inner = semantics(3.0, 0.5, 0.5)  # on the border between cells 2 and 3
    assert inner[3, 0, 0] < FREE
    assert (inner[:3, 0, 0] == FREE).all()
    edge = semantics(8.0, 0.5, 0.5)  # on the upper edge: outside, but the beam came all the way
    assert (edge[:, 0, 0] == FREE).all()
    corner = semantics(0.0, 0.0, 0.0)
    assert corner[0, 0, 0] < FREE


def test_duplicated_points_change_nothing():
    points = scan(pose(), [CAR])
    (once,) = carve([sweep_frame(0, pose(), points)])
    (twice,) = carve([sweep_frame(0, pose(), np.concatenate([points, points]))])
    assert np.array_equal(once.semantics, twice.semantics)


def test_result_does_not_depend_on_the_order_of_points():
    points = scan(pose(), [CAR, WALL])
    (first,) = carve([sweep_frame(0, pose(), points)])
    (second,) = carve([sweep_frame(0, pose(), points[np.random.default_rng(0).permutation(len(points))])])
    assert np.array_equal(first.semantics, second.semantics)


# -- hostile input


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3), np.float32),
        np.full((50, 4), np.nan, np.float32),
        np.full((50, 3), np.inf, np.float32),
        np.full((50, 3), 3e38, np.float32),
        np.zeros((50, 5), np.float32),
    ],
    ids=["empty", "nan", "infinite", "huge", "zero"],
)
def test_useless_clouds_leave_everything_unknown(points):
    (occupancy,) = carve([sweep_frame(0, pose(), points)])
    assert (occupancy.semantics == UNKNOWN).all()
    check_consistency(occupancy)


def test_bad_points_among_good_ones_are_dropped():
    points = scan(pose(), [CAR, WALL])
    bad = np.array([[np.nan, 1, 1], [1, np.inf, 1], [-np.inf, np.nan, 2], [1e30, 0, 0]], np.float32)
    (clean,) = carve([sweep_frame(0, pose(), points)])
    (dirty,) = carve([sweep_frame(0, pose(), np.concatenate([bad, points, bad]))])
    assert np.array_equal(clean.semantics, dirty.semantics)


def test_cloud_of_200k_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200_000, 3)).astype(np.float32) * [30, 30, 2]
    (occupancy,) = carve([sweep_frame(0, pose(), points)])
    cells, inside = GRID.cells_of(ego_points(points[np.linalg.norm(points, axis=1) > 1.001]))
    assert (occupancy.semantics[tuple(cells[inside].T)] < FREE).all()


def test_frame_without_lidar_is_unknown():
    (occupancy,) = carve([Frame(START_NS, odom_from_ego=pose())])
    assert (occupancy.semantics == UNKNOWN).all()
    assert not occupancy.lidar_used
    assert any("no LiDAR" in note for note in occupancy.notes)


def test_point_times_of_the_wrong_number_are_refused():
    frame = sweep_frame(0, pose(), np.ones((5, 3), np.float32), offsets_s=np.zeros(4, np.float32))
    with pytest.raises(InvalidInputError, match=r"expected 5 point times, got shape \(4,\)"):
        carve([frame])


def test_sweep_that_is_too_old_is_left_out(caplog):
    frame = beams_to([[20.1, 0.1, 1.9]])
    (occupancy,) = carve([dataclasses.replace(frame, stamp_ns=frame.stamp_ns + 1_100_000_000)])
    assert (occupancy.semantics == UNKNOWN).all()
    assert "1.100 s old" in caplog.text


def test_configuration_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigurationError):
        LidarCarvingConfig(min_range=5.0, max_range=2.0)
    with pytest.raises(ConfigurationError):
        LidarCarvingConfig(past_sweeps=-1)


# -- motion within a frame


def test_sweep_is_moved_to_the_anchor_through_the_poses():
    beam = beams_to([[20.1, 0.1, 1.9]], odom_from_ego=pose(x=100.0, yaw=0.3))
    ahead = pose(x=100.0, yaw=0.3) @ pose(x=2.0)
    (occupancy,) = carve([dataclasses.replace(beam, odom_from_ego=ahead)])
    assert at(occupancy, 18.1, 0.1, 1.9) == OCCUPIED
    (without_pose,) = carve([dataclasses.replace(beam, odom_from_ego=None)])
    assert at(without_pose, 20.1, 0.1, 1.9) == OCCUPIED


def test_beams_start_where_the_sensor_was_when_they_were_fired():
    # 20 m/s forward; a beam to the left fired 50 ms before the stamp started a metre further back.
    offsets = np.array([-0.05], np.float32)
    left = [[SENSOR[0], 20.1, 1.9]]
    first, second = carve(
        [
            beams_to(left, k=0, odom_from_ego=pose(0.0), offsets_s=offsets),
            beams_to(left, k=1, odom_from_ego=pose(1.0), offsets_s=offsets),
        ],
        LidarCarvingConfig(past_sweeps=0),
    )
    assert at(first, SENSOR[0], 5.0, 1.85) == FREE  # no motion known yet
    early = SENSOR[0] - 1.0 * (1 - 5.0 / 20.1)
    assert at(second, early, 5.0, 1.85) == FREE
    assert at(second, SENSOR[0], 5.0, 1.85) == UNKNOWN
    assert at(second, *left[0]) == OCCUPIED


# -- past sweeps


def step(model, frame, state=None, prev_ego_from_ego=None):
    motion = None if prev_ego_from_ego is None else torch.from_numpy(prev_ego_from_ego)
    return model.step(ModelInput(frame), state, motion)


def test_past_sweeps_fill_in_what_this_one_does_not_see():
    other_way = [[-20.1, 0.1, 1.9]]
    first, second = carve([beams_to([[20.1, 0.1, 1.9]], k=0), beams_to(other_way, k=1)])
    assert at(second, 20.1, 0.1, 1.9) == OCCUPIED
    assert at(second, 10.1, 0.1, 1.9) == FREE
    assert second.temporal.frames == 1
    assert at(first, -20.1, 0.1, 1.9) == UNKNOWN
    check_consistency(second)


def test_memory_moves_with_the_vehicle():
    where = np.array([[20.1, 3.1, 1.9]])
    start, later = pose(5.0, 2.0, 0.1), pose(8.3, 2.9, 0.35)
    occupancies = carve(
        [beams_to(where, k=0, odom_from_ego=start), beams_to([[-9.0, 0.1, 1.9]], k=1, odom_from_ego=later)]
    )
    moved = transform_points(inverse(later) @ start, where)[0]
    assert at(occupancies[1], *moved) == OCCUPIED
    sensor = transform_points(inverse(later) @ start, SENSOR[None])[0]
    for fraction in (0.2, 0.5, 0.8):
        assert at(occupancies[1], *(sensor + fraction * (moved - sensor))) == FREE


def test_memory_expires_after_ten_sweeps():
    frames = [beams_to([[20.1, 0.1, 1.9]], k=0)]
    frames += [beams_to([[-20.1, 0.1, 1.9]], k=k) for k in range(1, 12)]
    occupancies = carve(frames)
    assert at(occupancies[10], 20.1, 0.1, 1.9) == OCCUPIED
    assert at(occupancies[10], 10.1, 0.1, 1.9) == FREE
    assert at(occupancies[11], 20.1, 0.1, 1.9) == UNKNOWN
    assert at(occupancies[11], 10.1, 0.1, 1.9) == UNKNOWN
    assert [o.temporal.frames for o in occupancies] == [*range(11), 10]


def test_memory_expires_after_one_second_also_without_lidar():
    beam = beams_to([[20.1, 0.1, 1.9]], k=0)
    blind = [Frame(START_NS + k * SWEEP_NS, odom_from_ego=pose()) for k in (10, 20, 21)]
    _, half, one, over = carve([beam, *blind])
    assert at(half, 20.1, 0.1, 1.9) == OCCUPIED
    assert at(one, 10.1, 0.1, 1.9) == FREE
    assert (over.semantics == UNKNOWN).all()


def test_without_pose_nothing_is_remembered():
    frames = [beams_to([[20.1, 0.1, 1.9]], k=0, odom_from_ego=None), beams_to([[-9.0, 0.1, 1.9]], k=1)]
    occupancies = carve(frames)
    assert at(occupancies[1], 20.1, 0.1, 1.9) == UNKNOWN
    assert any("no pose" in note for note in occupancies[0].notes)


def test_newer_beam_erases_an_older_return_and_a_newer_return_outweighs_older_free():
    near, far, aside = [[20.1, 0.1, 1.9]], [[39.1, 0.1, 1.9]], [[-9.0, 0.1, 1.9]]
    appeared_left = carve([beams_to(p, k=k) for k, p in enumerate([far, near, aside])])
    assert [at(o, 20.1, 0.1, 1.9) for o in appeared_left] == [FREE, OCCUPIED, OCCUPIED]
    gone_again = carve([beams_to(p, k=k) for k, p in enumerate([near, far, aside])])
    assert [at(o, 20.1, 0.1, 1.9) for o in gone_again] == [OCCUPIED, FREE, FREE]
    assert at(gone_again[2], 39.1, 0.1, 1.9) == OCCUPIED


def test_state_is_not_changed_by_a_step():
    model = LidarCarving()
    first = step(model, sweep_frame(0, pose(), scan(pose(), [CAR])))
    motion = np.array(inverse(pose()) @ pose(0.5))
    second_frame = sweep_frame(1, pose(0.5), scan(pose(0.5), seed=1))
    once = step(model, second_frame, first.state, motion)
    again = step(model, second_frame, first.state, motion)
    assert torch.equal(once.semantics, again.semantics)
    assert np.array_equal(once.state.beams.ends, again.state.beams.ends)


def test_the_same_sweep_twice_is_as_good_as_once():
    model = LidarCarving()
    frame = sweep_frame(0, pose(), scan(pose(), [CAR, WALL]))
    first = step(model, frame)
    repeated = dataclasses.replace(frame, stamp_ns=frame.stamp_ns + 10_000_000)
    second = step(model, repeated, first.state, np.eye(4))
    assert torch.equal(first.semantics, second.semantics)


def test_remembered_free_space_is_space_some_beam_crossed():
    """Against carving every sweep in full, each in the last frame's grid."""
    from occ_perception.ops.ray_traversal import last_beam_through

    poses = [pose(0.46 * k, 0.01 * k * k, 0.01 * k) for k in range(11)]
    points = [scan(p, [CAR, WALL], columns=542, seed=k) for k, p in enumerate(poses)]
    last = carve([sweep_frame(k, p, c) for k, (p, c) in enumerate(zip(poses, points, strict=True))])[-1]
    crossed_when = np.full(GRID.size, -1)
    hit_when = np.full(GRID.size, -1)
    for k, (p, c) in enumerate(zip(poses, points, strict=True)):
        now_from_then = inverse(poses[-1]) @ p
        ends = transform_points(now_from_then, ego_points(c))
        origin = transform_points(now_from_then, SENSOR[None])[0]
        crossed_when[last_beam_through(origin, ends, GRID) >= 0] = k
        cells, inside = GRID.cells_of(ends)
        hit_when[tuple(cells[inside].T)] = k
    free = last.semantics == FREE
    assert np.all(crossed_when[free] >= 0)
    only_past = (crossed_when > hit_when) & (crossed_when < 10) & (hit_when < 10)
    assert only_past.sum() > 5000
    assert (last.semantics[only_past] != UNKNOWN).mean() > 0.9
    assert free[only_past].mean() > 0.85


def test_wall_seen_from_a_moving_vehicle_stays_where_it_is():
    poses = [pose(0.5 * k, 0.2 * np.sin(k / 5), 0.02 * k) for k in range(20)]
    frames = [sweep_frame(k, p, scan(p, [WALL], seed=k)) for k, p in enumerate(poses)]
    for odom_from_ego, occupancy in list(zip(poses, carve(frames), strict=True))[10:]:
        occupied = np.flatnonzero(occupancy.semantics == OCCUPIED)
        world = world_from(odom_from_ego, GRID.center_of(occupied))
        assert len(occupied) > 500
        # A voxel that holds a point of the wall's face: its centre is within half a diagonal of it, and the noise.
        assert np.abs(world[:, 1] - 8.0).max() < 0.2 * np.sqrt(2) + 0.1
        check_consistency(occupancy)


def trail(occupancy, odom_from_ego, box):
    """Occupied voxels within and around where a box was."""
    occupied = np.flatnonzero(occupancy.semantics == OCCUPIED)
    world = world_from(odom_from_ego, GRID.center_of(occupied))
    return int(((world > np.array(box[0]) - 0.5) & (world < np.array(box[1]) + 0.5)).all(axis=1).sum())


@pytest.mark.parametrize("speed", [0.0, 0.46], ids=["standing", "driving"])
def test_moving_box_leaves_no_trail(speed):
    poses = [pose(speed * k) for k in range(12)]
    boxes = [([10.0 + 0.5 * k, -6.0, 0.2], [14.0 + 0.5 * k, -4.2, 1.6]) for k in range(6)]
    frames = []
    for k, p in enumerate(poses):
        frames.append(sweep_frame(k, p, scan(p, [*boxes[k : k + 1], *ALL_AROUND], columns=1084, seed=k)))
    occupancies = carve(frames)
    assert trail(occupancies[5], poses[5], boxes[5]) > 30
    behind = ([0.0, -6.0, 0.2], [boxes[5][0][0] - 1.0, -4.2, 1.6])
    assert trail(occupancies[5], poses[5], behind) == 0
    whole = ([5.0, -6.5, 0.0], [20.0, -3.5, 2.0])
    left = [trail(o, p, whole) for o, p in zip(occupancies, poses, strict=True)][6:]
    assert left[0] == 0 if speed == 0.0 else left[0] <= 3
    assert left[-1] == 0


def test_what_the_vehicle_drives_through_was_not_there():
    speck = beams_to([[6.0, 0.0, 1.5]], k=0)
    further = beams_to([[-20.0, 0.0, 1.9]], k=1, odom_from_ego=pose(4.0))
    assert at(carve([speck, further])[1], 2.0, 0.0, 1.5) != OCCUPIED


def test_ground_is_not_erased_by_beams_that_skim_over_it():
    ground = [[x, y, 0.0] for x in np.arange(5.1, 12, 0.2) for y in np.arange(-3, 3, 0.2)]
    skimming = [[20.0, y, 0.15] for y in np.arange(-4, 4, 0.1)]
    first, second = carve([beams_to(ground, k=0), beams_to(skimming, k=1)])
    assert at(first, 10.1, 0.1, 0.0) == GROUND
    assert at(second, 10.1, 0.1, 0.0) == GROUND
