"""nuScenes' large tables as sorted arrays: records with their poses, and boxes with their velocities.

v1.0-trainval has 2.6 million records and poses and 1.2 million boxes, 2.5 GB of JSON.  They are parsed once, joined,
sorted by sample and kept in a cache file (`array_cache`); a scene, or the boxes of a sample, is then one slice.
Tokens (32 hexadecimal digits) are held as their 16 bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.data.array_cache import Arrays, cached_arrays
from occ_perception.data.nuscenes_tables import COLUMNS, column_pieces, table_path
from occ_perception.data.nuscenes_tokens import TOKEN, find_tokens, hex_tokens, token_array
from occ_perception.errors import DatasetError

logger = logging.getLogger(__name__)

Columns = Mapping[str, list[Any]]

_STAMP_MARK = "\0"

SAMPLE = np.dtype(
    [("token", TOKEN), ("scene", TOKEN), ("stamp_us", "<i8"), ("first_record", "<i8"), ("records", "<i8")]
)
"""A keyframe; its records are the rows ``first_record`` .. ``first_record + records``."""
RECORD = np.dtype(
    [
        ("token", TOKEN), ("mount", TOKEN), ("stamp_us", "<i8"), ("file", "<i4"), ("width", "<i4"),
        ("height", "<i4"), ("is_keyframe", "?"), ("has_pose", "?"), ("translation", "<f8", 3), ("rotation", "<f8", 4),
    ]
)  # fmt: skip
"""A row of sample_data with its ego pose (rotation wxyz); ``file`` is a row of the file names."""
BOX = np.dtype(
    [
        ("token", TOKEN), ("instance", TOKEN), ("translation", "<f8", 3), ("size", "<f8", 3), ("rotation", "<f8", 4),
        ("velocity", "<f8", 3), ("num_lidar_points", "<i4"), ("num_radar_points", "<i4"),
    ]
)  # fmt: skip
"""A row of sample_annotation: size width, length, height; rotation wxyz; velocity m/s, NaN if not known."""
_RAW_RECORD = np.dtype([*RECORD.descr[:7], ("sample", TOKEN), ("pose", TOKEN)])
_POSE = np.dtype([("token", TOKEN), ("translation", "<f8", 3), ("rotation", "<f8", 4)])
_RAW_BOX = np.dtype([*BOX.descr, ("sample", TOKEN), ("prev", TOKEN), ("next", TOKEN)])


@dataclass(frozen=True)
class RecordIndex:
    """All samples, by scene and time, and their records, by sample.

    Attributes:
        samples: `SAMPLE` [S].
        records: `RECORD` [R].
        files: bytes [F], file names in which the record's stamp (microseconds) is replaced by a mark.
    """

    samples: np.ndarray
    records: np.ndarray
    files: np.ndarray

    def samples_of(self, scene_token: str) -> np.ndarray:
        """The samples of a scene, in time order; `SAMPLE` [K]."""
        token = token_array([scene_token], "scene")
        first, last = (int(np.searchsorted(self.samples["scene"], token, side)[0]) for side in ("left", "right"))
        return self.samples[first:last]

    def records_of(self, samples: np.ndarray) -> np.ndarray:
        """The records of consecutive samples; `RECORD` [N]."""
        if not len(samples):
            return self.records[:0]
        return self.records[samples["first_record"][0] : samples["first_record"][-1] + samples["records"][-1]]

    def scenes_of(self, record_tokens: Sequence[str]) -> list[str]:
        """Tokens of the scenes of records; records that are not there are passed over."""
        rows = find_tokens(token_array(record_tokens, "records"), self.records["token"])
        samples = np.searchsorted(self.samples["first_record"], rows[rows >= 0], side="right") - 1
        return hex_tokens(np.unique(self.samples["scene"][samples]))

    def file_names(self, records: np.ndarray) -> list[str]:
        """Path of each record's file relative to the dataset root."""
        patterns = self.files[records["file"]].tolist()
        stamps = records["stamp_us"].tolist()
        return [p.decode().replace(_STAMP_MARK, str(s)) for p, s in zip(patterns, stamps, strict=True)]

    def position_of(self, sample_token: str) -> int | None:
        """Row of a sample, None if there is no such one."""
        return self._positions.get(sample_token)

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {token: i for i, token in enumerate(hex_tokens(self.samples["token"]))}


@dataclass(frozen=True)
class BoxIndex:
    """All boxes, by sample.

    Attributes:
        boxes: `BOX` [B].
        first: int64 [S + 1]; the boxes of sample i (of the `RecordIndex`) are the rows ``first[i]`` .. ``first[i+1]``.
    """

    boxes: np.ndarray
    first: np.ndarray

    def of_sample(self, position: int) -> np.ndarray:
        """The boxes of a sample, in the table's order; `BOX` [N]."""
        return self.boxes[self.first[position] : self.first[position + 1]]


