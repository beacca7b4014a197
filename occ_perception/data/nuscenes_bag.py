"""nuScenes scenes as rosbag2: one bag a scene, with whatever samples and sweeps are installed (specs 6.2).

The files' bytes are copied, not decoded; stamps are exact; /tf is dense and exact at every sensor stamp.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from occ_perception.data.drive_bag import (
    BASE,
    ODOM,
    SAMPLE_TOPIC,
    DriveBag,
    TimedWrite,
    transform_stamps,
)
from occ_perception.data.nuscenes import LICENCE, NuScenes
from occ_perception.data.nuscenes_lidar import BYTES_PER_POINT, read_lidar
from occ_perception.data.nuscenes_records import Scene, SensorRecord
from occ_perception.data.pose_track import MIN_TWIST_SPAN_NS, PoseTrack
from occ_perception.errors import DatasetError
from occ_perception.geometry import CameraRig, rigid_from_rotation

logger = logging.getLogger(__name__)

_ODOMETRY_PERIOD_NS = 20_000_000


@dataclass(frozen=True)
class Selection:
    """What of a scene goes into its bag.

    Attributes:
        keyframes_only: only the 2 Hz keyframes of cameras and LiDAR.
        lidar: with the LiDAR.
        cameras: channels, None = all.
        start_s, duration_s: part of the scene, seconds from its first record; None = to its end.
    """

    keyframes_only: bool = False
    lidar: bool = True
    cameras: tuple[str, ...] | None = None
    start_s: float = 0.0
    duration_s: float | None = None

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


def from_nuscenes(
    root: str | os.PathLike[str],
    version: str | None,
    scenes: Sequence[str],
    output: str | os.PathLike[str],
    *,
    storage: str = "mcap",
    keyframes_only: bool = False,
    lidar: bool = True,
    cameras: Sequence[str] | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write one bag per scene, named ``nuscenes-<version>-<scene>``.

    Files that are not installed are left out, counted in the log and in the bag's metadata.

    Args:
        root: nuScenes folder; version: its tables' folder, None = the only one there.
        scenes: names; empty = all.
        output: folder the bags go into.
        storage: "mcap" or "sqlite3".
        keyframes_only, lidar, cameras, start_s, duration_s: see `Selection`.
        overwrite: replace bags that exist.
        progress: show a progress bar.

    Returns:
        The bags' folders.

    Raises:
        DatasetError: unknown scene or camera, damaged tables or files, an existing bag, a disk that refuses.
    """
    source = NuScenes(root, version)
    selection = Selection(keyframes_only, lidar, None if cameras is None else tuple(cameras), start_s, duration_s)
    chosen = [source.scene(name) for name in (scenes or source.scene_names)]
    bags = []
    for scene in chosen:
        path = Path(output) / f"nuscenes-{source.version}-{scene.name}"
        write_scene(scene, source.version, path, selection, storage, overwrite, progress)
        bags.append(path)
    return bags


def write_scene(
    scene: Scene,
    version: str,
    path: Path,
    selection: Selection | None = None,
    storage: str = "mcap",
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write one scene as a bag.

    Raises:
        DatasetError: see `from_nuscenes`.
    """
    wanted = (selection or Selection()).records(scene)
    records = [record for record in wanted if record.path.is_file()]
    missing = len(wanted) - len(records)
    if missing:
        logger.warning("scene %s: %d of %d files are not installed", scene.name, missing, len(wanted))
    if not records:
        raise DatasetError(
            f"scene '{scene.name}': none of its {len(wanted)} files is installed (e.g. {wanted[0].path})"
        )
    poses = ((r.stamp_ns, r.translation - scene.origin, r.quaternion_xyzw) for rs in scene.records.values() for r in rs)
    track = PoseTrack(poses)
    stamps = transform_stamps([record.stamp_ns for record in records])
    sensors = {record.channel: record for record in records}
    rig = CameraRig({_frame(c): r.camera() for c, r in sensors.items() if r.mount.modality == "camera"})
    others = {_frame(c): r.mount.ego_from_sensor for c, r in sensors.items() if r.mount.modality != "camera"}
    size = sum(record.path.stat().st_size for record in records)
    with (
        DriveBag(path, rig, storage, _metadata(scene, version, missing), overwrite) as bag,
        tqdm(total=size, unit="B", unit_scale=True, desc=scene.name, disable=not progress) as bar,
    ):
        # The local origin is a shift only: odom keeps the axes of map, and rotations stay what they were.
        bag.write_static(stamps[0], others, rigid_from_rotation(np.eye(3), scene.origin))
        transforms = (TimedWrite(t, partial(bag.write_transform, track.transform(t, ODOM, BASE))) for t in stamps)
        measured = (TimedWrite(r.stamp_ns, partial(_write_record, bag, r, bar)) for r in records)
        for event in heapq.merge(transforms, _odometry(bag, track, stamps), measured, _markers(bag, scene, records)):
            event.write()


def _write_record(bag: DriveBag, record: SensorRecord, bar: tqdm) -> None:
    if record.mount.modality == "camera":
        data = record.path.read_bytes()
        bag.write_image(record.stamp_ns, _frame(record.channel), data)
        bar.update(len(data))
    else:
        file = read_lidar(record.path)
        bag.write_points(record.stamp_ns, _frame(record.channel), file.points, file.rings, file.offsets_s)
        bar.update(len(file.points) * BYTES_PER_POINT)


def _odometry(bag: DriveBag, track: PoseTrack, stamps: Sequence[int]) -> Iterator[TimedWrite]:
    """Pose and twist at 50 Hz; none where the poses are too few to tell a velocity."""
    if track.span_ns < MIN_TWIST_SPAN_NS:
        logger.warning("bag %s: poses over %.3f s are too few for /odom", bag.path, track.span_ns * 1e-9)
        return
    for stamp in range(stamps[0], stamps[-1] + 1, _ODOMETRY_PERIOD_NS):
        pose = track.transform(stamp, ODOM, BASE)
        yield TimedWrite(stamp, partial(bag.write_odometry, pose, *track.twist(stamp)))


def _markers(bag: DriveBag, scene: Scene, records: Sequence[SensorRecord]) -> Iterator[TimedWrite]:
    """At each keyframe's LiDAR stamp (else the sample's) the tokens, so that predictions can be matched and scored."""
    written = {record.token for record in records}
    for sample_token, sample_stamp in scene.samples:
        keyframe = {c: r for c, r in scene.keyframes[sample_token].items() if r.token in written}
        if keyframe:
            lidar = next((r for r in keyframe.values() if r.mount.modality == "lidar"), None)
            stamp = lidar.stamp_ns if lidar else sample_stamp
            tokens = {
                "sample_token": sample_token,
                "scene": scene.name,
                "lidar_token": lidar.token if lidar else "",
                "sample_data": {_frame(c): {"token": r.token, "stamp_ns": r.stamp_ns} for c, r in keyframe.items()},
            }
            yield TimedWrite(stamp, partial(bag.write_text, stamp, SAMPLE_TOPIC, json.dumps(tokens)))


def _frame(channel: str) -> str:
    """Frame id and topic namespace of a channel: lower case, as other nuScenes tools have it."""
    return channel.lower()


def _metadata(scene: Scene, version: str, missing: int) -> dict[str, str]:
    return {
        "source": "nuScenes",
        "scene": scene.name,
        "scene_token": scene.token,
        "description": scene.description,
        "location": scene.location,
        "vehicle": scene.vehicle,
        "version": version,
        "licence": LICENCE,
        "missing_files": str(missing),
        "time_offset": "estimated from the column order of the LiDAR file, not measured",
    }
