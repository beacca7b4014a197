"""The drive through a synthetic city: sensors, timing, poses, determinism, and its bag."""

import numpy as np
import pytest
from small_scenes import walled_road

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.synthetic.drive import START_NS, CityDrive, write_city_bag
from occ_perception.data.synthetic.rig import CAMERAS, MOUNTS, city_rig, lidar_mount
from occ_perception.data.synthetic.stream import WorldSource
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.geometry import OCC3D_GRID, inverse
from occ_perception.image_codec import decode_image

SMALL = (176, 64)


@pytest.fixture(scope="module")
def drive():
    return CityDrive(5, 1.0, SMALL, scene=walled_road())


# -- the rig


def test_the_cameras_are_those_of_the_real_vehicle_but_for_a_little(shared):
    """Against the calibration of the real keyframe: within the jitter, for many seeds."""
    from occ_perception.data.nuscenes import NuScenes

    dataset = NuScenes(shared / "data" / "nuscenes_keyframe")
    records = next(iter(dataset.scene(dataset.scene_names[0]).keyframes.values()))
    for seed in range(20):
        rig = city_rig(seed, (1600, 900))
        assert tuple(rig) == CAMERAS
        for name, camera in rig.items():
            real = records[name.upper()].camera()
            assert camera.intrinsics[0, 0] / real.intrinsics[0, 0] == pytest.approx(1, abs=0.032)
            assert np.abs(camera.intrinsics[:2, 2] - real.intrinsics[:2, 2]).max() < 13
            turn = camera.ego_from_camera[:3, :3].T @ real.ego_from_camera[:3, :3]
            assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 1.5 * np.sqrt(3) + 0.2
            assert np.abs(camera.ego_from_camera[:3, 3] - real.ego_from_camera[:3, 3]).max() < 0.06
        lidar = lidar_mount(seed)
        real_lidar = records["LIDAR_TOP"].mount.ego_from_sensor
        turn = lidar[:3, :3].T @ real_lidar[:3, :3]
        assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 1.2
        assert np.abs(lidar[:3, 3] - real_lidar[:3, 3]).max() < 0.03


def test_a_rig_differs_between_scenes_and_is_the_same_for_one():
    assert city_rig(3).fingerprint == city_rig(3).fingerprint != city_rig(4).fingerprint
    assert np.array_equal(city_rig(3, cameras=("cam_back",))["cam_back"].intrinsics, city_rig(3)["cam_back"].intrinsics)


def test_network_input_is_the_full_image_scaled_and_cropped_at_the_top():
    full, cut = city_rig(7, (1600, 900)), city_rig(7, (704, 256))
    for name in CAMERAS:
        expected = np.diag([0.44, 0.44, 1.0]) @ full[name].intrinsics - np.array([[0, 0, 0], [0, 0, 140], [0, 0, 0]])
        np.testing.assert_allclose(cut[name].intrinsics, expected, atol=1e-9)
        assert (cut[name].width, cut[name].height) == (704, 256)
        assert np.array_equal(cut[name].ego_from_camera, full[name].ego_from_camera)


@pytest.mark.parametrize("size", [(704, 400), (8, 4), (704, 0)])
def test_image_sizes_that_are_no_part_of_an_image_are_refused(size):
    with pytest.raises(ConfigurationError, match="9/16"):
        city_rig(0, size)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigurationError, match="cam_roof"):
        CityDrive(0, 1.0, cameras=("cam_roof",), scene=walled_road())
    with pytest.raises(ConfigurationError, match=r"0\.0 s"):
        CityDrive(0, 0.0, scene=walled_road())
    with pytest.raises(ConfigurationError, match="seed -1"):
        CityDrive(-1, 1.0, scene=walled_road())
    with pytest.raises(DatasetError, match="frame 3"):
        WorldSource([0], 2, SMALL).load(0, 3)


# -- timing and poses


