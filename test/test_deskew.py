"""Raw LiDAR sweeps become sweeps at their stamp, and what is true is not carved away."""

import numpy as np
import pytest
from lidar_scenes import EGO_FROM_LIDAR, SENSOR, at, pose

from occ_perception.assembler import Assembler, AssemblerConfig, Late, LidarPoints
from occ_perception.deskew import deskew
from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import inverse, transform_points
from occ_perception.models.lidar_carving import LidarCarving
from occ_perception.ontology import FREE
from occ_perception.session import Session
from occ_perception.synchroniser import Arrival, SyncedSet

MS = 1_000_000
START = 1_000_000 * MS
SWEEP_S = 0.1
SPEED = 20.0
CAR_X = 20.0  # rear of a parked car at the sweep's stamp, vehicle frame


def raw_sweep(ends_at_stamp):
    """Returns of a car's rear all through a raw 10 Hz sweep of a vehicle at 20 m/s, and their times."""
    offsets = np.linspace(-SWEEP_S, 0.0, 2000, dtype=np.float64) + (0.0 if ends_at_stamp else SWEEP_S)
    y = np.linspace(-0.9, 0.9, len(offsets))
    z = 0.5 + np.arange(len(offsets)) % 10 * 0.1
    at_stamp = np.stack([np.full(len(offsets), CAR_X + 0.05), y, z], axis=1)
    at_point = at_stamp - np.stack([SPEED * offsets, 0 * offsets, 0 * offsets], axis=1)
    return transform_points(inverse(EGO_FROM_LIDAR), at_point).astype(np.float32), offsets.astype(np.float32)


def assembled(points, offsets_s, poses_until=START + 500 * MS, give_up=False, **config):
    made = Assembler(AssemblerConfig(**config))
    made.add_transform("base_link", "lidar_top", 0, SENSOR, (0.0, 0.0, 0.0, 1.0), static=True)
    for stamp in range(START - 500 * MS, poses_until + 1, 20 * MS):
        made.add_transform("odom", "base_link", stamp, ((stamp - START) * SPEED * 1e-9, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    payload = LidarPoints(points, "lidar_top", offsets_s)
    synced = SyncedSet(START, "lidar_top", START, {"lidar_top": Arrival(START, START, payload)}, {})
    return made.assemble(synced, give_up)


def classes_at_the_car(frame):
    occupancy = Session(LidarCarving()).step(frame)
    return [at(occupancy, CAR_X + 0.05, y, z) for y in (-0.7, 0.0, 0.7) for z in (0.7, 1.0, 1.3)]


@pytest.mark.parametrize("ends_at_stamp", [True, False], ids=["stamp at the end", "stamp at the start"])
def test_parked_car_is_where_it_is(ends_at_stamp):
    points, offsets = raw_sweep(ends_at_stamp)
    frame = assembled(points, offsets, lidar_compensated=False)
    assert isinstance(frame, Frame)
    assert frame.notes == ()
    x = transform_points(EGO_FROM_LIDAR, frame.lidar[0].points)[:, 0]
    np.testing.assert_allclose(x, CAR_X + 0.05, atol=0.01)
    assert all(label < FREE for label in classes_at_the_car(frame))


def test_taken_for_compensated_it_is_off_by_metres():
    points, offsets = raw_sweep(ends_at_stamp=True)
    frame = assembled(points, offsets)
    assert np.ptp(frame.lidar[0].points[:, 0]) == pytest.approx(SPEED * SWEEP_S, abs=0.01)


def test_without_point_times_the_frame_says_so():
    points, _ = raw_sweep(ends_at_stamp=True)
    frame = assembled(points, None, lidar_compensated=False)
    (note,) = frame.notes
    assert "lidar_top: sweep is not motion compensated and has no point times: obstacles may be off" in note
    assert np.array_equal(frame.lidar[0].points, points)


def test_poses_until_the_end_of_the_sweep_are_waited_for():
    points, offsets = raw_sweep(ends_at_stamp=False)
    arguments = {"poses_until": START + 40 * MS, "lidar_compensated": False}
    assert isinstance(assembled(points, offsets, **arguments), Late)
    frame = assembled(points, offsets, give_up=True, **arguments)
    assert any("no poses of the vehicle at its start and end" in note for note in frame.notes)


def test_times_after_the_stamp_are_not_believed_of_compensated_sweeps():
    points, offsets = raw_sweep(ends_at_stamp=False)
    assert assembled(points, offsets).lidar[0].offsets_s is None


def test_turning_vehicle():
    rng = np.random.default_rng(0)
    world, offsets = rng.uniform(-30, 30, (500, 3)), np.linspace(-0.1, 0.0, 500)
    radius, rate = 10.0, 1.0  # 10 m/s on a circle

    def vehicle(time):
        yaw = rate * time
        return pose(radius * np.sin(yaw), radius * (1 - np.cos(yaw)), yaw)

    lidar_from_ego = inverse(EGO_FROM_LIDAR)
    measured = [
        transform_points(lidar_from_ego @ inverse(vehicle(t)), p[None])[0] for t, p in zip(offsets, world, strict=True)
    ]
    sweep = LidarSweep(0, np.array(measured), EGO_FROM_LIDAR, vehicle(0.0), offsets)
    truth = transform_points(lidar_from_ego @ inverse(vehicle(0.0)), world)
    assert np.linalg.norm(sweep.points - truth, axis=1).max() > 1.0
    result = deskew(sweep, vehicle(-0.1), vehicle(0.0)).points
    np.testing.assert_allclose(result, truth, atol=0.02)  # the chord of the arc is 1.3 cm off it


def test_sweep_without_times_or_with_too_few_is_refused():
    sweep = LidarSweep(0, np.ones((5, 3), np.float32), EGO_FROM_LIDAR, pose(), np.zeros(4, np.float32))
    with pytest.raises(InvalidInputError, match="5 point times"):
        deskew(sweep, pose(), pose())


def test_nothing_measured_is_nothing():
    frame = assembled(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), lidar_compensated=False)
    assert len(frame.lidar[0].points) == 0
