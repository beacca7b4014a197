"""Sensor messages to what sets are made of: the same for the live node and the bag replayer.

Works on the fields alone, so the messages may be rclpy's classes or a bag reader's.  A message that cannot be read
becomes its error: it still takes its place in the set, and the frame's notes say why the sensor is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from occ_perception.assembler import LidarPoints, Measurement
from occ_perception.data.point_clouds import point_cloud_view, points_from_message
from occ_perception.data.sensor_messages import image_from_message
from occ_perception.errors import OccPerceptionError
from occ_perception.frame import CameraImage

_TIME_FIELDS = (("time_offset", "f", 1.0), ("time", "f", 1.0), ("t", "iu", 1e-9))
"""Name, kinds of numbers, and unit in seconds."""
_LONGEST_SWEEP_S = 0.5


def image_measurement(message: Any, stamp_ns: int) -> Measurement:
    """A `CameraImage` of a sensor_msgs/CompressedImage or Image, or why there is none."""
    try:
        return CameraImage(stamp_ns, image_from_message(message))
    except OccPerceptionError as error:
        return error


def lidar_measurement(message: Any) -> Measurement:
    """`LidarPoints` (x, y, z and intensity if there is one) of a sensor_msgs/PointCloud2, or why there are none."""
    try:
        cloud = point_cloud_view(message)
        names = ("x", "y", "z", "intensity") if "intensity" in (cloud.dtype.names or ()) else ("x", "y", "z")
        points = points_from_message(message, names)
        return LidarPoints(points, message.header.frame_id, _time_offsets(cloud))
    except OccPerceptionError as error:
        return error


def _time_offsets(cloud: np.ndarray) -> np.ndarray | None:
    """Time of each point relative to the stamp, seconds, float32 [N], from a field that can only mean that.

    Drivers disagree on what a time field counts from; one is believed only if all of it is within half a second of the
    stamp: seconds in floating point (``time_offset``, ``time``), or Ouster's ``t`` in integer nanoseconds.
    """
    names = cloud.dtype.names or ()
    for name, kind, unit_s in _TIME_FIELDS:
        if name in names and cloud.dtype[name].kind in kind and len(cloud):
            offsets = (cloud[name] * np.float64(unit_s)).astype(np.float32)
            if np.all(np.abs(offsets) <= _LONGEST_SWEEP_S) and np.any(offsets != 0):
                return offsets
    return None
