"""Rate and latency of the live pipeline over real DDS: player and perception node as processes, sensors to grids.

    python benchmarks/pipeline.py --seconds 20
    python benchmarks/pipeline.py --model alocc-2d-mini --allow-untrained --device cuda

Six cameras of 1600x900 JPEG at 12 Hz, a LiDAR at 20 Hz and transforms, all from the tests' street.  The latencies are
the node's own, from /diagnostics; "total" is from the anchor's arrival in the node to the grid's publication.  Random
weights (--allow-untrained) are as slow as trained ones; the grids are not looked at.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from heapq import merge
from operator import itemgetter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

from street.drive import StreetDrive

from benchmarks.report import report
from occ_perception.data.drive_bag import DriveBag, transform_stamps
from occ_perception.demo.processes import Child, Children
from occ_perception.image_codec import encode_jpeg
from occ_perception.installation import share_path
from occ_perception.ros.environment import child_environment, private_network

START_TIMEOUT_S = 120.0
DISCOVERY_S = 5.0


def write_drive(path: Path, drive: StreetDrive, jpeg: bytes, keep: int = 1) -> Path:
    """A drive as a bag, quickly: all images are the same, and of each sweep only every keep-th point is written.

    Returns:
        The path.
    """
    images = sorted((drive.image_stamp(name, s), name) for s in drive.set_stamps() for name in drive.rig)
    sweeps = drive.sweep_stamps()
    stamps = transform_stamps([stamp for stamp, _ in images] + sweeps)
    standing = drive.scan(sweeps[0]) if drive.speed == 0 else None  # then one sweep serves all

    def write_sweep(bag: DriveBag, stamp_ns: int) -> None:
        scan = standing or drive.scan(stamp_ns)
        columns = (scan.points[::keep], scan.rings[::keep], scan.offsets_s[::keep])
        bag.write_points(stamp_ns, "lidar_top", *map(np.ascontiguousarray, columns))

    with DriveBag(path, drive.rig) as bag:
        bag.write_static(stamps[0], {"lidar_top": drive.ego_from_lidar})
        poses = ((s, partial(bag.write_pose, s, drive.odom_from_ego(s))) for s in stamps)
        pictures = ((s, partial(bag.write_image, s, name, jpeg)) for s, name in images)
        clouds = ((s, partial(write_sweep, bag, s)) for s in sweeps)
        for _, write in merge(poses, pictures, clouds, key=itemgetter(0)):
            write()
    return path


def noise_jpeg() -> bytes:
    """An image of full size and, encoded, of about the size that cameras' images have."""
    return encode_jpeg(np.random.default_rng(0).integers(0, 90, (900, 1600, 3), np.uint8), 20)


class Listener:
    """Counts grids and keeps the newest diagnostics, in this process."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.signals import SignalHandlerOptions

        from occ_perception.msg import VoxelGrid
        from occ_perception.ros.qos import OUTPUTS

        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._rclpy = rclpy
        self._node = rclpy.create_node("pipeline_benchmark")
        self.arrivals_s: list[float] = []
        self.diagnostics: dict[str, dict[str, str]] = {}
        self._node.create_subscription(
            VoxelGrid, "/perception/voxels", lambda _: self.arrivals_s.append(time.monotonic()), OUTPUTS
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)

    def _diagnosed(self, message: object) -> None:
        for status in message.status:  # type: ignore[attr-defined]
            self.diagnostics[status.name.split(": ", 1)[1]] = {value.key: value.value for value in status.values}

    def spin(self) -> None:
        """Take what has come."""
        self._rclpy.spin_once(self._node, timeout_sec=0.1)

    def close(self) -> None:
        """Leave the network."""
        self._node.destroy_node()
        self._rclpy.try_shutdown()


def measure(bag: Path, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Play the bag through the node; returns what was measured."""
    network = {**private_network(), "ROS_LOG_DIR": str(folder)}
    os.environ.update(child_environment(network))
    listener = Listener()
    parameters = [f"model:={options.model}", f"device:={options.device}"]
    parameters += [f"allow_untrained:={str(options.allow_untrained).lower()}", f"torch_threads:={options.threads}"]
    arguments = ["--ros-args", "--params-file", str(share_path("config/nuscenes.yaml"))]
    arguments += [part for parameter in parameters for part in ("-p", parameter)]
    python = [sys.executable, "-m"]
    try:
        with Children(folder, child_environment(network)) as children:
            node = children.start("perception", [*python, "occ_perception.ros.perception", *arguments])
            wait(listener, node, lambda: bool(listener.diagnostics))
            player = children.start("play", [*python, "occ_perception.ros.play", str(bag), "--delay", str(DISCOVERY_S)])
            wait(listener, node, lambda: bool(listener.arrivals_s) or not player.running)
            begin_s, cpu_s = time.monotonic(), cpu_seconds(node)
            wait(listener, node, lambda: not player.running)
            busy = (cpu_seconds(node) - cpu_s) / (time.monotonic() - begin_s)
            return summary(listener, node, busy)
    finally:
        listener.close()


def wait(listener: Listener, node: Child, until: Callable[[], bool]) -> None:
    """Listen until something is so."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while not until():
        listener.spin()
        if not node.running or time.monotonic() > end_s:
            raise SystemExit(f"the node did not come so far:\n{node.tail()}")


def cpu_seconds(child: Child) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(listener: Listener, node: Child, cores: float) -> dict[str, object]:
    """Figures of the run."""
    times = np.array(listener.arrivals_s)
    memory = Path(f"/proc/{node.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
    model = listener.diagnostics["model"]
    return {
        "grids": len(times),
        "rate_hz": round((len(times) - 1) / (times[-1] - times[0]), 2) if len(times) > 1 else 0.0,
        "longest_gap_ms": round(float(np.diff(times).max()) * 1e3, 1) if len(times) > 1 else None,
        "node_cpu_cores": round(cores, 2),
        "node_peak_memory_mb": int(memory) >> 10,
        "sets": {key: int(value) for key, value in model.items() if key.startswith("sets")},
        "latency": listener.diagnostics["latency"],
        "dropped": {k: v for k, v in listener.diagnostics["synchronisation"].items() if k != "anchor"},
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lidar-carving")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--allow-untrained", action="store_true", help="random weights, for speed only")
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's threads; 0 = its choice")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        drive = StreetDrive(options.seconds, seed=0, image_size=(1600, 900), speed=0.0)
        measured = measure(write_drive(Path(folder, "drive"), drive, noise_jpeg()), Path(folder), options)
    rows = [{"figure": name, "value": value} for name, value in measured.items() if not isinstance(value, dict)]
    for group in ("sets", "latency", "dropped"):
        rows += [{"figure": f"{group}: {name}", "value": value} for name, value in measured[group].items()]  # type: ignore[attr-defined]
    report(f"pipeline_{options.model}", rows)


if __name__ == "__main__":
    main()
