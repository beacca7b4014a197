"""Sets to frames: mountings, poses at every sensor's own stamp, and what happens when either is not there."""

import threading

import numpy as np
import pytest

from occ_perception.assembler import Assembler, AssemblerConfig, Late, LidarPoints
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import PinholeCamera, rigid, rigid_from_rotation
from occ_perception.synchroniser import Arrival, Missing, SyncedSet

MS = 1_000_000
SECOND = 1_000 * MS
START = 1_000 * SECOND
IDENTITY = (0.0, 0.0, 0.0, 1.0)
K = np.array([[500.0, 0, 400], [0, 500, 225], [0, 0, 1]])
CAMERAS = ("cam_front", "cam_back")
POINTS = np.ones((5, 4), np.float32)


def camera(width=800, height=450):
    return PinholeCamera(K, np.eye(4), width, height)


def assembler(calibrated=CAMERAS, mounted=(*CAMERAS, "lidar_top"), poses_until=START + SECOND, **config):
    made = Assembler(AssemblerConfig(**config), CAMERAS)
    for i, name in enumerate(mounted):
        made.add_transform("base_link", name, 0, (1.0 + i, 0.0, 1.5), IDENTITY, static=True)
    for name in calibrated:
        made.set_camera(name, camera(), name)
    add_poses(made, START - SECOND, poses_until)
    return made


def add_poses(made, first, last, period=20 * MS, frame="odom"):
    """10 m/s along x, x = 0 at START."""
    for stamp in range(first, last + 1, period):
        made.add_transform(frame, "base_link", stamp, ((stamp - START) * 1e-8, 0.0, 0.0), IDENTITY)


def a_set(stamp=START, missing=None, **payloads):
    """A set of images and a sweep measured `offset` ms after its stamp: name=(offset, payload)."""
    arrivals = {name: Arrival(stamp + offset * MS, stamp, payload) for name, (offset, payload) in payloads.items()}
    return SyncedSet(stamp, "cam_front", stamp, arrivals, missing or {})


def image(data=b"jpeg"):
    return CameraImage(0, data)


def full_set(stamp=START):
    sweep = LidarPoints(POINTS, "lidar_top", np.zeros(5, np.float32))
    return a_set(stamp, cam_front=(0, image()), cam_back=(25, image()), lidar_top=(35, sweep))


def test_every_sensor_gets_the_pose_of_its_own_stamp():
    frame = assembler().assemble(full_set())
    assert isinstance(frame, Frame)
    assert frame.stamp_ns == START
    assert frame.notes == ()
    assert tuple(frame.rig) == CAMERAS
    x = {"frame": frame.odom_from_ego, "lidar": frame.lidar[0].odom_from_ego}
    x |= {name: i.odom_from_ego for name, i in frame.images.items()}
    np.testing.assert_allclose([x[k][0, 3] for k in ("frame", "cam_front", "cam_back", "lidar")], [0, 0, 0.25, 0.35])
    np.testing.assert_allclose(frame.rig["cam_back"].ego_from_camera, rigid((2.0, 0, 1.5), np.array(IDENTITY)))
    np.testing.assert_allclose(frame.lidar[0].ego_from_lidar[:3, 3], (3.0, 0, 1.5))
    assert frame.lidar[0].stamp_ns == START + 35 * MS
    assert frame.lidar[0].offsets_s is not None


def test_late_transforms_are_waited_for():
    made = assembler(poses_until=START + 20 * MS)
    late = made.assemble(full_set())  # the LiDAR's stamp is 35 ms after the set's
    assert isinstance(late, Late)
    assert "after the last transform" in late.reason
    add_poses(made, START + 40 * MS, START + 40 * MS)
    frame = made.assemble(full_set())
    assert isinstance(frame, Frame)
    assert frame.lidar[0].odom_from_ego[0, 3] == pytest.approx(0.35)


