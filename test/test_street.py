"""The street that tests drive through: seeded, geometrically true to itself, timed like nuScenes."""

import numpy as np
import pytest
from street.drive import CAMERAS, START_NS, StreetDrive, write_street_bag
from street.world import Road, StreetWorld

from occ_perception.data.bag_reader import BagReader
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.geometry import OCC3D_GRID, inverse, transform_points
from occ_perception.image_codec import decode_image
from occ_perception.ontology import FREE, OCC3D

SMALL = (160, 90)


@pytest.fixture(scope="module")
def drive() -> StreetDrive:
    return StreetDrive(seconds=8, seed=3, image_size=SMALL)


def distance_to_surface(drive, points_world, time_s):
    """Distance of points to the nearest surface (box or ground), metres."""
    boxes = drive.world.boxes(time_s)
    best = np.abs(points_world[:, 2])
    for center, size, yaw in zip(boxes.centers, boxes.sizes, boxes.yaws, strict=True):
        c, s = np.cos(yaw), np.sin(yaw)
        offset = points_world - center
        local = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]], -1)
        outside = np.abs(local) - size / 2
        signed = np.linalg.norm(np.maximum(outside, 0), axis=1) + np.minimum(outside.max(1), 0)
        best = np.minimum(best, np.abs(signed))
    return best


def test_road_coordinates_invert_positions():
    road = Road()
    s, d = np.meshgrid(np.linspace(-30, 250, 300), np.linspace(-20, 20, 21))
    x, y, _ = road.at(s, d)
    s_back, d_back = road.coordinates(x, y)
    np.testing.assert_allclose(s_back, s, atol=1e-9)
    np.testing.assert_allclose(d_back, d, atol=1e-9)


@pytest.mark.parametrize("sweep", [3, 90])
def test_lidar_points_lie_on_surfaces(drive, sweep):
    stamp = drive.sweep_stamps()[sweep]
    scan = drive.scan(stamp, noise=False)
    assert len(scan.points) > 25_000
    world = transform_points(drive.odom_from_ego(stamp) @ drive.ego_from_lidar, scan.points[:, :3].astype(np.float64))
    # What moves was measured where it was then, up to 50 ms ago: at most 0.4 m behind where it is at the stamp.
    distance = distance_to_surface(drive, world, drive.time_s(stamp))
    moving_share = np.mean(distance > 1e-3)
    assert moving_share < 0.05
    assert distance.max() < 0.41


def test_lidar_beams_start_at_the_sensor_of_their_time(drive):
    """The straight line from a point back along its beam passes the sensor where it was when it fired."""
    stamp = drive.sweep_stamps()[100]
    scan = drive.scan(stamp, noise=False)
    stamp_from_world = inverse(drive.odom_from_ego(stamp) @ drive.ego_from_lidar)
    for i in np.linspace(0, len(scan.points) - 1, 20).astype(int):
        fired = stamp + round(float(scan.offsets_s[i]) * 1e9)
        then = stamp_from_world @ drive.odom_from_ego(fired) @ drive.ego_from_lidar
        seen = transform_points(inverse(then), scan.points[i : i + 1, :3].astype(np.float64))[0]
        elevation = np.rad2deg(np.arctan2(seen[2], np.hypot(seen[0], seen[1])))
        assert elevation == pytest.approx(-30.0 + scan.rings[i] * 40.5 / 31, abs=0.01)


def test_lidar_noise_and_drop_out(drive):
    stamp = drive.sweep_stamps()[5]
    clean, noisy = drive.scan(stamp, noise=False), drive.scan(stamp)
    assert 0.93 < len(noisy.points) / len(clean.points) < 0.97
    assert noisy.offsets_s.max() == 0
    assert noisy.offsets_s.min() >= -0.05
    assert set(np.unique(noisy.rings)) <= set(range(32))
    world = transform_points(drive.odom_from_ego(stamp) @ drive.ego_from_lidar, noisy.points[:, :3].astype(np.float64))
    assert np.median(distance_to_surface(drive, world, drive.time_s(stamp))) < 0.03


def test_lidar_points_fall_in_occupied_voxels(drive):
    stamp = drive.sweep_stamps()[120]
    truth = drive.ground_truth(stamp)
    scan = drive.scan(stamp, noise=False)
    points = transform_points(drive.ego_from_lidar, scan.points[:, :3].astype(np.float64))
    cells, inside = OCC3D_GRID.cells_of(points)
    hit = truth[tuple(cells[inside].T)]
    assert np.mean(hit != FREE) > 0.98  # the rest: moving cars, measured up to 50 ms before the stamp


def test_ground_truth_has_every_class_of_the_street(drive):
    counts = np.bincount(drive.ground_truth(drive.sweep_stamps()[20]).ravel(), minlength=256)
    for name in ("car", "manmade", "driveable_surface", "sidewalk", "terrain"):
        assert counts[OCC3D.id_of(name)] > 100, name
    assert counts[FREE] > 400_000


