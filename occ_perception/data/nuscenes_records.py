"""What a nuScenes scene is made of: sensor records with their calibration and float64 poses, and annotated boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from occ_perception.errors import DatasetError
from occ_perception.geometry import PinholeCamera, rigid


@dataclass(frozen=True)
class Mount:
    """Where a sensor sits: ``ego_from_sensor`` float64 [4, 4], and a camera's intrinsics [3, 3] (else None)."""

    channel: str
    modality: str
    ego_from_sensor: np.ndarray
    intrinsics: np.ndarray | None


@dataclass(frozen=True)
class SensorRecord:
    """One measurement of one sensor (a row of sample_data).

    Attributes:
        token, sample_token: nuScenes' keys; the sample is the keyframe this is, or the one that follows.
        stamp_ns: nanoseconds, exactly the file's microseconds.
        path: file with the data; it may be missing in a partial install.
        is_keyframe: belongs to its sample itself.
        width, height: of an image, pixels.
        mount: calibration of the sensor.
        translation: of the vehicle in the global frame at the stamp, float64 [3], metres.
        quaternion_xyzw: of the vehicle, float64 [4].
    """

    token: str
    sample_token: str
    stamp_ns: int
    path: Path
    is_keyframe: bool
    width: int
    height: int
    mount: Mount
    translation: np.ndarray
    quaternion_xyzw: np.ndarray

    @property
    def channel(self) -> str:
        """Name of the sensor, e.g. CAM_FRONT."""
        return self.mount.channel

    def odom_from_ego(self, origin: np.ndarray) -> np.ndarray:
        """Pose of the vehicle relative to a local origin [3] of the global frame (whose axes it keeps), [4, 4]."""
        return rigid(self.translation - origin, self.quaternion_xyzw)

    def camera(self) -> PinholeCamera:
        """The camera of an image record.

        Raises:
            DatasetError: the record is no image, or has no intrinsics.
        """
        if self.mount.intrinsics is None:
            raise DatasetError(f"{self.channel} record {self.token}: expected camera intrinsics, there are none")
        return PinholeCamera(self.mount.intrinsics, self.mount.ego_from_sensor, self.width, self.height)


@dataclass(frozen=True)
class BoxAnnotation:
    """One annotated object of a sample, in the global frame.

    Attributes:
        token, instance_token: nuScenes' keys.
        category: name, e.g. vehicle.car.
        global_from_box: float64 [4, 4], centre and heading (x forward).
        size: length, width, height in metres (nuScenes stores width, length, height).
        velocity: m/s [3], from the neighbouring samples; NaN when not known.
        num_lidar_points, num_radar_points: returns inside, as recorded.
    """

    token: str
    instance_token: str
    category: str
    global_from_box: np.ndarray
    size: tuple[float, float, float]
    velocity: np.ndarray
    num_lidar_points: int
    num_radar_points: int


@dataclass(frozen=True)
class Scene:
    """One drive of about 20 s.

    Attributes:
        name, token, description, location, vehicle: as in the tables.
        samples: (token, stamp_ns) of the keyframes, in time order.
        records: by channel, keyframes and sweeps in time order.
    """

    name: str
    token: str
    description: str
    location: str
    vehicle: str
    samples: tuple[tuple[str, int], ...]
    records: Mapping[str, tuple[SensorRecord, ...]]

    def channels(self, modality: str) -> tuple[str, ...]:
        """Channels of a modality ("camera", "lidar", "radar"), sorted."""
        return tuple(sorted(c for c, records in self.records.items() if records[0].mount.modality == modality))

    @cached_property
    def origin(self) -> np.ndarray:
        """First position of the vehicle, float64 [3], global frame: local origin that keeps coordinates small."""
        first = min((records[0] for records in self.records.values()), key=lambda record: record.stamp_ns)
        return first.translation

    @cached_property
    def keyframes(self) -> Mapping[str, Mapping[str, SensorRecord]]:
        """Keyframe records by sample token and channel."""
        keyframes: dict[str, dict[str, SensorRecord]] = {token: {} for token, _ in self.samples}
        for channel, records in self.records.items():
            for record in records:
                if record.is_keyframe:
                    keyframes[record.sample_token][channel] = record
        return keyframes

    def missing_files(self) -> dict[str, int]:
        """How many files of each channel are not installed; empty when all are there."""
        missing = {c: sum(not r.path.is_file() for r in records) for c, records in self.records.items()}
        return {channel: count for channel, count in missing.items() if count}
