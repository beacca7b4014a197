"""What sensor messages say, as the core's types: stamps, poses, images and cameras.

Works on the fields alone, so the messages may be rclpy's classes or a bag reader's: the live node and the offline
replayer read them by the same code.  Writing messages is `occ_perception.ros.messages` (rclpy) and
`occ_perception.data.bag_messages` (bags).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import PinholeCamera, rigid

_NS_PER_S = 1_000_000_000

# Bytes per pixel, and which of them are red, green and blue.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


def stamp_to_ns(stamp: Any) -> int:
    """Nanoseconds of a stamp.

    Raises:
        InvalidInputError: its nanoseconds are not below one second.
    """
    if not 0 <= stamp.nanosec < _NS_PER_S:
        raise InvalidInputError(f"stamp: expected nanosec below 1e9, got {stamp.sec} s + {stamp.nanosec} ns")
    return stamp.sec * _NS_PER_S + stamp.nanosec


def pose_from_message(pose: Any) -> np.ndarray:
    """``frame_from_body`` of a geometry_msgs/Pose, float64 [4, 4].

    Raises:
        InvalidInputError: not finite, or the quaternion has no length.
    """
    return _matrix(pose.position, pose.orientation)


def transform_from_message(message: Any) -> np.ndarray:
    """``parent_from_child`` of a geometry_msgs/Transform or TransformStamped (in header.frame_id), float64 [4, 4].

    Raises:
        InvalidInputError: not finite, or the quaternion has no length.
    """
    transform = message.transform if hasattr(message, "child_frame_id") else message
    return _matrix(transform.translation, transform.rotation)


def image_from_message(message: Any) -> bytes | np.ndarray:
    """What `CameraImage.data` takes: the encoded bytes of a CompressedImage, uint8 RGB [H, W, 3] of an Image.

    Raises:
        InvalidInputError: an encoding that is not supported (the message lists those that are), or sizes that
            do not agree with the data.
    """
    return _rgb_pixels(message) if hasattr(message, "encoding") else _encoded_bytes(message)


def _encoded_bytes(message: Any) -> bytes:
    """The file in the message; which one it is, its first bytes say, not the free text in `format`."""
    data = bytes(message.data)
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise InvalidInputError(
            f"CompressedImage: expected JPEG or PNG, got format '{message.format}' and {len(data)} bytes {data[:8]!r}"
        )
    return data


def _rgb_pixels(message: Any) -> np.ndarray:
    if message.encoding not in _ENCODINGS:
        raise InvalidInputError(f"Image: encoding '{message.encoding}' is not one of {', '.join(_ENCODINGS)}")
    channels, (red, green, blue) = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1 or step < width * channels or len(message.data) < step * height:
        raise InvalidInputError(
            f"Image {width}x{height} {message.encoding}: expected step >= {width * channels} and step * height bytes, "
            f"got step {step} and {len(message.data)} bytes"
        )
    rows = np.frombuffer(message.data, np.uint8, step * height).reshape(height, step)  # a step may pad the row
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    if message.encoding == "rgb8":
        return np.ascontiguousarray(pixels)
    rgb = np.empty((height, width, 3), np.uint8)
    for target, source in enumerate((red, green, blue)):
        rgb[..., target] = pixels[..., source]
    return rgb


def camera_from_message(message: Any, ego_from_camera: np.ndarray, *, rectified: bool = False) -> PinholeCamera:
    """The camera that took the images of a CameraInfo.

    Binning and region of interest are applied: the camera is that of the images as they are published.

    Args:
        message: the calibration.
        ego_from_camera: mounting pose of the optical frame in base_link, [4, 4].
        rectified: the images are rectified (``image_rect``): take the projection matrix P instead of K.

    Raises:
        InvalidInputError: not calibrated (all zero), not finite, or no size; and for images that are not rectified, a
            distortion, which a pinhole camera cannot have.
    """
    full = np.array(message.p).reshape(3, 4)[:, :3] if rectified else np.array(message.k).reshape(3, 3)
    if not np.any(full):
        raise InvalidInputError(f"CameraInfo of '{message.header.frame_id}': not calibrated, the matrix is zero")
    distortion = np.array(message.d)
    if not rectified and np.any(distortion):  # NaN included
        raise InvalidInputError(
            f"CameraInfo of '{message.header.frame_id}': distortion {distortion.tolist()}; rectify the images first "
            "(image_proc) and say that they are"
        )
    binning = np.array([max(message.binning_x, 1), max(message.binning_y, 1)], np.float64)
    roi = message.roi
    width, height = roi.width or message.width, roi.height or message.height  # 0 means the whole image
    published = full.astype(np.float64)
    published[:2, 2] -= (roi.x_offset, roi.y_offset)
    published[:2] /= binning[:, None]
    return PinholeCamera(published, ego_from_camera, int(width / binning[0]), int(height / binning[1]))


def _matrix(position: Any, orientation: Any) -> np.ndarray:
    translation = np.array([position.x, position.y, position.z])
    if not np.all(np.isfinite(translation)):
        raise InvalidInputError(f"pose: expected a finite position, got {translation.tolist()}")
    return rigid(translation, np.array([orientation.x, orientation.y, orientation.z, orientation.w]))
