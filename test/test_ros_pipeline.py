"""The product as it runs: player, node and listener in processes of their own, over real DDS.

Six cameras at 12 Hz, a LiDAR at 20 Hz and transforms for ten seconds through ``perception``.
"""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("occ_perception.msg", reason="needs the generated messages")

from conftest import REPOSITORY
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from ros_processes import mapped_segments, resident_mb, stage
from sensor_msgs.msg import PointCloud2
from street.drive import StreetDrive
from visualization_msgs.msg import MarkerArray

from benchmarks.pipeline import noise_jpeg, write_drive
from occ_perception.image_codec import encode_jpeg
from occ_perception.models import create_model
from occ_perception.msg import VoxelGrid
from occ_perception.parameters import Parameters
from occ_perception.replay import replay
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.ros.messages import occupancy_from_message, stamp_to_ns
from occ_perception.ros.qos import OUTPUTS
from occ_perception.session import Session

NUSCENES = REPOSITORY / "config" / "nuscenes.yaml"
SECONDS = 10.0
LATE_JOIN = 4.0


@dataclass(repr=False)
class Run:
    """What was seen of one run of the pipeline."""

    anchors: set[int]
    grids: list = field(default_factory=list)
    late: dict = field(default_factory=dict)
    joined_s: float = 0.0
    memory_mb: list = field(default_factory=list)
    diagnostics: dict = field(default_factory=dict)
    status: int | None = None
    shutdown_s: float = 0.0
    left_in_shared_memory: list = field(default_factory=list)
    log: str = ""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Play ten seconds through the node once; the tests below look at different sides of it."""
    folder = tmp_path_factory.mktemp("pipeline")
    drive = StreetDrive(SECONDS, seed=3, image_size=(1600, 900), speed=0.0)
    bag = write_drive(folder / "drive", drive, noise_jpeg())
    seen = Run({drive.image_stamp("cam_front", s) for s in drive.set_stamps()})
    with stage(folder) as on:
        grids = on.listen(VoxelGrid, "/perception/voxels", OUTPUTS)
        reports = on.listen(DiagnosticArray, "/diagnostics")
        node = on.start("perception", "--ros-args", "--params-file", NUSCENES)
        assert on.spin(30, lambda: reports), node.tail()
        player = on.start("play", bag, "--delay", "4")
        assert on.spin(30, lambda: grids), f"{player.tail()}\n{node.tail()}"
        begin = time.monotonic()
        watch = partial(_watch, on, seen, node.process.pid, begin)
        assert on.spin(30, lambda: not player.running, watch), player.tail()
        on.spin(0.5)
        segments = mapped_segments(node.process.pid)
        assert segments, "expected Fast DDS to use shared memory"
        asked = time.monotonic()
        node.process.send_signal(signal.SIGINT)
        on.spin(10, lambda: not node.running)
        seen.status, seen.shutdown_s = node.process.returncode, time.monotonic() - asked
        seen.grids = [(when, stamp_to_ns(m.header.stamp), m) for when, m in grids]
        last = reports[-1][1]
        seen.diagnostics = {s.name: SimpleNamespace(level=s.level, message=s.message) for s in last.status}
        seen.log = node.log.read_text()
    # The node maps the segments of those it hears from as well, so they are all counted when all have ended.
    seen.left_in_shared_memory = [s for s in segments if s.exists()]
    return seen


def _watch(on, seen, pid, begin):
    """Once a second note the memory; in the middle join with the topics nobody has listened to so far."""
    elapsed = time.monotonic() - begin
    if elapsed > len(seen.memory_mb):
        seen.memory_mb.append(resident_mb(pid))
    if elapsed > LATE_JOIN and not seen.late:
        seen.joined_s = time.monotonic()
        kinds = {"points": PointCloud2, "markers": MarkerArray, "ground_grid": OccupancyGrid, "voxels": VoxelGrid}
        seen.late = {name: on.listen(kind, f"/perception/{name}", OUTPUTS) for name, kind in kinds.items()}


def test_every_grid_is_stamped_as_its_anchor(run):
    stamps = [stamp for _, stamp, _ in run.grids]
    assert set(stamps) <= run.anchors
    assert all(a < b for a, b in pairwise(stamps))
    assert {m.header.frame_id for _, _, m in run.grids} == {"base_link"}


def test_grids_hold_what_the_lidar_saw(run):
    occupancy = occupancy_from_message(run.grids[-1][2])
    counts = occupancy.counts()
    assert occupancy.lidar_used
    assert occupancy.temporal.frames > 0
    assert counts["occupied"] > 1000
    assert counts["ground"] > 1000
    assert counts["free"] > 10_000
    assert counts["unknown"] > 10_000


def test_grids_keep_coming_and_keep_up(run):
    """How many a second is benchmarks/pipeline.py's; on however busy a machine there is no backlog of old sets."""
    times = [when for when, _, _ in run.grids]
    assert len(times) > SECONDS, run.log
    assert max(b - a for a, b in pairwise(times)) < 5.0, run.log
    assert max(run.anchors) - run.grids[-1][1] < 2_000_000_000, run.log


