"""The synthetic world's LiDAR against closed forms: where its points lie, when they were measured, what they hit."""

import dataclasses

import numpy as np
import pytest
from small_scenes import (
    CAR,
    CLEAR,
    HEIGHT,
    LAMP,
    MANMADE,
    ROAD,
    box,
    camera,
    car,
    distance_to_box,
    ground,
    pixel_of,
    scene,
    standing,
)

from occ_perception.data.synthetic.lidar import COLUMNS, PERIOD_S, RINGS, SceneLidar
from occ_perception.data.synthetic.renderer import SceneRenderer
from occ_perception.data.synthetic.scene import Trajectory
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import inverse, rigid_from_rotation, transform_points

pytest.importorskip("warp", reason="needs the extra `world`")

MOUNT_HEIGHT = 1.85
# nuScenes: LiDAR x = vehicle's right, y = forward.
EGO_FROM_LIDAR = rigid_from_rotation(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), [0.95, 0.0, MOUNT_HEIGHT])
ELEVATIONS = np.linspace(-30.0, 10.5, RINGS)


def scan_of(world, time_s=1.0, **options):
    return SceneLidar(world, EGO_FROM_LIDAR).scan(time_s, **options)


def in_world(world, scan, time_s=1.0):
    """Points in the world frame if nothing but the vehicle had moved within the turn."""
    return transform_points(world.ego.pose(time_s) @ EGO_FROM_LIDAR, scan.points[:, :3].astype(np.float64))


def driving(speed, yaw_rate, duration_s=2.0):
    """A vehicle on an arc."""
    times = np.linspace(0, duration_s, 201)
    yaws = yaw_rate * times
    steps = np.stack([np.cos(yaws), np.sin(yaws), 0 * yaws], 1) * speed * (times[1] - times[0])
    return Trajectory(times, np.cumsum(steps, 0), yaws)


def test_pattern_on_level_ground():
    """Every beam that points down far enough meets the plane once: rings are circles, columns clockwise from left."""
    scan = scan_of(scene([ground(100.0)]), noise=False)
    ranges = MOUNT_HEIGHT / -np.sin(np.deg2rad(ELEVATIONS))
    reaching = np.flatnonzero((ranges > 0) & (ranges < 75))
    np.testing.assert_array_equal(np.unique(scan.rings), reaching)
    assert len(scan.points) == COLUMNS * len(reaching)
    radius = np.hypot(*scan.points[:, :2].T)
    np.testing.assert_allclose(radius, (MOUNT_HEIGHT / -np.tan(np.deg2rad(ELEVATIONS)))[scan.rings], rtol=1e-4)
    np.testing.assert_allclose(scan.points[:, 2], -MOUNT_HEIGHT, atol=1e-4)
    first, last = scan.offsets_s == scan.offsets_s.min(), scan.offsets_s == 0
    assert first.sum() == last.sum() == len(reaching)
    assert scan.points[first, 0].max() < -2  # left
    quarter = np.abs(scan.offsets_s + 0.75 * PERIOD_S) < PERIOD_S / COLUMNS
    assert scan.points[quarter, 1].min() > 2  # forward
    assert scan.offsets_s.min() == pytest.approx(-PERIOD_S * (COLUMNS - 1) / COLUMNS)
    assert (scan.class_ids == ROAD).all()
    assert (scan.instances == 0).all()
    types = (scan.points.dtype, scan.rings.dtype, scan.offsets_s.dtype, scan.class_ids.dtype, scan.instances.dtype)
    assert types == (np.float32, np.uint16, np.float32, np.uint8, np.uint16)


@pytest.mark.parametrize(("speed", "yaw_rate"), [(0.0, 0.0), (15.0, 0.0), (10.0, 0.5)])
def test_points_lie_on_a_still_world_however_the_vehicle_moves(speed, yaw_rate):
    center, size = (30, 6, 2), (6, 4, 4)
    world = scene([ground(100.0), box(center, size)], ego=driving(speed, yaw_rate))
    scan = scan_of(world, noise=False)
    points = in_world(world, scan)
    assert (scan.class_ids == MANMADE).sum() > 100
    assert distance_to_box(points[scan.class_ids == MANMADE], center, size).max() < 1e-3
    assert np.abs(points[scan.class_ids == ROAD, 2]).max() < 1e-3
    if speed:  # the first columns were cast from 5 cm per m/s further back
        early = scan.offsets_s < -0.04
        origin = transform_points(inverse(EGO_FROM_LIDAR), np.array([EGO_FROM_LIDAR[:3, 3]]))[0]
        azimuth = np.arctan2(*(scan.points[early, :2] - origin[:2]).T)
        assert len(np.unique(np.round(azimuth, 5))) > early.sum() / 4  # no longer on the columns' directions


def test_points_lie_on_a_moving_actor_where_it_was_when_they_were_measured():
    times = np.linspace(0, 2, 21)
    path = Trajectory(
        times, np.stack([10 + 0 * times, -15 + 15 * times, 0 * times], 1), np.full(21, np.pi / 2) + 0.3 * times
    )
    world = scene([ground()], [car(77, path)], ego=driving(8.0, 0.1))
    scan = scan_of(world, noise=False)
    on_car = scan.instances == 77
    assert on_car.sum() > 100
    assert (scan.class_ids[on_car] == CAR).all()
    body_from_world = inverse(path.poses(1.0 + scan.offsets_s[on_car].astype(np.float64)))
    points = in_world(world, scan)[on_car]
    local = np.einsum("nij,nj->ni", body_from_world[:, :3, :3], points) + body_from_world[:, :3, 3]
    assert distance_to_box(local, (0, 0, 0.75), (4.0, 2.0, 1.5)).max() < 5e-3
    frozen = inverse(path.pose(1.0))
    assert distance_to_box(transform_points(frozen, points), (0, 0, 0.75), (4.0, 2.0, 1.5)).max() > 0.1


