"""One synthetic scene as files of a nuScenes tree: images, sweeps, labels, and its rows of the tables."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from occ_perception.data import image_labels
from occ_perception.data.point_labels import GENERAL_FROM_NAME, MAX_INSTANCE, LidarsegLabels, PanopticLabels
from occ_perception.data.synthetic.dataset_tables import (
    LIDAR,
    VERSION,
    Row,
    Rows,
    category_token,
    linked,
    mount_token,
    pose_columns,
    scene_rows,
    token_of,
)
from occ_perception.data.synthetic.drive import CityDrive, CityKeyframe
from occ_perception.data.synthetic.lidar import COLUMNS, PERIOD_S, RINGS, LidarScan
from occ_perception.data.synthetic.scene import Actor
from occ_perception.errors import InvalidInputError
from occ_perception.files import write_whole
from occ_perception.ontology import OCC3D, OPENOCC, UNKNOWN

ANNOTATED_M = 60.0
"""Objects so near the vehicle are annotated."""


@dataclass
class SceneFiles:
    """Writes the keyframes of a scene.

    Attributes:
        root: of the dataset.
        name: of the scene.
        drive: the scene's drive, as long as its keyframes.
        interval_ns: added to all stamps, so that scenes do not overlap in time.
        rows: collected while writing.
    """

    root: Path
    name: str
    drive: CityDrive
    interval_ns: int
    rows: Rows = field(default_factory=dict)

    def write(self, progress: Callable[[], object] = lambda: None) -> Rows:
        """Write all keyframes; returns the rows of the scene.

        Args:
            progress: called after every keyframe.

        Raises:
            OSError: the disk refuses.
        """
        stamps = self.drive.keyframe_stamps()
        tokens = [self.sample_token(k) for k in range(len(stamps))]
        self.rows = {"sample_data": [], "ego_pose": [], "sample_annotation": [], "instance": []}
        self.rows |= scene_rows(
            self.name, self.drive.scene.description, tokens, self.drive.rig, self.drive.ego_from_lidar
        )
        scene = token_of(self.name, "scene")
        self.rows["sample"] = linked(
            [
                {"token": token, "timestamp": self._stamp_us(stamp), "scene_token": scene}
                for token, stamp in zip(tokens, stamps, strict=True)
            ]
        )
        for token, stamp in zip(tokens, stamps, strict=True):
            self._write_keyframe(token, stamp)
            progress()
        self._link()
        return self.rows

    def sample_token(self, k: int) -> str:
        """Of the k-th keyframe."""
        return token_of(self.name, "sample", k)

    def _stamp_us(self, stamp_ns: int) -> int:
        return (stamp_ns + self.interval_ns) // 1000

    def _write_keyframe(self, token: str, stamp: int) -> None:
        keyframe = self.drive.keyframe(stamp)
        for stamp_ns, name, jpeg in keyframe.shots:
            camera = self.drive.rig[name]
            write_whole(self._record(token, name.upper(), stamp_ns, (camera.width, camera.height)), jpeg)
        write_whole(self._record(token, LIDAR, stamp, (0, 0)), lidar_file(keyframe.scan))
        self._write_point_labels(self.rows["sample_data"][-1]["token"], keyframe.scan)
        self._annotate(token, stamp, keyframe.scan)
        for tree, arrays in label_arrays(keyframe).items():
            write_whole(self.root / tree / self.name / token / "labels.npz", npz_bytes(arrays))
        of_images = npz_bytes(image_labels.arrays(keyframe.image_labels()))
        write_whole(self.root / image_labels.FOLDER / self.name / f"{token}.npz", of_images)

    def _write_point_labels(self, record: str, scan: LidarScan) -> None:
        general, panoptic = point_label_arrays(scan, self.drive.scene.actors)
        for reader, content in ((LidarsegLabels, general.tobytes()), (PanopticLabels, npz_bytes({"data": panoptic}))):
            write_whole(self.root / reader.pack / VERSION / f"{record}{reader.suffix}", content)

    def _record(self, sample: str, channel: str, stamp: int, size: tuple[int, int]) -> Path:
        """Add the row of a measurement and its pose; returns where the file goes."""
        stamp_us, suffix = self._stamp_us(stamp), "pcd.bin" if channel == LIDAR else "jpg"
        token = token_of(self.name, channel, stamp_us)
        filename = f"samples/{channel}/{self.name}__{channel}__{stamp_us}.{suffix}"
        pose = pose_columns(self.drive.odom_from_ego(stamp))
        self.rows["ego_pose"].append({"token": token, "timestamp": stamp_us} | pose)
        row: Row = {"token": token, "sample_token": sample, "ego_pose_token": token, "channel": channel}
        row |= {"calibrated_sensor_token": mount_token(self.name, channel), "timestamp": stamp_us}
        row |= {"fileformat": suffix.removesuffix(".bin"), "is_key_frame": True, "filename": filename}
        self.rows["sample_data"].append(row | {"width": size[0], "height": size[1]})
        return self.root / filename

    def _annotate(self, sample: str, stamp: int, scan: LidarScan) -> None:
        time_s, here = self.drive.time_s(stamp), self.drive.odom_from_ego(stamp)[:2, 3]
        points = np.bincount(scan.instances, minlength=1)
        for actor in self.drive.scene.actors:
            pose = actor.trajectory.pose(time_s)
            if np.linalg.norm(pose[:2, 3] - here) < ANNOTATED_M:
                count = int(points[actor.instance_id]) if actor.instance_id < len(points) else 0
                self.rows["sample_annotation"].append(self._annotation(sample, actor, pose, count))

    def _annotation(self, sample: str, actor: Actor, pose: np.ndarray, lidar_points: int) -> Row:
        length, width, height = map(float, actor.size)
        centre = pose.copy()
        centre[2, 3] += height / 2
        row: Row = {"token": token_of(self.name, "annotation", actor.instance_id, sample), "sample_token": sample}
        row |= {"instance_token": instance_token(self.name, actor.instance_id), "category": actor.category}
        row |= {"visibility_token": "", "attribute_tokens": [], "size": [width, length, height]}
        return row | pose_columns(centre) | {"num_lidar_pts": lidar_points, "num_radar_pts": 0}

    def _link(self) -> None:
        """Chains through prev and next, and the rows of the instances."""
        channels: dict[str, list[Row]] = {}
        for row in self.rows["sample_data"]:
            channels.setdefault(row["channel"], []).append(row)
        self.rows["sample_data"] = [row for rows in channels.values() for row in linked(rows)]
        tracks: dict[str, list[Row]] = {}
        for row in self.rows["sample_annotation"]:
            tracks.setdefault(row["instance_token"], []).append(row)
        self.rows["sample_annotation"] = [row for rows in tracks.values() for row in linked(rows)]
        self.rows["instance"] = [
            {
                "token": token,
                "category": rows[0]["category"],
                "category_token": category_token(rows[0]["category"]),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
            for token, rows in tracks.items()
        ]


def instance_token(scene: str, instance_id: int) -> str:
    """Of an object of a scene."""
    return token_of(scene, "instance", instance_id)


def lidar_file(scan: LidarScan) -> bytes:
    """A sweep as nuScenes stores it: all columns of 32, little-endian float32 x, y, z, intensity, ring; a beam without
    return is at the origin."""
    points = np.zeros((COLUMNS, RINGS, 5), "<f4")
    points[..., 4] = np.arange(RINGS)
    points[_columns(scan), scan.rings, :4] = scan.points
    return points.tobytes()


def point_label_arrays(scan: LidarScan, actors: Sequence[Actor]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all beams of `lidar_file`, in its order; 0 without a return and for Occ3D's "others".

    Args:
        scan: the sweep.
        actors: of the scene.

    Returns:
        nuScenes' general class, uint8 [P], and 1000 * that + instance (numbered within its class), uint16 [P].

    Raises:
        InvalidInputError: more actors of a class than such a label can tell apart.
    """
    general_of = np.array([GENERAL_FROM_NAME.get(name, 0) for name in OCC3D.class_names], np.uint8)
    number_of = np.zeros(1 + max((actor.instance_id for actor in actors), default=0), np.uint16)
    for class_id in {actor.class_id for actor in actors}:
        members = [actor.instance_id for actor in actors if actor.class_id == class_id]
        if len(members) > MAX_INSTANCE:
            name = OCC3D.class_names[class_id]
            raise InvalidInputError(f"{len(members)} actors of class {name}; panoptic labels hold {MAX_INSTANCE}")
        number_of[members] = np.arange(1, len(members) + 1)
    general, panoptic = np.zeros((COLUMNS, RINGS), np.uint8), np.zeros((COLUMNS, RINGS), np.uint16)
    beam = (_columns(scan), scan.rings)
    general[beam] = general_of[scan.class_ids]
    panoptic[beam] = np.where(general[beam] > 0, 1000 * general[beam].astype(np.uint16) + number_of[scan.instances], 0)
    return general.ravel(), panoptic.ravel()


