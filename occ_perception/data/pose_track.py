"""Poses of the vehicle over time, interpolated, held at the ends, and differentiated over a window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from occ_perception.data.bag_messages import StampedTransform
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import rotation_from_quaternion, slerp

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

    def twists(self, stamps_ns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(linear m/s [T, 3], angular rad/s [T, 3]) in the vehicle's axes, each over a window around its stamp, moved
        inside the track at its ends.

        Raises:
            InvalidInputError: the track is shorter than `MIN_TWIST_SPAN_NS`.
        """
        if self.span_ns < MIN_TWIST_SPAN_NS:
            raise InvalidInputError(f"twist: expected poses over {MIN_TWIST_SPAN_NS} ns, got {self.span_ns} ns")
        window = min(TWIST_WINDOW_NS, self.span_ns)
        starts = np.clip(np.asarray(stamps_ns, np.int64) - window // 2, self._stamps[0], self._stamps[-1] - window)
        _, rotation = self._poses(stamps_ns)
        first, rotation_first = self._poses(starts.tolist())
        last, rotation_last = self._poses((starts + window).tolist())
        seconds = window * 1e-9
        linear = np.einsum("tji,tj->ti", rotation, last - first) / seconds
        turn = np.einsum("tji,tjk->tik", rotation_first, rotation_last)
        # For the small turn of one window the skew part of the rotation is its rotation vector (error: angle^3 / 6).
        skew = np.stack([turn[:, i, j] - turn[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1) / 2
        return linear, skew / seconds

    def _poses(self, stamps_ns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Translations [T, 3] and rotation matrices [T, 3, 3]."""
        poses = [self.at(stamp) for stamp in stamps_ns]
        return np.stack([p for p, _ in poses]), rotation_from_quaternion(np.stack([q for _, q in poses]))
