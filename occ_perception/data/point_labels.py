"""nuScenes' labels of LiDAR points: lidarseg and Panoptic nuScenes (benchmarks.md 6 and 7).

The same three methods as the readers of grids (`data.labels`).  As there with OpenOccupancy, a sample is named by the
token of its LIDAR_TOP keyframe record, as the files are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from occ_perception.data.array_files import load_npz
from occ_perception.data.nuscenes import NuScenes
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.ontology import LIDARSEG, Ontology

LIDAR = "LIDAR_TOP"
MAX_INSTANCE = 999
"""Largest instance id within a class in a panoptic label."""

_GENERAL_IDS = {
    "barrier": (9,),
    "bicycle": (14,),
    "bus": (15, 16),
    "car": (17,),
    "construction_vehicle": (18,),
    "motorcycle": (21,),
    "pedestrian": (2, 3, 4, 6),
    "traffic_cone": (12,),
    "trailer": (22,),
    "truck": (23,),
    "driveable_surface": (24,),
    "other_flat": (25,),
    "sidewalk": (26,),
    "terrain": (27,),
    "manmade": (28,),
    "vegetation": (30,),
}
GENERAL_FROM_NAME = {name: general[0] for name, general in _GENERAL_IDS.items()}
"""A general class by the name of its challenge class."""
NUM_GENERAL = 32
"""Classes in the files."""


def _challenge_table() -> np.ndarray:
    table = np.zeros(NUM_GENERAL, np.uint8)
    for name, general in _GENERAL_IDS.items():
        table[list(general)] = LIDARSEG.id_of(name)
    table.setflags(write=False)
    return table


CHALLENGE_FROM_GENERAL = _challenge_table()
"""uint8 [32]: challenge class 1..16 (`LIDARSEG`) of the 32 general classes, 0 = ignored (benchmarks.md 7)."""


@dataclass(frozen=True)
class PointLabel:
    """Ground truth of the points of one keyframe sweep, in the order of its file.

    Attributes:
        classes: uint8 [P]; challenge classes of `LIDARSEG`, 0 = ignored.
        panoptic: uint16 [P], 1000 * class + instance, for `metrics.panoptic`; None if the files have no instances.
        stamp_ns: of the sweep; None if the caller did not give it (files have none).
        source: file it came from.
    """

    classes: np.ndarray
    panoptic: np.ndarray | None
    stamp_ns: int | None
    source: Path


class _PointLabels:
    """A folder with one file a keyframe sweep, ``<LIDAR_TOP sample_data token><suffix>``.

    Args:
        dataset: whose sweeps are labelled; tells which file is of which scene.
        root: the folder with the files, by default the usual one under the dataset's root.

    Raises:
        DatasetError: there is no such folder.
    """

    ontology: ClassVar[Ontology] = LIDARSEG
    pack: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, dataset: NuScenes, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else dataset.root / self.pack / dataset.version
        if not self.root.is_dir():
            raise DatasetError(f"labels: there is no folder {self.root}; is the {self.pack} pack installed?")
        self._dataset = dataset

    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes with labels, in the dataset's order."""
        names = (path.name.removesuffix(self.suffix) for path in self.root.glob(f"*{self.suffix}"))
        return self._dataset.scenes_of_records(names)

    def samples(self, scene: str) -> tuple[str, ...]:
        """LIDAR_TOP tokens of a scene's labelled keyframes, in time order.

        Raises:
            DatasetError: no such scene.
        """
        drive = self._dataset.scene(scene)
        keyframes = (drive.keyframes[token].get(LIDAR) for token, _ in drive.samples)
        return tuple(record.token for record in keyframes if record is not None and self.path(record.token).is_file())

    def path(self, sample: str) -> Path:
        """File of a sample, whether it is there or not."""
        return self.root / f"{sample}{self.suffix}"


class LidarsegLabels(_PointLabels):
    """nuScenes-lidarseg: ``lidarseg/<version>/<token>_lidarseg.bin``, one byte a point."""

    pack = "lidarseg"
    suffix = "_lidarseg.bin"

    def read(self, scene: str, sample: str, stamp_ns: int | None = None) -> PointLabel:
        """The classes of a keyframe's points; the file is found by the sample alone.

        Raises:
            DatasetError: the file is missing or cannot be read.
            InvalidInputError: a class that does not exist.
        """
        path = self.path(sample)
        try:
            general = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        return PointLabel(_challenge_classes(path, general), None, stamp_ns, path)


class PanopticLabels(_PointLabels):
    """Panoptic nuScenes: ``panoptic/<version>/<token>_panoptic.npz``, an array ``data`` of 1000 * class + instance."""

    pack = "panoptic"
    suffix = "_panoptic.npz"

    def read(self, scene: str, sample: str, stamp_ns: int | None = None) -> PointLabel:
        """Classes and instances of a keyframe's points; the file is found by the sample alone.

        Raises:
            DatasetError: the file is missing, damaged, or holds pickled objects.
            InvalidInputError: no array ``data``, one of another kind, or a class that does not exist.
        """
        path = self.path(sample)
        arrays = load_npz(path)
        values = arrays.get("data")
        if values is None or values.ndim != 1 or values.dtype.kind not in "iu":
            found = sorted(arrays) if values is None else f"{values.dtype} {values.shape}"
            raise InvalidInputError(f"{path}: data: expected integers [P], got {found}")
        classes = _challenge_classes(path, values // 1000)
        return PointLabel(classes, _challenge_panoptic(path, values.astype(np.int64), classes), stamp_ns, path)


def _challenge_classes(path: Path, general: np.ndarray) -> np.ndarray:
    """General classes [P] as challenge classes, uint8 [P]."""
    bad = (general < 0) | (general >= NUM_GENERAL)
    if bad.any():
        raise InvalidInputError(
            f"{path}: expected classes 0..{NUM_GENERAL - 1}, got {np.unique(general[bad]).tolist()[:5]} for "
            f"{int(bad.sum())} points, the first is point {int(bad.argmax())}"
        )
    return CHALLENGE_FROM_GENERAL[general]


def _challenge_panoptic(path: Path, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """1000 * general class + instance as 1000 * challenge class + instance, uint16 [P].

    Several general classes may become one (adults and children are pedestrians), each with instances from 1 on.  The
    benchmark tells segments apart by the whole value, so there the instances of the joint class are renumbered.
    """
    instances = values % 1000
    for class_id in np.unique(classes[classes > 0]).tolist():
        of_class = classes == class_id
        if len(np.unique(values[of_class] // 1000)) > 1:
            segments, renumbered = np.unique(values[of_class], return_inverse=True)
            if len(segments) > MAX_INSTANCE:
                name = LIDARSEG.class_names[class_id]
                raise InvalidInputError(f"{path}: {len(segments)} instances of {name}, at most {MAX_INSTANCE}")
            instances[of_class] = renumbered + 1
    return np.where(classes > 0, classes.astype(np.int64) * 1000 + instances, 0).astype(np.uint16)
