"""What a replay writes: .npz files, a bag of grids, or both; whole or not at all.

Files in the folder FOLDER, by format:

* ``submission``: ``FOLDER/<sample token>.npz`` for the keyframes, ``pred`` in the dataset's ids, as benchmarks take it;
* ``keyframes``:  ``FOLDER/<sample token>.npz`` for the keyframes, all arrays (`save_occupancy`), the model's own ids;
* ``frames``:     ``FOLDER/<bag>/<stamp in ns>.npz`` for every frame, all arrays.

``auto`` takes the first that is possible: keyframes are known in bags from nuScenes only (topic ``/nuscenes/sample``),
and a submission needs a model with a dataset's label set (``lidar-carving`` has none: occupied or ground is all that it
knows).  ``FOLDER/replay/<bag>.json`` says what was made, how, and that it is complete.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from occ_perception.data.bag_markers import MARKERS, instances_message
from occ_perception.data.bag_messages import INSTANCES, VOXEL_GRID, voxel_grid, voxel_instances
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.bag_settings import SETTINGS_KEY, check_same, is_finished, settings_text
from occ_perception.data.bag_writer import BagWriter, reliable_qos
from occ_perception.data.keyframe_markers import KeyframeMarkers
from occ_perception.data.workspace import Workspace
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.files import write_whole
from occ_perception.occupancy import ModelInfo, Occupancy
from occ_perception.occupancy_files import save_occupancy, save_submission

AUTO, SUBMISSION, KEYFRAMES, FRAMES = "auto", "submission", "keyframes", "frames"
FORMATS = (AUTO, SUBMISSION, KEYFRAMES, FRAMES)
VOXELS_TOPIC, INSTANCES_TOPIC, MARKERS_TOPIC = "/perception/voxels", "/perception/instances", "/perception/markers"
"""Those of the node."""
_REPORT_KEY = "report"


def choose_format(wanted: str, markers: KeyframeMarkers, model: ModelInfo) -> str:
    """The format of the .npz files; see the module.

    Raises:
        ConfigurationError: unknown format, or one that this bag or this model cannot give.
    """
    if wanted not in FORMATS:
        raise ConfigurationError(f"unknown format '{wanted}'; known: {', '.join(FORMATS)}")
    has_ids = model.ontology.dataset_free_id is not None
    if wanted == AUTO:
        return FRAMES if not markers.tokens else SUBMISSION if has_ids else KEYFRAMES
    if wanted != FRAMES and not markers.tokens:
        raise ConfigurationError(f"format {wanted}: the bag has no keyframe markers; take '{FRAMES}'")
    if wanted == SUBMISSION and not has_ids:
        raise ConfigurationError(
            f"format {wanted}: the labels of {model.name} ({model.ontology.name}) are no dataset's; take '{KEYFRAMES}'"
        )
    return wanted


class ReplayOutput(ABC):
    """A place for the grids of one bag; a context manager around the replay.

    Nothing of an output that was not finished stays.
    """

    @abstractmethod
    def finished_report(self) -> dict[str, Any] | None:
        """The report of a whole output that is there with the same settings, None if there is none.

        Raises:
            DatasetError: there is one, made in another way (the message says how it differs).
        """

    @abstractmethod
    def open(self) -> None:
        """Begin.

        Raises:
            DatasetError: the disk refuses.
        """

    @abstractmethod
    def add(self, occupancy: Occupancy, token: str | None) -> None:
        """Take a grid; ``token`` of the sample that it belongs to, if it does."""

    @abstractmethod
    def finish(self, report: Mapping[str, Any]) -> None:
        """All grids are there, and this is to be said of them."""

    def __enter__(self) -> ReplayOutput:
        self.open()
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show a finished output, or remove what there is of one that is not."""


