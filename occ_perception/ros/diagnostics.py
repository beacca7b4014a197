"""The state of the node as diagnostic_msgs/DiagnosticArray: what an operator asks first, in words and numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import QoSProfile

from occ_perception.ros.monitor import SensorRecord
from occ_perception.synchroniser import Synchroniser

if TYPE_CHECKING:
    from occ_perception.ros.perception_node import PerceptionNode

OK, WARN, ERROR, STALE = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE)

_RECENT_S = 5.0
_LITTLE_KNOWN = 0.005
"""A grid with a smaller share of known voxels says nothing, however often it comes."""
_NO_USABLE_POINTS = re.compile(r"\b0 of \d+ LiDAR points usable")


class DiagnosticsPublisher:
    """Publishes the node's state on /diagnostics; runs on the executor's thread.

    Args:
        node: whose state.
    """

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))

    def publish(self) -> None:
        """Publish the state now."""
        message = DiagnosticArray(status=statuses(self._node))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def statuses(node: PerceptionNode) -> list[DiagnosticStatus]:
    """One status each for the model, the sets, every sensor, the transforms and the latencies."""
    now_ns = node.get_clock().now().nanoseconds
    channel = node.model_channel
    found = [_model(node), _sets(node)]
    problems = node.assembler.problems
    for camera in node.plan.camera_names:
        found.append(_sensor(node, camera, channel.synchroniser if channel else None, problems.get(camera, "")))
    if lidar := node.plan.lidar_name:
        lidar_channel = node.fallback_channel if channel is None or node.fallback_channel else channel
        found.append(
            _sensor(node, lidar, lidar_channel.synchroniser if lidar_channel else None, problems.get(lidar, ""))
        )
    found += [_transforms(node, now_ns), _latency(node)]
    for status in found:
        status.name = f"{node.get_name()}: {status.name}"
        status.hardware_id = node.get_fully_qualified_name()
    return found


def _status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def _model(node: PerceptionNode) -> DiagnosticStatus:
    info, last = node.session.model.info, node.monitor.last
    counts, problems = node.monitor.counted(), node.monitor.recent_problems(_RECENT_S)
    now_s, output = time.monotonic(), node.monitor.sensor("output")
    rate = output.rate_hz(now_s)
    values: dict[str, Any] = {
        "model": info.name,
        "weights": info.weights,
        "trained on": info.trained_on or "-",
        "device": node.session.device,
        "fallback": node.supervisor.reason or "not active",
        "grids published": counts.get("published", 0),
        "rate (Hz)": f"{rate:.2f}",
        **{key: value for key, value in sorted(counts.items()) if key != "published"},
    }
    if last is not None:
        values |= {
            "last model": last.info.name,
            "past frames used": last.temporal.frames,
            "past dropped because": last.temporal.reset or "-",
            "cameras used": ", ".join(last.cameras_used) or "-",
            "LiDAR used": last.lidar_used,
            "voxels known (%)": f"{node.monitor.known * 100:.2f}",
            "notes": "; ".join(last.notes) or "-",
        }
    overdue_s = output.overdue_s(now_s, node.settings.silent_after)
    level, message = _quality(node)
    if problems:
        level, message = WARN, "; ".join(f"{topic}: {text}" for topic, text in problems.items())
    if node.supervisor.reason:
        level, message = WARN, f"fallback to LiDAR carving: {node.supervisor.reason}"
    elif "model failed" in problems:
        level = ERROR
    if last is None and level == OK:
        level, message = STALE, node.waiting_for or "no grid yet"
    if overdue_s:
        said = "" if level == OK else f"; {message}"
        level, message = ERROR, f"no grid for {overdue_s:.1f} s{said}"
    return _status("model", level, message or f"{rate:.1f} grids a second", values)


def _quality(node: PerceptionNode) -> tuple[bytes, str]:
    """Whether the last grid says anything; without words if it does."""
    last = node.monitor.last
    if last is None:
        return OK, ""
    notes = "; ".join(last.notes)
    if _NO_USABLE_POINTS.search(notes):
        return WARN, f"the LiDAR has no usable points: {notes}"
    if node.monitor.known < _LITTLE_KNOWN:
        return WARN, f"{100 - node.monitor.known * 100:.1f} % of the grid is unknown: {notes or 'nothing is seen'}"
    if node.session.model.uses_lidar and not node.session.needs_images and not last.lidar_used:
        return WARN, f"no LiDAR took part: {notes}"
    return OK, ""


def _sets(node: PerceptionNode) -> DiagnosticStatus:
    channels = [c for c in (node.model_channel, node.fallback_channel) if c is not None]
    if not channels:
        return _status("synchronisation", STALE, node.waiting_for or "no sensors", {})
    values: dict[str, Any] = {}
    for channel in channels:
        synchroniser, prefix = channel.synchroniser, "fallback: " if channel.is_fallback else ""
        values[f"{prefix}anchor"] = synchroniser.anchor
        values[f"{prefix}time went back"] = synchroniser.resets
        values |= {f"{prefix}sets dropped, {why.value}": n for why, n in sorted(synchroniser.dropped_sets.items())}
        values |= {f"{prefix}{sensor}, {why.value}": n for (sensor, why), n in sorted(synchroniser.drops.items())}
    synchroniser = channels[0].synchroniser
    preferred = synchroniser.config.preferred_anchor
    if synchroniser.anchor != preferred:
        message = f"{preferred} is silent, {synchroniser.anchor} is the anchor instead"
        return _status("synchronisation", WARN, message, values)
    return _status("synchronisation", OK, f"anchor {synchroniser.anchor}", values)


def _sensor(node: PerceptionNode, name: str, synchroniser: Synchroniser | None, uncalibrated: str) -> DiagnosticStatus:
    record = node.monitor.sensor(name)
    now_s = time.monotonic()
    values: dict[str, Any] = {
        "rate (Hz)": f"{record.rate_hz(now_s):.2f}",
        "received": record.received,
        "unreadable": record.unreadable,
        "last problem": record.problem or "-",
    }
    if synchroniser is not None and name in synchroniser.config.sensors:
        lag_ns = synchroniser.lag_ns(name)
        values["newest stamp less the anchor's (ms)"] = "-" if lag_ns is None else f"{lag_ns * 1e-6:.1f}"
        values |= {
            f"dropped, {why.value}": n for (sensor, why), n in sorted(synchroniser.drops.items()) if sensor == name
        }
    level, message = _sensor_state(record, now_s, node.settings.silent_after, uncalibrated)
    return _status(f"sensor {name}", level, message, values)


def _sensor_state(record: SensorRecord, now_s: float, silent_after_s: float, uncalibrated: str) -> tuple[bytes, str]:
    if not record.arrivals_s:
        return STALE, "nothing received yet"
    silent_s = now_s - record.arrivals_s[-1]
    if silent_s > silent_after_s:
        return ERROR, f"silent for {silent_s:.1f} s"
    if uncalibrated:
        return ERROR, uncalibrated
    if now_s - record.problem_s < _RECENT_S:
        return WARN, record.problem
    return OK, f"{record.rate_hz(now_s):.1f} Hz"


def _transforms(node: PerceptionNode, now_ns: int) -> DiagnosticStatus:
    last = node.monitor.last
    missing = node.assembler.odometry_state(last.stamp_ns if last is not None else now_ns)
    problem = node.monitor.recent_problems(_RECENT_S).get("transforms refused", "")
    values = {
        "base frame": node.settings.base_frame,
        "fixed frame": node.settings.fixed_frame,
        "time went back": node.assembler.tf_resets,
        "refused": node.monitor.counted().get("transforms refused", 0),
    }
    if problem or missing:
        message = problem or f"pose of the vehicle not known, so nothing is fused over time: {missing}"
        return _status("transforms", WARN, message, values)
    return _status("transforms", OK, "pose of the vehicle known", values)


def _latency(node: PerceptionNode) -> DiagnosticStatus:
    latencies = node.monitor.latencies()
    values = {f"{stage} (ms)": f"median {m:.2f}, 95 % {p:.2f}, max {x:.2f}" for stage, (m, p, x) in latencies.items()}
    total = latencies.get("total: anchor received to published")
    return _status("latency", OK, f"{total[0]:.0f} ms from anchor to grid" if total else "no grid yet", values)