def test_timing_is_that_of_nuscenes(drive):
    sweeps, sets, keyframes = drive.sweep_stamps(), drive.set_stamps(), drive.keyframe_stamps()
    assert np.all(np.diff(sweeps) == 50_000_000)
    assert len(sweeps) == 20
    assert len(sets) == 12
    assert keyframes == sweeps[::10]
    assert set(keyframes) <= set(sets) <= set(sweeps)
    stamps = {name: drive.image_stamp(name, sets[3]) - sets[3] for name in CAMERAS}
    assert sorted(stamps, key=stamps.get) == [
        "cam_front_left", "cam_front", "cam_front_right", "cam_back_right", "cam_back", "cam_back_left"
    ]  # fmt: skip
    measured_ms = {"cam_front_left": -43.1, "cam_front": -35.5, "cam_front_right": -27.6, "cam_back_right": -20.1}
    measured_ms |= {"cam_back": -10.4, "cam_back_left": -0.5}
    for name, stamp in stamps.items():
        assert stamp / 1e6 == pytest.approx(measured_ms[name], abs=1.5)
        assert stamp % 1000 == 0
    assert min(drive.image_stamp(name, sweeps[0]) for name in MOUNTS) >= START_NS


def test_every_image_has_the_pose_of_its_own_stamp(drive):
    stamp = drive.set_stamps()[4]
    frame = drive.frame(stamp)
    assert frame.stamp_ns == frame.images["cam_front"].stamp_ns
    for name, image in frame.images.items():
        assert np.array_equal(image.odom_from_ego, drive.odom_from_ego(drive.image_stamp(name, stamp)))
        assert decode_image(image.data).shape == (64, 176, 3)
    moved = inverse(frame.odom_from_ego) @ frame.lidar[0].odom_from_ego
    assert moved[0, 3] == pytest.approx(8 * (stamp - frame.stamp_ns) * 1e-9, abs=1e-6)
    assert drive.frame(stamp, images=False).images == {}


def test_equal_seeds_give_equal_bytes(drive):
    again, other = CityDrive(5, 1.0, SMALL, scene=walled_road()), CityDrive(6, 1.0, SMALL, scene=walled_road())
    stamp = drive.keyframe_stamps()[1]
    first, second, third = (d.keyframe(stamp) for d in (drive, again, other))
    assert first.shots == second.shots != third.shots
    assert np.array_equal(first.scan.points, second.scan.points)
    for name in ("semantics", "mask_lidar", "mask_camera", "flow", "instances"):
        assert np.array_equal(getattr(first.truth.label, name), getattr(second.truth.label, name)), name


def test_a_keyframe_does_not_depend_on_what_was_asked_before(drive):
    stamps = drive.keyframe_stamps()
    drive.keyframe(stamps[0])
    late = drive.keyframe(stamps[1]).truth.label
    alone = CityDrive(5, 1.0, SMALL, scene=walled_road()).keyframe(stamps[1]).truth.label
    assert np.array_equal(late.mask_lidar, alone.mask_lidar)


def test_ground_truth_is_what_keyframes_hold_but_for_lidar_returns(drive):
    stamp = drive.keyframe_stamps()[1]
    truth = drive.ground_truth(stamp)
    assert truth.shape == OCC3D_GRID.size
    assert np.mean(truth != drive.keyframe(stamp).truth.label.semantics) < 1e-3


def test_the_bag_holds_everything_with_its_stamps(tmp_path):
    drive = CityDrive(5, 0.5, SMALL, scene=walled_road())
    with BagReader(write_city_bag(tmp_path / "bag", drive)) as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
        stamps = {m.log_time_ns for m in bag.messages() if m.topic == "/cam_front/image_raw/compressed"}
    assert counts["/lidar_top/points"] == 10
    assert all(counts[f"/{name}/image_raw/compressed"] == counts[f"/{name}/camera_info"] == 6 for name in CAMERAS)
    assert stamps == {drive.image_stamp("cam_front", t) for t in drive.set_stamps()}
    with pytest.raises(DatasetError, match="exists already"):
        write_city_bag(tmp_path / "bag", drive)