def open_records(folder: Path) -> RecordIndex:
    """Index of the tables sample, sample_data and ego_pose.

    Raises:
        DatasetError: one of them is missing or damaged; the message names it.
    """
    sources = _sources(folder, "sample", "sample_data", "ego_pose")
    arrays = cached_arrays("records_1", sources, lambda: _build_records(folder), _check_records)
    return RecordIndex(**arrays)


def open_boxes(folder: Path, records: RecordIndex) -> BoxIndex:
    """Index of the table sample_annotation for the samples of ``records``.

    Raises:
        DatasetError: the table is missing or damaged.
    """

    def check(arrays: Arrays) -> None:
        _check_boxes(arrays, len(records.samples))

    sources = _sources(folder, "sample_annotation", "sample")
    return BoxIndex(**cached_arrays("boxes_1", sources, lambda: _build_boxes(folder, records.samples), check))


# -- records


def _build_records(folder: Path) -> Arrays:
    samples = _read(folder, "sample", SAMPLE, _fill_sample)
    samples = samples[np.lexsort((samples["token"], samples["stamp_us"], samples["scene"]))]
    patterns: dict[str, int] = {}

    def fill(part: np.ndarray, columns: Columns, where: str) -> None:
        _fill_record(part, columns, where, patterns)

    raw = _read(folder, "sample_data", _RAW_RECORD, fill)
    sample = find_tokens(raw["sample"], samples["token"])
    order = _by_sample(sample, table_path(folder, "sample_data"))
    samples["first_record"] = np.searchsorted(sample[order], np.arange(len(samples)))
    samples["records"] = np.bincount(sample[order], minlength=len(samples))
    return {"samples": samples, "records": _posed(folder, raw[order]), "files": _file_patterns(patterns)}


def _posed(folder: Path, raw: np.ndarray) -> np.ndarray:
    """Rows of sample_data joined with their rows of ego_pose; `RECORD` [R]."""
    poses = _read(folder, "ego_pose", _POSE, _fill_pose)
    rows = find_tokens(raw["pose"], poses["token"])
    records = np.empty(len(raw), RECORD)
    for name in RECORD.names[:7]:  # type: ignore[index]
        records[name] = raw[name]
    records["has_pose"] = rows >= 0
    for name in ("translation", "rotation"):
        records[name] = poses[name][rows] if len(poses) else np.nan
    return records


def _fill_sample(part: np.ndarray, columns: Columns, where: str) -> None:
    _fill(part, columns, where, {"token": "token", "scene": "scene_token", "stamp_us": "timestamp"})


def _fill_record(part: np.ndarray, columns: Columns, where: str, patterns: dict[str, int]) -> None:
    names = {
        "token": "token", "mount": "calibrated_sensor_token", "stamp_us": "timestamp", "is_keyframe": "is_key_frame",
        "sample": "sample_token", "pose": "ego_pose_token", "width": "width", "height": "height",
    }  # fmt: skip
    _fill(part, columns, where, names)
    named = zip(columns["filename"], map(str, columns["timestamp"]), strict=True)
    try:
        part["file"] = [patterns.setdefault(n.replace(stamp, _STAMP_MARK), len(patterns)) for n, stamp in named]
    except (AttributeError, TypeError) as error:
        raise DatasetError(f"{where}: filename: expected text: {error}") from error


def _fill_pose(part: np.ndarray, columns: Columns, where: str) -> None:
    _fill(part, columns, where, {"token": "token", "translation": "translation", "rotation": "rotation"})


def _file_patterns(patterns: Mapping[str, int]) -> np.ndarray:
    return np.array([pattern.encode() for pattern in patterns] or [b""])


def _check_records(arrays: Arrays) -> None:
    _check_arrays(arrays, {"samples": SAMPLE, "records": RECORD, "files": None})
    samples, records, files = arrays["samples"], arrays["records"], arrays["files"]
    first = np.concatenate([[0], np.cumsum(samples["records"])])
    in_order = (samples["records"] >= 0).all() and np.array_equal(first[:-1], samples["first_record"])
    named = not len(records) or (records["file"].min() >= 0 and records["file"].max() < len(files))
    if not (in_order and first[-1] == len(records) and named and files.dtype.kind == "S"):
        raise DatasetError("the index of records does not fit together")


# -- boxes


