"""Labelled LiDAR points of a sample, from whichever of nuScenes' packs (lidarseg, panoptic) are installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_lidar import read_sweep
from occ_perception.data.nuscenes_records import Scene
from occ_perception.data.point_labels import LidarsegLabels, PanopticLabels
from occ_perception.errors import InvalidInputError
from occ_perception.evaluation.truth import LIDAR
from occ_perception.geometry import inverse, transform_points


@dataclass(frozen=True)
class LabelledPoints:
    """The points of a keyframe sweep, in the order of its file.

    Attributes:
        lidar: float64 [P, 3], metres, LiDAR frame.
        ego_from_lidar: float64 [4, 4].
        odom_from_ego: float64 [4, 4], where the vehicle was at the sweep's stamp, in the scene's local frame.
        classes: uint8 [P], challenge classes (`LidarsegLabels`), 0 = ignored; None without the pack.
        panoptic: uint16 [P], 1000 * class + instance (`PanopticLabels`); None without the pack.
    """

    lidar: np.ndarray
    ego_from_lidar: np.ndarray
    odom_from_ego: np.ndarray
    classes: np.ndarray | None
    panoptic: np.ndarray | None

    def __post_init__(self) -> None:
        for name, labels in (("lidarseg", self.classes), ("panoptic", self.panoptic)):
            if labels is not None and len(labels) != len(self.lidar):
                raise InvalidInputError(
                    f"{name}: expected a label for each of {len(self.lidar)} points, got {len(labels)}"
                )

    def in_grid(self, frame: str, odom_from_grid: np.ndarray | None) -> np.ndarray:
        """The points in the frame of a grid, float64 [P, 3].

        Args:
            frame: "base_link", or "lidar_top": the sweep's own.
            odom_from_grid: where base_link was at the grid's stamp; None = at the sweep's.
        """
        if frame == "lidar_top":
            return self.lidar
        if odom_from_grid is None:
            return transform_points(self.ego_from_lidar, self.lidar)
        return transform_points(inverse(odom_from_grid) @ self.odom_from_ego @ self.ego_from_lidar, self.lidar)


class PointTruth:
    """Point labels of a nuScenes tree, as far as they are installed.

    Args:
        dataset: the tree.

    Attributes:
        packs: those that are there, of "lidarseg" and "panoptic".
    """

    def __init__(self, dataset: NuScenes) -> None:
        there = lambda reader: (dataset.root / reader.pack / dataset.version).is_dir()  # noqa: E731
        self._lidarseg = LidarsegLabels(dataset) if there(LidarsegLabels) else None
        self._panoptic = PanopticLabels(dataset) if there(PanopticLabels) else None
        self.packs = tuple(reader.pack for reader in (self._lidarseg, self._panoptic) if reader is not None)

    def read(self, scene: Scene, token: str) -> LabelledPoints | None:
        """The labelled points of a sample; None if none of the packs has any.

        Raises:
            DatasetError, InvalidInputError: see the readers in `data.point_labels` and `read_sweep`.
        """
        record = scene.keyframes[token].get(LIDAR)
        if record is None:
            return None
        classes = panoptic = None
        if self._lidarseg is not None and self._lidarseg.path(record.token).is_file():
            classes = self._lidarseg.read(scene.name, record.token).classes
        if self._panoptic is not None and self._panoptic.path(record.token).is_file():
            panoptic = self._panoptic.read(scene.name, record.token).panoptic
        if classes is None and panoptic is None:
            return None
        sweep = read_sweep(record, scene.origin)
        points = sweep.points[:, :3].astype(np.float64)
        return LabelledPoints(points, sweep.ego_from_lidar, record.odom_from_ego(scene.origin), classes, panoptic)

    def files(self, scene: Scene) -> list[Path]:
        """All point label files of a scene."""
        tokens = [records[LIDAR].token for records in scene.keyframes.values() if LIDAR in records]
        readers = [reader for reader in (self._lidarseg, self._panoptic) if reader is not None]
        paths = [reader.path(token) for reader in readers for token in tokens]
        return [path for path in paths if path.is_file()]
