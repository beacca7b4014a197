"""`Occupancy` to and from ``occ_perception/msg/VoxelGrid``; the wire format is documented in msg/VoxelGrid.msg.

Works on the fields alone, so the messages may be rclpy's classes or a bag's.

Reading is a trust boundary: sizes, ids and the invariant "free only where seen" are checked, and a message
that breaks them is refused.  Nothing loops over voxels in Python.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from occ_perception.data.flow_encoding import flow_from_wire, flow_to_wire
from occ_perception.data.message_parts import (
    fill_geometry,
    fill_ontology,
    geometry_from_message,
    ontology_from_message,
    read_array,
    wire_array,
)
from occ_perception.data.sensor_messages import stamp_to_ns
from occ_perception.errors import InvalidInputError
from occ_perception.occupancy import ModelInfo, Occupancy, TemporalStatus, Visibility
from occ_perception.ontology import FREE, UNKNOWN, Ontology

DENSE = 0  # VoxelGrid.ENCODING_DENSE
SPARSE = 1  # VoxelGrid.ENCODING_SPARSE
_MASK_BITS = 32
_FREE_SEEN = int(Visibility.FREE_SEEN)  # NumPy compares a uint8 array with an IntEnum ten times slower
# All 256 bytes of packed visibility as the four voxels they stand for, lowest bits first.
_UNPACKED = ((np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3).astype(np.uint8)


def fill_voxel_grid(message: Any, occupancy: Occupancy, *, sparse: bool, lidars: tuple[str, ...]) -> None:
    """Write everything but the header; `occ_perception.ros.messages.occupancy_to_message` documents the arguments.

    Flat fields become `array.array`, which is what rclpy keeps.
    """
    _check_content(occupancy.semantics, occupancy.visibility, occupancy.ontology, "occupancy")
    fill_geometry(message, occupancy.grid)
    fill_ontology(message, occupancy.ontology)
    _fill_provenance(message, occupancy, lidars)
    if sparse:
        _fill_sparse(message, occupancy)
    else:
        _fill_dense(message, occupancy)


def occupancy_from_message(message: Any) -> Occupancy:
    """Take a grid from the wire.

    Arrays may share memory with the message.  In the sparse form the voxels that are not listed get confidence 0, flow
    0 and no instance (and if none is listed, those fields are None).  What the message does not carry (objects,
    timings, notes) is empty.

    Raises:
        InvalidInputError: the message contradicts itself or its own documentation (which field, expected, got).
    """
    grid = geometry_from_message(message)
    ontology = ontology_from_message(message)
    if message.encoding not in _READERS:
        raise InvalidInputError(f"VoxelGrid.encoding: expected one of {sorted(_READERS)}, got {message.encoding}")
    voxels, visibility = _READERS[message.encoding](message, grid.num_voxels)
    _check_content(voxels.semantics, visibility, ontology, "VoxelGrid")
    return Occupancy(
        stamp_ns=stamp_to_ns(message.header.stamp),
        info=ModelInfo(message.model, ontology, grid, message.weights, message.weights_training),
        semantics=voxels.semantics.reshape(grid.size),
        visibility=visibility.reshape(grid.size),
        confidence=None if voxels.confidence is None else voxels.confidence.reshape(grid.size),
        flow=None if voxels.flow is None else voxels.flow.reshape(*grid.size, 2),
        instances=None if voxels.instances is None else voxels.instances.reshape(grid.size),
        cameras=tuple(message.cameras),
        cameras_used=_names_of("cameras_used", message.cameras_used, message.cameras),
        lidar_used=bool(_names_of("lidars_used", message.lidars_used, message.lidars)),
        temporal=TemporalStatus(message.temporal_frames, message.temporal_status),
    )


# --- The two encodings ----------------------------------------------------------------------------------------------


def _fill_dense(message: Any, occupancy: Occupancy) -> None:
    message.encoding = DENSE
    message.semantics = wire_array(occupancy.semantics)
    message.visibility = wire_array(occupancy.visibility)
    if occupancy.confidence is not None:
        message.confidence = wire_array(occupancy.confidence)
    if occupancy.instances is not None:
        message.instance = wire_array(occupancy.instances)
    if occupancy.flow is not None:
        message.flow = flow_to_wire(occupancy.flow)


def _fill_sparse(message: Any, occupancy: Occupancy) -> None:
    message.encoding = SPARSE
    listed = np.flatnonzero(occupancy.occupied())
    message.indices = wire_array(listed.astype(np.uint32))
    message.semantics = wire_array(occupancy.semantics.reshape(-1)[listed])
    message.visibility = wire_array(pack_visibility(occupancy.visibility))
    if occupancy.confidence is not None:
        message.confidence = wire_array(occupancy.confidence.reshape(-1)[listed])
    if occupancy.instances is not None:
        message.instance = wire_array(occupancy.instances.reshape(-1)[listed])
    if occupancy.flow is not None:
        message.flow = flow_to_wire(occupancy.flow.reshape(-1, 2)[listed])


class _Voxels(NamedTuple):
    """Flat arrays with one entry per voxel (or, while reading the sparse form, per listed voxel)."""

    semantics: np.ndarray
    confidence: np.ndarray | None
    instances: np.ndarray | None
    flow: np.ndarray | None


def _read_dense(message: Any, num_voxels: int) -> tuple[_Voxels, np.ndarray]:
    read_array(message, "indices", np.uint32, 0)
    return _read_entries(message, num_voxels), read_array(message, "visibility", np.uint8, num_voxels)


def _read_sparse(message: Any, num_voxels: int) -> tuple[_Voxels, np.ndarray]:
    packed = read_array(message, "visibility", np.uint8, -(-num_voxels // 4))
    indices = read_array(message, "indices", np.uint32)
    if len(indices) and (indices[-1] >= num_voxels or np.any(indices[1:] <= indices[:-1])):
        raise InvalidInputError(f"VoxelGrid.indices: expected strictly ascending indices below {num_voxels}")
    listed = _read_entries(message, len(indices))
    if np.any(listed.semantics >= FREE):
        raise InvalidInputError("VoxelGrid.semantics: the sparse form lists occupied voxels only, got FREE or UNKNOWN")
    visibility = unpack_visibility(packed, num_voxels)
    # FREE is UNKNOWN - 1: unlisted voxels are unknown, less one where they were seen to be free.
    semantics = np.uint8(UNKNOWN) - (visibility == _FREE_SEEN).view(np.uint8)
    semantics[indices] = listed.semantics

    def spread(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        full = np.zeros((num_voxels, *values.shape[1:]), values.dtype)
        full[indices] = values
        return full

    return _Voxels(semantics, spread(listed.confidence), spread(listed.instances), spread(listed.flow)), visibility


def _read_entries(message: Any, length: int) -> _Voxels:
    """The per-voxel fields; those that are empty are not given."""
    return _Voxels(
        semantics=read_array(message, "semantics", np.uint8, length),
        confidence=read_array(message, "confidence", np.uint8, length) if len(message.confidence) else None,
        instances=read_array(message, "instance", np.uint16, length) if len(message.instance) else None,
        flow=flow_from_wire(read_array(message, "flow", np.int16, 2 * length)).reshape(length, 2)
        if len(message.flow)
        else None,
    )


_READERS = {DENSE: _read_dense, SPARSE: _read_sparse}


def pack_visibility(visibility: np.ndarray) -> np.ndarray:
    """Two bits per voxel, four voxels a byte, lowest bits first, uint8 [ceil(n / 4)], of values 0..3."""
    padding = -visibility.size % 4
    flat = np.ascontiguousarray(visibility).reshape(-1)
    quads = np.append(flat, np.zeros(padding, np.uint8)) if padding else flat
    word = quads.view("<u4")  # four voxels, the first in the lowest byte
    return (word | word >> 6 | word >> 12 | word >> 18).astype(np.uint8)


def unpack_visibility(packed: np.ndarray, num_voxels: int) -> np.ndarray:
    """Inverse of `pack_visibility`, uint8 [num_voxels]."""
    return _UNPACKED.view("<u4")[:, 0][packed].view(np.uint8)[:num_voxels]


# --- Checks and provenance ------------------------------------------------------------------------------------------


def _check_content(semantics: np.ndarray, visibility: np.ndarray, ontology: Ontology, where: str) -> None:
    """Refuse ids that mean nothing and knowledge that contradicts itself."""
    if visibility.max() > max(Visibility):
        raise InvalidInputError(f"{where}.visibility: expected 0..{max(Visibility)}, got {visibility.max()}")
    n = ontology.num_classes
    if np.any(semantics - np.uint8(n) < FREE - n):  # wraps around, so this is n <= id < FREE in one comparison
        bad = np.unique(semantics[(semantics >= n) & (semantics < FREE)])
        raise InvalidInputError(
            f"{where}.semantics: ids {bad.tolist()} are not classes of '{ontology.name}' (0..{n - 1})"
        )
    # FREE and UNKNOWN differ in the lowest bit, so "seen to be free" turns a true FREE into UNKNOWN, and any FREE that
    # is left is a voxel called free that was not seen, or called unknown that was.
    seen_free = (visibility == _FREE_SEEN).view(np.uint8)
    contradictions = np.count_nonzero(semantics ^ seen_free == FREE)
    if contradictions:
        raise InvalidInputError(
            f"{where}: {contradictions} voxels are FREE without being FREE_SEEN, or UNKNOWN although FREE_SEEN"
        )


def _fill_provenance(message: Any, occupancy: Occupancy, lidars: tuple[str, ...]) -> None:
    message.cameras = list(occupancy.cameras)
    message.cameras_used = _mask_of("cameras", occupancy.cameras_used, occupancy.cameras)
    message.lidars = list(lidars)
    if occupancy.lidar_used and not lidars:
        raise InvalidInputError("lidars: a LiDAR was used, expected the names of the configured ones, got none")
    message.lidars_used = _mask_of("lidars", lidars if occupancy.lidar_used else (), lidars)
    message.model = occupancy.info.name
    message.weights = occupancy.info.weights
    message.weights_training = occupancy.info.trained_on
    message.temporal_frames = occupancy.temporal.frames
    message.temporal_status = occupancy.temporal.reset


def _mask_of(field: str, used: tuple[str, ...], names: tuple[str, ...]) -> int:
    if len(names) > _MASK_BITS or not set(used) <= set(names):
        raise InvalidInputError(
            f"{field}: expected at most {_MASK_BITS} names and the used among them: {used}, {names}"
        )
    return sum(1 << names.index(name) for name in set(used))


def _names_of(field: str, mask: int, names: list[str]) -> tuple[str, ...]:
    if len(names) > _MASK_BITS or mask >> len(names):
        raise InvalidInputError(f"VoxelGrid.{field}: mask {mask:#b} has bits beyond the {len(names)} names")
    return tuple(name for bit, name in enumerate(names) if mask >> bit & 1)
