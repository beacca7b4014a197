"""Grids of a bag: live, through player and perception node over ROS 2, or replayed without it."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.demo.inputs import DemoInput
from occ_perception.demo.processes import Child, Children
from occ_perception.errors import ConfigurationError, OccPerceptionError
from occ_perception.geometry import VoxelGrid
from occ_perception.models import create_model, resolve_device
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, TemporalStatus
from occ_perception.ontology import ontology_by_name
from occ_perception.replay import replay
from occ_perception.ros.environment import child_environment, private_network
from occ_perception.ros.shared_memory import remove_stale_segments
from occ_perception.session import Session

_START_TIMEOUT_S = 60.0  # a busy machine takes its time to import PyTorch and load weights
_GRID_TIMEOUT_S = 15.0
_REFUSED = 2  # exit status of the node when its configuration is no good
_DISCOVERY_S = 2.5  # the node takes the topics it finds once they have been the same for a second
_REPEATS = 3
_ALL = 100_000
_KEPT = 24


class DemoError(OccPerceptionError):
    """The demo could not show what it should; the message has the end of the logs."""


@dataclass(frozen=True)
class ModelChoice:
    """Which model perceives."""

    name: str
    weights: Path | None = None
    device: str = "auto"
    allow_untrained: bool = False

    def ros_parameters(self) -> list[str]:
        """The same for the node."""
        values = {"model": self.name, "device": self.device, "allow_untrained": str(self.allow_untrained).lower()}
        if self.weights is not None:
            values["weights"] = str(self.weights.resolve())
        return ["--ros-args", *(part for name, value in values.items() for part in ("-p", f"{name}:={value}"))]


@dataclass(frozen=True)
class Perceived:
    """What came of one bag.

    Attributes:
        way: live or offline, in words; also on the pictures.
        stamps_ns: of all grids, in order.
        duration_s: from the first grid to the last, seconds.
        grids: the last few, in order.
        latencies: by stage, in words.
        sets: what became of the synchronised sets, in words, where the node tells.
    """

    way: str
    stamps_ns: tuple[int, ...]
    duration_s: float
    grids: tuple[Occupancy, ...]
    latencies: Mapping[str, str] = field(default_factory=dict)
    sets: str = ""


def missing_for_ros() -> str:
    """What ROS 2 needs and is not here; "" if nothing."""
    needed = {"rclpy": "rclpy", "occ_perception.msg": "this package's messages, which its installation generates"}
    return ", ".join(text for module, text in needed.items() if importlib.util.find_spec(module) is None)


def perceive_offline(source: DemoInput, choice: ModelChoice, work: Path) -> Perceived:
    """Replay the bag through the same core in this process; ``work`` is not used.

    Raises:
        OccPerceptionError: no grid could be made.
    """
    device = resolve_device(choice.device)
    model = create_model(choice.name, choice.weights, device, choice.allow_untrained)
    session = Session(model, device)
    grids, ends = [], []
    for occupancy in replay(source.bag, session):
        grids.append(occupancy)
        ends.append(time.monotonic())
    session.close()
    return Perceived(
        "replayed offline, without ROS 2",
        tuple(grid.stamp_ns for grid in grids),
        ends[-1] - ends[0],
        tuple(grids[-_KEPT:]),
        _latencies(grids),
    )


def _latencies(grids: list[Occupancy]) -> dict[str, str]:
    stages = dict.fromkeys(stage for grid in grids for stage in grid.timings_ms)
    times = {stage: np.array([g.timings_ms[stage] for g in grids if stage in g.timings_ms]) for stage in stages}
    return {
        f"{stage} (ms)": f"median {np.median(t):.2f}, 95 % {np.percentile(t, 95):.2f}, max {t.max():.2f}"
        for stage, t in times.items()
    }


def perceive_live(source: DemoInput, choice: ModelChoice, work: Path) -> Perceived:
    """Play the bag to the perception node and listen to it: three processes over DDS, on this machine only.

    Raises:
        DemoError: a process died, or no grid came in time; the message has the end of the logs.
        ConfigurationError: the node refuses the model or its weights.
    """
    remove_stale_segments()  # a demo that was killed leaves its shared memory behind
    received = work / "received"
    received.mkdir(parents=True)
    python = [sys.executable, "-m"]
    grids, timeout_s = _REPEATS if source.repeat else _ALL, _START_TIMEOUT_S + _GRID_TIMEOUT_S
    with Children(work / "logs", child_environment(private_network())) as children:
        perception = children.start("perception", [*python, "occ_perception.ros.perception", *choice.ros_parameters()])
        listener = children.start(
            "listener",
            [
                *python,
                "occ_perception.ros.demo_subscriber",
                str(received),
                f"--grids={grids}",
                f"--timeout={timeout_s}",
            ],
        )
        if not _wait_for(received / "ready", perception, listener):
            if perception.process.returncode == _REFUSED:
                raise ConfigurationError(perception.tail(1))
            raise DemoError(f"the perception node did not come up:\n{children.tails()}")
        player = [*python, "occ_perception.ros.play", str(source.bag), f"--delay={_DISCOVERY_S}"]
        player += ["--loop"] if source.repeat else []
        children.start("player", player)
        while listener.running:
            time.sleep(0.05)
            if not perception.running:
                raise DemoError(f"the perception node ended:\n{children.tails()}")
        if listener.process.returncode != 0:
            raise DemoError(f"no grid came:\n{children.tails()}")
    way = "live over ROS 2" + (", the one sample played repeatedly" if source.repeat else "")
    return _read(received, way)


def _wait_for(path: Path, *needed: Child) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline or not all(child.running for child in needed):
            return False
        time.sleep(0.05)
    return True


def _read(received: Path, way: str) -> Perceived:
    summary = json.loads((received / "received.json").read_text())
    arrivals = summary["arrivals_s"]
    diagnostics: dict[str, dict[str, str]] = {n.split(": ")[-1]: v for n, v in summary["diagnostics"].items()}
    model, latency = diagnostics.get("model", {}), diagnostics.get("latency", {})
    return Perceived(
        way,
        tuple(summary["stamps_ns"]),
        arrivals[-1] - arrivals[0],
        tuple(_read_grid(received / f"{stamp}.npz", more) for stamp, more in summary["grids"].items()),
        {stage: text for stage, text in latency.items() if stage},
        ", ".join(f"{number} {what}" for what, number in model.items() if what.startswith("sets")),
    )


def _read_grid(path: Path, more: Mapping[str, Any]) -> Occupancy:
    with np.load(path, allow_pickle=False) as saved:
        x, y, z = (float(v) for v in saved["origin"])
        nx, ny, nz = saved["semantics"].shape
        grid = VoxelGrid((x, y, z), float(saved["voxel_size"]), (nx, ny, nz))
        ontology = ontology_by_name(str(saved["ontology"]))
        return Occupancy(
            int(saved["stamp_ns"]),
            ModelInfo(str(saved["model"]), ontology, grid, str(saved["weights"]), more["trained_on"]),
            **{name: saved[name] for name in saved.files if name in _ARRAYS},
            cameras=tuple(more["cameras"]),
            cameras_used=tuple(more["cameras_used"]),
            lidar_used=more["lidar_used"],
            temporal=TemporalStatus(**more["temporal"]),
            objects=tuple(_instance(item) for item in more["objects"]),
        )


def _instance(saved: Mapping[str, Any]) -> Instance:
    fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in saved.items()}
    return Instance(**fields)


_ARRAYS = ("semantics", "visibility", "confidence", "flow", "instances")