class FilesOutput(ReplayOutput):
    """.npz files.

    Args:
        folder: for the files of all bags.
        name: of the bag.
        chosen: one of the formats but auto.
        settings: everything that determines the content.
        markers: the bag's keyframes.
    """

    def __init__(
        self, folder: Path, name: str, chosen: str, settings: Mapping[str, object], markers: KeyframeMarkers
    ) -> None:
        self._settings = {**settings, "format": chosen}
        self._format = chosen
        self._folder = folder / name if chosen == FRAMES else folder
        self._named_by_token = [folder / f"{token}.npz" for token in markers.tokens]
        self._named_by_stamp = folder / name
        self._record = folder / "replay" / f"{name}.json"
        self._files: list[str] = []

    def finished_report(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self._record.read_text())
            there, files, report = record["settings"], record["files"], record["report"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{self._record} is no record of a replay: {error!r}") from error
        check_same(self._record, there, json.loads(settings_text(self._settings)))
        return dict(report) if all((self._folder / file).is_file() for file in files) else None

    def open(self) -> None:
        self._files = []
        try:
            self._work = Workspace(self._record)
        except OSError as error:
            raise DatasetError(f"cannot write {self._record}: {error}") from error

    def add(self, occupancy: Occupancy, token: str | None) -> None:
        if self._format != FRAMES and token is None:
            return
        name = f"{occupancy.stamp_ns if self._format == FRAMES else token}.npz"
        save = save_submission if self._format == SUBMISSION else save_occupancy
        save(self._work.path / name, occupancy)
        self._files.append(name)

    def finish(self, report: Mapping[str, Any]) -> None:
        try:
            self._record.unlink(missing_ok=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in self._files:
                os.replace(self._work.path / name, self._folder / name)
            files = {self._folder / name for name in self._files}
            for stale in {*self._named_by_token, *self._named_by_stamp.glob("*.npz")} - files:
                stale.unlink(missing_ok=True)  # of a replay of this bag in another way
            record = {"settings": self._settings, "report": report, "files": self._files}
            write_whole(self._record, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise DatasetError(f"cannot write {self._folder}: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.close()


class BagOutput(ReplayOutput):
    """A bag with a VoxelGrid, a VoxelInstanceArray and a MarkerArray per frame, on the node's topics, at its stamp.

    Args:
        path: the bag's folder.
        settings: everything that determines the content.
        base_frame: of the grids; sparse: how they are encoded.
        overwrite: replace a bag that is there.
        storage: "mcap" or "sqlite3".
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        base_frame: str = "base_link",
        sparse: bool = True,
        overwrite: bool = False,
        storage: str = "mcap",
    ) -> None:
        self._path, self._overwrite, self._storage = path, overwrite, storage
        self._base_frame, self._sparse = base_frame, sparse
        encoding, topics = "sparse" if sparse else "dense", [VOXELS_TOPIC, INSTANCES_TOPIC, MARKERS_TOPIC]
        self._settings = {**settings, "encoding": encoding, "storage": storage, "topics": topics}

    def finished_report(self) -> dict[str, Any] | None:
        if not is_finished(self._path, self._settings):
            return None
        with BagReader(self._path) as bag:
            return dict(json.loads(bag.custom_data[_REPORT_KEY]))

    def open(self) -> None:
        metadata = {SETTINGS_KEY: settings_text(self._settings)}
        self._bag = BagWriter(self._path, self._storage, metadata, self._overwrite)
        for topic, kind in ((VOXELS_TOPIC, VOXEL_GRID), (INSTANCES_TOPIC, INSTANCES), (MARKERS_TOPIC, MARKERS)):
            self._bag.add_topic(topic, kind, reliable_qos(1))

    def add(self, occupancy: Occupancy, token: str | None) -> None:
        stamp_ns, frame = occupancy.stamp_ns, self._base_frame
        self._bag.write(VOXELS_TOPIC, stamp_ns, voxel_grid(occupancy, frame, self._sparse))
        self._bag.write(INSTANCES_TOPIC, stamp_ns, voxel_instances(occupancy, frame))
        self._bag.write(MARKERS_TOPIC, stamp_ns, instances_message(occupancy, frame))

    def finish(self, report: Mapping[str, Any]) -> None:
        self._bag.set_custom_data(_REPORT_KEY, json.dumps(report))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bag.__exit__(kind, error, trace)
