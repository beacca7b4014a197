"""How an object moves, from where its ends are.

The middle of what is seen moves also when an object comes into view, or is uncovered, while it stands still.  So both
ends along x and y are filtered, each with its own velocity, and an object moves as far as both its ends do: the
velocity along an axis is the smaller of the two if they agree in sign, else 0 (the "minmod" of numerics).
"""

from __future__ import annotations

import numpy as np

POSITION_NOISE_M = 0.2
"""Standard deviation of an end: half a voxel."""
ACCELERATION_MPS2 = 3.0
"""Standard deviation of what road users do to their speed."""
FIRST_SPEED_MPS = 10.0
"""Standard deviation of the speed of what was seen once."""
_BELIEVED = 4.0  # standard deviations; an end further off has been covered or uncovered, it has not moved


def common_motion(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far both ends moved (or how fast): the smaller if they agree in sign, else 0; float64, any equal shapes."""
    return np.where(low * high > 0, np.sign(low) * np.minimum(np.abs(low), np.abs(high)), 0.0)


class EndsFilter:
    """Constant-velocity Kalman filters of the ends of one object, in a fixed frame.

    Args:
        ends: float64 [2, 2], lower and upper end (rows) along x and y (columns), metres.
    """

    def __init__(self, ends: np.ndarray) -> None:
        self._ends, self._speeds = ends.copy(), np.zeros((2, 2))
        # All four filters see the same intervals, so they share their covariance: position, both, velocity.
        self._covariance = (POSITION_NOISE_M**2, 0.0, FIRST_SPEED_MPS**2)

    @property
    def velocity(self) -> np.ndarray:
        """Velocity of the object, float64 [2], m/s; (0, 0) of what was seen once."""
        return common_motion(self._speeds[0], self._speeds[1])

    @property
    def velocity_std(self) -> float:
        """Standard deviation of the velocity, m/s: the filter's, and what its ends disagree on.

        One end of what moves into view stays at the border while the other moves, so the velocity may be either.
        """
        disagreement = float(np.abs(self._speeds[1] - self._speeds[0]).max()) / 2
        return float((self._covariance[2] + disagreement**2) ** 0.5)

    def update(self, ends: np.ndarray, elapsed_s: float) -> None:
        """Take the ends (float64 [2, 2]) seen ``elapsed_s`` after those before."""
        position, both, velocity = self._predicted_covariance(elapsed_s)
        predicted = self._ends + self._speeds * elapsed_s
        innovation = ends - predicted
        total = position + POSITION_NOISE_M**2
        believed = np.abs(innovation) <= _BELIEVED * total**0.5
        gain = position / total, both / total
        self._ends = np.where(believed, predicted + gain[0] * innovation, ends)
        self._speeds = np.where(believed, self._speeds + gain[1] * innovation, self._speeds)
        self._covariance = ((1 - gain[0]) * position, (1 - gain[0]) * both, velocity - gain[1] * both)

    def carry(self, shift: np.ndarray, elapsed_s: float) -> None:
        """The object went on by ``shift`` (float64 [2]), but its ends were not seen."""
        self._ends = self._ends + shift
        self._covariance = self._predicted_covariance(elapsed_s)

    def _predicted_covariance(self, elapsed_s: float) -> tuple[float, float, float]:
        position, both, velocity = self._covariance
        noise = ACCELERATION_MPS2**2
        return (
            position + 2 * elapsed_s * both + elapsed_s**2 * velocity + noise * elapsed_s**4 / 4,
            both + elapsed_s * velocity + noise * elapsed_s**3 / 2,
            velocity + noise * elapsed_s**2,
        )
