"""One nuScenes scene as a rosbag2, with whatever samples and sweeps are installed (specs/datasets.md section 6.2).

The files' bytes are copied, not decoded; stamps are exact; /tf is dense and exact at every sensor stamp.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from occ_perception.data.bag_settings import SETTINGS_KEY, is_finished, settings_text
from occ_perception.data.drive_bag import BASE, ODOM, SAMPLE_TOPIC, DriveBag, TimedWrite, transform_stamps
from occ_perception.data.labels import Occ3DLabels
from occ_perception.data.nuscenes import LICENCE, NuScenes
from occ_perception.data.nuscenes_lidar import BYTES_PER_POINT, read_lidar
from occ_perception.data.nuscenes_records import BoxAnnotation, Scene, SensorRecord
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.data.nuscenes_truth import marked_boxes, occupancy_from_label
from occ_perception.data.pose_track import MIN_TWIST_SPAN_NS, PoseTrack
from occ_perception.errors import DatasetError
from occ_perception.geometry import CameraRig, rigid_from_rotation

logger = logging.getLogger(__name__)

_ODOMETRY_PERIOD_NS = 20_000_000
Progress = Callable[[int], object]
"""Told the bytes of every file that was taken in."""


@dataclass(frozen=True)
class SceneBag:
    """A scene about to become a bag; small enough to be sent to another process.

    Attributes:
        scene: with the calibration and poses of all records.
        version: of the tables.
        path: the bag's folder.
        settings: what goes in and how.
        records: the chosen records that are installed, in time order.
        missing: how many are not.
        labelled: tokens of the samples with a ground-truth grid.
        annotations: boxes by sample token.
    """

    scene: Scene
    version: str
    path: Path
    settings: SceneBagSettings
    records: tuple[SensorRecord, ...]
    missing: int
    labelled: tuple[str, ...]
    annotations: Mapping[str, Sequence[BoxAnnotation]]

    @staticmethod
    def plan(source: NuScenes, name: str, folder: Path, settings: SceneBagSettings) -> SceneBag:
        """Look up what a scene has of what is wanted.

        Raises:
            DatasetError: unknown scene or camera, rows that are not there, or nothing of it is installed.
        """
        scene = source.scene(name)
        wanted = settings.records(scene)
        records = tuple(record for record in wanted if record.path.is_file())
        missing = len(wanted) - len(records)
        if not records:
            raise DatasetError(f"scene '{name}': none of its {missing} files is installed (e.g. {wanted[0].path})")
        tokens = [token for token, _ in _keyframes(scene, records)]
        return SceneBag(
            scene=scene,
            version=source.version,
            path=folder / f"nuscenes-{source.version}-{name}",
            settings=settings,
            records=records,
            missing=missing,
            labelled=_labelled(settings.labels, scene, tokens),
            annotations={token: source.annotations(token) for token in tokens} if settings.boxes else {},
        )

    @property
    def size(self) -> int:
        """Bytes of the sensors' files."""
        return sum(record.path.stat().st_size for record in self.records)

    def write(self, overwrite: bool = False, progress: Progress = lambda size: None) -> bool:
        """Write the bag; returns False if it was there already, made of the same files with the same settings.

        Raises:
            DatasetError: a damaged file, a bag made in another way (unless ``overwrite``), a disk that refuses.
            InvalidInputError: a label of another grid or label set.
        """
        identity = self.settings.identity([*(record.path for record in self.records), *self._label_files()])
        if not overwrite and is_finished(self.path, identity):
            return False
        if self.missing:
            logger.warning("scene %s: %d chosen files are not installed", self.scene.name, self.missing)
        metadata = self._metadata() | {SETTINGS_KEY: settings_text(identity)}
        settings = self.settings
        with DriveBag(self.path, self._rig(), settings.storage, metadata, overwrite, settings.topics) as bag:
            for event in heapq.merge(*self._events(bag, progress)):
                event.write()
        return True

    def _events(self, bag: DriveBag, progress: Progress) -> list[Iterator[TimedWrite]]:
        """Everything that goes in, by kind, each in time order; the static transforms are written at once."""
        scene = self.scene
        track = PoseTrack(
            (r.stamp_ns, r.translation - scene.origin, r.quaternion_xyzw) for rs in scene.records.values() for r in rs
        )
        stamps = transform_stamps([record.stamp_ns for record in self.records])
        others = {_frame(r.channel): r.mount.ego_from_sensor for r in self.records if r.mount.modality != "camera"}
        # The local origin is a shift only: odom keeps the axes of map, and rotations stay what they were.
        bag.write_static(stamps[0], others, rigid_from_rotation(np.eye(3), scene.origin))
        transforms = (TimedWrite(t, partial(bag.write_transform, track.transform(t, ODOM, BASE))) for t in stamps)
        measured = (TimedWrite(r.stamp_ns, partial(_write_record, bag, r, progress)) for r in self.records)
        return [transforms, _odometry(bag, track, stamps), measured, self._keyframe_events(bag)]

    def _keyframe_events(self, bag: DriveBag) -> Iterator[TimedWrite]:
        """At each keyframe's LiDAR stamp (else the sample's): its tokens, so that predictions can be matched and
        scored, and its ground truth."""
        instances = sorted({box.instance_token for boxes in self.annotations.values() for box in boxes})
        ids = {token: number for number, token in enumerate(instances, start=1)}
        labels = Occ3DLabels(self.settings.labels) if self.settings.labels else None
        for token, keyframe in _keyframes(self.scene, self.records):
            stamp = _keyframe_stamp(self.scene, token)
            marker = json.dumps(_tokens(self.scene, token, keyframe))
            yield TimedWrite(stamp, partial(bag.write_text, stamp, SAMPLE_TOPIC, marker))
            if token in self.annotations:
                boxes = marked_boxes(self.annotations[token], ids)
                yield TimedWrite(stamp, partial(bag.write_boxes, stamp, boxes))
            if labels is not None and token in self.labelled:
                grid = occupancy_from_label(labels.read(self.scene.name, token, stamp))
                yield TimedWrite(stamp, partial(bag.write_occupancy, grid))

    def _rig(self) -> CameraRig:
        cameras = {record.channel: record for record in self.records if record.mount.modality == "camera"}
        return CameraRig({_frame(channel): record.camera() for channel, record in cameras.items()})

    def _label_files(self) -> list[Path]:
        if self.settings.labels is None:
            return []
        return [self.settings.labels / self.scene.name / token / "labels.npz" for token in self.labelled]

    def _metadata(self) -> dict[str, str]:
        scene = self.scene
        return {
            "source": "nuScenes",
            "scene": scene.name,
            "scene_token": scene.token,
            "description": scene.description,
            "location": scene.location,
            "vehicle": scene.vehicle,
            "version": self.version,
            "licence": LICENCE,
            "missing_files": str(self.missing),
            "time_offset": "estimated from the column order of the LiDAR file, not measured",
        } | ({"labelled_samples": str(len(self.labelled))} if self.settings.labels else {})


