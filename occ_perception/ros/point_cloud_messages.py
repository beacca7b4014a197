"""``sensor_msgs/PointCloud2`` from columns; reading it is `occ_perception.data.point_clouds`."""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from occ_perception.data.point_clouds import POINT_FIELD_CODES, pack_points
from occ_perception.ros.geometry_messages import ns_to_stamp


def points_to_message(stamp_ns: int, frame_id: str, columns: Mapping[str, np.ndarray]) -> PointCloud2:
    """An unordered cloud with the given fields, packed in their order.

    Args:
        stamp_ns: instant, nanoseconds.
        frame_id: frame of the points.
        columns: arrays [N] by field name; 8 to 32 bit integers, float32 or float64.

    Raises:
        InvalidInputError: lengths differ, or a type PointCloud2 does not know.
    """
    points = pack_points(columns)
    message = PointCloud2(height=1, width=len(points), point_step=points.itemsize, row_step=points.nbytes)
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.is_bigendian = sys.byteorder == "big"
    message.is_dense = all(np.isfinite(points[name]).all() for name in columns)
    for name, (dtype, offset, *_) in (points.dtype.fields or {}).items():
        message.fields.append(PointField(name=name, offset=offset, datatype=POINT_FIELD_CODES[dtype], count=1))
    data = array.array("B")
    data.frombytes(points.tobytes())
    message.data = data
    return message
