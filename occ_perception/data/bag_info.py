"""What a bag holds, what of it perception can use, and what is missing and how to name it."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import yaml

from occ_perception.data.bag_messages import transforms_from_message
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.topics import TRANSFORMS, SensorTopics, detect_frames, detect_topics, lidar_name
from occ_perception.errors import InvalidInputError, TransformError
from occ_perception.geometry import TransformTree
from occ_perception.parameters import Parameters
from occ_perception.synchroniser import default_anchor

logger = logging.getLogger(__name__)

_SYNC_WINDOW_NS = 50_000_000
_ALIKE_S = 0.005
"""Sensors whose stamps differ by less need no offsets."""


@dataclass(frozen=True)
class SensorSummary:
    """One camera or LiDAR.

    Attributes:
        topic: where its data is; frame: frame id of its first message.
        messages: how many; rate_hz: by stamps (0 if there are too few).
        offset_ms: median time to the nearest message of the anchor (None if there is none within 50 ms).
        in_tf: whether its frame is joined to the vehicle's.
        tf_coverage: share of its stamps at which the vehicle's pose is known, 0..1.
    """

    topic: str
    frame: str
    messages: int
    rate_hz: float
    offset_ms: float | None
    in_tf: bool
    tf_coverage: float


@dataclass(frozen=True)
class BagInfo:
    """Summary of a bag; `str` is a table, `to_dict` is for JSON.

    Attributes:
        path, duration_s, messages, damage: of the bag as a whole; custom_data: its metadata's own entries.
        topics: (name, type, messages, rate in Hz by log time).
        cameras: by name; lidar: or None.
        anchor: sensor that ``offset_ms`` refers to.
        sync_spread_ms: (median, largest) time between the first and the last image of a set.
        base_frame, fixed_frame: as found, "" if not.
        missing: what perception would want and does not find, in words.
        parameters: those to set for this bag, by name; without what is right by default.
    """

    path: str
    duration_s: float
    messages: int
    damage: str
    custom_data: Mapping[str, str]
    topics: tuple[tuple[str, str, int, float], ...]
    cameras: Mapping[str, SensorSummary]
    lidar: SensorSummary | None
    anchor: str
    sync_spread_ms: tuple[float, float]
    base_frame: str
    fixed_frame: str
    missing: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.duration_s:.3f} s, {self.messages} messages"]
        lines += [f"  damaged: {self.damage}"] if self.damage else []
        lines += [f"  {key}: {value}" for key, value in self.custom_data.items() if not value.startswith("{")]
        lines += ["topics"] + [f"  {n:44} {t:32} {c:6} {r:7.2f} Hz" for n, t, c, r in self.topics]
        sensors = {**self.cameras, **({"LiDAR": self.lidar} if self.lidar else {})}
        lines += ["usable sensors"] if sensors else []
        lines += [
            f"  {name:20} {s.messages:6} at {s.rate_hz:5.2f} Hz, {_offset_text(s.offset_ms)} to {self.anchor}, "
            f"frame {s.frame}{'' if s.in_tf else ' NOT IN TF'}, pose known for {s.tf_coverage:.0%}"
            for name, s in sensors.items()
        ]
        if len(self.cameras) > 1:
            lines.append(
                f"images of a set lie within {self.sync_spread_ms[0]:.1f} ms (at most {self.sync_spread_ms[1]:.1f})"
            )
        lines.append(f"vehicle frame '{self.base_frame}', fixed frame '{self.fixed_frame}'")
        lines += ["missing"] + [f"  {what}" for what in self.missing] if self.missing else ["nothing is missing"]
        if self.parameters:
            text = yaml.safe_dump({"/**": {"ros__parameters": dict(self.parameters)}}, sort_keys=False)
            lines += ["parameters for this bag (a file for --params)", *(f"  {line}" for line in text.splitlines())]
        return "\n".join(lines)


def bag_info(path: str | os.PathLike[str]) -> BagInfo:
    """Look through a bag.

    Raises:
        DatasetError: it cannot be read at all.
    """
    with BagReader(path) as bag:
        found = detect_topics(bag.topic_types)
        sensors = {camera.name: camera.image for camera in found.cameras}
        if found.lidar:
            sensors["LiDAR"] = found.lidar
        stamps, frames = _stamps(bag, sensors)
        tree = _transform_tree(bag)
        missing = _missing_topics(found)
        base, fixed = _frames(tree, frames, missing)
        anchor = default_anchor(tuple(stamps))
        summaries = {n: _summary(t, stamps, n, frames[n], anchor, tree, base, fixed) for n, t in sensors.items()}
        missing += [
            f"transforms from '{base}' to '{s.frame}' of {n}" for n, s in summaries.items() if base and not s.in_tf
        ]
        lidar = summaries.pop("LiDAR", None)
        duration = (bag.end_ns - bag.start_ns) * 1e-9
        return BagInfo(
            path=str(path),
            duration_s=duration,
            messages=sum(topic.count for topic in bag.topics),
            damage=bag.damage,
            custom_data=bag.custom_data,
            topics=tuple(
                (t.name, t.message_type, t.count, max(t.count - 1, 0) / duration if duration else 0.0)
                for t in bag.topics
            ),
            cameras=summaries,
            lidar=lidar,
            anchor=anchor,
            sync_spread_ms=_spread({n: s for n, s in stamps.items() if n in summaries}, anchor),
            base_frame=base,
            fixed_frame=fixed,
            missing=tuple(missing),
            parameters=_parameters(summaries, lidar, base, fixed),
        )


def header_stamp_ns(cdr: bytes) -> int:
    """Stamp of a serialised message that starts with a header, without decoding the rest.

    Raises:
        InvalidInputError: too short.
    """
    if len(cdr) < 12:
        raise InvalidInputError(f"expected a message with a header, got {len(cdr)} bytes")
    seconds, nanoseconds = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return seconds * 10**9 + nanoseconds


def _stamps(bag: BagReader, sensors: Mapping[str, str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Stamps int64 [T] of each sensor, sorted, and the frame id of its first readable message."""
    names = {topic: name for name, topic in sensors.items()}
    stamps: dict[str, list[int]] = {name: [] for name in sensors}
    frames = dict.fromkeys(sensors, "")
    for message in bag.messages(names):
        name = names[message.topic]
        try:
            frames[name] = frames[name] or bag.decode(message).header.frame_id
            stamps[name].append(header_stamp_ns(message.cdr))
        except InvalidInputError as error:
            logger.warning("left out: %s", error)
    return {name: np.sort(np.array(values, np.int64)) for name, values in stamps.items()}, frames


