"""Lots: the land between the streets, cut into rectangles with a use each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from occ_perception.data.synthetic.plan import Plan, Street

USES = ("building", "park", "plaza", "car_park", "site")
_SHARES = (0.5, 0.2, 0.12, 0.11, 0.07)
DETAIL_M = 60.0
"""Lots whose middle is further than this from the vehicle's path only get a building or nothing."""


@dataclass(frozen=True)
class Lot:
    """A rectangle of the plan.

    Attributes:
        low, high: its corners.
        use: one of `USES`.
        distance: of its middle from the vehicle's path, metres.
        front: which way a street lies: (axis, sign), e.g. (1, -1) = towards smaller v; None in the second row.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    use: str
    distance: float
    front: tuple[int, int] | None

    @property
    def center(self) -> np.ndarray:
        """Its middle in the plan, [2]."""
        return (np.array(self.low) + self.high) / 2

    @property
    def size(self) -> np.ndarray:
        """Its extents along u and v, [2]."""
        return np.array(self.high) - self.low

    @property
    def near(self) -> bool:
        """Whether the vehicle passes close enough for details."""
        return self.distance < DETAIL_M + float(self.size.max()) / 2


def make_lots(rng: np.random.Generator, plan: Plan, path: np.ndarray) -> list[Lot]:
    """All lots of a plan; `path` is the vehicle's in the plan, [N, 2]."""
    columns = _bands(rng, plan.streets_along(1), plan.low[0], plan.high[0])
    rows = _bands(rng, plan.streets_along(0), plan.low[1], plan.high[1])
    lots = []
    for u0, u1, u_front in columns:
        for v0, v1, v_front in rows:
            distance = float(np.linalg.norm(path - ((u0 + u1) / 2, (v0 + v1) / 2), axis=1).min())
            front = (1, v_front) if v_front else (0, u_front) if u_front else None
            use = str(rng.choice(USES, p=_SHARES))
            if distance > DETAIL_M + 20:
                use = "building" if rng.random() < 0.6 else "park"
            lots.append(Lot((u0, v0), (u1, v1), use, distance, front))
    return lots


def _bands(rng: np.random.Generator, streets: list[Street], low: float, high: float) -> list[tuple[float, float, int]]:
    """(from, to, which side has a street) of the lots between streets; lots never overlap a street."""
    edges = [low, *(s.center + sign * s.outer_half for s in streets for sign in (-1, 1)), high]
    bands = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < 4.0:
            continue
        count = max(1, round((end - start) / rng.uniform(17, 30)))
        cuts = np.linspace(start, end, count + 1)
        cuts[1:-1] = np.round(cuts[1:-1])
        for index, (a, b) in enumerate(pairwise(cuts)):
            front = -1 if index == 0 and start > low else 1 if index == count - 1 and end < high else 0
            bands.append((float(a), float(b), front))
    return bands
