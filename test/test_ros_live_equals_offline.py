"""One bag through player and node over real DDS, and through the offline replayer: the same grids, bit for bit."""

import itertools
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("occ_perception.msg", reason="the messages of this package are not installed")

from occ_perception.data.synthetic_drive import write_synthetic_bag
from occ_perception.demo.processes import Children
from occ_perception.models import create_model
from occ_perception.replay import replay
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.session import Session

SWEEPS = 8  # what the listener keeps
RATE = 0.3  # slow enough that the node has time for every set, also on a busy machine


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
        children.start("play", [*python, "occ_perception.ros.play", str(bag), f"--rate={RATE}", "--delay=4"])
        listener.process.wait(timeout=120)
    grids = {}
    for path in received.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            grids[int(path.stem)] = {name: file[name] for name in file.files}
    return grids


def test_live_equals_offline(bag, tmp_path):
    live = live_grids(bag, tmp_path)
    offline = {o.stamp_ns: o for o in replay(bag, Session(create_model("lidar-carving", None, "cpu")))}
    assert set(live) <= set(offline)
    # Every grid remembers the sweeps before it: comparable up to the first that the node did not get.
    common = list(itertools.takewhile(live.__contains__, sorted(offline)))
    assert len(common) > SWEEPS // 2, f"the node gave {sorted(live)}"
    for stamp in common:
        for name in ("semantics", "visibility"):
            np.testing.assert_array_equal(
                live[stamp][name], getattr(offline[stamp], name), err_msg=f"{name} at {stamp}"
            )
