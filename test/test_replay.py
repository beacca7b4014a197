"""Frames of a bag are those that were recorded, always the same, and damage is survived."""

import os

import numpy as np
import pytest
from replay_models import Hits
from street.drive import StreetDrive, write_street_bag

from occ_perception.bag_frames import BagFrames
from occ_perception.data import bag_messages
from occ_perception.data.bag_messages import StampedTransform
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.bag_writer import reliable_qos
from occ_perception.data.drive_bag import DriveBag
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.geometry import CameraRig
from occ_perception.parameters import Parameters
from occ_perception.replay import replay
from occ_perception.session import Session

SIZE = (96, 54)
SECONDS = 0.8


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "bag"
    return write_street_bag(path, seconds=SECONDS, image_size=SIZE)


@pytest.fixture(scope="module")
def drive():
    return StreetDrive(SECONDS, image_size=SIZE)


def frames_of(path, parameters=None, **use):
    with BagReader(path) as reader:
        return list(BagFrames(reader, parameters, **use))


def test_frames_are_what_was_recorded(bag, drive):
    frames = frames_of(bag)
    assert [f.stamp_ns for f in frames] == [drive.image_stamp("cam_front", s) for s in drive.set_stamps()]
    for frame in frames:
        assert set(frame.images) == set(drive.rig) == set(frame.rig)
        assert frame.notes == ()
        np.testing.assert_allclose(frame.odom_from_ego, drive.odom_from_ego(frame.stamp_ns), atol=1e-9)
        for name, image in frame.images.items():
            assert image.data == drive.jpeg(name, image.stamp_ns)
            np.testing.assert_allclose(image.odom_from_ego, drive.odom_from_ego(image.stamp_ns), atol=1e-9)
            np.testing.assert_array_equal(frame.rig[name].intrinsics, drive.rig[name].intrinsics)
            np.testing.assert_allclose(frame.rig[name].ego_from_camera, drive.rig[name].ego_from_camera, atol=1e-9)
        (sweep,) = frame.lidar
        scan = drive.scan(sweep.stamp_ns)
        np.testing.assert_array_equal(sweep.points, scan.points)
        np.testing.assert_array_equal(sweep.offsets_s, scan.offsets_s)
        np.testing.assert_allclose(sweep.odom_from_ego, drive.odom_from_ego(sweep.stamp_ns), atol=1e-9)
        np.testing.assert_allclose(sweep.ego_from_lidar, drive.ego_from_lidar, atol=1e-9)


def test_usual_offsets_give_the_sets_in_which_the_cameras_were_fired(bag, drive):
    """By stamps alone the nearest image may be of the previous set: nuScenes' cameras fire over 43 ms."""
    offsets = {name: drive.image_stamp(name, 0) * 1e-9 for name in drive.rig} | {"lidar_top": 0.0}
    frames = frames_of(bag, Parameters(offsets=offsets))
    assert len(frames) == len(drive.set_stamps())
    for frame, set_stamp in zip(frames, drive.set_stamps(), strict=True):
        stamps = {name: image.stamp_ns for name, image in frame.images.items()}
        assert stamps == {name: drive.image_stamp(name, set_stamp) for name in drive.rig}
        assert frame.lidar[0].stamp_ns == set_stamp


def test_without_images_every_sweep_is_a_frame(bag, drive):
    frames = frames_of(bag, images=False)
    assert [f.stamp_ns for f in frames] == drive.sweep_stamps()
    assert all(not f.images and len(f.lidar) == 1 for f in frames)


def test_replay_is_deterministic_and_the_same_from_both_storages(bag, tmp_path):
    sqlite = write_street_bag(tmp_path / "bag", seconds=SECONDS, image_size=SIZE, storage="sqlite3")
    runs = [list(replay(path, Session(Hits(images=True)))) for path in (bag, bag, sqlite)]
    assert len(runs[0]) > 5
    for run in runs[1:]:
        assert [o.stamp_ns for o in run] == [o.stamp_ns for o in runs[0]]
        for a, b in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(a.semantics, b.semantics)
            np.testing.assert_array_equal(a.visibility, b.visibility)
            assert a.cameras_used == b.cameras_used == tuple(sorted(a.cameras_used))


def test_replay_equals_the_session_on_the_drive_itself(bag, drive):
    session = Session(Hits())
    direct = [session.step(frame) for frame in (drive.frame(s, images=False) for s in drive.sweep_stamps())]
    replayed = list(replay(bag, Session(Hits())))
    assert [o.stamp_ns for o in replayed] == [o.stamp_ns for o in direct]
    for a, b in zip(replayed, direct, strict=True):  # mountings went through quaternions: 1e-16, or one voxel's border
        assert np.count_nonzero(a.semantics != b.semantics) <= 3


