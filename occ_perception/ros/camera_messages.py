"""Camera messages to what the core takes: encoded bytes or RGB arrays, and pinhole cameras. No cv_bridge."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import PinholeCamera
from occ_perception.ros.geometry_messages import ns_to_stamp

# Bytes per pixel, and which of them are red, green and blue.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


def image_from_message(message: Image | CompressedImage) -> bytes | np.ndarray:
    """What `CameraImage.data` takes: the encoded bytes of a CompressedImage, uint8 RGB [H, W, 3] of an Image.

    Raises:
        InvalidInputError: an encoding that is not supported (the message lists those that are), or sizes that
            do not agree with the data.
    """
    return _encoded_bytes(message) if isinstance(message, CompressedImage) else _rgb_pixels(message)


def _encoded_bytes(message: CompressedImage) -> bytes:
    """The file in the message; which one it is, its first bytes say, not the free text in `format`."""
    data = bytes(message.data)
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise InvalidInputError(
            f"CompressedImage: expected JPEG or PNG, got format '{message.format}' and {len(data)} bytes {data[:8]!r}"
        )
    return data


def _rgb_pixels(message: Image) -> np.ndarray:
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


def camera_from_message(message: CameraInfo, ego_from_camera: np.ndarray, *, rectified: bool = False) -> PinholeCamera:
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


def camera_to_message(camera: PinholeCamera, frame_id: str, stamp_ns: int) -> CameraInfo:
    """The CameraInfo of an undistorted camera (plumb_bob, no distortion, K = P)."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = frame_id
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.k = camera.intrinsics.reshape(-1)
    message.r = np.eye(3).reshape(-1)
    message.p = np.column_stack([camera.intrinsics, np.zeros(3)]).reshape(-1)
    return message
