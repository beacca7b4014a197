"""Ground truth of nuScenes scenes by sample, whichever benchmark's files it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from occ_perception.data.labels import (
    OPENOCCUPANCY_GRID,
    GridLabel,
    Occ3DLabels,
    Occ3DPanopticLabels,
    OpenOccLabels,
    OpenOccupancyLabels,
)
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.metrics.semantic_iou import MASKS
from occ_perception.ontology import OCC3D, OPENOCC, OPENOCCUPANCY, Ontology

LIDAR = "LIDAR_TOP"


@dataclass(frozen=True)
class LabelSet:
    """A benchmark's labels.

    Attributes:
        name: what the command line takes.
        folder: where they lie under the dataset root, if not told otherwise.
        reader: opens that folder.
        ontology, grid: of every label.
        frame: of the grid, at the LIDAR_TOP keyframe stamp.
        masks: which voxels can be scored; the first is the benchmark's own choice.
        has_flow: labels hold velocities.
        has_instances: labels hold instances.
    """

    name: str
    folder: str
    reader: Callable[[Path], Occ3DLabels | OpenOccLabels | OpenOccupancyLabels]
    ontology: Ontology
    grid: VoxelGrid
    frame: str
    masks: tuple[str, ...] = ("none",)
    has_flow: bool = False
    has_instances: bool = False


LABEL_SETS = {
    label_set.name: label_set
    for label_set in (
        LabelSet("occ3d", "gts", Occ3DLabels, OCC3D, OCC3D_GRID, "base_link", MASKS),
        LabelSet(
            "occ3d_panoptic",
            "occ3d_panoptic",
            Occ3DPanopticLabels,
            OCC3D,
            OCC3D_GRID,
            "base_link",
            MASKS,
            has_instances=True,
        ),
        LabelSet("openocc", "openocc_v2", OpenOccLabels, OPENOCC, OCC3D_GRID, "base_link", has_flow=True),
        LabelSet(
            "openoccupancy", "nuScenes-Occupancy", OpenOccupancyLabels, OPENOCCUPANCY, OPENOCCUPANCY_GRID, "lidar_top"
        ),
    )
}


class GroundTruth:
    """Labels of one benchmark for the scenes of a nuScenes tree.

    Args:
        labels: one of `LABEL_SETS`.
        root: of the dataset.
        folder: where the labels lie; by default the benchmark's own folder name under the root.

    Raises:
        ConfigurationError: unknown label set (the message lists them).
        DatasetError: there is no such folder.
    """

    def __init__(self, labels: str, root: Path, folder: Path | None = None) -> None:
        if labels not in LABEL_SETS:
            raise ConfigurationError(f"unknown labels '{labels}'; known: {', '.join(LABEL_SETS)}")
        self.set = LABEL_SETS[labels]
        self.folder = folder or root / self.set.folder
        self._reader = self.set.reader(self.folder)

    def scenes(self, dataset: NuScenes) -> tuple[str, ...]:
        """Names of the dataset's scenes that have a folder of labels, in the dataset's order."""
        labelled = set(self._reader.scenes())
        if not self._by_token:
            return tuple(name for name in dataset.scene_names if name in labelled)
        return tuple(name for name in dataset.scene_names if dataset.scene(name).token in labelled)

    def samples(self, scene: Scene) -> tuple[str, ...]:
        """Sample tokens of the scene that have a label, in time order."""
        labelled = set(self._reader.samples(self._scene_key(scene)))
        return tuple(token for token, _ in scene.samples if self._sample_key(scene, token) in labelled)

    def read(self, scene: Scene, token: str) -> GridLabel:
        """The label of a sample.

        Raises:
            DatasetError, InvalidInputError: see the readers in `data.labels`.
        """
        key = self._sample_key(scene, token)
        if key is None:
            raise DatasetError(f"{scene.name}, sample {token}: no {LIDAR} keyframe, so no name of its label")
        record = scene.keyframes[token].get(LIDAR)
        return self._reader.read(self._scene_key(scene), key, record.stamp_ns if record else None)

    def files(self, scene: Scene) -> list[Path]:
        """All label files of a scene."""
        prefix = "scene_" if self._by_token else ""
        return sorted((self.folder / f"{prefix}{self._scene_key(scene)}").rglob("*.np[yz]"))

    @property
    def _by_token(self) -> bool:
        """OpenOccupancy names scenes by token and samples by their LiDAR record; the others by name and sample."""
        return self.set.reader is OpenOccupancyLabels

    def _scene_key(self, scene: Scene) -> str:
        return scene.token if self._by_token else scene.name

    def _sample_key(self, scene: Scene, token: str) -> str | None:
        if not self._by_token:
            return token
        record = scene.keyframes[token].get(LIDAR)
        return record.token if record else None