def _labelled(labels: Path | None, scene: Scene, tokens: Sequence[str]) -> tuple[str, ...]:
    """Those of a scene's samples that have a label; a scene without any is told of."""
    if labels is None:
        return ()
    reader = Occ3DLabels(labels)
    there = set(reader.samples(scene.name)) if scene.name in reader.scenes() else set()
    labelled = tuple(token for token in tokens if token in there)
    if len(labelled) < len(tokens):
        logger.warning("scene %s: %d of %d samples have labels", scene.name, len(labelled), len(tokens))
    return labelled


def _keyframes(scene: Scene, records: Sequence[SensorRecord]) -> Iterator[tuple[str, dict[str, SensorRecord]]]:
    """(sample token, its keyframe records by channel) of those records, in time order."""
    written = {record.token for record in records}
    for token, _ in scene.samples:
        keyframe = {c: r for c, r in scene.keyframes[token].items() if r.token in written}
        if keyframe:
            yield token, keyframe


def _keyframe_stamp(scene: Scene, token: str) -> int:
    """Of the LiDAR keyframe, which is what labels refer to, written or not; the sample's own if there is none."""
    lidars = [r for r in scene.keyframes[token].values() if r.mount.modality == "lidar"]
    return lidars[0].stamp_ns if lidars else dict(scene.samples)[token]


def _tokens(scene: Scene, token: str, keyframe: Mapping[str, SensorRecord]) -> dict[str, object]:
    """Content of the keyframe marker."""
    lidar = next((r.token for r in keyframe.values() if r.mount.modality == "lidar"), "")
    return {
        "sample_token": token,
        "scene": scene.name,
        "lidar_token": lidar,
        "sample_data": {_frame(c): {"token": r.token, "stamp_ns": r.stamp_ns} for c, r in keyframe.items()},
    }


def _write_record(bag: DriveBag, record: SensorRecord, progress: Progress) -> None:
    if record.mount.modality == "camera":
        data = record.path.read_bytes()
        bag.write_image(record.stamp_ns, _frame(record.channel), data)
        progress(len(data))
    else:
        file = read_lidar(record.path)
        bag.write_points(record.stamp_ns, _frame(record.channel), file.points, file.rings, file.offsets_s)
        progress(len(file.points) * BYTES_PER_POINT)


def _odometry(bag: DriveBag, track: PoseTrack, stamps: Sequence[int]) -> Iterator[TimedWrite]:
    """Pose and twist at 50 Hz; none where the poses are too few to tell a velocity."""
    if track.span_ns < MIN_TWIST_SPAN_NS:
        logger.warning("bag %s: poses over %.3f s are too few for /odom", bag.path, track.span_ns * 1e-9)
        return
    regular = range(stamps[0], stamps[-1] + 1, _ODOMETRY_PERIOD_NS)
    for stamp, linear, angular in zip(regular, *track.twists(regular), strict=True):
        yield TimedWrite(stamp, partial(bag.write_odometry, track.transform(stamp, ODOM, BASE), linear, angular))


def _frame(channel: str) -> str:
    """Frame id and topic namespace of a channel: lower case, as other nuScenes tools have it."""
    return channel.lower()
