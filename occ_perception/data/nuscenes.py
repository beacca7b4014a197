"""nuScenes as a source: scenes with all records of all sensors, boxes with velocities, `Frame`s.

Facts and traps of the format are in specs/datasets.md sections 1-4: quaternions are stored wxyz, every record has its
own ego pose, points are already motion compensated, the six images of a sample are spread over 43 ms.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from occ_perception.data.nuscenes_lidar import read_sweep
from occ_perception.data.nuscenes_records import BoxAnnotation, Mount, Scene, SensorRecord
from occ_perception.data.nuscenes_tables import Row, Table, find_version
from occ_perception.errors import DatasetError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import CameraRig, rigid

LICENCE = "nuScenes (c) Motional, CC BY-NC-SA 4.0 and the nuScenes terms of use: non-commercial, attribution"


class NuScenes:
    """A nuScenes tree: tables and whatever of the files is installed.

    Args:
        root: folder with samples/, sweeps/ and the tables' folder.
        version: the tables' folder, e.g. "v1.0-mini"; None = the only one there.

    Raises:
        DatasetError: a table is missing or damaged; the message names the file.
    """

    def __init__(self, root: str | os.PathLike[str], version: str | None = None) -> None:
        self.root = Path(root)
        self.version = find_version(self.root, version)
        self._folder = self.root / self.version
        self._scenes = {row["name"]: row for row in Table(self._folder, "scene")}
        self._logs = Table(self._folder, "log")
        self._samples = Table(self._folder, "sample")
        self._sample_data = Table(self._folder, "sample_data")
        self._poses = Table(self._folder, "ego_pose")
        self._calibrations = Table(self._folder, "calibrated_sensor")
        self._sensors = Table(self._folder, "sensor")
        self._mounts: dict[str, Mount] = {}

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of all scenes, in the tables' order."""
        return tuple(self._scenes)

    def scene(self, name: str) -> Scene:
        """A scene by name.

        Raises:
            DatasetError: no such scene (the message lists them), or its rows refer to rows that are not there.
        """
        if name not in self._scenes:
            raise DatasetError(f"nuScenes {self.version} at {self.root} has no scene '{name}', only {self.scene_names}")
        row = self._scenes[name]
        log = self._logs[row["log_token"]]
        samples = sorted((s["timestamp"] * 1000, s["token"]) for s in self._samples_of_scene[row["token"]])
        records: dict[str, list[SensorRecord]] = defaultdict(list)
        for _, token in samples:
            for data in self._data_of_sample[token]:
                record = self._record(data)
                records[record.channel].append(record)
        if not records:
            raise DatasetError(f"{self._sample_data.path}: scene '{name}' has no rows")
        ordered = {c: tuple(sorted(r, key=lambda record: record.stamp_ns)) for c, r in sorted(records.items())}
        return Scene(
            name=name,
            token=row["token"],
            description=row["description"],
            location=log["location"],
            vehicle=log["vehicle"],
            samples=tuple((token, stamp) for stamp, token in samples),
            records=ordered,
        )

    @cached_property
    def _samples_of_scene(self) -> Mapping[str, list[Row]]:
        return _grouped(self._samples, "scene_token")

    @cached_property
    def _data_of_sample(self) -> Mapping[str, list[Row]]:
        return _grouped(self._sample_data, "sample_token")

    def _record(self, row: Row) -> SensorRecord:
        pose = self._poses[row["ego_pose_token"]]
        return SensorRecord(
            token=row["token"],
            sample_token=row["sample_token"],
            stamp_ns=row["timestamp"] * 1000,
            path=self.root / row["filename"],
            is_keyframe=bool(row["is_key_frame"]),
            width=int(row["width"] or 0),
            height=int(row["height"] or 0),
            mount=self._mount(row["calibrated_sensor_token"]),
            translation=np.array(pose["translation"], np.float64),
            quaternion_xyzw=_xyzw(pose["rotation"]),
        )

    def _mount(self, token: str) -> Mount:
        """Calibrations are shared by all records of a sensor in a log."""
        if token not in self._mounts:
            row = self._calibrations[token]
            sensor = self._sensors[row["sensor_token"]]
            intrinsics = np.array(row["camera_intrinsic"], np.float64) if row["camera_intrinsic"] else None
            ego_from_sensor = rigid(row["translation"], _xyzw(row["rotation"]))
            self._mounts[token] = Mount(sensor["channel"], sensor["modality"], ego_from_sensor, intrinsics)
        return self._mounts[token]

    # -- annotations

    @cached_property
    def _annotations(self) -> Table:
        return Table(self._folder, "sample_annotation")

    @cached_property
    def _annotations_of_sample(self) -> Mapping[str, list[Row]]:
        return _grouped(self._annotations, "sample_token")

    @cached_property
    def _categories(self) -> Mapping[str, str]:
        """Category name by instance token."""
        categories = Table(self._folder, "category")
        return {i["token"]: categories[i["category_token"]]["name"] for i in Table(self._folder, "instance")}

    def annotations(self, sample_token: str) -> list[BoxAnnotation]:
        """Boxes of a sample; empty in a split without annotations.

        Raises:
            DatasetError: the annotation tables are missing or damaged.
        """
        return [self._box(row) for row in self._annotations_of_sample.get(sample_token, [])]

    def _box(self, row: Row) -> BoxAnnotation:
        width, length, height = row["size"]
        if row["instance_token"] not in self._categories:
            raise DatasetError(f"{self._folder / 'instance.json'}: no row with token '{row['instance_token']}'")
        return BoxAnnotation(
            token=row["token"],
            instance_token=row["instance_token"],
            category=self._categories[row["instance_token"]],
            global_from_box=rigid(row["translation"], _xyzw(row["rotation"])),
            size=(length, width, height),
            velocity=self._velocity(row),
            num_lidar_points=row["num_lidar_pts"],
            num_radar_points=row["num_radar_pts"],
        )

    def _velocity(self, row: Row) -> np.ndarray:
        """From the neighbouring annotations of the object: centred, or one-sided at the ends of its track."""
        before = self._annotations[row["prev"]] if row["prev"] else row
        after = self._annotations[row["next"]] if row["next"] else row
        stamps = [self._samples[r["sample_token"]]["timestamp"] for r in (before, after)]
        elapsed = (stamps[1] - stamps[0]) * 1e-6
        centred = bool(row["prev"]) and bool(row["next"])
        if not 0 < elapsed <= (3.0 if centred else 1.5):  # further apart, the object may have done anything
            return np.full(3, np.nan)
        return (np.array(after["translation"], np.float64) - np.array(before["translation"], np.float64)) / elapsed

    # -- frames

    def frames(self, scene: Scene, anchor: str = "CAM_FRONT") -> Iterator[Frame]:
        """The keyframes of a scene; images stay JPEG bytes, files that are not installed are left out and noted.

        Args:
            scene: see `scene`.
            anchor: the channel whose stamp is the frame's; where a sample lacks it the LiDAR, else the first record.

        Raises:
            DatasetError: a file is damaged.
        """
        for token, _ in scene.samples:
            records = scene.keyframes[token]
            if records:
                yield _frame(scene, records, anchor)