def test_giving_up_leaves_out_only_the_pose_that_is_missing():
    frame = assembler(poses_until=START + 20 * MS).assemble(full_set(), give_up=True)
    assert frame.odom_from_ego is not None
    assert frame.images["cam_front"].odom_from_ego is not None
    assert frame.images["cam_back"].odom_from_ego is None
    assert frame.lidar[0].odom_from_ego is None
    assert [n.split(":")[0] for n in frame.notes] == ["cam_back", "lidar_top"]


@pytest.mark.parametrize("poses_until", [START - SECOND - 1, START - 2 * SECOND])
def test_missing_odometry_is_not_waited_for(poses_until):
    frame = assembler(poses_until=poses_until).assemble(full_set())
    assert frame.odom_from_ego is None
    assert set(frame.images) == set(CAMERAS)
    assert len(frame.lidar) == 1
    assert len(frame.notes) == 1
    assert "no pose of the vehicle: frame 'odom' is unknown; known frames" in frame.notes[0]


def test_odometry_that_stopped_is_not_waited_for():
    made = assembler(poses_until=START, tf_stale_s=0.5)
    assert isinstance(made.assemble(full_set(START + 300 * MS)), Late)
    frame = made.assemble(full_set(START + 600 * MS))
    assert isinstance(frame, Frame)
    assert frame.odom_from_ego is None


def test_sets_older_than_the_transforms_are_not_waited_for():
    frame = assembler().assemble(full_set(START - 5 * SECOND))
    assert frame.odom_from_ego is None
    assert "before the first transform" in frame.notes[0]


def test_map_replaces_odom_only_if_allowed():
    for fallback, known in (("", False), ("map", True)):
        made = Assembler(AssemblerConfig(fallback_fixed_frame=fallback), ("cam_front",))
        add_poses(made, START - SECOND, START + SECOND, frame="map")
        frame = made.assemble(a_set(cam_front=(0, image())))
        assert (frame.odom_from_ego is not None) is known
    add_poses(made, START + 2 * SECOND, START + 3 * SECOND, frame="odom")  # odom took the vehicle over
    frame = made.assemble(a_set(START + 2 * SECOND + 20 * MS, cam_front=(0, image())))
    assert frame.odom_from_ego[0, 3] == pytest.approx(20.2)


def test_camera_without_calibration_is_left_out_with_its_reason():
    frame = assembler(calibrated=("cam_front",)).assemble(full_set())
    assert set(frame.images) == {"cam_front"}
    assert frame.notes == ("cam_back left out: no calibration has come",)


def test_camera_without_mounting_is_left_out_with_its_reason():
    made = assembler(mounted=("cam_front", "lidar_top"))
    frame = made.assemble(full_set())
    assert set(frame.images) == {"cam_front"}
    assert "cam_back left out: mounting not known: frame 'cam_back' is unknown" in frame.notes[0]
    assert set(made.problems) == {"cam_back"}
    made.add_transform("base_link", "cam_back", 0, (0, 0, 0), IDENTITY, static=True)
    assert set(made.assemble(full_set()).images) == set(CAMERAS)
    assert made.problems == {}


def test_lidar_without_mounting_is_left_out_with_its_reason():
    frame = assembler(mounted=CAMERAS).assemble(full_set())
    assert frame.lidar == ()
    assert "lidar_top left out: frame 'lidar_top' is unknown" in frame.notes[0]


def test_cameras_may_be_configured_later():
    made = assembler()
    made.use_cameras(("cam_back",))
    frame = made.assemble(full_set())
    assert set(frame.images) == set(frame.rig) == {"cam_back"}
    assert frame.notes == ("cam_front left out: not a configured camera",)
    made.use_cameras(("cam_back", "cam_front"))
    assert tuple(made.assemble(full_set()).rig) == ("cam_back", "cam_front")


def test_unreadable_messages_and_missing_sensors_are_noted():
    bad = a_set(
        cam_front=(0, image()),
        cam_back=(25, InvalidInputError("image: 7 bytes cannot be decoded")),
        missing={"lidar_top": Missing.SILENT},
    )
    frame = assembler().assemble(bad)
    assert set(frame.images) == {"cam_front"}
    assert frame.notes == ("lidar_top: no message (silent)", "cam_back left out: image: 7 bytes cannot be decoded")


