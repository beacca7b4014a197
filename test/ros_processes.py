"""Real processes for tests: player and node on a network of their own, watched and always ended."""

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from occ_perception.demo.processes import Child, Children
from occ_perception.ros.environment import child_environment, prepare_process, private_network


class Stage:
    """Child processes, and a node of the test's own to listen with."""

    def __init__(self, children: Children) -> None:
        self.node = rclpy.create_node("listener")
        self._children = children
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def start(self, module: str, *arguments: object) -> Child:
        """Start ``python -m occ_perception.ros.<module>``."""
        command = [sys.executable, "-m", f"occ_perception.ros.{module}", *map(str, arguments)]
        return self._children.start(module, command)

    def spin(self, seconds: float, until=lambda: False, every=lambda: None) -> bool:
        """Listen for that long, or until something is so; returns whether it is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self._executor.spin_once(timeout_sec=0.02)
            every()
        return until()

    def listen(self, kind, topic, qos=10) -> list:
        """Subscribe; returns the list that messages are appended to, each with its time of arrival."""
        received: list = []
        self.node.create_subscription(kind, topic, lambda m: received.append((time.monotonic(), m)), qos)
        return received

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@contextmanager
def stage(folder: Path):
    """A stage on its own network; in the end everything on it has ended."""
    network = {**private_network(), "ROS_LOG_DIR": str(folder / "ros_log")}
    before = {name: os.environ.get(name) for name in network}
    os.environ.update(network)
    prepare_process()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with Children(folder, child_environment(network)) as children:
            made = Stage(children)
            try:
                yield made
            finally:
                made.close()
    finally:
        rclpy.try_shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def mapped_segments(pid: int) -> list[Path]:
    """Fast DDS's shared memory that a process uses: its own, and that of the processes it hears from."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted({Path(line.split()[-1]) for line in lines if "/dev/shm/fastdds_" in line and "port" not in line})


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
