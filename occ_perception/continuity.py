"""Does a frame continue the one before it, so that what was perceived then can be fused with it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.frame import Frame

_POSITION_NOISE = 0.3  # metres that localisation may shake between two frames
_ROTATION_NOISE = 0.05  # radians


@dataclass(frozen=True)
class ContinuityLimits:
    """What no vehicle does between two frames; beyond it, time, localisation or calibration jumped.

    Attributes:
        max_gap_s: longest time between frames, seconds.
        max_speed: m/s.
        max_acceleration: m/s^2, in any direction; twice what tyres can do.
        max_turn_rate: rad/s.
    """

    max_gap_s: float = 2.0
    max_speed: float = 80.0
    max_acceleration: float = 20.0
    max_turn_rate: float = 4.0


@dataclass(frozen=True)
class _Seen:
    stamp_ns: int
    odom_from_ego: np.ndarray | None
    fixed_frame: str
    rig_fingerprint: str
    velocity: np.ndarray | None  # in the fixed frame, m/s [3]


class Continuity:
    """Remembers the last frame and judges the next.

    Args:
        limits: see there.
        uses_images: whether a change of the cameras' calibration matters.
    """

    def __init__(self, limits: ContinuityLimits, uses_images: bool) -> None:
        self.limits = limits
        self._uses_images = uses_images
        self._last: _Seen | None = None

    def forget(self) -> None:
        """The next frame is the first."""
        self._last = None

    def check(self, frame: Frame) -> str:
        """Why a frame does not continue the last one, or "" if it does; it becomes the last one."""
        rig = frame.rig.fingerprint if self._uses_images else ""
        last, velocity = self._last, None
        reason = "first frame" if last is None else self._broken(frame, last, rig)
        if last is not None and not reason:
            velocity = _velocity(frame, last)
        self._last = _Seen(frame.stamp_ns, frame.odom_from_ego, frame.fixed_frame, rig, velocity)
        return reason

    def _broken(self, frame: Frame, last: _Seen, rig_fingerprint: str) -> str:
        elapsed = (frame.stamp_ns - last.stamp_ns) * 1e-9
        if elapsed <= 0:
            return f"time went back or stood still ({elapsed:+.3f} s)"
        if elapsed > self.limits.max_gap_s:
            return f"gap of {elapsed:.3f} s (limit {self.limits.max_gap_s} s)"
        if frame.odom_from_ego is None:
            return "no pose of the vehicle, so no temporal fusion"
        if last.odom_from_ego is None:
            return "no earlier frame with a pose"
        if frame.fixed_frame != last.fixed_frame:
            return f"poses refer to '{frame.fixed_frame}' now, to '{last.fixed_frame}' before"
        if rig_fingerprint != last.rig_fingerprint:
            return "calibration changed"
        return self._jump(frame.odom_from_ego, last.odom_from_ego, elapsed, last.velocity)

    def _jump(self, pose: np.ndarray, last_pose: np.ndarray, elapsed: float, velocity: np.ndarray | None) -> str:
        """Whether the vehicle cannot have moved like this."""
        moved = pose[:3, 3] - last_pose[:3, 3]
        distance = float(np.linalg.norm(moved))
        if distance > self.limits.max_speed * elapsed + _POSITION_NOISE:
            return f"pose jumped {distance:.1f} m in {elapsed:.3f} s"
        if velocity is not None:
            off = float(np.linalg.norm(moved - velocity * elapsed))
            if off > self.limits.max_acceleration * elapsed**2 + _POSITION_NOISE:
                return f"pose jumped: {off:.1f} m off the vehicle's course after {elapsed:.3f} s"
        cosine = (np.trace(last_pose[:3, :3].T @ pose[:3, :3]) - 1) / 2
        turned = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
        if turned > self.limits.max_turn_rate * elapsed + _ROTATION_NOISE:
            return f"pose jumped: turned {np.degrees(turned):.0f} degrees in {elapsed:.3f} s"
        return ""


def _velocity(frame: Frame, last: _Seen) -> np.ndarray | None:
    if frame.odom_from_ego is None or last.odom_from_ego is None:
        return None
    return (frame.odom_from_ego[:3, 3] - last.odom_from_ego[:3, 3]) / ((frame.stamp_ns - last.stamp_ns) * 1e-9)
