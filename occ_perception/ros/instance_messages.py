"""Instances to and from ``occ_perception/msg/VoxelInstanceArray``, documented in msg/."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Vector3

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
from occ_perception.msg import VoxelInstance, VoxelInstanceArray
from occ_perception.occupancy import Instance, Occupancy
from occ_perception.ontology import Ontology
from occ_perception.ros.geometry_messages import ns_to_stamp

_MAX_ID = np.iinfo(np.uint16).max  # identities are also voxel labels, which are uint16


def instances_to_message(occupancy: Occupancy, *, frame_id: str = "base_link") -> VoxelInstanceArray:
    """Put the objects of a grid, each with its voxels, on the wire.

    Raises:
        InvalidInputError: an id outside 1..65535 or given twice, or a class outside the ontology.
    """
    _check_objects(occupancy.objects, occupancy.ontology, "occupancy.objects")
    message = VoxelInstanceArray()
    message.header.stamp = ns_to_stamp(occupancy.stamp_ns)
    message.header.frame_id = frame_id
    fill_geometry(message, occupancy.grid)
    fill_ontology(message, occupancy.ontology)
    voxels = _voxels_by_id(occupancy.instances, [o.id for o in occupancy.objects])
    ends = np.cumsum([len(v) for v in voxels], dtype=np.int64)
    for item, members, end in zip(occupancy.objects, voxels, ends, strict=True):
        message.instances.append(_object_to_message(item, occupancy.ontology, int(end) - len(members), len(members)))
    message.voxel_indices = wire_array(np.concatenate([*voxels, np.empty(0, np.int64)]).astype(np.uint32))
    return message


def instances_from_message(message: VoxelInstanceArray) -> tuple[tuple[Instance, ...], np.ndarray | None]:
    """Take objects from the wire.

    Returns:
        (the objects, their ids per voxel as uint16 [X, Y, Z] or None if the message lists no voxels).

    Raises:
        InvalidInputError: ids, classes, voxel ranges or indices that cannot be.
    """
    grid = geometry_from_message(message)
    objects = tuple(_object_from_message(item) for item in message.instances)
    _check_objects(objects, ontology_from_message(message), "VoxelInstanceArray.instances")
    indices = read_array(message, "voxel_indices", np.uint32)
    if not len(indices):
        _check_ranges(message, 0)
        return objects, None
    return objects, _labels(message, indices, grid)


def _labels(message: VoxelInstanceArray, indices: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    _check_ranges(message, len(indices))
    if indices.max() >= grid.num_voxels:
        raise InvalidInputError(f"voxel_indices: expected indices below {grid.num_voxels}, got {indices.max()}")
    labels = np.zeros(grid.num_voxels, np.uint16)
    for item in message.instances:
        labels[indices[item.voxel_offset : item.voxel_offset + item.voxel_count]] = item.id
    return labels.reshape(grid.size)


def _voxels_by_id(labels: np.ndarray | None, ids: list[int]) -> list[np.ndarray]:
    """Ascending linear indices of the voxels of each id."""
    if labels is None:
        return [np.empty(0, np.int64) for _ in ids]
    flat = labels.reshape(-1)
    members = np.flatnonzero(flat)
    members = members[np.argsort(flat[members], kind="stable")]
    starts = np.searchsorted(flat[members], ids, side="left")
    ends = np.searchsorted(flat[members], ids, side="right")
    return [members[start:end] for start, end in zip(starts, ends, strict=True)]


def _object_to_message(item: Instance, ontology: Ontology, voxel_offset: int, voxel_count: int) -> VoxelInstance:
    return VoxelInstance(
        id=item.id,
        class_id=item.class_id,
        class_name=ontology.class_names[item.class_id],
        score=float(item.score),
        center=_xyz(Point, item.center),
        size=_xyz(Vector3, item.size),
        yaw=float(item.yaw),
        velocity=_xyz(Vector3, item.velocity),
        occluded=item.occluded,
        voxel_offset=voxel_offset,
        voxel_count=voxel_count,
    )


def _object_from_message(message: VoxelInstance) -> Instance:
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


def _xyz(kind: type, values: tuple[float, float, float]) -> Point | Vector3:
    x, y, z = map(float, values)
    return kind(x=x, y=y, z=z)


def _check_objects(objects: tuple[Instance, ...], ontology: Ontology, where: str) -> None:
    ids = [o.id for o in objects]
    if len(set(ids)) != len(ids) or any(not 1 <= i <= _MAX_ID for i in ids):
        raise InvalidInputError(f"{where}: expected distinct ids in 1..{_MAX_ID}, got {ids}")
    classes = {o.class_id for o in objects}
    if any(not 0 <= c < ontology.num_classes for c in classes):
        raise InvalidInputError(f"{where}: expected classes 0..{ontology.num_classes - 1}, got {sorted(classes)}")


def _check_ranges(message: VoxelInstanceArray, num_indices: int) -> None:
    for item in message.instances:
        if item.voxel_offset + item.voxel_count > num_indices:
            raise InvalidInputError(
                f"instance {item.id}: voxels {item.voxel_offset} + {item.voxel_count} exceed the {num_indices} indices"
            )
