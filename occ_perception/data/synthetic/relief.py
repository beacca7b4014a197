"""How the terrain rises and falls away from the streets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.plan import Plan

LOWEST_M, HIGHEST_M = -0.12, 1.0
_WAVES = 6


@dataclass(frozen=True)
class Relief:
    """Smooth waves over the plan that fade out towards the streets.

    Attributes:
        base, amplitude: metres; the terrain lies at `base` beside the streets.
        wave_vectors: float64 [W, 2], rad/m; phases: float64 [W].
        streets: (axis, centre, half width) of what the waves keep away from.
    """

    base: float
    amplitude: float
    wave_vectors: np.ndarray
    phases: np.ndarray
    streets: tuple[tuple[int, float, float], ...]

    @staticmethod
    def random(rng: np.random.Generator, plan: Plan) -> Relief:
        """A relief for a plan; most are almost flat, some hilly."""
        angles, lengths = rng.uniform(0, 2 * np.pi, _WAVES), rng.uniform(12, 60, _WAVES)
        vectors = np.stack([np.cos(angles), np.sin(angles)], -1) * (2 * np.pi / lengths)[:, None]
        amplitude = float(rng.choice([0.1, 0.3, 0.8], p=[0.4, 0.35, 0.25]))
        streets = tuple((s.axis, s.center, s.outer_half) for s in plan.streets)
        return Relief(float(rng.uniform(0.02, 0.2)), amplitude, vectors, rng.uniform(0, 2 * np.pi, _WAVES), streets)

    def heights(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Terrain height at plan coordinates, metres, of their shape."""
        waves = sum(
            np.sin(u * vector[0] + v * vector[1] + phase)
            for vector, phase in zip(self.wave_vectors, self.phases, strict=True)
        )
        distance = np.full(u.shape, np.inf)
        for axis, center, half in self.streets:
            distance = np.minimum(distance, np.abs((v if axis == 0 else u) - center) - half)
        fade = np.clip(distance / 15.0, 0.0, 1.0)
        return np.clip(self.base + self.amplitude * fade * (0.3 + waves / np.sqrt(_WAVES)), LOWEST_M, HIGHEST_M)
