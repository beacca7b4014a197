"""Objects to and from ``occ_perception/msg/VoxelInstanceArray``, documented in msg/.

Works on the fields alone, so the messages may be rclpy's classes or a bag's.  Reading is a trust boundary: ids,
classes, scores, boxes and indices are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from occ_perception.data.message_parts import (
    fill_geometry,
    fill_ontology,
    geometry_from_message,
    ontology_from_message,
    read_array,
    wire_array,
)
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid
from occ_perception.instances import MAX_ID, check_boxes
from occ_perception.occupancy import Instance, Occupancy
from occ_perception.ontology import Ontology


def fill_instances(message: Any, occupancy: Occupancy, new_instance: Callable[[dict[str, Any]], Any]) -> None:
    """Write everything but the header.

    Args:
        message: to fill; flat fields become `array.array`, which is what rclpy keeps.
        occupancy: its objects, and their voxels.
        new_instance: makes a VoxelInstance of its fields, of which center, size and velocity come as x, y, z.

    Raises:
        InvalidInputError: an id outside 1..65535 or given twice, or a class outside the ontology.
    """
    _check_objects(occupancy.objects, occupancy.ontology, "occupancy.objects")
    fill_geometry(message, occupancy.grid)
    fill_ontology(message, occupancy.ontology)
    voxels = [occupancy.instance_voxels(item.id) for item in occupancy.objects]
    ends = np.cumsum([len(v) for v in voxels], dtype=np.int64).tolist()
    message.instances = [
        new_instance(_fields(item, occupancy.ontology, end - len(members), len(members)))
        for item, members, end in zip(occupancy.objects, voxels, ends, strict=True)
    ]
    message.voxel_indices = wire_array(np.concatenate([*voxels, np.empty(0, np.int64)]).astype(np.uint32))


def _fields(item: Instance, ontology: Ontology, voxel_offset: int, voxel_count: int) -> dict[str, Any]:
    return {
        "id": item.id,
        "class_id": item.class_id,
        "class_name": ontology.class_names[item.class_id],
        "score": float(item.score),
        "center": item.center,
        "size": item.size,
        "yaw": float(item.yaw),
        "velocity": item.velocity,
        "occluded": item.occluded,
        "voxel_offset": voxel_offset,
        "voxel_count": voxel_count,
    }


def instances_from_message(message: Any) -> tuple[tuple[Instance, ...], np.ndarray | None]:
    """Take objects from the wire.

    Returns:
        (the objects, their ids per voxel as uint16 [X, Y, Z] or None if the message lists no voxels).

    Raises:
        InvalidInputError: ids, classes, scores, boxes, voxel ranges or indices that cannot be.
    """
    grid = geometry_from_message(message)
    objects = tuple(_object_from_message(item) for item in message.instances)
    ontology = ontology_from_message(message)
    _check_objects(objects, ontology, "VoxelInstanceArray.instances")
    check_boxes(objects, ontology, "VoxelInstanceArray.instances")
    indices = read_array(message, "voxel_indices", np.uint32)
    if not len(indices):
        _check_ranges(message, 0)
        return objects, None
    return objects, _labels(message, indices, grid)


def _labels(message: Any, indices: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    _check_ranges(message, len(indices))
    if indices.max() >= grid.num_voxels:
        raise InvalidInputError(f"voxel_indices: expected indices below {grid.num_voxels}, got {indices.max()}")
    labels = np.zeros(grid.num_voxels, np.uint16)
    for item in message.instances:
        labels[indices[item.voxel_offset : item.voxel_offset + item.voxel_count]] = item.id
    return labels.reshape(grid.size)


def _object_from_message(message: Any) -> Instance:
    return Instance(
        id=message.id,
        class_id=message.class_id,
        score=message.score,
        center=(message.center.x, message.center.y, message.center.z),
        size=(message.size.x, message.size.y, message.size.z),
        yaw=message.yaw,
        velocity=(message.velocity.x, message.velocity.y, message.velocity.z),
        occluded=message.occluded,
    )


def _check_objects(objects: Sequence[Instance], ontology: Ontology, where: str) -> None:
    ids = [o.id for o in objects]
    if len(set(ids)) != len(ids) or any(not 1 <= i <= MAX_ID for i in ids):
        raise InvalidInputError(f"{where}: expected distinct ids in 1..{MAX_ID}, got {ids}")
    classes = {o.class_id for o in objects}
    if any(not 0 <= c < ontology.num_classes for c in classes):
        raise InvalidInputError(f"{where}: expected classes 0..{ontology.num_classes - 1}, got {sorted(classes)}")


def _check_ranges(message: Any, num_indices: int) -> None:
    for item in message.instances:
        if item.voxel_offset + item.voxel_count > num_indices:
            raise InvalidInputError(
                f"instance {item.id}: voxels {item.voxel_offset} + {item.voxel_count} exceed the {num_indices} indices"
            )
    claimed = sum(int(item.voxel_count) for item in message.instances)
    if claimed > num_indices:  # a voxel is of one object
        raise InvalidInputError(f"instances: expected at most {num_indices} voxels, as many as indices, got {claimed}")