def test_images_and_lidar_agree(drive):
    """Points on parked cars project onto pixels that are not ground or sky: they have the car's colour."""
    set_stamp = drive.set_stamps()[30]
    stamp = drive.image_stamp("cam_front", set_stamp)
    picture = drive.render("cam_front", stamp)
    camera = drive.rig["cam_front"]
    boxes = drive.world.boxes(drive.time_s(stamp))
    camera_from_world = inverse(drive.odom_from_ego(stamp) @ camera.ego_from_camera)
    tops = boxes.centers + np.stack([0 * boxes.yaws, 0 * boxes.yaws, -0.2 * boxes.sizes[:, 2]], -1)
    pixels, depth, visible = camera.project(transform_points(camera_from_world, tops))
    is_car = boxes.class_ids == OCC3D.id_of("car")
    nearest = np.flatnonzero(visible & is_car & (depth < 30))
    first = nearest[np.argmin(depth[nearest])]
    u, v = pixels[first].astype(int)
    colour, painted = boxes.colors[first], picture[v, u].astype(float)
    # The same hue up to lighting and haze: its strongest channel stays the strongest.
    assert np.argmax(painted) == np.argmax(colour)


def test_cameras_fire_when_the_lidar_looks_their_way(drive):
    offsets = {name: (drive.image_stamp(name, 0)) / 1e6 for name in CAMERAS}
    order = sorted(offsets, key=offsets.__getitem__)
    assert order == ["cam_front_left", "cam_front", "cam_front_right", "cam_back_right", "cam_back", "cam_back_left"]
    assert 40 < offsets["cam_back_left"] - offsets["cam_front_left"] < 45
    assert min(offsets.values()) > -50
    assert max(offsets.values()) < 0


def test_rates_follow_nuscenes(drive):
    assert len(drive.sweep_stamps()) == 160
    assert len(drive.set_stamps()) == 96
    assert set(drive.set_stamps()) <= set(drive.sweep_stamps())
    assert drive.sweep_stamps()[0] == START_NS + 50_000_000


def test_frames_are_complete(drive):
    frame = next(drive.frames())
    assert set(frame.images) == set(CAMERAS)
    assert frame.stamp_ns == frame.images["cam_front"].stamp_ns
    for image in frame.images.values():
        assert decode_image(image.data).shape == (90, 160, 3)
        np.testing.assert_array_equal(image.odom_from_ego, drive.odom_from_ego(image.stamp_ns))
    assert len(frame.lidar) == 1
    assert frame.lidar[0].offsets_s.shape == (len(frame.lidar[0].points),)


def test_the_vehicle_keeps_its_distance_to_everything(drive):
    """Nothing stands in the vehicle's way, whatever the seed."""
    for seed in range(5):
        world = StreetWorld(seed, length=200)
        for time_s in np.arange(0, 10, 0.5):
            x, y, _ = world.road.at(8.0 * time_s, -1.75)
            boxes = world.boxes(time_s)
            c, s = np.cos(boxes.yaws), np.sin(boxes.yaws)
            dx, dy = x - boxes.centers[:, 0], y - boxes.centers[:, 1]
            local = np.abs(np.stack([c * dx + s * dy, c * dy - s * dx], -1)) - boxes.sizes[:, :2] / 2
            assert local.max(1).min() > 1.0


def test_same_seed_same_bytes_other_seed_other_bytes():
    one, again, other = (StreetDrive(1, seed, SMALL) for seed in (1, 1, 2))
    stamp = one.sweep_stamps()[4]
    assert one.jpeg("cam_back", stamp) == again.jpeg("cam_back", stamp)
    assert one.jpeg("cam_back", stamp) != other.jpeg("cam_back", stamp)
    np.testing.assert_array_equal(one.scan(stamp).points, again.scan(stamp).points)


def test_bag_bytes_are_reproducible_and_hold_the_drive(tmp_path):
    raw = []
    for name in ("a", "b"):
        write_street_bag(tmp_path / name, seconds=0.5, seed=5, image_size=SMALL)
        with BagReader(tmp_path / name) as bag:
            raw.append([(m.topic, m.log_time_ns, m.cdr) for m in bag.messages()])
            counts = {t.name: t.count for t in bag.topics}
    assert raw[0] == raw[1]
    assert counts["/lidar_top/points"] == 10
    assert all(counts[f"/{c}/image_raw/compressed"] == counts[f"/{c}/camera_info"] == 6 for c in CAMERAS)
    assert counts["/tf_static"] == 1


def test_existing_bag_is_kept(tmp_path):
    write_street_bag(tmp_path / "bag", seconds=0.2, image_size=SMALL, cameras=("cam_front",))
    with pytest.raises(DatasetError, match="exists already"):
        write_street_bag(tmp_path / "bag", seconds=0.2, image_size=SMALL)
    write_street_bag(tmp_path / "bag", seconds=0.2, image_size=SMALL, cameras=(), overwrite=True)
    with BagReader(tmp_path / "bag") as bag:
        assert "/cam_front/camera_info" not in {t.name for t in bag.topics}


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"cameras": ("cam_up",)}, {"image_size": (8, 8)}, {"speed": -1}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ConfigurationError):
        StreetDrive(**bad)
