"""Ground truth of nuScenes as it goes into bags: Occ3D labels as grids, annotations as boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from occ_perception.data.bag_markers import Box
from occ_perception.data.labels import GridLabel
from occ_perception.data.nuscenes_records import BoxAnnotation
from occ_perception.errors import InvalidInputError
from occ_perception.occupancy import ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D

GROUND_TRUTH = "occ3d ground truth"
"""Stands for the model in ground-truth grids."""

# Annotated categories by their beginning, and the label of the same colour.
_CLASSES = {
    "human.pedestrian": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
_GREY = (160, 160, 160)


def occupancy_from_label(label: GridLabel) -> Occupancy:
    """An Occ3D label as the grid that perfect perception would give.

    What the file calls free is free only where a LiDAR beam went (`GridLabel.known_semantics`), else unknown.  An
    occupied voxel that neither LiDAR nor cameras saw at this moment is known from other moments: occluded.

    Raises:
        InvalidInputError: no stamp, or no mask of what was seen (other benchmarks' labels have none).
    """
    if label.stamp_ns is None or label.mask_lidar is None or label.mask_camera is None:
        raise InvalidInputError(f"{label.source}: expected a label with a stamp and both masks of Occ3D")
    semantics = label.known_semantics()
    occupied, seen = semantics < FREE, label.mask_lidar | label.mask_camera
    visibility = np.full(semantics.shape, Visibility.UNKNOWN, np.uint8)
    visibility[semantics == FREE] = Visibility.FREE_SEEN
    visibility[occupied] = Visibility.OCCLUDED
    visibility[occupied & seen] = Visibility.OCCUPIED_SEEN
    return Occupancy(label.stamp_ns, ModelInfo(GROUND_TRUTH, OCC3D, label.grid), semantics, visibility)


def marked_boxes(annotations: Sequence[BoxAnnotation], ids: Mapping[str, int]) -> list[Box]:
    """Annotations as boxes in the global frame, named by their category.

    Args:
        annotations: of a sample.
        ids: numbers by instance token, stable over the scene.
    """
    return [
        Box(ids[a.instance_token], a.category, _color(a.category), a.global_from_box, a.size, a.velocity)
        for a in annotations
    ]


def class_of_category(category: str) -> str | None:
    """Class name of an annotated category ("car" of "vehicle.car"), None for those that no benchmark scores."""
    return next((name for start, name in _CLASSES.items() if category.startswith(start)), None)


def _color(category: str) -> tuple[int, int, int]:
    name = class_of_category(category)
    return OCC3D.colors[OCC3D.id_of(name)] if name else _GREY