def test_bad_point_array_costs_only_the_lidar():
    flat = LidarPoints(np.zeros(7, np.float32), "lidar_top")
    frame = assembler().assemble(a_set(cam_front=(0, image()), lidar_top=(0, flat)))
    assert frame.lidar == ()
    assert set(frame.images) == {"cam_front"}
    assert "expected points [N, >= 3]" in frame.notes[0]


def test_rig_changes_exactly_when_the_calibration_does():
    made = assembler()
    first = made.assemble(full_set()).rig
    made.set_camera("cam_front", camera(), "cam_front")  # the same again, as CameraInfo comes with every image
    made.add_transform("base_link", "cam_front", 0, (1.0, 0.0, 1.5), IDENTITY, static=True)
    assert made.assemble(full_set()).rig.fingerprint == first.fingerprint
    assert made.assemble(full_set()).rig is made.rig
    made.set_camera("cam_front", PinholeCamera(K * [[1.01], [1], [1]], np.eye(4), 800, 450), "cam_front")
    second = made.assemble(full_set()).rig
    assert second.fingerprint != first.fingerprint
    made.add_transform("base_link", "cam_back", 0, (9.0, 0.0, 1.5), IDENTITY, static=True)
    assert made.assemble(full_set()).rig.fingerprint not in (first.fingerprint, second.fingerprint)


def test_mounting_over_tf_is_used_and_steady():
    """Some bags send even the fixed mountings over /tf; interpolation noise must not look like a new calibration."""
    made = assembler(mounted=("lidar_top",))
    angle = np.deg2rad(33.3)
    turned = (0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2))
    for stamp in range(START - SECOND, START + SECOND, 7 * MS):
        for name in CAMERAS:
            made.add_transform("base_link", name, stamp, (1.1, 0.2, 1.5), turned)
    rigs = {made.assemble(full_set(START + k * 13 * MS)).rig.fingerprint for k in range(20)}
    assert len(rigs) == 1
    a_little_past_the_last = made.assemble(full_set(START + SECOND + 900 * MS), give_up=True)
    assert a_little_past_the_last.rig.fingerprint in rigs
    for name in CAMERAS:
        made.add_transform("base_link", name, START + 6 * SECOND, (1.2, 0.2, 1.5), turned)
    assert made.assemble(full_set(START + 6 * SECOND), give_up=True).rig.fingerprint not in rigs


def test_a_mounting_that_stopped_coming_is_not_used_for_ever():
    """A pan-tilt head whose driver died: where its camera looks by now nobody knows."""
    made = assembler(mounted=(), poses_until=START + 5 * SECOND)
    for name in (*CAMERAS, "lidar_top"):
        made.add_transform("base_link", name, START, (1, 0, 1), IDENTITY)
    for k in range(10):
        made.add_transform("base_link", "cam_front", START + k * 500 * MS, (1, 0, 1), IDENTITY)
    frame = made.assemble(full_set(START + 900 * MS))
    assert set(frame.images) == set(CAMERAS)
    assert len(frame.lidar) == 1
    only_front = a_set(START + 3 * SECOND, cam_front=(0, image()))
    for synced in (full_set(START + 3 * SECOND), only_front, full_set(START + 3 * SECOND)):
        frame = made.assemble(synced)
        assert set(frame.images) == set(frame.rig) == {"cam_front"}
        assert frame.lidar == ()
        assert set(made.problems) == {"cam_back", "lidar_top"}
    assert "cam_back left out: mounting not known: base_link <- cam_back: stopped coming 3.025 s before" in frame.notes
    assert "lidar_top left out: base_link <- lidar_top: stopped coming 3.035 s before" in frame.notes
    for name in ("cam_back", "lidar_top"):
        made.add_transform("base_link", name, START + 4 * SECOND, (1, 0, 1), IDENTITY)
    assert made.assemble(full_set(START + 4 * SECOND)).notes == ()
    assert made.problems == {}