def _transform_tree(bag: BagReader) -> TransformTree:
    """All transforms of the bag."""
    tree = TransformTree(history_s=1e9, max_samples=10**9)
    topics = [t.name for t in bag.topics if t.message_type == TRANSFORMS]
    for message in bag.messages(topics):
        try:
            for edge in transforms_from_message(bag.decode(message)):
                translation, quaternion = edge.translation, edge.quaternion_xyzw
                static = message.topic.endswith("tf_static")
                tree.set(edge.parent, edge.child, edge.stamp_ns, translation, quaternion, static)
        except InvalidInputError as error:
            logger.warning("left out: %s", error)
    return tree


def _missing_topics(found: SensorTopics) -> list[str]:
    missing = [
        f"calibration of {c.name}: a sensor_msgs/CameraInfo beside {c.image}, named camera_info "
        "(else: parameters camera_info_topics or calibration_file)"
        for c in found.uncalibrated
    ]
    if not found.cameras and not found.uncalibrated:
        missing.append(
            "cameras: /<camera>/image_raw[/compressed] with /<camera>/camera_info (else: parameter image_topics)"
        )
    if found.lidar is None:
        others = f" (not taken for one: {', '.join(found.other_clouds)}; name it with the parameter lidar)"
        missing.append(f"LiDAR: a sensor_msgs/PointCloud2, e.g. /<lidar>/points{others if found.other_clouds else ''}")
    if not found.has_tf_static:
        missing.append("/tf_static: where the sensors are mounted (or give a calibration file)")
    if not found.has_tf:
        missing.append("/tf: how the vehicle moves (without it there is no fusion over time)")
    return missing


