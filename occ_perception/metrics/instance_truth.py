"""Instance ground truth of a semantic voxel grid from annotated boxes (benchmarks.md 8; SparseOcc's recipe)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, check_rigid
from occ_perception.metrics.checks import check_ground_truth, check_shape
from occ_perception.ontology import FREE, OCC3D, UNKNOWN, Ontology

ENLARGEMENT_M = 0.8
"""What is added to length, width and height of boxes in the second pass."""
LABEL_FILE_MAXIMUM = 255
"""Largest id of the published instance labels, which are uint8."""


class NumberedBoxes(NamedTuple):
    """Instances of a grid, and the boxes behind them.

    Attributes:
        instances: uint8 [X, Y, Z], uint16 if ids may be that large; ids from 1, boxes first, then the classes without
            boxes in order of class id.
        boxes: int64 [I]; row of the box with id i + 1.  Boxes that got no voxel have no id.
    """

    instances: np.ndarray
    boxes: np.ndarray


def instances_from_boxes(
    semantics: np.ndarray,
    boxes: np.ndarray,
    names: list[str] | np.ndarray,
    ego_from_lidar: np.ndarray,
    ontology: Ontology = OCC3D,
    grid: VoxelGrid = OCC3D_GRID,
    maximum_id: int = LABEL_FILE_MAXIMUM,
) -> NumberedBoxes:
    """Number the instances: things by the box they lie in, every other class as one.

    A voxel goes to the first box of its class that contains its centre; voxels left over go to the nearest box of
    their class once boxes are enlarged by 0.4 m per side; what is still left keeps 0.  Overlapping boxes of one class
    therefore depend on their order.  Barriers and traffic cones are instances here (unlike in RayPQ).

    Args:
        semantics: uint8 [X, Y, Z]; classes of ``ontology``, FREE or UNKNOWN; ego frame.
        boxes: float [N, 7]; centre x, y, z, length, width, height (metres), yaw about z; LiDAR frame.
        names: N class names; boxes of other names are ignored.
        ego_from_lidar: [4, 4]; its tilt is kept.
        maximum_id: 255, as in the label files, or up to 65535.

    Raises:
        InvalidInputError: wrong shapes, labels or transform; more than ``maximum_id`` instances.
    """
    check_ground_truth(semantics, ontology)
    check_shape("semantics", semantics, grid.size)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    if len(names) != len(boxes) or not np.isfinite(boxes).all():
        raise InvalidInputError(f"boxes: expected finite [N, 7] and N names, got {boxes.shape} and {len(names)} names")
    mount = check_rigid(ego_from_lidar, "ego_from_lidar")
    instances = np.zeros(grid.num_voxels, np.int64)
    labels = semantics.ravel()
    voxels = {c: np.flatnonzero(labels == c) for c in ontology.thing_ids}
    points = {c: grid.center_of(v) for c, v in voxels.items()}
    known = [i for i, name in enumerate(names) if str(name) in ontology.things]
    class_of = {i: ontology.id_of(str(names[i])) for i in known}
    id_of: dict[int, int] = {}
    for i in known:  # first pass: the boxes as annotated, the first one takes a voxel
        mine = voxels[class_of[i]]
        taken = mine[_inside(points[class_of[i]], boxes[i], mount, 0.0) & (instances[mine] == 0)]
        if taken.size:
            id_of[i] = len(id_of) + 1
            instances[taken] = id_of[i]
    next_id = _number_other_classes(instances, labels, ontology, len(id_of) + 1)
    for class_id in set(class_of.values()):
        rivals = [i for i in id_of if class_of[i] == class_id]
        _assign_left_overs(instances, voxels[class_id], points[class_id], boxes, rivals, id_of, mount)
    if next_id - 1 > maximum_id:
        raise InvalidInputError(f"instances: expected at most {maximum_id}, got {next_id - 1}")
    id_type = np.min_scalar_type(maximum_id)
    return NumberedBoxes(instances.astype(id_type).reshape(grid.size), np.array(list(id_of), np.int64))


def _number_other_classes(instances: np.ndarray, labels: np.ndarray, ontology: Ontology, next_id: int) -> int:
    """Give each class without boxes that is present the next id; returns the id after the last."""
    present = np.unique(labels)
    for class_id in present[(present != FREE) & (present != UNKNOWN)].tolist():
        if class_id not in ontology.thing_ids:
            instances[labels == class_id] = next_id
            next_id += 1
    return next_id


def _assign_left_overs(
    instances: np.ndarray,
    voxels: np.ndarray,
    points: np.ndarray,
    boxes: np.ndarray,
    rivals: list[int],
    id_of: dict[int, int],
    mount: np.ndarray,
) -> None:
    """Second pass for one class: voxels without instance go to the nearest enlarged box around them."""
    left = instances[voxels] == 0
    voxels, points = voxels[left], points[left]
    if not rivals or not voxels.size:
        return
    centres = boxes[rivals, :3] @ mount[:3, :3].T + mount[:3, 3]
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    for column, i in enumerate(rivals):
        distance[~_inside(points, boxes[i], mount, ENLARGEMENT_M), column] = np.inf
    nearest = distance.argmin(axis=1)
    ids = np.array([id_of[i] for i in rivals])
    found = np.isfinite(distance.min(axis=1))
    instances[voxels[found]] = ids[nearest[found]]


def _inside(points: np.ndarray, box: np.ndarray, ego_from_lidar: np.ndarray, enlargement: float) -> np.ndarray:
    """Whether ego points [M, 3] lie in a LiDAR-frame box [7], border included; bool [M]."""
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    lidar_from_box = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    ego_from_box = ego_from_lidar[:3, :3] @ lidar_from_box
    centre = ego_from_lidar[:3, :3] @ box[:3] + ego_from_lidar[:3, 3]
    local = (points - centre) @ ego_from_box
    return (np.abs(local) <= (box[3:6] + enlargement) / 2).all(axis=1)
