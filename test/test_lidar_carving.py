"""LiDAR carving of single frames: what is occupied, free and unknown, and what bad input does to it."""

import dataclasses

import numpy as np
import pytest
from lidar_scenes import (
    SENSOR,
    START_NS,
    at,
    beams_to,
    carve,
    check_consistency,
    ego_points,
    pose,
    scan,
    sweep_frame,
)

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.ground_grid import UNKNOWN_CELL, ground_grid
from occ_perception.models.lidar_carving_config import LidarCarvingConfig, OwnVehicle
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN

OCCUPIED, GROUND = GEOMETRY.id_of("occupied"), GEOMETRY.id_of("ground")
GRID = OCC3D_GRID
CAR = ([8.0, -1.0, 0.2], [12.0, 1.0, 1.6])
WALL = ([-60.0, 8.0, 0.0], [90.0, 8.3, 5.0])


# -- one sweep


def test_one_beam_is_free_before_its_return_and_unknown_behind_it():
    (occupancy,) = carve([beams_to([[20.1, 0.1, 1.9]])])
    assert {at(occupancy, x, 0.1, 1.86) for x in np.arange(4.1, 19.8, 0.2)} == {FREE}
    assert {at(occupancy, x, 0.1, 1.86) for x in np.arange(-1.1, 3.9, 0.2)} == {UNKNOWN}  # the own vehicle
    assert at(occupancy, 20.1, 0.1, 1.9) == OCCUPIED
    assert {at(occupancy, x, 0.1, 1.9) for x in np.arange(20.5, 39, 0.4)} == {UNKNOWN}
    assert (occupancy.semantics != UNKNOWN).sum() == 41  # 40 voxels from x = 4.0 to the return, and the return's
    check_consistency(occupancy)


def test_beam_that_ends_beyond_the_grid_carves_up_to_the_border():
    (occupancy,) = carve([beams_to([[75.0, 0.1, 1.9]])])
    assert at(occupancy, 39.9, 0.1, 1.85) == FREE
    assert occupancy.counts() == {"free": 90, "unknown": GRID.num_voxels - 90}


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


def test_what_stands_on_the_ground_has_no_ground_at_its_foot():
    ground, post = [[10.1, 5.1, 0.0], [12.1, 5.1, 0.0]], [[10.1, 5.1, 0.5]]
    (occupancy,) = carve([beams_to(ground + post)])
    assert at(occupancy, 10.1, 5.1, 0.0) == OCCUPIED
    assert at(occupancy, 12.1, 5.1, 0.0) == GROUND


def test_own_vehicle_and_near_returns_are_neither_hits_nor_beams():
    own = [[0.0, 0.5, 1.5], [3.9, -1.0, 0.5], [-1.0, 0.0, 2.0]]
    near = [[0.94, 0.0, 2.5]]  # 0.66 m above the sensor
    (occupancy,) = carve([beams_to(own + near)])
    assert (occupancy.semantics == UNKNOWN).all()
    config = LidarCarvingConfig(own_vehicle=OwnVehicle(0.0, 0.0, 0.0, 0.0), min_range=0.0)
    (occupancy,) = carve([beams_to(own + near)], config)
    assert (occupancy.semantics == OCCUPIED).sum() == 4


PERSON = [[2.5, y, z] for y in (-0.2, 0.0, 0.2) for z in np.arange(0.3, 1.8, 0.1)]
"""In front of a small robot, and inside the default own-vehicle box."""


def behind_person():
    """Returns of a wall 20 m ahead, whose beams cross the person's voxels from many sides."""
    person = np.array(PERSON)
    return (SENSOR + (person - SENSOR) * (19.0 / (person[:, :1] - SENSOR[0]))).tolist()


def test_person_inside_the_own_vehicle_box_is_not_erased():
    (occupancy,) = carve([beams_to([*PERSON, *behind_person()])])
    assert {at(occupancy, *point) for point in PERSON} == {UNKNOWN}
    assert occupancy.lidar_used
    robot = LidarCarvingConfig(own_vehicle=OwnVehicle(-0.4, 0.4, 0.3, 1.0))
    (occupancy,) = carve([beams_to([*PERSON, *behind_person()])], robot)
    assert {at(occupancy, *point) for point in PERSON} == {OCCUPIED}


