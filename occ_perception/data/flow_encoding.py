"""Voxel velocities between float metres per second and the wire's int16 millimetres per second."""

from __future__ import annotations

import array

import numpy as np

FLOW_UNKNOWN = -32768
"""On the wire: this component is not known; NaN in the core."""
_LIMIT = 32767
_BLOCK = 65_536  # values converted at a time: their temporaries stay in the cache, twice as fast as whole grids


def flow_to_wire(flow: np.ndarray) -> array.array:
    """Velocities float32 of any shape, m/s, as int16 mm/s in the same order, flat; saturates at +-32.767 m/s."""
    metres = np.ascontiguousarray(flow).reshape(-1)
    message_field = array.array("h", [0]) * metres.size  # converted in place: one copy of a large array less
    wire = np.frombuffer(message_field, np.int16) if metres.size else np.empty(0, np.int16)
    scratch = np.empty(_BLOCK, np.float32)
    with np.errstate(invalid="ignore"):
        for start in range(0, metres.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            millimetres = scratch[: metres[block].size]
            np.multiply(metres[block], np.float32(1000), out=millimetres)
            np.rint(millimetres, out=millimetres)
            np.clip(millimetres, -_LIMIT, _LIMIT, out=millimetres)
            wire[block] = millimetres
            unknown = np.isnan(millimetres)
            if unknown.any():
                wire[block][unknown] = FLOW_UNKNOWN
    return message_field


def flow_from_wire(wire: np.ndarray) -> np.ndarray:
    """Inverse of `flow_to_wire`, float32, flat; NaN where the wire says FLOW_UNKNOWN."""
    metres = np.divide(wire, np.float32(1000), dtype=np.float32)
    unknown = wire == FLOW_UNKNOWN
    if unknown.any():
        metres[unknown] = np.nan
    return metres
