"""Vehicles behind one another: the intelligent driver model (Treiber et al. 2000) on routes with red lights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.routes import Route

STEP_S = 0.1
_ACCELERATION, _BRAKING, _HARD_BRAKING = 1.6, 2.2, 5.0  # m/s2
_HEADWAY_S, _MINIMUM_GAP_M = 1.3, 2.0


@dataclass(frozen=True)
class RedLight:
    """A line on a route that may not be crossed between two times."""

    route: int
    length: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Drivers:
    """Vehicles to be simulated; arrays over N of them.

    Attributes:
        routes: int [N], which route each follows.
        lengths: float64 [N], where each starts on its route, metres.
        front, rear: float64 [N], how far the vehicle reaches ahead of and behind the point that follows the route.
        desired: float64 [N], speed when the road is free, m/s.
    """

    routes: np.ndarray
    lengths: np.ndarray
    front: np.ndarray
    rear: np.ndarray
    desired: np.ndarray

    def leaders(self) -> np.ndarray:
        """Index of the vehicle ahead of each on its route, int [N]; -1 where the road is free."""
        ahead = np.full(len(self.routes), -1)
        order = np.lexsort((self.lengths, self.routes))
        same = self.routes[order[:-1]] == self.routes[order[1:]]
        ahead[order[:-1][same]] = order[1:][same]
        return ahead


def simulate(drivers: Drivers, routes: list[Route], lights: list[RedLight], duration_s: float) -> np.ndarray:
    """Lengths along the routes at every `STEP_S`, float64 [T, N], T covering the duration."""
    steps = int(np.ceil(duration_s / STEP_S)) + 1
    leaders = drivers.leaders()
    limits = _limit_table(routes)
    s = drivers.lengths.astype(np.float64).copy()
    v = _first_speeds(drivers, leaders, limits, lights)
    history = np.empty((steps, len(s)))
    for step in range(steps):
        history[step] = s
        gap, closing = _obstacle(drivers, leaders, lights, s, v, step * STEP_S)
        wanted = np.maximum(np.minimum(drivers.desired, _limit(limits, drivers.routes, s)), 0.1)
        spacing = _MINIMUM_GAP_M + np.maximum(
            0.0, v * _HEADWAY_S + v * closing / (2 * np.sqrt(_ACCELERATION * _BRAKING))
        )
        pull = _ACCELERATION * (1 - (v / wanted) ** 4 - (spacing / np.maximum(gap, 0.1)) ** 2)
        faster = np.maximum(0.0, v + np.clip(pull, -_HARD_BRAKING, _ACCELERATION) * STEP_S)
        s = s + 0.5 * (v + faster) * STEP_S
        v = faster
    return history


def _limit_table(routes: list[Route]) -> np.ndarray:
    """Speed limits of all routes at every metre, [R, L]."""
    longest = int(max(route.lengths[-1] for route in routes)) + 1
    at = np.arange(longest)
    return np.stack([np.interp(at, route.lengths, route.speed_limits) for route in routes])


def _limit(table: np.ndarray, routes: np.ndarray, s: np.ndarray) -> np.ndarray:
    return table[routes, np.clip(s, 0, table.shape[1] - 1).astype(np.int64)]


def _obstacle(
    drivers: Drivers, leaders: np.ndarray, lights: list[RedLight], s: np.ndarray, v: np.ndarray, time_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gap to what is ahead, metres, and the speed at which it closes, m/s."""
    has = leaders >= 0
    gap = np.where(has, s[leaders] - drivers.rear[leaders] - s - drivers.front, 1e3)
    closing = np.where(has, v - v[leaders], 0.0)
    for light in lights:
        if not light.start_s <= time_s < light.end_s:
            continue
        room = light.length - s - drivers.front
        stops = (drivers.routes == light.route) & (room > -0.5) & (v**2 / (2 * np.maximum(room, 0.1)) < _HARD_BRAKING)
        nearer = stops & (room < gap)
        gap, closing = np.where(nearer, room, gap), np.where(nearer, v, closing)
    return gap, closing


def _first_speeds(drivers: Drivers, leaders: np.ndarray, limits: np.ndarray, lights: list[RedLight]) -> np.ndarray:
    """Speeds that need no hard braking in the first moments."""
    free = np.minimum(drivers.desired, _limit(limits, drivers.routes, drivers.lengths))
    still = np.zeros(len(free))
    gap, _ = _obstacle(drivers, leaders, lights, drivers.lengths, still, 0.0)
    return np.minimum(free, np.sqrt(2 * 0.6 * np.maximum(gap - _MINIMUM_GAP_M - 1.0, 0.0)))
