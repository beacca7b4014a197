"""The vehicle's sensors: six cameras and a LiDAR as nuScenes has them, a little different in every scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import CameraRig, PinholeCamera, rigid_from_rotation

NATIVE_WIDTH, NATIVE_HEIGHT = 1600, 900
KEYFRAMES_PER_SECOND = 2
TRAINING_SIZE = (704, 256)
"""Width and height of network input: scaled by 0.44, the upper 140 of 396 rows cropped."""

_FOCAL_JITTER, _CENTER_JITTER_PX = 0.03, 12.0
_POSITION_JITTER_M, _ANGLE_JITTER_DEG = 0.05, 1.5
_LIDAR_POSITION_JITTER_M, _LIDAR_ANGLE_JITTER_DEG = 0.02, 0.5


@dataclass(frozen=True)
class Mount:
    """A camera on the vehicle: position in metres (ego frame), yaw, downward pitch and roll in degrees; focal length
    and principal point in pixels of a 1600x900 image."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    roll: float
    focal: float
    center: tuple[float, float]


# Rounded from the calibration (a fact, not a work) of the vehicle in shared/data/nuscenes_keyframe.
MOUNTS: Mapping[str, Mount] = {
    "cam_front_left": Mount(1.52, 0.49, 1.51, 55.2, -0.1, 0.1, 1273.0, (827.0, 480.0)),
    "cam_front": Mount(1.70, 0.02, 1.51, 0.3, 0.3, -0.1, 1266.0, (816.0, 492.0)),
    "cam_front_right": Mount(1.55, -0.49, 1.50, -56.4, 0.8, 0.5, 1261.0, (808.0, 495.0)),
    "cam_back_left": Mount(1.04, 0.48, 1.59, 108.6, 0.9, -0.2, 1257.0, (792.0, 493.0)),
    "cam_back": Mount(0.03, 0.00, 1.58, 179.9, -1.0, 0.2, 809.0, (829.0, 482.0)),
    "cam_back_right": Mount(1.01, -0.48, 1.56, -110.8, 0.9, 0.6, 1260.0, (807.0, 501.0)),
}
CAMERAS = tuple(MOUNTS)
"""Camera names in BEVDet order."""


def city_rig(seed: int, image_size: tuple[int, int] = TRAINING_SIZE, cameras: tuple[str, ...] = CAMERAS) -> CameraRig:
    """The cameras of a scene: `MOUNTS`, each off by up to 3 % of focal length, 12 px of 1600, 5 cm and 1.5 degrees.

    Args:
        seed: of the scene; a camera's own does not depend on which others there are.
        image_size: width and height, pixels.  The width decides the scale; of the scaled 16:9 image the lowest
            ``height`` rows are kept (704x256 is the full width, and no sky).
        cameras: which of `CAMERAS`.

    Raises:
        ConfigurationError: unknown camera, or an image size that is no part of a 16:9 image.
    """
    unknown = set(cameras) - set(CAMERAS)
    if unknown:
        raise ConfigurationError(f"unknown synthetic cameras {sorted(unknown)}; there are {CAMERAS}")
    width, height = image_size
    full_height = round(width * NATIVE_HEIGHT / NATIVE_WIDTH)
    if min(width, height) < 16 or height > full_height:
        raise ConfigurationError(
            f"image size {width}x{height}: expected 16 pixels or more, and at most 9/16 of the width high "
            f"(704x256, 1600x900, 800x450)"
        )
    return CameraRig({name: _camera(MOUNTS[name], _rng(seed, name), image_size, full_height) for name in cameras})


def lidar_mount(seed: int) -> np.ndarray:
    """ego_from_lidar of a scene, float64 [4, 4]: on the roof; axes are nuScenes' (x right, y forward), tilted a bit."""
    rng = _rng(seed, "lidar_top")
    roll, pitch, yaw = np.deg2rad(np.array([-0.3, 1.4, 0.1]) + _LIDAR_ANGLE_JITTER_DEG * rng.uniform(-1, 1, 3))
    ego_from_sensor = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    position = np.array([0.94, 0.0, 1.84]) + _LIDAR_POSITION_JITTER_M * rng.uniform(-1, 1, 3)
    return rigid_from_rotation(_turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll) @ ego_from_sensor, position)


def _camera(mount: Mount, rng: np.random.Generator, image_size: tuple[int, int], full_height: int) -> PinholeCamera:
    width, height = image_size
    scale = width / NATIVE_WIDTH
    focal = mount.focal * (1 + _FOCAL_JITTER * rng.uniform(-1, 1)) * scale
    center = (np.array(mount.center) + _CENTER_JITTER_PX * rng.uniform(-1, 1, 2)) * scale
    position = np.array([mount.x, mount.y, mount.z]) + _POSITION_JITTER_M * rng.uniform(-1, 1, 3)
    angles = np.array([mount.yaw, mount.pitch, mount.roll]) + _ANGLE_JITTER_DEG * rng.uniform(-1, 1, 3)
    intrinsics = np.array([[focal, 0, center[0]], [0, focal, center[1] - (full_height - height)], [0, 0, 1]])
    return PinholeCamera(intrinsics, rigid_from_rotation(_optical(*np.deg2rad(angles)), position), width, height)


def _optical(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation from optical axes (x right, y down, z forward) to ego axes, [3, 3]."""
    ego_from_optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll) @ ego_from_optical


def _turn(axis: int, angle: float) -> np.ndarray:
    """Right-handed rotation about an axis, [3, 3]."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[first, first] = rotation[second, second] = np.cos(angle)
    rotation[second, first] = np.sin(angle)
    rotation[first, second] = -rotation[second, first]
    return rotation


def _rng(seed: int, sensor: str) -> np.random.Generator:
    return np.random.default_rng([seed, *sensor.encode()])
