"""Labelled keyframes of anything on disk in nuScenes' layout, with as much ground truth as is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from occ_perception.data import image_labels
from occ_perception.data.array_files import load_npz
from occ_perception.data.labels import GridLabel, Occ3DLabels, Occ3DPanopticLabels, OpenOccLabels
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import BoxAnnotation, Scene
from occ_perception.data.nuscenes_truth import class_of_category
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.geometry import inverse
from occ_perception.ontology import Ontology
from occ_perception.training.task import LabelledFrame

LIDAR = "LIDAR_TOP"
LABELS = ("occ3d", "openocc")
_SCENES_KEPT = 32


class NuScenesSource:
    """A `FrameSource` of a dataset on disk.

    Semantics are those of ``labels``; what that benchmark's files lack is taken from the other's where it is
    installed: masks and instances from ``gts`` (or ``occ3d_panoptic``), flow from ``openocc_v2``.  Boxes are those
    with at least one LiDAR or radar point and their centre above the grid, as models are trained with (BEVDet).
    Labels of images come from `image_labels.FOLDER`, where that has any.

    Args:
        root: dataset root.
        version: the tables' folder; None = the only one there.
        labels: "occ3d" or "openocc": whose classes.
        scenes: names; empty = all that have labels.

    Raises:
        ConfigurationError: unknown labels (the message lists them).
        DatasetError: no such dataset, scene or labels.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        version: str | None = None,
        labels: str = "occ3d",
        scenes: Sequence[str] = (),
    ) -> None:
        if labels not in LABELS:
            raise ConfigurationError(f"unknown labels '{labels}'; known: {', '.join(LABELS)}")
        self._dataset = NuScenes(root, version)
        self._trees = _Trees(Path(root), labels)
        self._image_labels = Path(root) / image_labels.FOLDER
        labelled = set(self._trees.semantics.scenes())
        self.scenes = tuple(scenes) or tuple(name for name in self._dataset.scene_names if name in labelled)
        absent = sorted(set(self.scenes) - labelled)
        if absent or not self.scenes:
            raise DatasetError(f"{root}: no {labels} labels of scenes {absent or 'at all'}")
        self._samples = [self._labelled_samples(name) for name in self.scenes]
        self._recent: dict[int, Scene] = {}

    @property
    def scene_lengths(self) -> Sequence[int]:
        """Labelled keyframes of every scene."""
        return [len(tokens) for tokens in self._samples]

    def load(self, scene: int, frame: int) -> LabelledFrame:
        """Read one keyframe; images stay JPEG bytes.

        Raises:
            DatasetError: there is no such frame, or a file is missing or damaged.
            InvalidInputError: a label of another grid or label set.
        """
        if not 0 <= scene < len(self.scenes) or not 0 <= frame < len(self._samples[scene]):
            raise DatasetError(f"no frame {frame} of scene {scene}; frames of each scene: {self.scene_lengths}")
        there, token = self._scene(scene), self._samples[scene][frame]
        lidar = there.keyframes[token].get(LIDAR)
        if lidar is None:
            raise DatasetError(f"{there.name}, sample {token}: no {LIDAR} keyframe, to whose stamp the label refers")
        measured = self._dataset.frame(there, token)
        if measured.odom_from_ego is None:
            raise DatasetError(f"{there.name}, sample {token}: no pose")
        odom_from_grid = lidar.odom_from_ego(there.origin)
        label = self._trees.read(there.name, token, lidar.stamp_ns)
        of_images = self._image_labels / there.name / f"{token}.npz"
        boxes, classes = _boxes(self._dataset.annotations(token), there.origin, odom_from_grid, label)
        return LabelledFrame(
            frame=measured,
            label=label,
            ego_from_grid=inverse(measured.odom_from_ego) @ odom_from_grid,
            boxes=boxes,
            box_classes=classes,
            box_ids=_box_ids(boxes, classes, label),
            image_labels=image_labels.read(of_images) if of_images.is_file() else None,
        )

    def _scene(self, number: int) -> Scene:
        """A scene; some are kept, since frames are asked for in a few streams."""
        if number not in self._recent:
            while len(self._recent) >= _SCENES_KEPT:
                del self._recent[next(iter(self._recent))]
            self._recent[number] = self._dataset.scene(self.scenes[number])
        return self._recent[number]

    def _labelled_samples(self, name: str) -> tuple[str, ...]:
        there = set(self._trees.semantics.samples(name))
        return tuple(token for token, _ in self._dataset.scene(name).samples if token in there)


