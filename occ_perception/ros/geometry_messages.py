"""ROS messages of stamps, poses, transforms and cameras; reading them is `occ_perception.data.sensor_messages`."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Quaternion, TransformStamped
from sensor_msgs.msg import CameraInfo

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import PinholeCamera, quaternion_from_rotation

_NS_PER_S = 1_000_000_000
_MAX_STAMP_NS = (2**31 - 1) * _NS_PER_S + _NS_PER_S - 1  # builtin_interfaces/Time has int32 seconds


def ns_to_stamp(stamp_ns: int) -> Time:
    """The stamp of an instant in nanoseconds.

    Raises:
        InvalidInputError: it does not fit a ROS stamp (0 s to 2^31 s).
    """
    if not 0 <= stamp_ns <= _MAX_STAMP_NS:
        raise InvalidInputError(f"stamp: expected 0..{_MAX_STAMP_NS} ns, got {stamp_ns}")
    seconds, nanoseconds = divmod(int(stamp_ns), _NS_PER_S)
    return Time(sec=seconds, nanosec=nanoseconds)


def pose_to_message(frame_from_body: np.ndarray) -> Pose:
    """The pose of a body in a frame from ``frame_from_body`` [4, 4]."""
    pose = Pose(orientation=_quaternion(frame_from_body))
    pose.position.x, pose.position.y, pose.position.z = map(float, frame_from_body[:3, 3])
    return pose


def transform_to_message(parent: str, child: str, stamp_ns: int, parent_from_child: np.ndarray) -> TransformStamped:
    """The message that says where ``child`` is in ``parent`` at an instant, from ``parent_from_child`` [4, 4]."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = ns_to_stamp(stamp_ns)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = map(float, parent_from_child[:3, 3])
    message.transform.rotation = _quaternion(parent_from_child)
    return message


def camera_to_message(camera: PinholeCamera, frame_id: str, stamp_ns: int) -> CameraInfo:
    """The CameraInfo of an undistorted camera (plumb_bob, no distortion, K = P)."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = frame_id
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.k = camera.intrinsics.reshape(-1)
    message.r = np.eye(3).reshape(-1)
    message.p = np.column_stack([camera.intrinsics, np.zeros(3)]).reshape(-1)
    return message


def _quaternion(matrix: np.ndarray) -> Quaternion:
    x, y, z, w = map(float, quaternion_from_rotation(matrix[:3, :3]))
    return Quaternion(x=x, y=y, z=z, w=w)
