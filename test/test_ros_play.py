"""The player in a process of its own, heard over real DDS."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

from conftest import REPOSITORY
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from ros_processes import mapped_segments, stage
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2
from tf2_msgs.msg import TFMessage

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.drive_bag import DriveBag
from occ_perception.geometry import CameraRig, rigid_from_rotation
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.ros.messages import points_from_message, stamp_to_ns
from occ_perception.ros.play import _parser
from occ_perception.ros.play import play as play_bag
from occ_perception.ros.process import StopFlag

MS = 1_000_000
START = 1_700_000_000 * 1_000 * MS
SWEEPS = [START + 50 * k * MS for k in range(40)]  # 2 s
LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def write_bag(path, storage):
    with DriveBag(path, CameraRig(), storage) as writer:
        writer.write_static(START, {"lidar_top": rigid_from_rotation(np.eye(3), [0, 0, 1.8])})
        for k, stamp in enumerate(SWEEPS):
            writer.write_pose(stamp, rigid_from_rotation(np.eye(3), [k, 0, 0]))
            points = np.full((100, 4), k, np.float32)
            writer.write_points(stamp, "lidar_top", points, np.zeros(100, np.uint16), np.zeros(100, np.float32))
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", "mcap")


def play(*arguments):
    """Run the player to its end, alone."""
    command = [sys.executable, "-m", "occ_perception.ros.play", *map(str, arguments)]
    environment = child_environment(private_network())
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_plays_everything_at_its_pace_with_a_clock_and_latched_statics(storage, tmp_path):
    bag = write_bag(tmp_path / "drive", storage)
    with stage(tmp_path) as on:
        clouds, clock = on.listen(PointCloud2, "/lidar_top/points", 50), on.listen(Clock, "/clock", 50)
        player = on.start("play", bag, "--rate", "2", "--clock", "50", "--delay", "2")
        assert on.spin(20, lambda: len(clouds) >= 5), player.tail()
        late = on.listen(TFMessage, "/tf_static", LATCHED)  # joins in the middle
        on.spin(20, lambda: not player.running)
        on.spin(0.2)
        assert player.process.returncode == 0, player.tail()
    assert [stamp_to_ns(m.header.stamp) for _, m in clouds] == SWEEPS
    assert [points_from_message(m)[0, 0] for _, m in clouds] == list(range(40))
    (static,) = late
    assert {t.child_frame_id for t in static[1].transforms} == {"odom", "lidar_top"}
    took = clouds[-1][0] - clouds[0][0]
    assert 0.85 < took < 2.0, "1.95 s at twice the speed"
    ticks = [stamp_to_ns(m.clock) for _, m in clock]
    assert set(np.diff(ticks)) == {40 * MS}, "50 Hz of real time at twice the speed"
    assert ticks[0] == START


def test_part_of_a_bag_in_a_loop_until_it_is_told_to_stop(bag, tmp_path):
    with stage(tmp_path) as on:
        clouds, poses = on.listen(PointCloud2, "/lidar_top/points", 200), on.listen(TFMessage, "/tf", 200)
        part = ("--start", "0.5", "--duration", "0.3", "--topics", "/lidar_top/points", "/tf_static")
        player = on.start("play", bag, *part, "--loop", "--delay", "1")
        assert on.spin(20, lambda: len(clouds) >= 15), player.tail()
        static = on.listen(TFMessage, "/tf_static", LATCHED)
        assert on.spin(5, lambda: static), "what was latched before the start is played, too"
        segments = mapped_segments(player.process.pid)
        assert segments
        player.process.send_signal(signal.SIGINT)
        assert on.spin(5, lambda: not player.running)
        assert player.process.returncode == 0
        assert "loop 2: stamps go back by 0.300 s" in player.log.read_text()
    stamps = [stamp_to_ns(m.header.stamp) for _, m in clouds]
    part = SWEEPS[10:16]
    assert set(stamps) == set(part)
    turns = np.split(stamps, np.flatnonzero(np.diff(stamps) <= 0) + 1)
    assert len(turns) >= 3  # 15 sweeps and more
    assert max(map(len, turns)) == len(part), "a turn is the whole part"  # a listener without CPU time misses some
    assert poses == []
    assert [s for s in segments if s.exists()] == []


def test_says_what_the_bag_has_if_it_has_not_what_is_wanted(bag):
    result = play(bag, "--topics", "/cam_front/image", "/imu")
    assert result.returncode == 2
    assert "wanted /cam_front/image, /imu with messages; it has /lidar_top/points [sensor_msgs/msg/PointCloud2]" in (
        result.stderr
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent"], 2, "does not exist"),
        (["BAG", "--start", "nan"], 2, "--start: expected a finite number, got nan"),
        (["BAG", "--duration", "inf"], 2, "--duration: expected a finite number, got inf"),
        (
            ["BAG", "--duration", "1e-9", "--topics", "/tf", "--start", "0.01", "--loop"],
            2,
            "no messages in the 0.000 s",
        ),
        (["BAG", "--start", "60"], 2, "--start 60.0: the bag is 1.950 s long"),
        (["BAG", "--rate", "0"], 2, "expected a number > 0"),
        (["BAG", "--topics", "/tf", "--duration", "0.1", "--delay", "0"], 0, "perception cannot use what is played"),
    ],
    ids=["absent", "nan", "inf", "nothing in it", "start", "rate", "no sensors"],
)
def test_other_refusals_are_clear(bag, arguments, status, message):
    result = play(*[str(bag) if a == "BAG" else a for a in arguments])
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_loop_over_an_instant_does_not_spin(bag):
    """One message over and over: ten times a second, not as fast as the processor can."""
    reader, stop, sent = BagReader(bag), StopFlag(), []

    class Publishers:
        topics = frozenset({"/lidar_top/points"})

        def publish_all(self, messages):
            assert list(messages) == []

        def publish(self, message):
            sent.append((time.monotonic(), message.log_time_ns))
            if len(sent) == 4:
                stop.set()

    options = _parser().parse_args([str(bag), "--duration", "0.01", "--loop", "--delay", "0"])
    with reader:
        play_bag(reader, Publishers(), options, stop)
    assert {stamp for _, stamp in sent} == {START}
    assert np.diff([when for when, _ in sent]).min() > 0.09


def test_a_stop_during_the_delay_is_heard(bag, tmp_path):
    with stage(tmp_path) as on:
        player = on.start("play", bag, "--delay", "60")
        on.spin(20, lambda: "/tf" in dict(on.node.get_topic_names_and_types()))
        begin = time.monotonic()
        player.process.send_signal(signal.SIGTERM)
        assert on.spin(5, lambda: not player.running), player.tail()
        assert time.monotonic() - begin < 3
        assert player.process.returncode == 0