def test_nearer_surfaces_hide_farther_ones():
    world = scene([box((20, 0, 3), (1, 10, 10)), ground()], [car(3, standing(12, 0)), car(4, standing(16, 0))])
    scan = scan_of(world, noise=False)
    ahead = (np.abs(scan.points[:, 0]) < 0.5) & (scan.points[:, 1] > 0) & (scan.points[:, 2] > -1.5)
    assert {3, 0} <= set(scan.instances[ahead].tolist())
    behind_front_car = ahead & (scan.points[:, 1] > 11.5) & (scan.points[:, 2] < -0.9)
    assert not (behind_front_car & (scan.instances == 4)).any()
    assert (scan.class_ids[ahead & (scan.instances == 0) & (scan.points[:, 2] > -0.2)] == MANMADE).all()


def test_camera_and_lidar_agree_on_what_is_where():
    world = scene([ground(), box((14, -1, 2), (2, 2, 4))], [car(9, standing(10, 3, 0.4))])
    image = SceneRenderer(world).render(camera(704, 256), np.eye(4), 1.0)
    scan = scan_of(world, noise=False)
    points = transform_points(EGO_FROM_LIDAR, scan.points[:, :3].astype(np.float64))
    view = camera(704, 256)
    ahead = (points[:, 0] > 3) & (np.abs(points[:, 1]) < 0.5 * points[:, 0])
    ahead &= (points[:, 2] < HEIGHT) & (HEIGHT - points[:, 2] < 0.2 * points[:, 0])
    pixels = np.array([pixel_of(view, point) for point in points[ahead]])
    depth, class_ids, instances = (
        getattr(image, name)[tuple(pixels.T)] for name in ("depth", "class_ids", "instances")
    )
    both_see_it = np.abs(depth - points[ahead, 0]) < 0.02  # elsewhere one sees past an edge, or a pixel is long
    assert both_see_it.sum() > 500
    same = (class_ids == scan.class_ids[ahead]) & (instances == scan.instances[ahead])
    assert same[both_see_it].mean() > 0.99
    assert {(ROAD, 0), (MANMADE, 0), (CAR, 9)} <= set(zip(class_ids[both_see_it], instances[both_see_it], strict=True))


def test_noise_is_of_two_centimetres_and_loses_returns():
    world = scene([ground(), box((10, 0, 2), (1, 20, 4))])
    exact, noisy, again = scan_of(world, noise=False), scan_of(world), scan_of(world)
    for field in dataclasses.fields(noisy):
        np.testing.assert_array_equal(getattr(noisy, field.name), getattr(again, field.name))
    assert 0.6 * len(exact.points) < len(noisy.points) < 0.99 * len(exact.points)
    wall = noisy.class_ids == MANMADE
    ranges = np.linalg.norm(noisy.points[wall, :3], axis=1)
    offset = (9.5 - 0.95) - noisy.points[wall, 1]  # from the wall's plane
    along_beam = offset * ranges / noisy.points[wall, 1]
    assert along_beam.std() == pytest.approx(0.02, rel=0.1)
    assert abs(along_beam.mean()) < 2e-3
    later = scan_of(world, time_s=1.05)
    assert len(later.points) != len(noisy.points) or not np.array_equal(later.points, noisy.points)
    wet = scan_of(dataclasses.replace(world, weather=dataclasses.replace(CLEAR, wetness=1.0)))
    assert len(wet.points) < 0.95 * len(noisy.points)


def test_more_is_lost_far_away_and_bright_surfaces_are_brighter():
    walls = [box((10, 0, 5), (1, 30, 10)), box((-60, 0, 5), (1, 100, 10)), box((0, 10, 5), (5, 1, 10), MANMADE, LAMP)]
    world = scene(walls)
    exact, noisy = scan_of(world, noise=False), scan_of(world)
    shares = []
    for side in (1, -1):
        shares.append(np.sum(side * noisy.points[:, 1] > 9 * 0.9) / np.sum(side * exact.points[:, 1] > 9 * 0.9))
    assert shares[0] > shares[1] + 0.05
    left = exact.points[:, 0] < -9
    ahead = (np.abs(exact.points[:, 0]) < 2) & (exact.points[:, 1] > 5)
    assert exact.points[left & (np.abs(exact.points[:, 1]) < 1), 3].mean() > exact.points[ahead, 3].mean() + 3
    assert exact.points[:, 3].min() >= 0
    assert exact.points[:, 3].max() <= 255


def test_range_ends_at_75_metres():
    far = scan_of(scene([box((80, 0, 5), (2, 40, 40))]), noise=False)
    near = scan_of(scene([box((70, 0, 5), (2, 40, 40))]), noise=False)
    assert len(far.points) == 0
    assert far.points.shape == (0, 4)
    assert len(near.points) > 0


def test_an_empty_scene_returns_nothing():
    scan = scan_of(scene())
    assert scan.points.shape == (0, 4)
    assert len(scan.rings) == len(scan.offsets_s) == len(scan.class_ids) == len(scan.instances) == 0


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match="ego_from_lidar"):
        SceneLidar(scene(), np.zeros((4, 4)))
    with pytest.raises(InvalidInputError, match="finite time"):
        scan_of(scene(), time_s=np.inf)
