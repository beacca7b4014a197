"""The LiDAR files of nuScenes (``.pcd.bin``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occ_perception.data.nuscenes_records import SensorRecord
from occ_perception.errors import DatasetError
from occ_perception.frame import LidarSweep

LIDAR_PERIOD_S = 0.05
BYTES_PER_POINT = 20
"""Five float32: x, y, z, intensity, ring."""
_RINGS = 32


@dataclass(frozen=True)
class LidarFile:
    """A ``.pcd.bin``: points float32 [N, 4] (x, y, z, intensity 0..255), rings uint16 [N], estimated offsets.

    ``offsets_s`` float32 [N] (<= 0) is the time of each point relative to the stamp as the column order tells it
    (specs/datasets.md section 2), None if the file is not in whole columns of 32.
    """

    points: np.ndarray
    rings: np.ndarray
    offsets_s: np.ndarray | None


def read_lidar(path: Path) -> LidarFile:
    """Read a sweep as nuScenes stores it: little-endian float32 x, y, z, intensity, ring.

    Raises:
        DatasetError: not there, or not a whole number of points.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"LiDAR file {path} cannot be read: {error}") from error
    if len(raw) % BYTES_PER_POINT:
        raise DatasetError(
            f"LiDAR file {path}: expected {BYTES_PER_POINT} bytes per point, got {len(raw)} bytes; is it truncated?"
        )
    values = np.frombuffer(raw, "<f4").reshape(-1, 5)
    rings = values[:, 4].astype(np.uint16)
    in_columns = len(rings) % _RINGS == 0 and np.array_equal(rings, np.resize(np.arange(_RINGS), len(rings)))
    columns = len(rings) // _RINGS
    offsets = None
    if in_columns and columns:
        lag = (np.arange(columns) - (columns - 1)) * (LIDAR_PERIOD_S / columns)
        offsets = np.repeat(lag, _RINGS).astype(np.float32)
    return LidarFile(np.ascontiguousarray(values[:, :4]), rings, offsets)


def read_sweep(record: SensorRecord, origin: np.ndarray) -> LidarSweep:
    """A LiDAR record as the project's sweep, with the pose relative to a local origin [3].

    Raises:
        DatasetError: see `read_lidar`.
    """
    file = read_lidar(record.path)
    return LidarSweep(
        stamp_ns=record.stamp_ns,
        points=file.points,
        ego_from_lidar=record.mount.ego_from_sensor,
        odom_from_ego=record.odom_from_ego(origin),
        offsets_s=file.offsets_s,
    )
