"""Prediction files as the subject of an evaluation: the community's, or those that ``bag replay`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from occ_perception.data.array_files import load_npz, take
from occ_perception.data.labels import read_prediction
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.evaluation.answers import Answer
from occ_perception.evaluation.truth import LabelSet
from occ_perception.geometry import VoxelGrid
from occ_perception.instances import fitting_ids
from occ_perception.metrics.checks import check_flow
from occ_perception.ontology import FREE, OPENOCCUPANCY, ontology_by_name

_MOST_NAMED = 5


class FolderSubject:
    """A folder with one .npz a sample, of either kind:

    * ``<sample token>.npz`` with a grid under ``pred``, ``semantics`` or ``arr_0``, numbered as the dataset does (the
      benchmarks' submission format);
    * ``<stamp>.npz`` as `replay.save_occupancy` writes them, where the stamp (nanoseconds) is that of one of the
      sample's keyframe records.

    For labels with flow an array ``flow`` [X, Y, Z, 2] (m/s) is read too if it is there, and so are instances: whole
    numbers [X, Y, Z], 0 = none, under ``instances`` (in files of a replay ``predicted_instances``; their ``instances``
    are ids that last).

    Args:
        folder: with the files.
        labels: what they are to be compared with.

    Raises:
        DatasetError: there is no such folder, or no .npz in it.
    """

    grid_frame = "as the files come, compared cell by cell with the labels"

    def __init__(self, folder: Path, labels: LabelSet) -> None:
        self.folder, self._labels = folder, labels
        first = next(folder.glob("*.npz"), None) if folder.is_dir() else None
        if first is None:
            raise DatasetError(f"predictions: there is no folder {folder} with .npz files")
        arrays = load_npz(first)
        self._is_replay = _is_replay(arrays)
        self.ontology = ontology_by_name(str(arrays["ontology"])) if self._is_replay else labels.ontology
        self.name, self.grid = folder.resolve().name, labels.grid
        self.frame = "base_link" if self._is_replay else labels.frame
        self.identity = {"predictions": str(folder.resolve()), "grid_frame": self.grid_frame}

    def check(self, scene: Scene, tokens: Sequence[str]) -> None:
        """Every labelled sample needs a file: scoring only those that are there would be another benchmark.

        Raises:
            DatasetError: some are missing (the message names the first few).
        """
        missing = [token for token in tokens if self._path(scene, token) is None]
        if missing:
            named = ", ".join(missing[:_MOST_NAMED]) + (", ..." if len(missing) > _MOST_NAMED else "")
            raise DatasetError(
                f"predictions {self.folder}: {len(missing)} of the {len(tokens)} labelled samples of {scene.name} "
                f"have no <token>.npz: {named}"
            )

    def files(self, scene: Scene) -> list[Path]:
        """The files of a scene's samples."""
        return [path for token, _ in scene.samples if (path := self._path(scene, token)) is not None]

    def answers(self, dataset: NuScenes, scene: Scene, tokens: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """Read them one by one.

        Raises:
            DatasetError: a file is missing, damaged, or holds pickled objects.
            InvalidInputError: a grid of another size, type or label set, or flow that is not finite.
        """
        for token in tokens:
            path = self._path(scene, token)
            if path is None:
                raise DatasetError(f"predictions {self.folder}: {token}.npz is missing")
            semantics = self._replayed(path) if self._is_replay else self._submitted(path)
            flow = self._flow(path) if self._labels.has_flow else None
            tracks = self._ids(path, "instances") if self._is_replay else None
            yield token, Answer(semantics, flow, self._ids(path, self._instances_key), tracks)

    def _submitted(self, path: Path) -> np.ndarray:
        semantics = read_prediction(path, self.ontology, self.grid)
        if self.ontology is OPENOCCUPANCY:  # its files call free 0
            semantics = np.where(semantics == 0, FREE, semantics).astype(np.uint8)
        return semantics

    def _replayed(self, path: Path) -> np.ndarray:
        arrays = load_npz(path)
        if not _is_replay(arrays) or str(arrays["ontology"]) != self.ontology.name:
            raise InvalidInputError(f"{path}: expected the output of a replay in classes of {self.ontology.name}")
        semantics = take(path, arrays, "prediction", self.grid.size, "u")
        origin = take(path, arrays, "origin", (3,), "f").tolist()
        voxel_size = float(take(path, arrays, "voxel_size", (), "f"))
        if VoxelGrid(tuple(origin), voxel_size, self.grid.size) != self.grid:
            raise InvalidInputError(f"{path}: expected {self.grid}, got origin {origin}, voxel size {voxel_size}")
        return semantics

    @property
    def _instances_key(self) -> str:
        return "predicted_instances" if self._is_replay else "instances"

    def _ids(self, path: Path, key: str) -> np.ndarray | None:
        arrays = load_npz(path)
        if key not in arrays:
            return None
        try:
            return fitting_ids(take(path, arrays, key, self.grid.size, "iu"))
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from error

    def _flow(self, path: Path) -> np.ndarray | None:
        arrays = load_npz(path)
        if "flow" not in arrays:
            return None
        flow = take(path, arrays, "flow", (*self.grid.size, 2), "f")
        try:
            return check_flow("flow", flow, self.grid.size, finite=True)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from error

    def _path(self, scene: Scene, token: str) -> Path | None:
        stamps = [record.stamp_ns for record in scene.keyframes[token].values()] if self._is_replay else []
        candidates = (self.folder / f"{name}.npz" for name in (token, *sorted(stamps)))
        return next((path for path in candidates if path.is_file()), None)


def _is_replay(arrays: Mapping[str, np.ndarray]) -> bool:
    return "ontology" in arrays and "prediction" in arrays
