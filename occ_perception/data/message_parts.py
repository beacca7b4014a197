"""What `VoxelGrid` and `VoxelInstanceArray` messages have in common: geometry, label set, flat arrays.

Works on the fields alone, so the messages may be rclpy's classes or a bag's.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from occ_perception.data.sensor_messages import pose_from_message
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, check_rigid
from occ_perception.ontology import ONTOLOGIES, Ontology

_TYPECODES = {np.dtype(np.uint8): "B", np.dtype(np.uint16): "H", np.dtype(np.int16): "h", np.dtype(np.uint32): "I"}
_FOREIGN_COLOR = (160, 160, 160)


def fill_geometry(message: Any, grid: VoxelGrid) -> None:
    """Write the geometry fields (origin, voxel_size, size_x, size_y, size_z) of a message that has an origin."""
    position, orientation = message.origin.position, message.origin.orientation
    position.x, position.y, position.z = map(float, grid.origin)
    orientation.x = orientation.y = orientation.z = 0.0
    orientation.w = 1.0
    message.voxel_size = float(grid.voxel_size)
    message.size_x, message.size_y, message.size_z = grid.size


def geometry_from_message(message: Any) -> VoxelGrid:
    """Read the geometry fields of a message.

    Raises:
        InvalidInputError: sizes or values that are no grid, or one turned against its frame (the core's are not).
    """
    frame_from_grid = check_rigid(pose_from_message(message.origin), "origin")
    if np.abs(frame_from_grid[:3, :3] - np.eye(3)).max() > 1e-6:
        raise InvalidInputError(f"origin: expected axes along header.frame_id, got a rotation {message.origin}")
    x, y, z = map(float, frame_from_grid[:3, 3])
    # The wire has float32: take the shortest decimal that is this float32, so that 0.4 m comes back as 0.4.
    voxel_size = float(str(np.float32(message.voxel_size)))
    return VoxelGrid((x, y, z), voxel_size, (message.size_x, message.size_y, message.size_z))


def fill_ontology(message: Any, ontology: Ontology) -> None:
    """Write the label set (ontology, class_names) of a message."""
    message.ontology = ontology.name
    message.class_names = list(ontology.class_names)


def ontology_from_message(message: Any) -> Ontology:
    """The label set of a message: one of ours by name, or for a foreign name what the message tells (in grey).

    Raises:
        InvalidInputError: the name is one of ours but the classes are not its classes.
    """
    names = tuple(message.class_names)
    known = ONTOLOGIES.get(message.ontology)
    if known is None:
        return Ontology(message.ontology, names, (_FOREIGN_COLOR,) * len(names))
    if names != known.class_names:
        raise InvalidInputError(f"class_names: expected those of '{known.name}' {known.class_names}, got {names}")
    return known


def wire_array(values: np.ndarray) -> array.array:
    """A flat array as rclpy keeps it; the only way of filling a field that is fast whatever rclpy's settings."""
    filled = array.array(_TYPECODES[values.dtype])
    filled.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return filled


def read_array(message: Any, name: str, dtype: type, length: int | None = None) -> np.ndarray:
    """View of a flat message field.

    Raises:
        InvalidInputError: its length is not the one given.
    """
    field = getattr(message, name)
    values: np.ndarray = np.frombuffer(field, dtype) if len(field) else np.empty(0, dtype)
    if length is not None and len(values) != length:
        raise InvalidInputError(f"{type(message).__name__}.{name}: expected {length} entries, got {len(values)}")
    return values