def test_cut_off_bags_give_the_frames_before_the_damage(bag, drive, tmp_path, caplog):
    file = tmp_path / "cut.mcap"
    file.write_bytes((bag / "bag.mcap").read_bytes())
    os.truncate(file, file.stat().st_size // 2)
    stamps = [o.stamp_ns for o in replay(file, Session(Hits()))]
    assert 3 < len(stamps) < len(drive.sweep_stamps())
    assert stamps == drive.sweep_stamps()[: len(stamps)]
    assert "cut.mcap: cut off" in caplog.text


def test_frames_the_session_refuses_are_left_out(bag, drive, caplog):
    stamps = [o.stamp_ns for o in replay(bag, Session(Hits(refuse=2)))]
    assert stamps == drive.sweep_stamps()[2:]
    assert "not this one" in caplog.text


def test_nothing_perceived_is_an_error(bag):
    with pytest.raises(DatasetError, match="no frame could be perceived: not this one"):
        list(replay(bag, Session(Hits(refuse=1000))))


def write_bag(path, drive, stamps, tf_delay_ns=0, tf=True, jpeg=None, static=True):
    """A bag of the front camera and the LiDAR at chosen stamps; /tf may come later than it is stamped."""
    rig = CameraRig({"cam_front": drive.rig["cam_front"]})
    with DriveBag(path, rig) as bag:
        if static:
            bag.write_static(stamps[0] - 1, {"lidar_top": drive.ego_from_lidar})
        bag.add_topic("/tf", bag_messages.TRANSFORMS, reliable_qos(10))
        events = [(s, s, "data") for s in stamps]
        events += [(s + tf_delay_ns, s, "tf") for s in range(stamps[0], max(stamps) + 1, 10_000_000)] if tf else []
        for log, stamp, kind in sorted(events):
            if kind == "tf":
                edge = StampedTransform.of(stamp, "odom", "base_link", drive.odom_from_ego(stamp))
                bag.write("/tf", log, bag_messages.transforms([edge]))
            else:
                bag.write_image(stamp, "cam_front", jpeg or drive.jpeg("cam_front", stamp))
                scan = drive.scan(stamp)
                bag.write_points(stamp, "lidar_top", scan.points, scan.rings, None)
    return path


def test_late_transforms_are_waited_for_but_not_for_ever(drive, tmp_path):
    stamps = drive.sweep_stamps()[:8]
    late = frames_of(write_bag(tmp_path / "late", drive, stamps, tf_delay_ns=60_000_000))
    assert [f.stamp_ns for f in late] == stamps
    assert [f.odom_from_ego is not None for f in late] == [False, False] + [True] * 6  # none known for the first 60 ms
    too_late = frames_of(write_bag(tmp_path / "too_late", drive, stamps, tf_delay_ns=250_000_000))
    assert [f.stamp_ns for f in too_late] == stamps
    assert all(f.odom_from_ego is None and "no pose" in " ".join(f.notes) for f in too_late)


def test_without_transforms_of_the_vehicle_frames_have_no_pose(drive, tmp_path):
    frames = frames_of(write_bag(tmp_path / "bag", drive, drive.sweep_stamps()[:3], tf=False))
    assert len(frames) == 3
    assert all(f.odom_from_ego is None and f.images and f.lidar for f in frames)


def test_images_that_are_none_cost_only_themselves(drive, tmp_path):
    frames = frames_of(write_bag(tmp_path / "bag", drive, drive.sweep_stamps()[:3], jpeg=b"no picture"))
    assert len(frames) == 3
    assert all(not f.images and len(f.lidar) == 1 for f in frames)
    assert all("expected JPEG or PNG" in " ".join(f.notes) for f in frames)


def test_the_only_unmounted_sensors_are_an_error_that_says_so(drive, tmp_path):
    path = write_bag(tmp_path / "bag", drive, drive.sweep_stamps()[:3], static=False)
    frames = frames_of(path)
    assert all(not f.lidar and not f.images for f in frames)
    assert all("lidar_top" in " ".join(f.notes) for f in frames)


def test_a_bag_without_the_topics_says_what_it_has_and_what_is_wanted(bag, tmp_path):
    with pytest.raises(DatasetError, match=r"wanted cameras \['cam_up'\].*/cam_front/image_raw/compressed"):
        frames_of(bag, Parameters(cameras=("cam_up",)))
    with pytest.raises(DatasetError, match="wanted LiDAR 'lidar_side'"):
        frames_of(bag, Parameters(lidar="lidar_side"))
    with DriveBag(tmp_path / "empty", CameraRig()) as empty:
        empty.write_text(1, "/chatter", "hello")
    with pytest.raises(DatasetError, match=r"wanted camera images.*/chatter \[std_msgs/msg/String\]"):
        frames_of(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="anchor"):
        frames_of(bag, Parameters(anchor="cam_up"))


def test_chosen_cameras_and_no_lidar(bag):
    frames = frames_of(bag, Parameters(cameras=("cam_back", "cam_front"), lidar="none"))
    assert frames
    assert all(set(f.rig) == {"cam_back", "cam_front"} and not f.lidar for f in frames)


def test_topics_that_are_named(bag):
    names, topics = ("left", "right"), ("/cam_back/image_raw/compressed", "/cam_front/image_raw/compressed")
    frames = frames_of(bag, Parameters(cameras=names, image_topics=topics))
    assert frames
    assert all(set(f.images) == set(names) for f in frames)
    with pytest.raises(DatasetError, match=r"wanted the topics \['/none'\]"):
        frames_of(bag, Parameters(cameras=("left",), image_topics=("/none",)))


def test_calibration_from_a_file_instead_of_the_bag(bag, drive, tmp_path):
    calibration = tmp_path / "calibration.yaml"
    calibration.write_text(
        "cameras:\n  cam_front:\n    {width: 96, height: 54, intrinsics: [50, 50, 48, 27],"
        " position: [1, 2, 3], orientation: [0, 0, 0, 1]}\n"
        "lidar: {position: [4, 5, 6], orientation: [0, 0, 0, 1]}\n"
    )
    frames = frames_of(bag, Parameters(cameras=("cam_front",), calibration_file=str(calibration)))
    assert len(frames) == len(drive.set_stamps())
    for frame in frames:
        assert frame.rig["cam_front"].ego_from_camera[:3, 3].tolist() == [1, 2, 3]
        assert frame.lidar[0].ego_from_lidar[:3, 3].tolist() == [4, 5, 6]