def test_the_frame_says_what_its_poses_refer_to():
    made = Assembler(AssemblerConfig(fallback_fixed_frame="map"), ("cam_front",))
    add_poses(made, START - SECOND, START + SECOND, frame="map")
    assert made.assemble(a_set(cam_front=(0, image()))).fixed_frame == "map"
    add_poses(made, START + 2 * SECOND, START + 3 * SECOND, frame="odom")
    assert made.assemble(a_set(START + 2 * SECOND, cam_front=(0, image()))).fixed_frame == "odom"


def test_calibration_from_a_file_needs_no_transforms():
    made = Assembler(AssemblerConfig(), CAMERAS)
    mount = rigid_from_rotation(np.eye(3), [0.5, 0, 1])
    made.set_camera("cam_front", PinholeCamera(K, mount, 800, 450), None)
    made.set_lidar_mount(mount)
    frame = made.assemble(full_set())
    np.testing.assert_array_equal(frame.rig["cam_front"].ego_from_camera, mount)
    np.testing.assert_array_equal(frame.lidar[0].ego_from_lidar, mount)


def test_transforms_that_go_back_start_anew():
    """A bag that loops: the poses of the first turn must not be mixed with those of the second."""
    made = assembler(poses_until=START + SECOND)
    add_poses(made, START - SECOND, START + 40 * MS)
    assert made.tf_resets == 1
    frame = made.assemble(full_set())
    assert frame.odom_from_ego[0, 3] == pytest.approx(0.0)
    assert set(frame.rig) == set(CAMERAS)  # static transforms stay
    made.add_transform("odom", "base_link", START, (0, 0, 0), IDENTITY)  # a little out of order is no jump
    assert made.tf_resets == 1


def test_a_single_late_transform_wipes_nothing(caplog):
    made = assembler()
    for k in range(20):
        made.add_transform("odom", "base_link", START + k * MS, (99, 0, 0), IDENTITY)  # 0.98 s late
        add_poses(made, START + SECOND + k * 20 * MS, START + SECOND + k * 20 * MS)
    assert made.tf_resets == 0
    assert made.assemble(full_set(START + 500 * MS)).odom_from_ego[0, 3] == pytest.approx(5.0)
    assert len(caplog.records) == 1, "said, but not every time"


def test_several_old_transforms_in_a_row_start_anew_and_are_kept():
    made = assembler()
    for k in range(3):
        made.add_transform("odom", "base_link", START - SECOND + k * 20 * MS, (7, 0, 0), IDENTITY)
    assert made.tf_resets == 1
    frame = made.assemble(a_set(START - SECOND + 30 * MS, cam_front=(0, image())))
    assert frame.odom_from_ego[0, 3] == pytest.approx(7)
    assert made.assemble(a_set(START, cam_front=(0, image())), give_up=True).odom_from_ego is None


def test_impossible_transforms_are_refused_and_change_nothing():
    made = assembler()
    for quaternion, child in (((0, 0, 0, 0), "base_link"), (IDENTITY, "odom"), ((np.nan, 0, 0, 1), "cam_front")):
        with pytest.raises(InvalidInputError):
            made.add_transform("odom", child, START, (0, 0, 0), quaternion)
    assert made.assemble(full_set()).notes == ()


def test_frames_are_assembled_while_transforms_arrive():
    made = assembler()
    stop = threading.Event()

    def feed():
        stamp = START + SECOND
        while not stop.is_set():
            add_poses(made, stamp, stamp)
            made.add_transform("base_link", "cam_back", 0, (2.0, 0.0, 1.5), IDENTITY, static=True)
            stamp += MS // 10  # history is 10 s long

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        frames = [made.assemble(full_set()) for _ in range(200)]
    finally:
        stop.set()
        feeder.join()
    assert {f.rig.fingerprint for f in frames if not f.notes} == {frames[0].rig.fingerprint}


@pytest.mark.parametrize("wrong", [{"base_frame": ""}, {"fixed_frame": "base_link"}, {"tf_timeout_s": -1.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        AssemblerConfig(**wrong)
