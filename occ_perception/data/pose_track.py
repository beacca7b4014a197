"""Poses of the vehicle over time, interpolated, held at the ends, and differentiated over a window."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from occ_perception.data.bag_messages import StampedTransform
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import inverse, rigid, slerp

TWIST_WINDOW_NS = 80_000_000
"""Velocities are differences over this long: neighbouring poses may be less than 100 us apart, and then their
difference is localisation noise."""
MIN_TWIST_SPAN_NS = TWIST_WINDOW_NS // 4
"""Poses over less time than this tell no velocity."""


class PoseTrack:
    """Poses at irregular stamps; at a stamp of the track they are given bit for bit.

    Args:
        poses: (stamp_ns, translation [3], quaternion_xyzw [4]) in any order; of equal stamps the first counts.

    Raises:
        InvalidInputError: no poses.
    """

    def __init__(self, poses: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> None:
        ordered = sorted(poses, key=lambda pose: pose[0])
        if not ordered:
            raise InvalidInputError("pose track: expected at least one pose")
        self._stamps, first = np.unique(np.array([p[0] for p in ordered], np.int64), return_index=True)
        self._translations = np.array([ordered[i][1] for i in first], np.float64)
        self._quaternions = np.array([ordered[i][2] for i in first], np.float64)

    @property
    def span_ns(self) -> int:
        """Time between the first and the last pose."""
        return int(self._stamps[-1] - self._stamps[0])

    def at(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """(translation [3], quaternion_xyzw [4]): linear and slerp between poses, the first and last held beyond."""
        after = int(np.searchsorted(self._stamps, stamp_ns))
        if after == len(self._stamps) or after == 0 or self._stamps[after] == stamp_ns:
            index = min(after, len(self._stamps) - 1)
            return self._translations[index], self._quaternions[index]
        before = after - 1
        fraction = float(stamp_ns - self._stamps[before]) / float(self._stamps[after] - self._stamps[before])
        translation = (1 - fraction) * self._translations[before] + fraction * self._translations[after]
        return translation, slerp(self._quaternions[before], self._quaternions[after], fraction)

    def transform(self, stamp_ns: int, parent: str, child: str) -> StampedTransform:
        """`at` as an edge of the transform tree."""
        return StampedTransform(stamp_ns, parent, child, *self.at(stamp_ns))

    def twist(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """(linear m/s [3], angular rad/s [3]) in the vehicle's axes, over a window moved inside the track at its ends.

        Raises:
            InvalidInputError: the track is shorter than `MIN_TWIST_SPAN_NS`.
        """
        if self.span_ns < MIN_TWIST_SPAN_NS:
            raise InvalidInputError(f"twist: expected poses over {MIN_TWIST_SPAN_NS} ns, got {self.span_ns} ns")
        window = min(TWIST_WINDOW_NS, self.span_ns)
        start = int(np.clip(stamp_ns - window // 2, self._stamps[0], self._stamps[-1] - window))
        world_from_first, world_from_last = rigid(*self.at(start)), rigid(*self.at(start + window))
        world_from_body = rigid(*self.at(stamp_ns))
        seconds = window * 1e-9
        linear = world_from_body[:3, :3].T @ (world_from_last - world_from_first)[:3, 3] / seconds
        turn = (inverse(world_from_first) @ world_from_last)[:3, :3]
        # For the small turn of one window the skew part of the rotation is its rotation vector (error: angle^3 / 6).
        skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        return linear, skew / seconds