def _frame(scene: Scene, records: Mapping[str, SensorRecord], anchor: str) -> Frame:
    cameras = {c: r for c, r in records.items() if r.mount.modality == "camera"}
    lidars = [r for r in records.values() if r.mount.modality == "lidar"]
    absent = sorted(c for c, r in records.items() if r in (*cameras.values(), *lidars) and not r.path.is_file())
    reference = records.get(anchor) or next(iter(lidars), next(iter(records.values())))
    images = {
        channel: CameraImage(r.stamp_ns, r.path.read_bytes(), r.odom_from_ego(scene.origin))
        for channel, r in cameras.items()
        if channel not in absent
    }
    return Frame(
        stamp_ns=reference.stamp_ns,
        rig=CameraRig({channel: r.camera() for channel, r in cameras.items()}),
        images=images,
        lidar=tuple(read_sweep(r, scene.origin) for r in lidars if r.channel not in absent),
        odom_from_ego=reference.odom_from_ego(scene.origin),
        notes=(f"not installed: {', '.join(absent)}",) if absent else (),
    )


def _xyzw(wxyz: Sequence[float]) -> np.ndarray:
    w, x, y, z = wxyz
    return np.array([x, y, z, w], np.float64)


def _grouped(table: Table, key: str) -> Mapping[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        groups[row[key]].append(row)
    return groups
