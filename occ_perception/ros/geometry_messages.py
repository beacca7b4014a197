"""Stamps, poses and transforms between ROS messages and the core's integers and 4x4 matrices."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Quaternion, Transform, TransformStamped

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import quaternion_from_rotation, rigid

_NS_PER_S = 1_000_000_000
_MAX_STAMP_NS = (2**31 - 1) * _NS_PER_S + _NS_PER_S - 1  # builtin_interfaces/Time has int32 seconds


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a stamp.

    Raises:
        InvalidInputError: its nanoseconds are not below one second.
    """
    if not 0 <= stamp.nanosec < _NS_PER_S:
        raise InvalidInputError(f"stamp: expected nanosec below 1e9, got {stamp.sec} s + {stamp.nanosec} ns")
    return stamp.sec * _NS_PER_S + stamp.nanosec


def ns_to_stamp(stamp_ns: int) -> Time:
    """The stamp of an instant in nanoseconds.

    Raises:
        InvalidInputError: it does not fit a ROS stamp (0 s to 2^31 s).
    """
    if not 0 <= stamp_ns <= _MAX_STAMP_NS:
        raise InvalidInputError(f"stamp: expected 0..{_MAX_STAMP_NS} ns, got {stamp_ns}")
    seconds, nanoseconds = divmod(int(stamp_ns), _NS_PER_S)
    return Time(sec=seconds, nanosec=nanoseconds)


def pose_from_message(pose: Pose) -> np.ndarray:
    """``frame_from_body`` of a body's pose in a frame, float64 [4, 4].

    Raises:
        InvalidInputError: not finite, or the quaternion has no length.
    """
    return _matrix(pose.position, pose.orientation)


def pose_to_message(frame_from_body: np.ndarray) -> Pose:
    """The pose of a body in a frame from ``frame_from_body`` [4, 4]."""
    pose = Pose(orientation=_quaternion(frame_from_body))
    pose.position.x, pose.position.y, pose.position.z = map(float, frame_from_body[:3, 3])
    return pose


def transform_from_message(message: Transform | TransformStamped) -> np.ndarray:
    """``parent_from_child`` (header.frame_id is the parent), float64 [4, 4].

    Raises:
        InvalidInputError: not finite, or the quaternion has no length.
    """
    transform = message.transform if isinstance(message, TransformStamped) else message
    return _matrix(transform.translation, transform.rotation)


def transform_to_message(parent: str, child: str, stamp_ns: int, parent_from_child: np.ndarray) -> TransformStamped:
    """The message that says where ``child`` is in ``parent`` at an instant, from ``parent_from_child`` [4, 4]."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = ns_to_stamp(stamp_ns)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = map(float, parent_from_child[:3, 3])
    message.transform.rotation = _quaternion(parent_from_child)
    return message


def _matrix(position: object, orientation: Quaternion) -> np.ndarray:
    translation = np.array([position.x, position.y, position.z])  # type: ignore[attr-defined]
    if not np.all(np.isfinite(translation)):
        raise InvalidInputError(f"pose: expected a finite position, got {translation.tolist()}")
    return rigid(translation, np.array([orientation.x, orientation.y, orientation.z, orientation.w]))


def _quaternion(matrix: np.ndarray) -> Quaternion:
    x, y, z, w = map(float, quaternion_from_rotation(matrix[:3, :3]))
    return Quaternion(x=x, y=y, z=z, w=w)
