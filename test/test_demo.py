"""The demo: its child processes, its inputs, what it says when something is missing, and how it ends."""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image
from street.drive import StreetDrive

from occ_perception import demo
from occ_perception.demo import perceive, report
from occ_perception.demo.inputs import nuscenes_input, synthetic_input
from occ_perception.demo.perceive import DemoError, ModelChoice, Perceived, perceive_live, perceive_offline
from occ_perception.demo.processes import Children
from occ_perception.errors import ConfigurationError
from occ_perception.models import create_model
from occ_perception.occupancy import Instance
from occ_perception.session import Session

STUBBORN = (
    "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('deaf', flush=True); time.sleep(60)"
)


def options(tmp_path, *arguments):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(["-o", str(tmp_path / "out"), *arguments])


@pytest.fixture(scope="module")
def short_drive(tmp_path_factory):
    """0.3 s of the demo's own drive as a bag."""
    return synthetic_input(tmp_path_factory.mktemp("drive"), 0.3)


@pytest.fixture(scope="module")
def perceived(short_drive):
    return perceive_offline(short_drive, ModelChoice("lidar-carving", device="cpu"), None)


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# -- child processes


def test_children_end_with_the_block_whatever_ends_it(tmp_path):
    def crash():
        with Children(tmp_path, os.environ) as children:
            children.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
            started.extend(child.process for child in children._children)
            raise KeyError("anything")

    started = []
    with pytest.raises(KeyError):
        crash()
    assert started[0].poll() is not None
    assert gone(started[0].pid)


def test_a_child_that_ignores_polite_signals_is_killed_with_its_own_children(tmp_path):
    family = f"import subprocess,sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); exec({STUBBORN!r})"
    with Children(tmp_path, os.environ, patience_s=(0.1, 0.1)) as children:
        child = children.start("deaf", [sys.executable, "-c", family])
        wait_until(lambda: child.log.read_text().count("deaf") == 2)
        group = child.process.pid
    assert child.process.returncode == -signal.SIGKILL

    def group_gone():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(group_gone)


def test_the_tail_tells_how_a_child_ended_and_what_it_said_last(tmp_path):
    with Children(tmp_path, os.environ) as children:
        child = children.start(
            "talker", [sys.executable, "-c", "[print('line', i) for i in range(99)]; raise SystemExit(3)"]
        )
        wait_until(lambda: not child.running)
        tail = children.tails()
    assert "talker (ended with 3)" in tail
    assert "line 98" in tail
    assert "line 50" not in tail


# -- inputs


def test_a_real_keyframe_becomes_a_bag_of_one_sample(keyframe, tmp_path):
    source = nuscenes_input(keyframe, tmp_path)
    assert source.repeat
    assert "CC BY-NC-SA" in source.title
    (grid,) = perceive_offline(source, ModelChoice("lidar-carving", device="cpu"), tmp_path).grids
    frame = report._frames_of(source.bag, [grid])[grid.stamp_ns]
    assert len(frame.images) == 6
    assert all(image.odom_from_ego is not None for image in frame.images.values())


def test_the_synthetic_drive_is_no_single_sample(short_drive):
    assert not short_drive.repeat
    assert "synthetic" in short_drive.title


# -- offline


def test_offline_grids_have_frames_with_the_images_around_them(short_drive, perceived):
    assert len(perceived.stamps_ns) == 6  # 20 Hz
    frames = report._frames_of(short_drive.bag, perceived.grids)
    assert max(len(frame.images) for frame in frames.values()) == 6
    assert set(frames) <= set(perceived.stamps_ns)
    assert "offline" in perceived.way
    assert any("model" in stage for stage in perceived.latencies)


def test_the_whole_demo_without_ros(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(perceive.importlib.util, "find_spec", lambda name: None)
    assert demo.run_demo(options(tmp_path, "--nuscenes", "--seconds", "0.2")) == 0
    said = capsys.readouterr().out
    for part in (
        "ROS 2 is not installed",
        "rclpy",
        "replayed offline",
        "nano, weights",
        "trained on: occ_perception's synthetic city only",
        "unknown",
        "different stamps",
    ):
        assert part in said
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir())
    names = ("birds_eye", "overlay", "scene", "summary")
    assert pictures == ["synthetic.webp", *(f"synthetic_{name}.png" for name in names)]
    for name in pictures:
        Image.open(tmp_path / "out" / name).verify()
    with Image.open(tmp_path / "out" / "synthetic.webp") as film:
        assert film.n_frames > 1


def test_one_bad_input_does_not_hide_the_others_but_the_demo_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "draw", lambda *_: [])
    (tmp_path / "empty").mkdir()
    status = demo.run_demo(options(tmp_path, "--offline", "--nuscenes", str(tmp_path / "empty"), "--seconds", "0.1"))
    said = capsys.readouterr().out
    assert status == 1
    assert "FAILED" in said
    assert "failed: empty" in said
    assert "last grid" in said  # of the synthetic drive


