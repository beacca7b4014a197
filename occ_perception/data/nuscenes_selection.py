"""What of a nuScenes scene goes into its bag, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from occ_perception.data.bag_writer import STORAGES
from occ_perception.data.drive_bag import DEFAULT, PROFILES, Profile
from occ_perception.data.nuscenes_records import Scene, SensorRecord
from occ_perception.errors import ConfigurationError, DatasetError

_FORMAT = 2
"""Raised when the same settings begin to give another bag, so that old bags are not taken for new ones."""


@dataclass(frozen=True)
class SceneBagSettings:
    """What of a scene goes into its bag, and how.

    Attributes:
        storage: "mcap" or "sqlite3".
        profile: names of the topics, one of `drive_bag.PROFILES`.
        keyframes_only: only the 2 Hz keyframes of cameras and LiDAR.
        lidar: with the LiDAR.
        cameras: channels, None = all.
        start_s, duration_s: part of the scene, seconds from its first record; None = to its end.
        labels: folder of Occ3D labels (``gts``) for a topic of ground-truth grids, None = no such topic.
        boxes: with a topic of the annotated boxes.

    Raises:
        ConfigurationError: unknown storage or profile.
    """

    storage: str = "mcap"
    profile: str = DEFAULT.name
    keyframes_only: bool = False
    lidar: bool = True
    cameras: tuple[str, ...] | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    labels: Path | None = None
    boxes: bool = False

    def __post_init__(self) -> None:
        for what, name, known in (("storage", self.storage, STORAGES), ("profile", self.profile, PROFILES)):
            if name not in known:
                raise ConfigurationError(f"unknown {what} '{name}'; known: {', '.join(known)}")

    @property
    def topics(self) -> Profile:
        """Names of the topics."""
        return PROFILES[self.profile]

    def records(self, scene: Scene) -> list[SensorRecord]:
        """The chosen records, installed or not, in time order.

        Raises:
            DatasetError: a channel the scene does not have, or nothing at all is chosen.
        """
        there = scene.channels("camera")
        cameras = there if self.cameras is None else tuple(c.upper() for c in self.cameras)
        unknown = sorted(set(cameras) - set(there))
        if unknown:
            raise DatasetError(f"scene '{scene.name}' has no cameras {unknown}, only {list(there)}")
        channels = (*cameras, *scene.channels("lidar")) if self.lidar else cameras
        first = min(records[0].stamp_ns for records in scene.records.values()) + round(self.start_s * 1e9)
        last = float("inf") if self.duration_s is None else first + round(self.duration_s * 1e9)
        chosen = [
            record
            for channel in channels
            for record in scene.records[channel]
            if first <= record.stamp_ns <= last and (record.is_keyframe or not self.keyframes_only)
        ]
        if not chosen:
            raise DatasetError(f"scene '{scene.name}': nothing is chosen by {self}")
        return sorted(chosen, key=lambda record: record.stamp_ns)

    def identity(self, files: Sequence[Path]) -> dict[str, object]:
        """Everything that determines a bag, for its metadata: these settings, and its files by name and size."""
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        chosen = asdict(self) | {"labels": self.labels is not None}  # where they lie makes no difference
        return {"format": _FORMAT, **chosen, "files": len(files), "files_digest": digest.hexdigest()[:16]}