def _columns(scan: LidarScan) -> np.ndarray:
    """Which turn step each return belongs to, int64 [P]."""
    return COLUMNS - 1 + np.round(scan.offsets_s.astype(np.float64) * (COLUMNS / PERIOD_S)).astype(np.int64)


def label_arrays(keyframe: CityKeyframe) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of the label files by tree: Occ3D with SparseOcc's instances, and OpenOcc v2 with flow."""
    label = keyframe.truth.label
    instances = label.instances if label.instances is not None else np.zeros(label.semantics.shape, np.uint16)
    small = instances.max() < 256
    # Occ3D's "others" has no namesake in OpenOcc; its voxels are left unlabelled there.
    openocc_ids = OCC3D.map_to(OPENOCC)
    return {
        "gts": {
            "semantics": OCC3D.to_dataset(label.semantics),
            "mask_lidar": np.asarray(label.mask_lidar, np.uint8),
            "mask_camera": np.asarray(label.mask_camera, np.uint8),
            "instances": instances.astype(np.uint8) if small else instances,
        },
        "openocc_v2": {
            "semantics": np.where(
                openocc_ids[label.semantics] == UNKNOWN, UNKNOWN, OPENOCC.to_dataset(openocc_ids[label.semantics])
            ).astype(np.uint8),
            "flow": np.asarray(label.flow, np.float16),
        },
    }


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as .npz, lightly compressed, which hardly slows reading down; equal arrays, equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, file.getvalue(), compresslevel=1)
    return buffer.getvalue()
