"""The JSON tables of nuScenes (v1.0-*): lists of flat rows keyed by a token, with foreign keys ``*_token``.

Files of more than a gigabyte are parsed piece by piece, so that no more than a few MB of them exist as Python objects.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
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

PIECE_BYTES = 1 << 20
"""How much of a table is parsed at a time; small enough that its objects stay in the CPU's caches."""
_SPACE = b" \t\r\n"


class Table:
    """A small table: rows in file order, and by token.

    Raises:
        DatasetError: the file is missing, no JSON, or not a list of rows with the columns we need.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = table_path(folder, name)
        self.rows = [row for piece in _checked_pieces(folder, name) for row in piece]
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


def table_path(folder: Path, name: str) -> Path:
    """The file of a table."""
    return folder / f"{name}.json"


def column_pieces(folder: Path, name: str) -> Iterator[dict[str, list[Any]]]:
    """A table of any size, some thousand rows at a time, as columns by name (see `COLUMNS`).

    Raises:
        DatasetError: see `Table`.
    """
    for rows in _checked_pieces(folder, name):
        if rows:
            yield {column: [row[column] for row in rows] for column in COLUMNS[name]}


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


def _checked_pieces(folder: Path, name: str) -> Iterator[list[Row]]:
    """Rows in pieces, each row an object with at least the columns we need."""
    path, needed, start = table_path(folder, name), frozenset(COLUMNS[name]), 0
    for piece in _pieces(path):
        for number, row in enumerate(piece, start):
            if not isinstance(row, dict) or not needed <= row.keys():
                lacking = sorted(needed - row.keys()) if isinstance(row, dict) else "everything, it is no object"
                raise DatasetError(f"table {path}: row {number} lacks {lacking}")
        yield piece
        start += len(piece)


def _pieces(path: Path) -> Iterator[list[Any]]:
    """The values of a JSON list of flat objects, in pieces cut between two objects."""
    try:
        with path.open("rb") as file:
            rest, offset, is_first = b"", 0, True
            while block := file.read(PIECE_BYTES):
                text = rest + block
                cut = _last_border(text)
                if cut is None:
                    rest = text
                    continue
                yield _parsed(path, text[:cut], offset, opens=is_first, closes=False)
                rest, offset, is_first = text[cut + 1 :], offset + cut + 1, False
            yield _parsed(path, rest, offset, opens=is_first, closes=True)
    except FileNotFoundError:
        raise DatasetError(f"table {path} is missing") from None
    except OSError as error:
        raise DatasetError(f"table {path} cannot be read: {error}") from error


def _last_border(text: bytes) -> int | None:
    """Where the comma before the last object of a text is; None if there is none."""
    end = len(text)
    while (end := text.rfind(b"{", 0, end)) > 0:
        before = text[max(0, end - 256) : end].rstrip(_SPACE)
        if before.endswith(b",") and before[:-1].rstrip(_SPACE).endswith(b"}"):
            return end - (min(end, 256) - len(before)) - 1
    return None


def _parsed(path: Path, text: bytes, offset: int, opens: bool, closes: bool) -> list[Any]:
    """The values of a piece of a list, which begins or ends the list or is completed to one.

    Raises:
        DatasetError: no JSON, or no list; the message says where.
    """
    try:
        with _no_garbage_collection():
            rows = json.loads((b"" if opens else b"[") + text + (b"" if closes else b"]"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"table {path} is not valid JSON: {error}"
            + (f" (counted from byte {offset} of the file)" if offset else "")
        ) from error
    if not isinstance(rows, list):
        raise DatasetError(f"table {path}: expected a list of rows, got {type(rows).__name__}")
    return rows


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Rows have no cycles; looking for some while millions of rows appear takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