def test_nothing_nearer_than_the_least_range_becomes_free():
    config = LidarCarvingConfig(own_vehicle=OwnVehicle(0.0, 0.0, 0.0, 0.0), min_range=2.0)
    near, far = [[2.44, 0.1, 1.84]], [[20.94, 0.1, 1.84]]
    (occupancy,) = carve([beams_to(near + far)], config)
    assert at(occupancy, *near[0]) == UNKNOWN
    assert at(occupancy, 6.1, 0.1, 1.84) == FREE
    (without,) = carve([beams_to(far)], config)
    assert at(without, *near[0]) == FREE


def test_what_was_dropped_is_remembered_until_a_beam_looks_through():
    config = LidarCarvingConfig(own_vehicle=OwnVehicle(0.0, 0.0, 0.0, 0.0), min_range=2.0)
    near, far, aside = [[2.44, 0.1, 1.84]], [[20.94, 0.1, 1.84]], [[-9.0, 0.1, 1.9]]
    blind = Frame(START_NS + 100_000_000, odom_from_ego=pose())
    near_only = [beams_to(far, k=0), beams_to(near, k=1), blind, beams_to(aside, k=3), beams_to(aside, k=4)]
    frames = [*near_only, beams_to(far, k=5), beams_to(near + aside, k=6), beams_to(aside, k=7)]
    occupancies = carve(frames, config)
    assert [at(o, *near[0]) for o in occupancies] == [FREE, *[UNKNOWN] * 4, FREE, UNKNOWN, UNKNOWN]


def test_own_vehicle_box_is_nowhere_free_and_its_ground_cells_are_unknown():
    occupancy = carve([sweep_frame(k, pose(0.46 * k), scan(pose(0.46 * k), [WALL], seed=k)) for k in range(12)])[-1]
    box = OwnVehicle()
    inside = box.contains(GRID.center_of(np.arange(GRID.num_voxels))).reshape(GRID.size)
    assert inside.sum() > 500
    assert not (occupancy.semantics[inside] == FREE).any()
    under = inside[:, :, 4]
    assert (ground_grid(occupancy, 0.2, 2.0)[under] == UNKNOWN_CELL).all()


@pytest.mark.parametrize("box", [(1.0, -1.0, 1.0, 2.0), (-1.0, 1.0, -0.1, 2.0), (-1.0, float("nan"), 1.0, 2.0)])
def test_own_vehicle_that_is_none_is_refused(box):
    with pytest.raises(ConfigurationError, match="rear <= front, half_width >= 0"):
        OwnVehicle(*box)


def test_own_vehicle_is_where_the_vehicle_was_at_the_sweep_not_at_the_anchor():
    beam = beams_to([[3.9, 0.0, 1.0]])  # on the bonnet at the sweep; 2 m ahead of the box in the anchor's frame
    anchored_behind = dataclasses.replace(beam, odom_from_ego=pose(x=-2.0))
    (occupancy,) = carve([anchored_behind])
    assert (occupancy.semantics == UNKNOWN).all()


def test_points_on_voxel_borders_and_grid_edges():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (8, 4, 4))
    # The ground far below: here only the borders of cells matter.
    config = LidarCarvingConfig(grid, OwnVehicle(0, 0, 0, 0), min_range=0.0, ground_height=-9.0)
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
    assert not occupancy.lidar_used
    assert f"0 of {len(points)} LiDAR points usable" in occupancy.notes
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


def test_sweep_that_is_too_old_is_left_out():
    frame = beams_to([[20.1, 0.1, 1.9]])
    (occupancy,) = carve([dataclasses.replace(frame, stamp_ns=frame.stamp_ns + 1_100_000_000)])
    assert (occupancy.semantics == UNKNOWN).all()
    assert "LiDAR sweep left out: 1.1 s old" in occupancy.notes
    assert not occupancy.lidar_used


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


@pytest.mark.parametrize("offset", [np.nan, -np.inf, 1.6e9])
def test_point_times_that_are_none_are_ignored(offset):
    frames = [
        beams_to([[0.9, 20.1, 1.9]], k=k, odom_from_ego=pose(1.0 * k), offsets_s=np.array([offset], np.float32))
        for k in range(2)
    ]
    occupancies = carve(frames, LidarCarvingConfig(past_sweeps=0))
    assert at(occupancies[1], SENSOR[0], 5.0, 1.85) == FREE
    assert "1 of 1 LiDAR point times are not within a sweep: ignored" in occupancies[1].notes
