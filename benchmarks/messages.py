"""Grids to and from ROS messages, 200x200x16, one core: the budgets are 2 ms dense and 5 ms sparse each way.

    python benchmarks/messages.py

A synthetic outdoor grid: 5 % occupied, half free, the rest unknown. "all fields": with confidence, instances and flow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rclpy.serialization import deserialize_message, serialize_message

from benchmarks.report import measure, report
from occ_perception.geometry import OCC3D_GRID
from occ_perception.msg import VoxelGrid
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.ros.messages import (
    instances_from_message,
    instances_to_message,
    occupancy_from_message,
    occupancy_to_message,
    points_from_message,
    points_to_message,
)


def outdoor_grid(all_fields: bool) -> Occupancy:
    """A random grid with the usual shares of occupied, free and unknown voxels."""
    rng = np.random.default_rng(0)
    size = OCC3D_GRID.size
    kind = rng.random(size)
    occupied, free = kind < 0.05, kind > 0.5
    semantics = np.full(size, UNKNOWN, np.uint8)
    visibility = np.full(size, Visibility.OCCLUDED, np.uint8)
    semantics[occupied], visibility[occupied] = rng.integers(0, 17, occupied.sum()), Visibility.OCCUPIED_SEEN
    semantics[free], visibility[free] = FREE, Visibility.FREE_SEEN
    optional = {
        "confidence": rng.integers(0, 256, size).astype(np.uint8),
        "instances": (rng.integers(0, 50, size) * occupied).astype(np.uint16),
        "flow": (rng.normal(size=(*size, 2)) * occupied[..., None]).astype(np.float32),
        "objects": tuple(Instance(i, 4, 0.5, (0, 0, 0), (4, 2, 2), 0.0, (0, 0, 0)) for i in range(1, 50)),
    }
    info = ModelInfo("benchmark", OCC3D, OCC3D_GRID)
    return Occupancy(10**18, info, semantics, visibility, **(optional if all_fields else {}))


def grid_rows() -> list[dict[str, object]]:
    """Both encodings, both ways, with and without the optional fields; and the middleware's own part for scale."""
    rows: list[dict[str, object]] = []
    for all_fields in (False, True):
        occupancy = outdoor_grid(all_fields)
        for sparse in (False, True):
            message = occupancy_to_message(occupancy, sparse=sparse)
            wire = serialize_message(message)
            steps = {
                "to message": lambda o=occupancy, s=sparse: occupancy_to_message(o, sparse=s),
                "from message": lambda m=message: occupancy_from_message(m),
                "rclpy serialise": lambda m=message: serialize_message(m),
                "rclpy deserialise": lambda w=wire: deserialize_message(w, VoxelGrid),
            }
            what = f"{'sparse' if sparse else 'dense'}, {'all fields' if all_fields else 'semantics, visibility'}"
            for step, run in steps.items():
                rows.append({"grid": what, "kB": len(wire) // 1000, "step": step, **measure(run, repeats=50)})
    return rows


def other_rows() -> list[dict[str, object]]:
    """Objects with their voxels, and a LiDAR sweep of 35 000 points."""
    occupancy = outdoor_grid(all_fields=True)
    objects = instances_to_message(occupancy)
    points = np.random.default_rng(0).normal(size=(35_000, 4)).astype(np.float32)
    sweep = points_to_message(0, "lidar", dict(zip(("x", "y", "z", "intensity"), points.T, strict=True)))
    steps = {
        ("49 objects", "to message"): lambda: instances_to_message(occupancy),
        ("49 objects", "from message"): lambda: instances_from_message(objects),
        ("35 000 points", "from message"): lambda: points_from_message(sweep, ("x", "y", "z", "intensity")),
    }
    return [{"grid": what, "step": step, **measure(run, repeats=50)} for (what, step), run in steps.items()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    report("messages", grid_rows() + other_rows())
