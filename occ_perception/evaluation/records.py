"""What an evaluation leaves on disk: one JSON of integers per finished scene, whole or not at all, found again by what
was evaluated.

    OUTPUT/<run>/settings.json      what the run's name is the hash of
    OUTPUT/<run>/scenes/<scene>.json       counters of a finished scene
    OUTPUT/<run>/scenes/<scene>.failed     why a scene could not be scored; goes when it can

Workers need no other means of communication: each writes its scenes, and whoever comes last sees them all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.evaluation.scoring import Tally
from occ_perception.files import write_whole
from occ_perception.metrics.accumulator import Accumulator

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when counters change their meaning, so that old results are not taken for new ones."""


@dataclass
class SceneRecord:
    """A finished scene.

    Attributes:
        scene: name.
        inputs: fingerprint of the label and prediction files it was computed from.
        tally: what happened.
        metrics: counters by name of report.
    """

    scene: str
    inputs: str
    tally: Tally
    metrics: dict[str, Accumulator]

    def to_json(self) -> str:
        """Counters as JSON text."""
        metrics = {name: json.loads(metric.to_json()) for name, metric in self.metrics.items()}
        content = {"format": FORMAT, "scene": self.scene, "inputs": self.inputs}
        return json.dumps({**content, "tally": asdict(self.tally), "metrics": metrics})

    @staticmethod
    def from_json(text: str) -> SceneRecord:
        """Restore what `to_json` wrote.

        Raises:
            InvalidInputError: it is something else.
        """
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise InvalidInputError(f"scene record: expected format {FORMAT}, got {stored['format']}")
            metrics = {name: Accumulator.from_json(json.dumps(m)) for name, m in stored["metrics"].items()}
            return SceneRecord(stored["scene"], stored["inputs"], Tally(**stored["tally"]), metrics)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"scene record: not one: {error!r}") from error


class RunFolder:
    """The results of one run: one subject, one label set, one corruption.

    Args:
        output: folder of all runs.
        settings: everything that changes the results; another value means another run.

    Raises:
        DatasetError: the folder cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, str]) -> None:
        self.settings = {"format": str(FORMAT), **settings}
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = "_".join(self.settings[part] for part in ("subject", "labels", "corruption") if part in self.settings)
        self.folder = output / f"{''.join(c if c.isalnum() or c in '-_.+' else '-' for c in name)}_{key}"
        self.write("settings.json", text)

    def load(self, scene: str, inputs: str, metrics: Collection[str]) -> SceneRecord | None:
        """The record of a finished scene; None if there is none, it is of other metrics, or its inputs have changed."""
        path = self._path(scene)
        try:
            record = SceneRecord.from_json(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, InvalidInputError) as error:
            logger.warning("%s cannot be used, the scene is computed again: %s", path, error)
            return None
        if record.metrics.keys() != set(metrics):
            logger.warning("%s holds other metrics, the scene is computed again", path)
            return None
        if record.inputs != inputs:
            logger.info("%s: labels or predictions have changed, the scene is computed again", scene)
            return None
        return record

    def save(self, record: SceneRecord) -> None:
        """Keep a finished scene."""
        self.write(f"scenes/{record.scene}.json", record.to_json())
        self._failure_path(record.scene).unlink(missing_ok=True)

    def save_failure(self, scene: str, reason: str) -> None:
        """Keep why a scene could not be scored; it is tried again next time."""
        self._path(scene).unlink(missing_ok=True)
        self.write(f"scenes/{scene}.failed", reason)

    def failure(self, scene: str) -> str | None:
        """Why a scene could not be scored, if it could not."""
        path = self._failure_path(scene)
        return path.read_text() if path.is_file() else None

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all.

        Raises:
            DatasetError: it cannot be written.
        """
        try:
            write_whole(self.folder / name, text.encode())
        except OSError as error:
            raise DatasetError(f"cannot write {self.folder / name}: {error}") from error

    def _path(self, scene: str) -> Path:
        return self.folder / "scenes" / f"{scene}.json"

    def _failure_path(self, scene: str) -> Path:
        return self.folder / "scenes" / f"{scene}.failed"


def fingerprint(files: Iterable[Path]) -> str:
    """Changes when one of the files is exchanged: hash of their names, sizes and times of change."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.parent.name}/{path.name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