def test_a_wrong_model_ends_the_demo_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match="no-such-model"):
        demo.run_demo(options(tmp_path, "--offline", "--nuscenes", "--seconds", "0.1", "--model", "no-such-model"))


# -- live


def test_a_node_that_refuses_its_model_is_reported_with_its_own_words(short_drive, tmp_path):
    pytest.importorskip("rclpy")
    with pytest.raises(ConfigurationError, match="no-such-model"):
        perceive_live(short_drive, ModelChoice("no-such-model", device="cpu"), tmp_path)


def test_without_a_single_grid_the_demo_fails_with_the_logs(short_drive, tmp_path, monkeypatch):
    """A listener that hears nothing: what it and the others said is in the error, and they are gone."""
    pids = []
    started = Children.start

    def start(self, name, command):
        fake = {
            "perception": "import time; print('node says hello', flush=True); time.sleep(60)",
            "listener": "import sys, time, pathlib; pathlib.Path(sys.argv[1], 'ready').touch(); sys.exit(1)",
            "player": "import time; time.sleep(60)",
        }[name]
        child = started(self, name, [sys.executable, "-c", fake, *command[3:]])
        pids.append(child.process.pid)
        return child

    monkeypatch.setattr(Children, "start", start)
    with pytest.raises(DemoError, match=r"(?s)no grid came.*node says hello"):
        perceive_live(short_drive, ModelChoice("lidar-carving"), tmp_path)
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)


def test_what_the_listener_writes_is_what_the_demo_reads(tmp_path):
    pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    from occ_perception.ros.demo_subscriber import Reception
    from occ_perception.ros.messages import instances_to_message, occupancy_to_message

    reception = Reception()
    frames = list(StreetDrive(0.2).frames(images=False))
    session = Session(create_model("lidar-carving"))
    grids = [session.step(frame) for frame in frames]
    walker = Instance(3, 0, 0.5, (1.0, 2.0, 0.5), (0.5, 0.5, 1.5), 0.25, (1.5, -0.5, 0.0))
    grids[-1] = replace(grids[-1], objects=(walker,))
    for grid in grids:
        reception.take_instances(instances_to_message(grid))
        reception.take_grid(occupancy_to_message(grid))
    assert not reception.complete(len(grids))
    status = DiagnosticStatus(name="perception: model", values=[KeyValue(key="sets", value="4")])
    reception.take_diagnostics(DiagnosticArray(status=[status]))
    assert reception.complete(len(grids))
    assert not reception.complete(len(grids) + 1)
    reception.save(tmp_path)
    read = perceive._read(tmp_path, "live")
    assert read.sets == "4 sets"
    assert read.stamps_ns == tuple(grid.stamp_ns for grid in grids)
    for got, sent in zip(read.grids, grids, strict=True):
        assert (got.semantics == sent.semantics).all()
        assert (got.visibility == sent.visibility).all()
        assert (got.grid, got.objects) == (sent.grid, sent.objects)
        assert (got.info.name, got.info.trained_on, got.lidar_used) == (sent.info.name, sent.info.trained_on, True)


@pytest.mark.slow
def test_live_grids_of_the_real_keyframe_equal_offline_ones(keyframe, tmp_path):
    pytest.importorskip("rclpy")
    source = nuscenes_input(keyframe, tmp_path)
    choice = ModelChoice("lidar-carving", device="cpu")
    live, offline = perceive_live(source, choice, tmp_path / "live"), perceive_offline(source, choice, tmp_path)
    assert set(live.stamps_ns) == set(offline.stamps_ns)
    assert (live.grids[-1].semantics == offline.grids[-1].semantics).all()
    assert any("total" in stage for stage in live.latencies)


# -- report


def test_the_report_counts_stamps_and_rate(perceived, capsys):
    report.print_report(Perceived("live", (1, 2, 3), 1.0, perceived.grids, {"model (ms)": "median 7"}, "5 sets"))
    said = capsys.readouterr().out
    assert "3 received, 3 different stamps, 2.0 a second; of 5 sets" in said
    assert "median 7" in said
    report.print_report(Perceived("live", (1, 1, 1), 1.0, perceived.grids))  # one sample, repeated: not a rate
    assert "a second" not in capsys.readouterr().out


def test_the_picture_is_of_the_newest_grid_with_all_images(short_drive, perceived, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(report, "write_pictures", lambda *arguments: drawn.append(arguments) or [])
    report.draw(short_drive, perceived, tmp_path)
    ((_, name, grid, frame, origin),) = drawn
    assert name == "synthetic"
    assert len(frame.images) == 6
    assert frame.stamp_ns == grid.stamp_ns
    assert origin.way == perceived.way
