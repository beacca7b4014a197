"""The demo's third process: listens to the perception node and keeps what came, for the demo to read without ROS.

Writes into its folder ``ready`` as soon as the node offers grids, the last grids as ``<stamp>.npz``, and at the end
``received.json`` (see `Reception.summary`).  Exit status 1 if no grid came.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from occ_perception.files import write_whole
from occ_perception.msg import VoxelGrid, VoxelInstanceArray
from occ_perception.occupancy import Instance, Occupancy
from occ_perception.occupancy_files import save_occupancy
from occ_perception.ros.messages import instances_from_message, occupancy_from_message, stamp_to_ns
from occ_perception.ros.qos import OUTPUTS

VOXELS, INSTANCES = "/perception/voxels", "/perception/instances"
_KEPT = 24
_SPIN_S = 0.1


class Reception:
    """The last grids, and when all of them came."""

    def __init__(self) -> None:
        self.grids: deque[Occupancy] = deque(maxlen=_KEPT)
        self.objects: deque[tuple[int, tuple[Instance, ...]]] = deque(maxlen=_KEPT)
        self.stamps_ns: list[int] = []
        self.arrivals_s: list[float] = []
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.diagnosed_s = 0.0

    def take_grid(self, message: VoxelGrid) -> None:
        """A grid came."""
        self.arrivals_s.append(time.monotonic())
        occupancy = occupancy_from_message(message)
        self.stamps_ns.append(occupancy.stamp_ns)
        self.grids.append(occupancy)

    def take_instances(self, message: VoxelInstanceArray) -> None:
        """The objects of a grid came, before it or after."""
        self.objects.append((stamp_to_ns(message.header.stamp), instances_from_message(message)[0]))

    def take_diagnostics(self, message: DiagnosticArray) -> None:
        """The node told its state."""
        self.diagnosed_s = time.monotonic()
        for status in message.status:
            self.diagnostics[status.name] = {"": status.message} | {value.key: value.value for value in status.values}

    def complete(self, grids: int) -> bool:
        """Whether so many grids came, and diagnostics that tell of them all."""
        return len(self.arrivals_s) >= grids and self.diagnosed_s > self.arrivals_s[grids - 1]

    def summary(self) -> dict[str, Any]:
        """Stamps and arrivals of all grids, the last diagnostics by name, and of the kept grids what .npz lacks."""
        objects = dict(self.objects)
        return {
            "stamps_ns": self.stamps_ns,
            "arrivals_s": self.arrivals_s,
            "diagnostics": self.diagnostics,
            "grids": {
                str(grid.stamp_ns): {
                    "trained_on": grid.info.trained_on,
                    "cameras": grid.cameras,
                    "cameras_used": grid.cameras_used,
                    "lidar_used": grid.lidar_used,
                    "temporal": dataclasses.asdict(grid.temporal),
                    "objects": [dataclasses.asdict(item) for item in objects.get(grid.stamp_ns, ())],
                }
                for grid in self.grids
            },
        }

    def save(self, folder: Path) -> None:
        """Write what came, ``received.json`` last."""
        for grid in self.grids:
            save_occupancy(folder / f"{grid.stamp_ns}.npz", grid)
        write_whole(folder / "received.json", json.dumps(self.summary()).encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Listen until enough grids came, or no more come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grids", type=int, required=True, help="stop after so many")
    parser.add_argument("--timeout", type=float, required=True, help="give up when none came for so long, seconds")
    parser.add_argument("--silence", type=float, default=2.0, help="stop when no more come for so long, seconds")
    arguments = parser.parse_args(argv)
    rclpy.init()
    node, reception = rclpy.create_node("demo_subscriber"), Reception()
    node.create_subscription(VoxelGrid, VOXELS, reception.take_grid, OUTPUTS)
    node.create_subscription(VoxelInstanceArray, INSTANCES, reception.take_instances, OUTPUTS)
    node.create_subscription(DiagnosticArray, "/diagnostics", reception.take_diagnostics, 10)
    try:
        _listen(node, reception, arguments)
        reception.save(arguments.folder)
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0 if reception.grids else 1


def _listen(node: Node, reception: Reception, arguments: argparse.Namespace) -> None:
    started, ready = time.monotonic(), False
    while rclpy.ok() and not reception.complete(arguments.grids):
        rclpy.spin_once(node, timeout_sec=_SPIN_S)
        now = time.monotonic()
        if not ready and node.count_publishers(VOXELS):
            write_whole(arguments.folder / "ready", b"")
            ready = True
        if reception.arrivals_s and now - reception.arrivals_s[-1] > arguments.silence:
            break
        if not reception.arrivals_s and now - started > arguments.timeout:
            break


if __name__ == "__main__":
    sys.exit(main())
