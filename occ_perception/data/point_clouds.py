"""The bytes of ``sensor_msgs/PointCloud2`` to and from NumPy: any field order, padding and byte order.

Works on the fields alone, so the messages may be rclpy's classes or a bag reader's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from occ_perception.errors import InvalidInputError

POINT_FIELD_TYPES: dict[int, np.dtype] = {
    code: np.dtype(name) for code, name in enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"), start=1)
}
"""sensor_msgs/PointField datatype codes as numpy types."""
POINT_FIELD_CODES: dict[np.dtype, int] = {dtype: code for code, dtype in POINT_FIELD_TYPES.items()}
"""The other way round."""
_LARGEST_POINT = 2**31 - 1  # NumPy's limit


def point_cloud_view(message: Any) -> np.ndarray:
    """The points as a structured array [N] with the message's own field names; shares the message's memory.

    Raises:
        InvalidInputError: fields that do not fit into a point, or fewer bytes than width, height and steps ask for.
    """
    width, height, row_step = message.width, message.height, message.row_step
    if height == 1:
        row_step = width * message.point_step  # many drivers leave row_step 0
    if row_step < width * message.point_step or len(message.data) < height * row_step:
        raise InvalidInputError(
            f"PointCloud2: {width}x{height} points of {message.point_step} bytes with a row step of {message.row_step} "
            f"do not fit {len(message.data)} bytes"
        )
    layout = _layout(message)
    if width * height == 0:
        return np.empty(0, layout)
    rows = np.frombuffer(message.data, np.uint8, height * row_step).reshape(height, row_step)
    packed = np.ascontiguousarray(rows[:, : width * message.point_step])  # copies only if rows are padded
    return packed.reshape(-1).view(layout)


def points_from_message(message: Any, names: Sequence[str] = ("x", "y", "z")) -> np.ndarray:
    """Chosen fields of every point as float32 [N, len(names)]; NaN and infinity are passed on.

    Raises:
        InvalidInputError: a field is missing (the message lists those that are there), or as `point_cloud_view`.
    """
    points = point_cloud_view(message)
    scalars = [name for name in points.dtype.names or () if not points.dtype[name].shape]
    missing = [name for name in names if name not in scalars]
    if missing:
        raise InvalidInputError(f"PointCloud2: fields {missing} are missing, it has {scalars}")
    columns = np.empty((len(points), len(names)), np.float32)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinity, which callers drop like any other
        for column, name in enumerate(names):
            columns[:, column] = points[name]
    return columns


def pack_points(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns [N] as a structured array [N], packed in their order: the data of a PointCloud2.

    Raises:
        InvalidInputError: none, of different lengths, or of a type PointCloud2 does not know.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shapes = {a.shape for a in arrays.values()}
    unknown = [f"{name}: {a.dtype}" for name, a in arrays.items() if a.dtype not in POINT_FIELD_CODES]
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or unknown:
        raise InvalidInputError(f"points: expected columns [N] of PointCloud2's types, got shapes {shapes}, {unknown}")
    points = np.empty(next(iter(shapes)), np.dtype([(name, a.dtype) for name, a in arrays.items()]))
    for name, values in arrays.items():
        points[name] = values
    return points


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Colours uint8 [N, 3] as PCL's and RViz's ``rgb`` field: float32 [N] whose bits are 0x00RRGGBB."""
    red, green, blue = np.moveaxis(colors.astype(np.uint32), -1, 0)
    return (red << 16 | green << 8 | blue).view(np.float32)


def _layout(message: Any) -> np.dtype:
    """Memory layout of one point, from the fields of the message."""
    names, formats, ends = [], [], []
    for field in message.fields:
        if field.datatype not in POINT_FIELD_TYPES:
            raise InvalidInputError(f"PointCloud2: field '{field.name}' has the unknown datatype {field.datatype}")
        scalar = POINT_FIELD_TYPES[field.datatype].newbyteorder(">" if message.is_bigendian else "<")
        count = max(field.count, 1)  # some drivers leave it 0
        names.append(field.name)
        formats.append((scalar, (count,)) if count > 1 else scalar)
        ends.append(field.offset + count * scalar.itemsize)
    if not names or len(set(names)) != len(names) or not max(ends) <= message.point_step <= _LARGEST_POINT:
        raise InvalidInputError(
            f"PointCloud2: expected distinct fields within {message.point_step} bytes, got {names} ending at {ends}"
        )
    offsets = [field.offset for field in message.fields]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
