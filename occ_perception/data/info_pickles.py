"""Info pickles of BEVDet / ALOcc, mmdetection3d 1.0 and mmdetection3d 1.1: samples, calibration, boxes (datasets.md 5).

The three families say the same in different words; here they become the same `SampleInfo`.  Files are read without
running their code (`restricted_pickle`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from occ_perception.data.info_samples import InfoBoxes, InfoRecord, SampleInfo
from occ_perception.data.restricted_pickle import load_plain_pickle
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.geometry import check_rigid, inverse, rigid

logger = logging.getLogger(__name__)

LENGTH_FIRST = "x y z length width height yaw"
WIDTH_FIRST = "x y z width length height -yaw-pi/2"
"""Box layout of mmdetection3d <= 0.18 and of genuine BEVDet files."""

_BEVDET_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip
_LONG_CLASSES = ("car", "truck", "bus")
_IGNORED = "ignore"

Raw = Mapping[str, Any]


class InfoFile(Sequence[SampleInfo]):
    """The samples of an info pickle, in the file's order; each is parsed when it is asked for.

    Args:
        path: the .pkl file.

    Attributes:
        family: "bevdet", "mmdet3d-1.0" or "mmdet3d-1.1".
        version: nuScenes version the file was made from; empty if it does not say.
        box_convention: `LENGTH_FIRST` or `WIDTH_FIRST`, as found in the file; boxes are always given length first.

    Raises:
        DatasetError: missing, damaged, none of the three families, or the file tries to run code.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        content = load_plain_pickle(self.path)
        self._parse: Callable[[Raw, bool], SampleInfo]
        if isinstance(content, dict) and isinstance(content.get("infos"), list):
            self._raw = content["infos"]
            self.version = str(content.get("metadata", {}).get("version", ""))
            self.family = "bevdet" if self._raw and "ann_infos" in self._raw[0] else "mmdet3d-1.0"
            self._parse, boxes_of = _parse_version_1, _version_1_boxes
        elif isinstance(content, dict) and isinstance(content.get("data_list"), list):
            self._raw = content["data_list"]
            metadata = content.get("metainfo", {})
            self.version = str(metadata.get("version", ""))
            self.family = "mmdet3d-1.1"
            names = {index: name for name, index in metadata.get("categories", {}).items()}
            self._parse = lambda raw, swap: _parse_version_2(raw, swap, names)
            boxes_of = lambda raw: _version_2_boxes(raw, names)  # noqa: E731
        else:
            found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise DatasetError(f"{self.path}: expected a dict with 'infos' or 'data_list', got {found}")
        self.box_convention = self._find_box_convention(boxes_of)

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: Any) -> Any:
        """A sample, or a list of samples for a slice.

        Raises:
            DatasetError: the entry lacks something or holds something impossible; the message says where.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        raw = self._raw[index]
        return self._guarded(index, lambda: self._parse(raw, self.box_convention == WIDTH_FIRST))

    def __iter__(self) -> Iterator[SampleInfo]:
        return (self[i] for i in range(len(self)))

    def _guarded(self, index: int, run: Callable[[], Any]) -> Any:
        """Run something on an entry; what is wrong with the entry becomes an error that says where."""
        try:
            return run()
        except KeyError as error:
            raise DatasetError(f"{self.path}: sample {index} has no {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError, InvalidInputError) as error:
            raise DatasetError(f"{self.path}: sample {index}: {error}") from error

    def _find_box_convention(self, boxes_of: Callable[[Raw], tuple[np.ndarray, list[str]]]) -> str:
        """Cars, trucks and buses are longer than wide: that tells which of the two columns is the length."""
        sizes = [np.zeros((0, 2))]
        for index, raw in enumerate(self._raw):
            boxes, names = self._guarded(index, lambda raw=raw: boxes_of(raw))  # type: ignore[misc]
            sizes.append(boxes[np.isin(names, _LONG_CLASSES), 3:5])
        first, second = np.concatenate(sizes).T
        if not len(first) or np.median(first) == np.median(second):
            logger.warning(
                "%s: no cars, trucks or buses to tell the box layout from; taking '%s'", self.path, LENGTH_FIRST
            )
            return LENGTH_FIRST
        return LENGTH_FIRST if np.median(first) > np.median(second) else WIDTH_FIRST


def _parse_version_1(raw: Raw, swap: bool) -> SampleInfo:
    """An entry of BEVDet's or mmdetection3d 1.0's ``infos``."""
    lidar = InfoRecord(
        channel="LIDAR_TOP",
        path=_in_tree(raw["lidar_path"]),
        token=str(raw.get("lidar_token", "")),
        stamp_ns=_nanoseconds(raw["timestamp"]),
        ego_from_sensor=_pose(raw, "lidar2ego"),
        global_from_ego=_matrix(raw, "lidarego2global") if "lidarego2global" in raw else _pose(raw, "ego2global"),
    )
    sweeps = raw.get("sweeps") or []
    by_camera = [sweep for sweep in sweeps if "data_path" not in sweep]
    annotations = raw.get("ann_infos")
    return SampleInfo(
        token=raw["token"],
        stamp_ns=lidar.stamp_ns,
        **_place(raw),
        lidar=lidar,
        cameras=_version_1_cameras(raw["cams"]),
        boxes=_boxes(raw, swap) if "gt_boxes" in raw else None,
        camera_time_boxes=None if annotations is None else np.array(annotations[0], np.float64).reshape(-1, 9),
        camera_time_names=() if annotations is None else tuple(_BEVDET_CLASSES[i] for i in annotations[1]),
        lidar_sweeps=tuple(_version_1_record("LIDAR_TOP", sweep) for sweep in sweeps if "data_path" in sweep),
        camera_sweeps=tuple(_version_1_cameras(sweep) for sweep in by_camera),
    )


def _version_1_cameras(cameras: Raw) -> dict[str, InfoRecord]:
    return {channel: _version_1_record(channel, camera) for channel, camera in cameras.items()}


def _version_1_record(channel: str, raw: Raw) -> InfoRecord:
    return InfoRecord(
        channel=channel,
        path=_in_tree(raw["data_path"]),
        token=str(raw.get("sample_data_token", "")),
        stamp_ns=_nanoseconds(raw["timestamp"]),
        ego_from_sensor=_matrix(raw, "cam2camego") if "cam2camego" in raw else _pose(raw, "sensor2ego"),
        global_from_ego=_matrix(raw, "camego2global") if "camego2global" in raw else _pose(raw, "ego2global"),
        intrinsics=_intrinsics(raw["cam_intrinsic"]) if "cam_intrinsic" in raw else None,
    )


def _version_1_boxes(raw: Raw) -> tuple[np.ndarray, list[str]]:
    if "gt_boxes" not in raw:
        return np.zeros((0, 7)), []
    return np.array(raw["gt_boxes"], np.float64).reshape(-1, 7), [str(name) for name in raw["gt_names"]]


def _boxes(raw: Raw, swap: bool) -> InfoBoxes:
    boxes, names = _version_1_boxes(raw)
    velocity = np.array(raw.get("gt_velocity", np.full((len(boxes), 2), np.nan)), np.float64).reshape(-1, 2)
    points = np.array(raw.get("num_lidar_pts", np.zeros(len(boxes))), np.int64).reshape(-1)
    valid = np.array(raw.get("valid_flag", points > 0), bool).reshape(-1)
    return _checked_boxes(boxes, names, velocity, points, valid, swap)


def _parse_version_2(raw: Raw, swap: bool, names: Mapping[int, str]) -> SampleInfo:
    """An entry of mmdetection3d 1.1's ``data_list``."""
    points = raw["lidar_points"]
    lidar = InfoRecord(
        channel="LIDAR_TOP",
        path=_in_tree(points["lidar_path"], "LIDAR_TOP"),
        token=str(points.get("sample_data_token", "")),
        stamp_ns=_nanoseconds(raw["timestamp"]),
        ego_from_sensor=_matrix(points, "lidar2ego"),
        global_from_ego=_matrix(raw, "ego2global"),
    )
    global_from_lidar = lidar.global_from_ego @ lidar.ego_from_sensor
    return SampleInfo(
        token=raw["token"],
        stamp_ns=lidar.stamp_ns,
        **_place(raw),
        lidar=lidar,
        cameras={c: _version_2_camera(c, image, global_from_lidar) for c, image in raw["images"].items()},
        boxes=_instances(raw, swap, names) if "instances" in raw else None,
        camera_time_boxes=None,
        camera_time_names=(),
        lidar_sweeps=(),
        camera_sweeps=(),
    )


