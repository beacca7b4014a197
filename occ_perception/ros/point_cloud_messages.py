"""``sensor_msgs/PointCloud2`` to and from NumPy: any field order, padding and byte order."""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from occ_perception.errors import InvalidInputError
from occ_perception.ros.geometry_messages import ns_to_stamp

_FORMATS = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
_DATATYPES = {np.dtype(code): datatype for datatype, code in _FORMATS.items()}


def point_cloud_view(message: PointCloud2) -> np.ndarray:
    """The points as a structured array [N] with the message's own field names; shares the message's memory.

    Raises:
        InvalidInputError: fields that do not fit into a point, or fewer bytes than width, height and steps ask for.
    """
    layout = _layout(message)
    width, height, row_step = message.width, message.height, message.row_step
    if width * height == 0:
        return np.empty(0, layout)
    if height == 1:
        row_step = width * message.point_step  # many drivers leave row_step 0
    if row_step < width * message.point_step or len(message.data) < height * row_step:
        raise InvalidInputError(
            f"PointCloud2: {width}x{height} points of {message.point_step} bytes with a row step of {message.row_step} "
            f"do not fit {len(message.data)} bytes"
        )
    rows = np.frombuffer(message.data, np.uint8, height * row_step).reshape(height, row_step)
    packed = np.ascontiguousarray(rows[:, : width * message.point_step])  # copies only if rows are padded
    return packed.reshape(-1).view(layout)


def points_from_message(message: PointCloud2, names: Sequence[str] = ("x", "y", "z")) -> np.ndarray:
    """Chosen fields of every point as float32 [N, len(names)]; NaN and infinity are passed on.

    Raises:
        InvalidInputError: a field is missing (the message lists those that are there), or as `point_cloud_view`.
    """
    points = point_cloud_view(message)
    missing = [name for name in names if name not in (points.dtype.names or ())]
    if missing:
        raise InvalidInputError(f"PointCloud2: fields {missing} are missing, it has {list(points.dtype.names or ())}")
    columns = np.empty((len(points), len(names)), np.float32)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinity, which callers drop like any other
        for column, name in enumerate(names):
            columns[:, column] = points[name]
    return columns


def points_to_message(stamp_ns: int, frame_id: str, columns: Mapping[str, np.ndarray]) -> PointCloud2:
    """An unordered cloud with the given fields, packed in their order.

    Args:
        stamp_ns: instant, nanoseconds.
        frame_id: frame of the points.
        columns: arrays [N] by field name; 8 to 32 bit integers, float32 or float64.

    Raises:
        InvalidInputError: lengths differ, or a type PointCloud2 does not know.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shapes = {a.shape for a in arrays.values()}
    unknown = [f"{name}: {a.dtype}" for name, a in arrays.items() if a.dtype not in _DATATYPES]
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or unknown:
        raise InvalidInputError(f"points: expected columns [N] of PointCloud2's types, got shapes {shapes}, {unknown}")
    points = np.empty(next(iter(shapes)), np.dtype([(name, a.dtype) for name, a in arrays.items()]))
    for name, values in arrays.items():
        points[name] = values
    message = PointCloud2(height=1, width=len(points), point_step=points.itemsize, row_step=points.nbytes)
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.is_bigendian = sys.byteorder == "big"
    message.is_dense = all(np.isfinite(a).all() for a in arrays.values())
    for name, (dtype, offset, *_) in (points.dtype.fields or {}).items():
        message.fields.append(PointField(name=name, offset=offset, datatype=_DATATYPES[dtype], count=1))
    data = array.array("B")
    data.frombytes(points.tobytes())
    message.data = data
    return message


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Colours uint8 [N, 3] as PCL's and RViz's ``rgb`` field: float32 [N] whose bits are 0x00RRGGBB."""
    red, green, blue = np.moveaxis(colors.astype(np.uint32), -1, 0)
    return (red << 16 | green << 8 | blue).view(np.float32)


def _layout(message: PointCloud2) -> np.dtype:
    """Memory layout of one point, from the fields of the message."""
    order = ">" if message.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in message.fields:
        if field.datatype not in _FORMATS:
            raise InvalidInputError(f"PointCloud2: field '{field.name}' has the unknown datatype {field.datatype}")
        code = order + _FORMATS[field.datatype]
        names.append(field.name)
        formats.append(code if field.count <= 1 else f"({field.count},){code}")
        offsets.append(field.offset)
    ends = [offset + np.dtype(code).itemsize for offset, code in zip(offsets, formats, strict=True)]
    if not names or len(set(names)) != len(names) or max(ends) > message.point_step:
        raise InvalidInputError(
            f"PointCloud2: expected distinct fields within {message.point_step} bytes, got {names} ending at {ends}"
        )
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
