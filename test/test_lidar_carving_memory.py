"""LiDAR carving of streams: what past sweeps add, when they are forgotten, and that what moves leaves no trail."""

import dataclasses

import numpy as np
import pytest
import torch
from lidar_scenes import (
    SENSOR,
    START_NS,
    SWEEP_NS,
    at,
    beams_to,
    carve,
    check_consistency,
    ego_points,
    pose,
    scan,
    sweep_frame,
)

from occ_perception.frame import Frame
from occ_perception.geometry import OCC3D_GRID, inverse, transform_points
from occ_perception.models.base import ModelInput
from occ_perception.models.lidar_carving import LidarCarving
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN

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
    for fraction in (0.4, 0.6, 0.8):  # before, it is in the own vehicle's box
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


def test_memory_expires_after_half_a_second_without_lidar_and_after_one_with():
    beam = beams_to([[20.1, 0.1, 1.9]], k=0)
    blind = [Frame(START_NS + k * SWEEP_NS, odom_from_ego=pose()) for k in (8, 10, 11)]
    aside = [beams_to([[-20.1, 0.1, 1.9]], k=k) for k in (20, 21)]
    _, before, half, over, one, later = carve([beam, *blind, *aside])
    assert at(before, 20.1, 0.1, 1.9) == OCCUPIED
    assert at(half, 10.1, 0.1, 1.9) == FREE
    assert "free space is remembered, newest sweep 0.50 s old" in half.notes
    assert not half.lidar_used
    assert (over.semantics == UNKNOWN).all()
    assert "no free space: the newest sweep is 0.55 s old" in over.notes
    assert at(one, 10.1, 0.1, 1.9) == FREE  # a sensor is watching again, and this is one second old
    assert at(later, 10.1, 0.1, 1.9) == UNKNOWN


def test_without_pose_nothing_is_remembered():
    frames = [beams_to([[20.1, 0.1, 1.9]], k=0, odom_from_ego=None), beams_to([[-9.0, 0.1, 1.9]], k=1)]
    occupancies = carve(frames)
    assert at(occupancies[1], 20.1, 0.1, 1.9) == UNKNOWN
    assert any("no pose" in note for note in occupancies[0].notes)


def test_sweep_without_pose_is_shown_but_not_remembered():
    first = beams_to([[20.1, 0.1, 1.9]], k=0)
    (unplaced,) = beams_to([[10.1, 3.1, 1.9]], k=1, odom_from_ego=None).lidar
    second = Frame(START_NS + SWEEP_NS, lidar=(unplaced,), odom_from_ego=pose())
    third = beams_to([[-9.0, 0.1, 1.9]], k=2)
    occupancies = carve([first, second, third])
    assert at(occupancies[1], 10.1, 3.1, 1.9) == OCCUPIED
    assert at(occupancies[2], 10.1, 3.1, 1.9) == UNKNOWN
    assert at(occupancies[2], 20.1, 0.1, 1.9) == OCCUPIED


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
    only_past[:, :, 2] = False  # the layer of the road, where beams that only skim make nothing free
    assert (last.semantics[only_past] != UNKNOWN).mean() > 0.9
    assert free[only_past].mean() > 0.85


def test_wall_seen_from_a_moving_vehicle_stays_where_it_is():
    poses = [pose(0.5 * k, 0.2 * np.sin(k / 5), 0.02 * k) for k in range(20)]
    frames = [sweep_frame(k, p, scan(p, [WALL], seed=k)) for k, p in enumerate(poses)]
    for odom_from_ego, occupancy in list(zip(poses, carve(frames), strict=True))[10:]:
        occupied = np.flatnonzero(occupancy.semantics == OCCUPIED)
        world = transform_points(odom_from_ego, GRID.center_of(occupied))
        assert len(occupied) > 500
        # A voxel that holds a point of the wall's face: its centre is within half a diagonal of it, and the noise.
        assert np.abs(world[:, 1] - 8.0).max() < 0.2 * np.sqrt(2) + 0.1
        check_consistency(occupancy)


def trail(occupancy, odom_from_ego, box):
    """How many occupied voxels there are within and around where a box was."""
    occupied = np.flatnonzero(occupancy.semantics == OCCUPIED)
    world = transform_points(odom_from_ego, GRID.center_of(occupied))
    return int(((world > np.array(box[0]) - 0.5) & (world < np.array(box[1]) + 0.5)).all(axis=1).sum())


@pytest.mark.parametrize("speed", [0.0, 0.46], ids=["standing", "driving"])
def test_moving_box_leaves_no_trail(speed):
    poses = [pose(speed * k) for k in range(12)]
    boxes = [([10.0 + 0.5 * k, -6.0, 0.2], [14.0 + 0.5 * k, -4.2, 1.6]) for k in range(6)]
    frames = []
    for k, p in enumerate(poses):
        frames.append(sweep_frame(k, p, scan(p, [*boxes[k : k + 1], *ALL_AROUND], columns=720, seed=k)))
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
    here = [[10.1, 0.1, 0.0]]
    just_behind = [[10.9, 0.1, 0.02]]  # on its way 0.11 to 0.18 m above the ground in the voxel of the first
    assert at(carve([beams_to(just_behind)])[0], 10.1, 0.1, 0.0) == UNKNOWN  # most of the voxel was not looked at
    first, second = carve([beams_to(here, k=0), beams_to(just_behind, k=1)])
    assert at(first, 10.1, 0.1, 0.0) == GROUND
    assert at(second, 10.1, 0.1, 0.0) == GROUND


def test_what_is_seen_again_is_remembered_anew():
    target, aside = [[20.1, 0.1, 1.9]], [[-9.0, 0.1, 1.9]]
    occupancies = carve([beams_to(target if k < 4 else aside, k=k) for k in range(15)])
    assert at(occupancies[13], 20.1, 0.1, 1.9) == OCCUPIED
    assert at(occupancies[13], 10.1, 0.1, 1.9) == FREE
    assert at(occupancies[14], 20.1, 0.1, 1.9) == UNKNOWN


def test_memory_holds_little_more_than_one_sweep():
    model, state = LidarCarving(), None
    for k in range(11):
        points = scan(pose(0.46 * k), [CAR, WALL], seed=k)
        motion = None if state is None else inverse(pose(0.46 * (k - 1))) @ pose(0.46 * k)
        state = step(model, sweep_frame(k, pose(0.46 * k), points), state, motion).state
    assert len(state.sweeps_ns) == 11
    assert len(state.beams.ends) < 1.5 * len(points)
    assert len(state.returns.points) < 3 * len(points)