def _frames(tree: TransformTree, frames: Mapping[str, str], missing: list[str]) -> tuple[str, str]:
    """Vehicle and fixed frame, "" if not found (then it is told in ``missing``)."""
    try:
        base, fixed = detect_frames(tree, [frame for frame in frames.values() if frame in tree.frames])
    except TransformError as error:
        missing.append(f"vehicle frame: {error}")
        return "", ""
    if fixed is None:
        missing.append(f"fixed frame: odom -> {base} on /tf (frames: {sorted(tree.frames)})")
    elif fixed != "odom":
        missing.append(f"frame odom; '{fixed}' is there: set fallback_fixed_frame to it if it does not jump")
    return base, fixed or ""


def _summary(
    topic: str,
    stamps: Mapping[str, np.ndarray],
    name: str,
    frame: str,
    anchor: str,
    tree: TransformTree,
    base: str,
    fixed: str,
) -> SensorSummary:
    own = stamps[name]
    span = float(own[-1] - own[0]) * 1e-9 if len(own) > 1 else 0.0
    nearest = _nearest(stamps[anchor], own)
    near = nearest[np.abs(nearest) <= _SYNC_WINDOW_NS]
    covered = 0.0
    if base and fixed and len(own):
        span_ns = tree.coverage(fixed, base)
        covered = 1.0 if span_ns is None else float(np.mean((own >= span_ns[0]) & (own <= span_ns[1])))
    return SensorSummary(
        topic=topic,
        frame=frame,
        messages=len(own),
        rate_hz=(len(own) - 1) / span if span else 0.0,
        offset_ms=float(np.median(near)) * 1e-6 if len(near) else None,
        in_tf=bool(base) and tree.has_path(base, frame),
        tf_coverage=covered,
    )


def _parameters(
    cameras: Mapping[str, SensorSummary], lidar: SensorSummary | None, base: str, fixed: str
) -> dict[str, Any]:
    """What of the bag differs from the parameters' defaults."""
    defaults = Parameters()
    parameters: dict[str, Any] = {}
    if base and base != defaults.base_frame:
        parameters["base_frame"] = base
    if fixed and fixed != defaults.fixed_frame:
        parameters["fallback_fixed_frame"] = fixed
    named = {**cameras, **({lidar_name(lidar.topic, tuple(cameras)): lidar} if lidar else {})}
    offsets = {n: round(s.offset_ms * 1e-3, 4) for n, s in named.items() if s.offset_ms is not None}
    if any(abs(offset) > _ALIKE_S for offset in offsets.values()):
        parameters["offsets"] = offsets
    return parameters


def _offset_text(offset_ms: float | None) -> str:
    return "   none near" if offset_ms is None else f"{offset_ms:+6.1f} ms"


def _nearest(references: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """For each reference stamp the signed time to the nearest of the stamps, int64 [R]."""
    if not len(stamps) or not len(references):
        return np.empty(0, np.int64)
    after = np.clip(np.searchsorted(stamps, references), 0, len(stamps) - 1)
    before = np.clip(after - 1, 0, None)
    late, early = stamps[after] - references, stamps[before] - references
    return np.where(np.abs(early) < np.abs(late), early, late)


def _spread(stamps: Mapping[str, np.ndarray], anchor: str) -> tuple[float, float]:
    """(median, largest) time in ms between the first and the last image near an anchor image."""
    if len(stamps) < 2 or anchor not in stamps or not all(len(s) for s in stamps.values()):
        return 0.0, 0.0
    offsets = np.stack([_nearest(stamps[anchor], own) for own in stamps.values()])
    complete = offsets[:, np.all(np.abs(offsets) <= _SYNC_WINDOW_NS, axis=0)]
    if complete.size == 0:
        return 0.0, 0.0
    spread = (complete.max(0) - complete.min(0)) * 1e-6
    return float(np.median(spread)), float(spread.max())