def _version_2_camera(channel: str, raw: Raw, global_from_lidar: np.ndarray) -> InfoRecord:
    """The ego pose at the image's stamp is not stored; ``lidar2cam`` went through it, so it can be had back."""
    ego_from_camera = _matrix(raw, "cam2ego")
    camera_from_lidar = _matrix(raw, "lidar2cam")
    return InfoRecord(
        channel=channel,
        path=_in_tree(raw["img_path"], channel),
        token=str(raw.get("sample_data_token", "")),
        stamp_ns=_nanoseconds(raw["timestamp"]),
        ego_from_sensor=ego_from_camera,
        global_from_ego=global_from_lidar @ inverse(camera_from_lidar) @ inverse(ego_from_camera),
        intrinsics=_intrinsics(raw["cam2img"]),
    )


def _version_2_boxes(raw: Raw, names: Mapping[int, str]) -> tuple[np.ndarray, list[str]]:
    instances = raw.get("instances", [])
    boxes = np.array([instance["bbox_3d"] for instance in instances], np.float64).reshape(-1, 7)
    return boxes, [names.get(instance["bbox_label_3d"], _IGNORED) for instance in instances]


def _instances(raw: Raw, swap: bool, names: Mapping[int, str]) -> InfoBoxes:
    boxes, box_names = _version_2_boxes(raw, names)
    instances = raw["instances"]
    velocity = np.array([i.get("velocity", (np.nan, np.nan)) for i in instances], np.float64).reshape(-1, 2)
    points = np.array([i.get("num_lidar_pts", 0) for i in instances], np.int64)
    valid = np.array([i.get("bbox_3d_isvalid", True) for i in instances], bool)
    return _checked_boxes(boxes, box_names, velocity, points, valid, swap)