class _Trees:
    """Label trees of a dataset: the one whose classes are wanted, and others for what it lacks."""

    def __init__(self, root: Path, labels: str) -> None:
        panoptic = next((root / name for name in ("occ3d_panoptic", "gts") if (root / name).is_dir()), None)
        self._occ3d = Occ3DLabels(panoptic) if panoptic else None
        self._panoptic = Occ3DPanopticLabels(panoptic) if panoptic and _has_instances(panoptic) else None
        self._openocc = OpenOccLabels(root / "openocc_v2") if (root / "openocc_v2").is_dir() else None
        wanted = (self._panoptic or self._occ3d) if labels == "occ3d" else self._openocc
        if wanted is None:
            raise DatasetError(f"{root}: no {labels} labels (gts, occ3d_panoptic or openocc_v2)")
        self.semantics = wanted

    def read(self, scene: str, token: str, stamp_ns: int) -> GridLabel:
        """The label with what the other trees add."""
        label = self.semantics.read(scene, token, stamp_ns)
        if self.semantics is not self._openocc and self._openocc is not None:
            return replace(label, flow=self._openocc.read(scene, token, stamp_ns).flow)
        occ3d = self._panoptic or self._occ3d
        if self.semantics is self._openocc and occ3d is not None:
            other = occ3d.read(scene, token, stamp_ns)
            return replace(label, mask_lidar=other.mask_lidar, mask_camera=other.mask_camera, instances=other.instances)
        return label


def _has_instances(folder: Path) -> bool:
    """Whether the label files of a tree hold instances, judged by the first one."""
    first = next(folder.glob("*/*/labels.npz"), None)
    return first is not None and "instances" in load_npz(first)


def _boxes(
    annotations: Sequence[BoxAnnotation], origin: np.ndarray, odom_from_grid: np.ndarray, label: GridLabel
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the grid's frame, float64 [K, 9], and their classes, int64 [K] (see `LabelledFrame`)."""
    grid_from_odom = inverse(odom_from_grid)
    lower, upper = label.grid.lower[:2], label.grid.upper[:2]
    rows, classes = [], []
    for annotation in annotations:
        class_id = _class_id(annotation.category, label.ontology)
        pose = annotation.global_from_box.copy()
        pose[:3, 3] -= origin
        pose = grid_from_odom @ pose
        above = np.all((pose[:2, 3] >= lower) & (pose[:2, 3] < upper))
        if class_id is not None and above and annotation.num_lidar_points + annotation.num_radar_points > 0:
            velocity = grid_from_odom[:3, :3] @ annotation.velocity
            yaw = np.arctan2(pose[1, 0], pose[0, 0])
            rows.append(np.array([*pose[:3, 3], *annotation.size, yaw, *velocity[:2]]))
            classes.append(class_id)
    return np.array(rows, np.float64).reshape(-1, 9), np.array(classes, np.int64)


def _class_id(category: str, ontology: Ontology) -> int | None:
    name = class_of_category(category)
    return ontology.id_of(name) if name in ontology.class_names else None


def _box_ids(boxes: np.ndarray, classes: np.ndarray, label: GridLabel) -> np.ndarray | None:
    """The instance most voxels in each box have, 0 where there are none; int64 [K].

    Label files number their instances as they like; only the voxels tell which box has which number.
    """
    if label.instances is None:
        return None
    voxels = np.flatnonzero(label.instances)
    centers = label.grid.center_of(voxels)
    instances, semantics = label.instances.ravel()[voxels].astype(np.int64), label.semantics.ravel()[voxels]
    ids = np.zeros(len(boxes), np.int64)
    for i, (box, class_id) in enumerate(zip(boxes, classes, strict=True)):
        turn = np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        local = (centers - box[:3]) @ turn
        inside = (np.abs(local) <= box[3:6] / 2 + label.grid.voxel_size / 2).all(axis=1) & (semantics == class_id)
        if inside.any():
            ids[i] = np.bincount(instances[inside]).argmax()
    return ids
