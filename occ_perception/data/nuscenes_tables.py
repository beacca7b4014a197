"""The JSON tables of nuScenes (v1.0-*): lists of flat rows keyed by a token, with foreign keys ``*_token``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from occ_perception.errors import DatasetError

Row = dict[str, Any]

# The columns this project reads; a row without one of them is damage.
COLUMNS: dict[str, tuple[str, ...]] = {
    "scene": ("token", "name", "description", "log_token"),
    "log": ("token", "vehicle", "location"),
    "sample": ("token", "timestamp", "scene_token"),
    "sample_data": (
        "token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "width", "height",
        "timestamp", "is_key_frame",
    ),
    "ego_pose": ("token", "timestamp", "translation", "rotation"),
    "calibrated_sensor": ("token", "sensor_token", "translation", "rotation", "camera_intrinsic"),
    "sensor": ("token", "channel", "modality"),
    "sample_annotation": (
        "token", "sample_token", "instance_token", "translation", "size", "rotation", "num_lidar_pts",
        "num_radar_pts", "prev", "next",
    ),
    "instance": ("token", "category_token"),
    "category": ("token", "name"),
}  # fmt: skip


class Table:
    """One table: rows in file order, and by token.

    Raises:
        DatasetError: the file is missing, no JSON, or not a list of rows with the columns we need.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.json"
        self.rows = _load(self.path, COLUMNS[name])
        self._by_token = {row["token"]: row for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, token: str) -> Row:
        row = self._by_token.get(token)
        if row is None:
            raise DatasetError(f"{self.path}: no row with token '{token}', but another table refers to it")
        return row

    def __contains__(self, token: str) -> bool:
        return token in self._by_token


def find_version(root: Path, version: str | None) -> str:
    """The tables' folder: the one asked for, or the only one there.

    Raises:
        DatasetError: not there, or none was asked for and there is not exactly one (the message lists them).
    """
    there = sorted(path.parent.name for path in root.glob("v*/scene.json"))
    if version is None and len(there) == 1:
        return there[0]
    if version is None or version not in there:
        wanted = f"'{version}'" if version else "exactly one version"
        raise DatasetError(f"nuScenes at {root}: wanted {wanted}, found versions {there} (folders with scene.json)")
    return version


def _load(path: Path, columns: tuple[str, ...]) -> list[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"table {path} is missing") from None
    except OSError as error:
        raise DatasetError(f"table {path} cannot be read: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"table {path} is not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise DatasetError(f"table {path}: expected a list of rows, got {type(rows).__name__}")
    needed = frozenset(columns)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not needed <= row.keys():
            lacking = sorted(needed - row.keys()) if isinstance(row, dict) else "everything, it is no object"
            raise DatasetError(f"table {path}: row {number} lacks {lacking}")
    return rows
