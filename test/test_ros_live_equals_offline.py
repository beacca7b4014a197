"""What is done without ROS equals what is done with it: grids on the wire, and one bag live and replayed."""

import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("occ_perception.msg", reason="the messages of this package are not installed")

from rclpy.serialization import deserialize_message

from occ_perception.bag_frames import BagFrames
from occ_perception.data.bag_messages import VOXEL_GRID, voxel_grid
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.message_definitions import message_store
from occ_perception.data.synthetic_drive import write_synthetic_bag
from occ_perception.demo.processes import Children
from occ_perception.geometry import VoxelGrid
from occ_perception.models import create_model
from occ_perception.msg import VoxelGrid as VoxelGridMessage
from occ_perception.occupancy import ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.ros.messages import occupancy_from_message
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


def test_grids_written_without_ros_are_read_by_ros():
    rng = np.random.default_rng(0)
    size = (20, 10, 8)
    semantics = rng.choice(np.array([3, 7, FREE, UNKNOWN], np.uint8), size)
    seen = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN)
    visibility = np.where(semantics == UNKNOWN, Visibility.OCCLUDED, seen).astype(np.uint8)
    occupied = semantics < FREE
    occupancy = Occupancy(
        stamp_ns=1_700_000_000_123_456_789,
        info=ModelInfo("model", OCC3D, VoxelGrid((-1.0, -2.0, -3.0), 0.4, size), "weights", "words"),
        semantics=semantics,
        visibility=visibility,
        confidence=(rng.integers(0, 256, size) * occupied).astype(np.uint8),
        flow=(np.round(rng.normal(size=(*size, 2)), 3) * occupied[..., None]).astype(np.float32),
        instances=(rng.integers(1, 9, size) * occupied).astype(np.uint16),
        cameras=("a", "b"),
        cameras_used=("b",),
        lidar_used=True,
    )
    for sparse in (True, False):
        cdr = bytes(message_store().serialize_cdr(voxel_grid(occupancy, sparse=sparse), VOXEL_GRID))
        read = occupancy_from_message(deserialize_message(cdr, VoxelGridMessage))
        for name in ("semantics", "visibility", "confidence", "instances"):
            np.testing.assert_array_equal(getattr(read, name), getattr(occupancy, name), err_msg=name)
        np.testing.assert_allclose(read.flow, occupancy.flow, atol=5e-4)
        assert (read.info, read.stamp_ns, read.cameras_used) == (occupancy.info, occupancy.stamp_ns, ("b",))


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
