"""RayIoU of one frame: 8 origins x 14 040 rays through a true and a predicted grid of 200 x 200 x 16 voxels.

    python benchmarks/ray_iou.py [--device cuda]

The grids are a street with ground, walls and boxes, made up from a seed; the prediction is the truth moved by a voxel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import measure, report
from occ_perception.geometry import OCC3D_GRID
from occ_perception.metrics.evaluation_rays import MAX_ORIGINS, EvaluationRays, cast_evaluation_rays, ray_directions
from occ_perception.metrics.ray_iou import RayIoU
from occ_perception.metrics.ray_pq import RayPQ
from occ_perception.ontology import FREE, OCC3D

TARGET_MS = 1000.0


def made_up_street() -> np.ndarray:
    """Ground with walls at both sides and 40 boxes on it, uint8 [200, 200, 16]."""
    rng = np.random.default_rng(0)
    grid = np.full(OCC3D_GRID.size, FREE, np.uint8)
    grid[:, :, :2] = OCC3D.id_of("driveable_surface")
    grid[:, [40, 160], :12] = OCC3D.id_of("manmade")
    for x, y in rng.integers((5, 45), (190, 150), (40, 2)):
        grid[x : x + 10, y : y + 5, 2:6] = OCC3D.id_of("car")
    grid[95:105, 95:105, 2:] = FREE  # the vehicle itself
    return grid


def main() -> None:
    """Measure casting, then counting on top of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    truth = made_up_street()
    prediction = np.roll(truth, 1, axis=0)
    origins = np.stack([np.linspace(-30, 30, MAX_ORIGINS), np.zeros(MAX_ORIGINS), np.full(MAX_ORIGINS, 1.84)], axis=1)

    def cast() -> EvaluationRays:
        return cast_evaluation_rays(truth, prediction, origins, OCC3D, device=arguments.device)

    stage = f"cast {MAX_ORIGINS} x {len(ray_directions())} rays, two grids ({arguments.device}, one core)"
    rows = [{"stage": stage, **measure(cast, repeats=10), "target_ms": TARGET_MS}]
    rays = cast()
    instances = (truth == OCC3D.id_of("car")).astype(np.uint8)
    rows.append({"stage": "count RayIoU", **measure(lambda: RayIoU().update(rays))})
    rows.append({"stage": "count RayPQ", **measure(lambda: RayPQ().update(rays, instances, instances))})
    report("ray_iou", rows)


if __name__ == "__main__":
    main()
