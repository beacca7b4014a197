"""`nano`, trained on made-up drives only, on real nuScenes keyframes: does it see what is there?

    python benchmarks/nano_keyframes.py [ROOT ...]      (default: ../shared/data/nuscenes_keyframe*)

Share of LiDAR returns (own vehicle left out) that lie in voxels said to be occupied, and of annotated cars within 20 m
whose box holds at least one voxel said to be a vehicle; for cameras + LiDAR and for cameras only.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.report import report
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import BoxAnnotation
from occ_perception.demo.inputs import find_keyframes
from occ_perception.frame import Frame
from occ_perception.geometry import inverse, transform_points
from occ_perception.models import create_model
from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.occupancy import Occupancy
from occ_perception.ontology import FREE, OCC3D
from occ_perception.session import Session

_VEHICLES = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle")
_CAR_RANGE_M = 20.0


def share_of_returns(occupancy: Occupancy, frame: Frame) -> float:
    """Share of the sweep's returns inside the grid that lie in voxels said to be occupied."""
    sweep = frame.lidar[-1]
    points = transform_points(sweep.ego_from_lidar, sweep.points[:, :3].astype(np.float64))
    points = points[~OwnVehicle().contains(points)]
    cells, inside = occupancy.grid.cells_of(points)
    said = occupancy.prediction.ravel()[occupancy.grid.linear_index(cells[inside])]
    return float((said < FREE).mean())


def cars_found(occupancy: Occupancy, boxes: list[BoxAnnotation], ego_from_global: np.ndarray) -> tuple[int, int]:
    """Annotated cars within reach that hold a voxel said to be a vehicle, and all of them."""
    vehicle = np.isin(occupancy.prediction, [OCC3D.id_of(name) for name in _VEHICLES])
    centres = occupancy.grid.center_of(np.flatnonzero(vehicle))
    found = total = 0
    for box in boxes:
        ego_from_box = ego_from_global @ box.global_from_box
        if box.category != "vehicle.car" or np.hypot(*ego_from_box[:2, 3]) > _CAR_RANGE_M:
            continue
        total += 1
        local = transform_points(inverse(ego_from_box), centres)
        found += bool((np.abs(local) <= np.array(box.size) / 2).all(axis=1).any())
    return found, total


def keyframe_rows(root: Path, weights: Path | None) -> list[dict[str, object]]:
    """Both ways to run nano on every keyframe of a root's first scene."""
    dataset = NuScenes(root)
    scene = dataset.scene(dataset.scene_names[0])
    rows: list[dict[str, object]] = []
    for (token, _), frame in zip(scene.samples, dataset.frames(scene, "LIDAR_TOP"), strict=False):
        for name, given in (("cameras + LiDAR", frame), ("cameras only", replace(frame, lidar=()))):
            occupancy = Session(create_model("nano", weights)).step(given)
            record = scene.keyframes[token]["LIDAR_TOP"]
            ego_from_global = inverse(record.odom_from_ego(np.zeros(3)))
            found, total = cars_found(occupancy, dataset.annotations(token), ego_from_global)
            rows.append(
                {
                    "keyframe": root.name,
                    "sensors": name,
                    "returns in occupied voxels": f"{100 * share_of_returns(occupancy, frame):.1f} %",
                    "cars within 20 m found": f"{found} of {total}",
                }
            )
    return rows


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="*", help="nuScenes roots")
    parser.add_argument("--weights", type=Path, help="other weights than the package's")
    arguments = parser.parse_args()
    rows = [row for root in arguments.roots or find_keyframes() for row in keyframe_rows(root, arguments.weights)]
    report("nano_keyframes", rows)


if __name__ == "__main__":
    main()