def test_memory_does_not_grow(run):
    assert len(run.memory_mb) >= 8
    assert max(run.memory_mb) - run.memory_mb[3] < 50, run.memory_mb


def test_late_joiners_are_served(run):
    for name, received in run.late.items():
        assert received, name
        assert received[0][0] - run.joined_s < 4.0, name


def test_diagnostics_name_every_sensor(run):
    sensors = {f"perception: sensor {n}" for n in (*StreetDrive(1.0).rig, "lidar_top")}
    assert sensors <= set(run.diagnostics)


def test_ends_cleanly_and_leaves_no_shared_memory(run):
    assert run.status == 0, run.log
    assert run.shutdown_s < 8.0
    assert run.left_in_shared_memory == []
    assert "Traceback" not in run.log


def test_live_equals_offline(tmp_path):
    """The same bag through player and node, and through the replayer: the same sets, the same grids."""
    drive = StreetDrive(1.5, seed=5, image_size=(160, 90))
    jpeg = encode_jpeg(np.zeros((90, 160, 3), np.uint8))
    bag = write_drive(tmp_path / "drive", drive, jpeg, keep=8)  # small sweeps, so that live no set is skipped
    parameters = Parameters.from_file(NUSCENES)
    offline = {o.stamp_ns: o for o in replay(bag, Session(create_model("lidar-carving")), parameters)}
    with stage(tmp_path) as on:
        grids = on.listen(VoxelGrid, "/perception/voxels", 100)
        ready = on.listen(DiagnosticArray, "/diagnostics")
        arguments = ("--params-file", NUSCENES, "-p", "use_sim_time:=true", "-p", "torch_threads:=1")
        node = on.start("perception", "--ros-args", *arguments)
        assert on.spin(30, lambda: ready), node.tail()
        player = on.start("play", bag, "--clock", "--rate", "0.25", "--delay", "4")
        on.spin(60, lambda: not player.running)
        on.spin(3, lambda: len(grids) >= len(offline))
        log = node.log.read_text()
    live = {o.stamp_ns: o for o in (occupancy_from_message(m) for _, m in grids)}
    assert sorted(live) == sorted(offline), log
    assert len(live) == len(drive.set_stamps())
    for stamp, grid in live.items():
        expected = offline[stamp]
        np.testing.assert_array_equal(grid.semantics, expected.semantics)
        np.testing.assert_array_equal(grid.visibility, expected.visibility)
        assert grid.temporal == expected.temporal
        assert (grid.cameras_used, grid.lidar_used) == (expected.cameras_used, expected.lidar_used)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["model:=alocc-9d"], "unknown model 'alocc-9d'; known models: lidar-carving, nano"),
        (["modle:=alocc-3d"], "unknown parameter 'modle' (did you mean 'model'?); the parameters are: model, "),
        (["tolerance:=wide"], "parameter tolerance: expected float, got str 'wide'"),
        (["model:=lidar-carving", "weights:=w.safetensors"], "lidar-carving takes no weights"),
        (["ground_grid_min_height:=30.0", "ground_grid_max_height:=31.0"], "30.0..31.0 m lies outside the grid"),
        (["diagnostics_period:=.inf"], "diagnostics_period: expected a finite number"),
        (["tolerance"], "Couldn't parse parameter override rule: '-p tolerance'"),
    ],
)
def test_configuration_that_is_no_good_is_refused_in_one_line(parameters, message):
    result = start(["--ros-args", *(part for parameter in parameters for part in ("-p", parameter))])
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--ros-args", "--params-file", "/nope.yaml"], "parameter file /nope.yaml: there is none that can be read"),
        (["--rosargs", "-p", "tolerance:=1"], "unknown arguments ['--rosargs', '-p', 'tolerance:=1']"),
    ],
)
def test_arguments_that_are_no_good_are_refused_in_one_line(arguments, line):
    result = start(arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"perception: {line}")
    assert len(result.stderr.splitlines()) == 1


def start(arguments):
    """Run a node that is expected to end by itself."""
    command = [sys.executable, "-m", "occ_perception.ros.perception", *arguments]
    environment = child_environment(private_network())
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
