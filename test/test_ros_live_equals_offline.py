"""One bag through player and node over real DDS, and through the offline replayer: the same grids, bit for bit."""

import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("occ_perception.msg", reason="the messages of this package are not installed")

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.synthetic_drive import write_synthetic_bag
from occ_perception.demo.processes import Children
from occ_perception.models import create_model
from occ_perception.replay import BagFrames
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.session import Session

SWEEPS = 8  # what the listener keeps
RATE = 0.2  # so that a busy machine has time for most sets


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "bag"
    return write_synthetic_bag(path, seconds=SWEEPS / 20, image_size=(96, 54))


def live_grids(bag, folder):
    """Grids by stamp that came out of the node, as the demo's listener stored them."""
    received = folder / "received"
    received.mkdir()
    python = [sys.executable, "-m"]
    with Children(folder / "logs", child_environment(private_network())) as children:
        children.start("perception", [*python, "occ_perception.ros.perception"])
        listener = children.start(
            "listener",
            [*python, "occ_perception.ros.demo_subscriber", str(received), f"--grids={SWEEPS}", "--timeout=60"],
        )
        deadline = time.monotonic() + 60
        while not (received / "ready").exists() and time.monotonic() < deadline:  # the node is up
            time.sleep(0.05)
        children.start("play", [*python, "occ_perception.ros.play", str(bag), f"--rate={RATE}", "--delay=4"])
        listener.process.wait(timeout=100)
        said = children.tails()
    assert list(received.glob("*.npz")), said
    grids = {}
    for path in received.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            grids[int(path.stem)] = {name: file[name] for name in file.files}
    return grids


def test_live_equals_offline(bag, tmp_path):
    live = live_grids(bag, tmp_path)
    session = Session(create_model("lidar-carving", None, "cpu"))
    with BagReader(bag) as reader:
        frames = {f.stamp_ns: f for f in BagFrames(reader, images=False)}
    assert set(live) <= set(frames)
    assert len(live) > SWEEPS // 2
    for stamp in sorted(live):  # the node skips sets when it is busy: the offline session sees those that it saw
        occupancy = session.step(frames[stamp])
        for name in ("semantics", "visibility"):
            np.testing.assert_array_equal(live[stamp][name], getattr(occupancy, name), err_msg=f"{name} at {stamp}")
