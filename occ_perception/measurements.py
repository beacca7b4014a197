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

_TIME_FIELDS = ("time_offset", "time")
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

    Drivers disagree on what a time field counts from; one is believed only if it is floating point and within one
    sweep before the stamp, the end of the sweep to which the points are compensated.
    """
    for name in _TIME_FIELDS:
        if name in (cloud.dtype.names or ()) and cloud.dtype[name].kind == "f" and len(cloud):
            offsets = cloud[name].astype(np.float32)
            if np.all((offsets >= -_LONGEST_SWEEP_S) & (offsets <= 0)) and offsets.min() < 0:
                return offsets
    return None
