"""nuScenes as a source: scenes with all records of all sensors, boxes with velocities, `Frame`s.

Facts and traps of the format are in specs/datasets.md sections 1-4: quaternions are stored wxyz, every record has its
own ego pose, points are already motion compensated, the six images of a sample are spread over 43 ms.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from occ_perception.data.nuscenes_index import BoxIndex, open_boxes, open_records
from occ_perception.data.nuscenes_lidar import read_sweep
from occ_perception.data.nuscenes_records import BoxAnnotation, Mount, Scene, SensorRecord
from occ_perception.data.nuscenes_tables import Table, find_version, table_path
from occ_perception.data.nuscenes_tokens import hex_tokens
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
        self._calibrations = Table(self._folder, "calibrated_sensor")
        self._sensors = Table(self._folder, "sensor")
        self._mounts: dict[str, Mount] = {}
        self._index = open_records(self._folder)

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
        samples = self._index.samples_of(row["token"])
        records: dict[str, list[SensorRecord]] = defaultdict(list)
        for record in self._records(samples):
            records[record.channel].append(record)
        if not records:
            raise DatasetError(f"{table_path(self._folder, 'sample_data')}: scene '{name}' has no rows")
        ordered = {c: tuple(sorted(r, key=lambda record: record.stamp_ns)) for c, r in sorted(records.items())}
        stamps = (samples["stamp_us"] * 1000).tolist()
        return Scene(
            name=name,
            token=row["token"],
            description=row["description"],
            location=log["location"],
            vehicle=log["vehicle"],
            samples=tuple(zip(hex_tokens(samples["token"]), stamps, strict=True)),
            records=ordered,
        )

    def scenes_of_records(self, tokens: Iterable[str]) -> tuple[str, ...]:
        """Names of the scenes that have a record (row of sample_data) with one of these tokens, in the tables' order.

        Raises:
            DatasetError: something that is no token.
        """
        scenes = set(self._index.scenes_of(sorted(set(tokens))))
        return tuple(name for name, row in self._scenes.items() if row["token"] in scenes)

    def _records(self, samples: np.ndarray) -> Iterator[SensorRecord]:
        """The records of consecutive rows of the index' samples."""
        rows = self._index.records_of(samples)
        sample_tokens = np.repeat(samples["token"], samples["records"])
        columns = (
            hex_tokens(rows["token"]), hex_tokens(sample_tokens), (rows["stamp_us"] * 1000).tolist(),
            self._index.file_names(rows), rows["is_keyframe"].tolist(), rows["width"].tolist(),
            rows["height"].tolist(), hex_tokens(rows["mount"]), rows["has_pose"].tolist(),
            rows["translation"], rows["rotation"][:, [1, 2, 3, 0]],
        )  # fmt: skip
        for token, sample, stamp, file, is_key, width, height, mount, has_pose, *pose in zip(*columns, strict=True):
            if not has_pose:
                path = table_path(self._folder, "ego_pose")
                raise DatasetError(f"{path}: no row for sample_data '{token}', which refers to one")
            yield SensorRecord(
                token, sample, stamp, self.root / file, is_key, width, height, self._mount(mount), pose[0], pose[1]
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
    def _boxes(self) -> BoxIndex:
        return open_boxes(self._folder, self._index)

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
        position = self._index.position_of(sample_token)
        if position is None:
            return []
        rows = self._boxes.of_sample(position)
        named = zip(rows, hex_tokens(rows["token"]), hex_tokens(rows["instance"]), strict=True)
        return [self._box(row, token, instance) for row, token, instance in named]

    def _box(self, row: np.void, token: str, instance: str) -> BoxAnnotation:
        width, length, height = row["size"].tolist()
        if instance not in self._categories:
            raise DatasetError(f"{table_path(self._folder, 'instance')}: no row with token '{instance}'")
        return BoxAnnotation(
            token=token,
            instance_token=instance,
            category=self._categories[instance],
            global_from_box=rigid(row["translation"], _xyzw(row["rotation"])),
            size=(length, width, height),
            velocity=row["velocity"].copy(),
            num_lidar_points=int(row["num_lidar_points"]),
            num_radar_points=int(row["num_radar_points"]),
        )

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
            if scene.keyframes[token]:
                yield self.frame(scene, token, anchor)

    def frame(self, scene: Scene, sample_token: str, anchor: str = "CAM_FRONT") -> Frame:
        """One keyframe of a scene, see `frames`.

        Raises:
            DatasetError: the scene has no such sample or no record of it, or a file is damaged.
        """
        records = scene.keyframes.get(sample_token)
        if not records:
            raise DatasetError(f"scene '{scene.name}': no keyframe records of a sample '{sample_token}'")
        return _frame(scene, records, anchor)


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