def _build_boxes(folder: Path, samples: np.ndarray) -> Arrays:
    raw = _read(folder, "sample_annotation", _RAW_BOX, _fill_box)
    sample = find_tokens(raw["sample"], samples["token"])
    order = _by_sample(sample, table_path(folder, "sample_annotation"))
    raw, sample = raw[order], sample[order]
    boxes = np.empty(len(raw), BOX)
    for name in BOX.names:  # type: ignore[union-attr]
        boxes[name] = raw[name]
    boxes["velocity"] = _velocities(raw, samples["stamp_us"][sample])
    return {"boxes": boxes, "first": np.searchsorted(sample, np.arange(len(samples) + 1))}


def _fill_box(part: np.ndarray, columns: Columns, where: str) -> None:
    names = {
        "token": "token", "instance": "instance_token", "sample": "sample_token", "prev": "prev", "next": "next",
        "translation": "translation", "size": "size", "rotation": "rotation", "num_lidar_points": "num_lidar_pts",
        "num_radar_points": "num_radar_pts",
    }  # fmt: skip
    _fill(part, columns, where, names)


def _velocities(raw: np.ndarray, stamps_us: np.ndarray) -> np.ndarray:
    """From the neighbouring boxes of an object: centred, or one-sided at the ends of its track; float64 [B, 3], m/s."""
    rows = np.arange(len(raw))
    neighbours = {}
    for side in ("prev", "next"):
        neighbours[side] = find_tokens(raw[side], raw["token"])
        dangling = int(((neighbours[side] < 0) & (raw[side] != token_array([""], side))).sum())
        if dangling:
            logger.warning("sample_annotation: %d rows have a '%s' that is not there; it is left out", dangling, side)
    before = np.where(neighbours["prev"] >= 0, neighbours["prev"], rows)
    after = np.where(neighbours["next"] >= 0, neighbours["next"], rows)
    elapsed = (stamps_us[after] - stamps_us[before]) * 1e-6
    longest = np.where((before != rows) & (after != rows), 3.0, 1.5)  # further apart, the object may have done anything
    known = (elapsed > 0) & (elapsed <= longest)
    moved = raw["translation"][after] - raw["translation"][before]
    velocity: np.ndarray = np.full((len(raw), 3), np.nan)
    velocity[known] = moved[known] / elapsed[known, None]
    return velocity


def _check_boxes(arrays: Arrays, samples: int) -> None:
    _check_arrays(arrays, {"boxes": BOX, "first": np.dtype("<i8")})
    boxes, first = arrays["boxes"], arrays["first"]
    if len(first) != samples + 1 or first[0] != 0 or first[-1] != len(boxes) or (np.diff(first) < 0).any():
        raise DatasetError("the index of boxes does not fit together")


# -- common


def _sources(folder: Path, *tables: str) -> list[Path]:
    return [table_path(folder, name) for name in tables]


def _read(folder: Path, table: str, dtype: np.dtype, fill: Callable[[np.ndarray, Columns, str], None]) -> np.ndarray:
    """A table as an array of rows; ``fill`` takes the columns of some thousand rows at a time."""
    parts = []
    for columns in column_pieces(folder, table):
        part = np.zeros(len(columns[COLUMNS[table][0]]), dtype)
        fill(part, columns, f"table {table_path(folder, table)}")
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _fill(part: np.ndarray, columns: Columns, where: str, names: Mapping[str, str]) -> None:
    """Columns of a table into fields, by field name.

    Raises:
        DatasetError: values of the wrong kind or number.
    """
    for field, column in names.items():
        target, values = part[field], columns[column]
        if target.dtype == np.dtype(TOKEN):
            target[:] = token_array(values, f"{where}: {column}")
            continue
        try:
            array = np.array([value or 0 for value in values] if target.ndim == 1 else values, target.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise DatasetError(f"{where}: {column}: expected numbers, {target.shape[1:]} a row: {error}") from error
        if array.shape != target.shape:
            raise DatasetError(f"{where}: {column}: expected {target.shape[1:]} numbers a row, got {array.shape[1:]}")
        target[:] = array


def _by_sample(sample: np.ndarray, path: Path) -> np.ndarray:
    """Order that sorts rows by their sample, in the table's order within one; rows without a sample are left out."""
    order = np.argsort(sample, kind="stable")
    lost = int(np.searchsorted(sample[order], 0))
    if lost:
        logger.warning("table %s: %d rows are of samples that are not there; they are left out", path, lost)
    return order[lost:]


def _check_arrays(arrays: Arrays, dtypes: Mapping[str, np.dtype | None]) -> None:
    if arrays.keys() != dtypes.keys():
        raise DatasetError(f"expected arrays {sorted(dtypes)}, got {sorted(arrays)}")
    for name, dtype in dtypes.items():
        if arrays[name].ndim != 1 or (dtype is not None and dtype != arrays[name].dtype):
            raise DatasetError(f"array {name}: expected {dtype} [N], got {arrays[name].dtype} {arrays[name].shape}")
