"""Calibration from a file, for robots without CameraInfo or without transforms to their sensors.

cameras:
  cam_front:
    width: 1600                         # of the images as they are published, pixels
    height: 900
    intrinsics: [1266.4, 1266.4, 816.3, 491.5]   # fx, fy, cx, cy, pixels
    position: [1.70, 0.02, 1.51]        # of the camera in base_link, metres
    orientation: [-0.5, 0.5, -0.5, 0.5] # of its optical frame (x right, y down, z forward), quaternion x y z w
lidar:                                  # optional
  position: [0.94, 0.0, 1.84]
  orientation: [0.0, 0.0, -0.7071, 0.7071]
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import CameraRig, PinholeCamera, rigid

_CAMERA_KEYS = {"width": 1, "height": 1, "intrinsics": 4, "position": 3, "orientation": 4}
_LIDAR_KEYS = {"position": 3, "orientation": 4}


@dataclass(frozen=True)
class Calibration:
    """Cameras with their mountings, and the LiDAR's mounting (float64 [4, 4]) if the file has it."""

    rig: CameraRig
    ego_from_lidar: np.ndarray | None


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file.

    Raises:
        ConfigurationError: unreadable, not YAML, a key missing or unknown, or values that are no camera.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not set(content) <= {"cameras", "lidar"}:
            raise ConfigurationError(f"expected the keys cameras and lidar, got {content!r}")
        cameras = {name: _camera(name, entry) for name, entry in (content.get("cameras") or {}).items()}
        lidar = content.get("lidar")
        return Calibration(CameraRig(cameras), _mount(_numbers("lidar", lidar, _LIDAR_KEYS)) if lidar else None)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InvalidInputError, ConfigurationError) as error:
        raise ConfigurationError(f"calibration file {path}: {error}") from error


def _camera(name: str, entry: Any) -> PinholeCamera:
    values = _numbers(f"camera {name}", entry, _CAMERA_KEYS)
    fx, fy, cx, cy = values["intrinsics"]
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return PinholeCamera(intrinsics, _mount(values), int(values["width"][0]), int(values["height"][0]))


def _mount(values: dict[str, np.ndarray]) -> np.ndarray:
    return rigid(values["position"], values["orientation"])


def _numbers(where: str, entry: Any, keys: dict[str, int]) -> dict[str, np.ndarray]:
    """The entry's numbers as arrays of the right length."""
    if not isinstance(entry, dict) or set(entry) != set(keys):
        raise ConfigurationError(f"{where}: expected exactly the keys {list(keys)}, got {entry!r}")
    values = {}
    for key, length in keys.items():
        try:
            values[key] = np.atleast_1d(np.asarray(entry[key], np.float64))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{where}: {key}: expected {length} numbers, got {entry[key]!r}") from error
        if values[key].shape != (length,) or not np.all(np.isfinite(values[key])):
            raise ConfigurationError(f"{where}: {key}: expected {length} finite numbers, got {entry[key]!r}")
    return values