def _checked_boxes(
    boxes: np.ndarray, names: list[str], velocity: np.ndarray, points: np.ndarray, valid: np.ndarray, swap: bool
) -> InfoBoxes:
    """Boxes of either convention, length first."""
    lengths = {len(boxes), len(names), len(velocity), len(points), len(valid)}
    if len(lengths) != 1 or not np.isfinite(boxes).all():
        raise InvalidInputError(f"boxes: expected finite boxes with as many names and flags, got {sorted(lengths)}")
    if swap:
        boxes = boxes[:, [0, 1, 2, 4, 3, 5, 6]]
        boxes[:, 6] = -boxes[:, 6] - np.pi / 2
    boxes[:, 6] = np.arctan2(np.sin(boxes[:, 6]), np.cos(boxes[:, 6]))
    return InfoBoxes(boxes, tuple(names), velocity, points, valid)


def _pose(raw: Raw, prefix: str) -> np.ndarray:
    """``<prefix>_translation`` and ``<prefix>_rotation`` (wxyz) as a float64 [4, 4]."""
    w, x, y, z = (float(value) for value in raw[f"{prefix}_rotation"])
    translation = np.array(raw[f"{prefix}_translation"], np.float64)
    if translation.shape != (3,) or not np.isfinite(translation).all():
        raise InvalidInputError(f"{prefix}_translation: expected 3 finite numbers, got {translation.tolist()}")
    return rigid(translation, np.array([x, y, z, w]))


def _matrix(raw: Raw, key: str) -> np.ndarray:
    return check_rigid(np.array(raw[key], np.float64), key)


def _intrinsics(value: Any) -> np.ndarray:
    matrix = np.array(value, np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise InvalidInputError(f"camera intrinsics: expected finite [3, 3], got {matrix.tolist()}")
    return matrix


def _nanoseconds(stamp: Any) -> int:
    """Stamps are integer microseconds in version 1 and float seconds in version 2, which round back to them."""
    if isinstance(stamp, int | np.integer):
        return int(stamp) * 1000
    if not np.isfinite(stamp):
        raise InvalidInputError(f"timestamp: expected a finite number, got {stamp}")
    return round(float(stamp) * 1e6) * 1000 if stamp < 1e11 else round(float(stamp)) * 1000


def _in_tree(path: str, channel: str = "") -> PurePosixPath:
    """A path relative to the tree's root: the author's folders cut off, a bare name put where it belongs."""
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    for folder in ("samples", "sweeps"):
        if folder in parts:
            inside = parts[len(parts) - 1 - parts[::-1].index(folder) :]
            if ".." not in inside:
                return PurePosixPath(*inside)
    if len(parts) == 1 and channel:
        return PurePosixPath("samples", channel, parts[0])
    raise InvalidInputError(f"path '{path}': expected .../samples/... or .../sweeps/...")


def _place(raw: Raw) -> dict[str, str]:
    """Where a sample stands in the dataset, empty where the entry does not say."""
    return {
        "scene_token": str(raw.get("scene_token", "")),
        "scene_name": str(raw.get("scene_name") or _scene_of_labels(raw.get("occ_path"))),
        "previous": str(raw.get("prev") or ""),
        "next": str(raw.get("next") or ""),
    }


def _scene_of_labels(label_folder: str | None) -> str:
    """Scene name in a folder ``.../gts/<scene>/<token>``; empty if there is none."""
    parts = PurePosixPath(label_folder or "").parts
    return parts[-2] if len(parts) >= 2 else ""
