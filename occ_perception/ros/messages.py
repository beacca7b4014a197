"""Everything that crosses the border between ROS messages and the core, in one place to import from.

The core never sees a message; nodes never look inside one.
"""

from occ_perception.data.instance_messages import instances_from_message
from occ_perception.data.point_clouds import pack_rgb, point_cloud_view, points_from_message
from occ_perception.data.sensor_messages import (
    camera_from_message,
    image_from_message,
    pose_from_message,
    stamp_to_ns,
    transform_from_message,
)
from occ_perception.data.voxel_messages import occupancy_from_message
from occ_perception.ros.geometry_messages import camera_to_message, ns_to_stamp, pose_to_message, transform_to_message
from occ_perception.ros.instance_messages import instances_to_message
from occ_perception.ros.point_cloud_messages import points_to_message
from occ_perception.ros.voxel_messages import occupancy_to_message

__all__ = [
    "camera_from_message",
    "camera_to_message",
    "image_from_message",
    "instances_from_message",
    "instances_to_message",
    "ns_to_stamp",
    "occupancy_from_message",
    "occupancy_to_message",
    "pack_rgb",
    "point_cloud_view",
    "points_from_message",
    "points_to_message",
    "pose_from_message",
    "pose_to_message",
    "stamp_to_ns",
    "transform_from_message",
    "transform_to_message",
]
