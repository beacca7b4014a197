"""Label files of the occupancy benchmarks: Occ3D, SparseOcc panoptic, OpenOcc v2 and OpenOccupancy (benchmarks.md).

Every reader is a tree of files with the same three methods: ``scenes()``, ``samples(scene)`` and
``read(scene, sample, stamp_ns)``, which gives a `GridLabel`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from occ_perception.data.array_files import load_npy, load_npz, take
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.ontology import FREE, OCC3D, OPENOCC, OPENOCCUPANCY, UNKNOWN, Ontology

OPENOCCUPANCY_GRID = VoxelGrid(origin=(-51.2, -51.2, -5.0), voxel_size=0.2, size=(512, 512, 40))
"""Grid of nuScenes-Occupancy (OpenOccupancy): LiDAR frame, x right, y forward."""

PREDICTION_KEYS = ("pred", "semantics", "arr_0")
"""Names under which prediction files of the community hold the grid."""


@dataclass(frozen=True)
class GridLabel:
    """Ground truth of one keyframe, arrays indexed ``[x, y, z]``.

    Attributes:
        semantics: uint8 [X, Y, Z]; classes of ``ontology``, FREE, or UNKNOWN where the file has no label.  Occ3D and
            OpenOcc files say free where nothing looked; see `known_semantics`.
        ontology: label set.
        grid: geometry, in ``frame`` at the LIDAR_TOP keyframe stamp.
        frame: "base_link" (ego) or "lidar_top" (nuScenes' LiDAR axes: x right, y forward).
        stamp_ns: stamp of the LIDAR_TOP keyframe, nanoseconds; None if the caller did not give it (files have none).
        mask_lidar, mask_camera: bool [X, Y, Z], seen by the LiDAR or a camera; None if the benchmark has none.
        flow: float32 [X, Y, Z, 2], velocity over ground along grid x and y, m/s, may be NaN; or None.
        instances: uint16 [X, Y, Z], 0 = none; or None.
        source: file it came from.
    """

    semantics: np.ndarray
    ontology: Ontology
    grid: VoxelGrid
    frame: str
    stamp_ns: int | None
    mask_lidar: np.ndarray | None
    mask_camera: np.ndarray | None
    flow: np.ndarray | None
    instances: np.ndarray | None
    source: Path

    def known_semantics(self) -> np.ndarray:
        """Semantics with UNKNOWN where the file says free but no LiDAR beam went; uint8 [X, Y, Z]."""
        if self.mask_lidar is None:
            return self.semantics
        return np.where((self.semantics == FREE) & ~self.mask_lidar, UNKNOWN, self.semantics).astype(np.uint8)


class _NpzLabels:
    """Trees ``ROOT/<scene name>/<sample token>/labels.npz`` over the Occ3D grid.

    Args:
        root: the folder that holds the scene folders (``gts``, ``occ3d_panoptic``, ``openocc_v2``).

    Raises:
        DatasetError: there is no such folder.
    """

    ontology: ClassVar[Ontology]
    has_masks: ClassVar[bool] = False
    has_flow: ClassVar[bool] = False
    has_instances: ClassVar[bool] = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = _existing(Path(root))

    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes with labels, sorted."""
        return _subfolders(self.root)

    def samples(self, scene: str) -> tuple[str, ...]:
        """Tokens of a scene's labelled samples, sorted (tokens have no time order)."""
        folder = _existing(self.root / scene)
        return tuple(name for name in _subfolders(folder) if (folder / name / "labels.npz").is_file())

    def read(self, scene: str, sample: str, stamp_ns: int | None = None) -> GridLabel:
        """The label of a sample.

        Raises:
            DatasetError: the file is missing, damaged, or holds pickled objects.
            InvalidInputError: an array is missing, or is of another grid, type or label set.
        """
        path = self.root / scene / sample / "labels.npz"
        arrays = load_npz(path)
        size = OCC3D_GRID.size
        semantics = _semantics(path, take(path, arrays, "semantics", size, "u"), self.ontology)
        _check_some_free(path, semantics, self.ontology)
        with np.errstate(over="ignore"):  # the reader keeps flow that is not finite; metrics leave it out
            flow = take(path, arrays, "flow", (*size, 2), "f").astype(np.float32) if self.has_flow else None
        instances = take(path, arrays, "instances", size, "u").astype(np.uint16) if self.has_instances else None
        return GridLabel(
            semantics=semantics,
            ontology=self.ontology,
            grid=OCC3D_GRID,
            frame="base_link",
            stamp_ns=stamp_ns,
            mask_lidar=self._mask(path, arrays, "mask_lidar"),
            mask_camera=self._mask(path, arrays, "mask_camera"),
            flow=flow,
            instances=instances,
            source=path,
        )

    def _mask(self, path: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray | None:
        if not self.has_masks:
            return None
        mask = take(path, arrays, key, OCC3D_GRID.size, "ub")
        if mask.size and mask.max() > 1:
            raise InvalidInputError(f"{path}: {key}: expected 0 and 1, got values up to {int(mask.max())}")
        return mask.astype(bool)


class Occ3DLabels(_NpzLabels):
    """Occ3D-nuScenes: ``gts/<scene name>/<sample token>/labels.npz`` with both visibility masks."""

    ontology = OCC3D
    has_masks = True


class Occ3DPanopticLabels(Occ3DLabels):
    """SparseOcc's panoptic extension, ``occ3d_panoptic/...``: Occ3D with instance ids."""

    has_instances = True


class OpenOccLabels(_NpzLabels):
    """OpenOcc v2: ``openocc_v2/<scene name>/<sample token>/labels.npz`` with flow, without masks."""

    ontology = OPENOCC
    has_flow = True


class OpenOccupancyLabels:
    """nuScenes-Occupancy v0.1: ``ROOT/scene_<scene token>/occupancy/<LIDAR_TOP sample_data token>.npy``.

    Scenes are named by their tokens, samples by the tokens of their LIDAR_TOP keyframe record.

    Args:
        root: the folder ``nuScenes-Occupancy``.

    Raises:
        DatasetError: there is no such folder.
    """

    ontology: ClassVar[Ontology] = OPENOCCUPANCY

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = _existing(Path(root))

    def scenes(self) -> tuple[str, ...]:
        """Tokens of the scenes with labels, sorted."""
        return tuple(name.removeprefix("scene_") for name in _subfolders(self.root) if name.startswith("scene_"))

    def samples(self, scene: str) -> tuple[str, ...]:
        """LIDAR_TOP sample_data tokens of a scene's labels, sorted."""
        folder = _existing(self.root / f"scene_{scene}" / "occupancy")
        return tuple(sorted(path.stem for path in folder.glob("*.npy")))

    def read(self, scene: str, sample: str, stamp_ns: int | None = None) -> GridLabel:
        """The label of a sample: listed voxels have their class, "noise" is UNKNOWN, all others are FREE.

        Raises:
            DatasetError: the file is missing, damaged, or holds pickled objects.
            InvalidInputError: rows outside the grid or the label set.
        """
        path = self.root / f"scene_{scene}" / "occupancy" / f"{sample}.npy"
        return GridLabel(
            semantics=_dense_rows(path, load_npy(path)),
            ontology=OPENOCCUPANCY,
            grid=OPENOCCUPANCY_GRID,
            frame="lidar_top",
            stamp_ns=stamp_ns,
            mask_lidar=None,
            mask_camera=None,
            flow=None,
            instances=None,
            source=path,
        )


def read_prediction(path: str | os.PathLike[str], ontology: Ontology, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
    """A prediction file of the community: .npz with one grid under ``pred``, ``semantics`` or ``arr_0``.

    Returns:
        uint8 [X, Y, Z]; classes of ``ontology`` or FREE.

    Raises:
        DatasetError: the file is missing, damaged, or holds pickled objects.
        InvalidInputError: no such array, or one of another grid, type or label set.
    """
    path = Path(path)
    arrays = load_npz(path)
    key = next((key for key in PREDICTION_KEYS if key in arrays), PREDICTION_KEYS[0])
    semantics = _semantics(path, take(path, arrays, key, grid.size, "iu"), ontology)
    if (semantics == UNKNOWN).any():
        raise InvalidInputError(f"{path}: 255 is no prediction; every voxel must be a class of {ontology.name} or free")
    return semantics


def _semantics(path: Path, labels: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Dataset labels to this project's ids, uint8."""
    try:
        return ontology.from_dataset(labels)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _check_some_free(path: Path, semantics: np.ndarray, ontology: Ontology) -> None:
    """OpenOcc files hold only ids that Occ3D has too; read as Occ3D they would be full of vegetation."""
    if not (semantics == FREE).any():
        raise InvalidInputError(
            f"{path}: no voxel is free (id {ontology.dataset_free_id}), so this is no {ontology.name} label; "
            "Occ3D stores free as 17, OpenOcc as 16"
        )


def _dense_rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """Rows [z, y, x, class] or [z, y, x, vx, vy, vz, class] as uint8 [512, 512, 40].

    A cell listed more than once takes the class most rows agree on, the smallest of equals.
    """
    if rows.ndim != 2 or rows.shape[1] not in (4, 7) or rows.dtype.kind not in "iuf":
        raise InvalidInputError(f"{path}: expected numbers [N, 4] or [N, 7], got {rows.dtype} {rows.shape}")
    whole = rows[:, [2, 1, 0, -1]]
    limits = np.array([*OPENOCCUPANCY_GRID.size, OPENOCCUPANCY.num_classes])
    bad = ~((whole >= 0) & (whole < limits) & (whole == np.floor(whole))).all(axis=1)
    if bad.any():
        first = rows[int(bad.argmax())].tolist()
        raise InvalidInputError(
            f"{path}: {int(bad.sum())} rows are not [z, y, x, ..., class] in {limits.tolist()} (x, y, z, classes), "
            f"the first is row {int(bad.argmax())}: {first}"
        )
    cells = OPENOCCUPANCY_GRID.linear_index(whole[:, :3].astype(np.int64))
    pairs, votes = np.unique(cells * 256 + whole[:, 3].astype(np.int64), return_counts=True)
    cells, classes = pairs // 256, pairs % 256
    order = np.lexsort((classes, -votes, cells))
    cells, first = np.unique(cells[order], return_index=True)
    winners = classes[order][first]
    dense = np.full(OPENOCCUPANCY_GRID.num_voxels, FREE, np.uint8)
    dense[cells] = np.where(winners == 0, UNKNOWN, winners)
    return dense.reshape(OPENOCCUPANCY_GRID.size)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DatasetError(f"labels: there is no folder {folder}")
    return folder


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
