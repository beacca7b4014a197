"""Routes: the lines that vehicles follow, by length along them, and the speeds their bends allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.plan import Plan, Street

STEP_M = 0.5
_SIDEWAYS_LIMIT = 2.0  # m/s2 in bends
_BRAKING = 1.8  # m/s2 ahead of bends
_SMOOTHING_M = 2.0


@dataclass(frozen=True)
class Route:
    """A line in the plan with its length in the world.

    Attributes:
        plan_points: float64 [N, 2].
        points: float64 [N, 2], world.
        lengths: float64 [N], metres from its start, in the world.
        yaws: float64 [N], radians, unwrapped, world.
        speed_limits: float64 [N], m/s, what bends allow.
    """

    plan_points: np.ndarray
    points: np.ndarray
    lengths: np.ndarray
    yaws: np.ndarray
    speed_limits: np.ndarray

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World positions [..., 2] and yaws [...] at lengths; beyond its ends it continues straight."""
        inside = np.clip(s, 0.0, self.lengths[-1])
        yaws = np.interp(inside, self.lengths, self.yaws)
        xy = np.stack([np.interp(inside, self.lengths, self.points[:, axis]) for axis in (0, 1)], -1)
        beyond = np.asarray(s - inside)[..., None]
        return xy + beyond * np.stack([np.cos(yaws), np.sin(yaws)], -1), yaws

    def length_at(self, plan_point: np.ndarray) -> float:
        """Length at which the route comes closest to a plan point."""
        return float(self.lengths[np.linalg.norm(self.plan_points - plan_point, axis=1).argmin()])


def route_through(plan: Plan, corners: np.ndarray, top_speed: float) -> Route:
    """The route along a dense line of plan points [N, 2]."""
    points = plan.warp.points(corners)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    tangents = np.gradient(points, lengths, axis=0)
    yaws = np.unwrap(np.arctan2(tangents[:, 1], tangents[:, 0]))
    curvatures = np.abs(np.gradient(yaws, lengths))
    limits = np.minimum(top_speed, np.sqrt(_SIDEWAYS_LIMIT / np.maximum(curvatures, 1e-4)))
    return Route(corners, points, lengths, yaws, _brakable(limits, lengths))


def _brakable(limits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Lower the limits ahead of slow places so that gentle braking suffices: v^2 + 2 b s never falls."""
    energy = limits**2 + 2 * _BRAKING * lengths
    return np.sqrt(np.minimum.accumulate(energy[::-1])[::-1] - 2 * _BRAKING * lengths)


def lane_route(plan: Plan, street: Street, direction: int, lane: int, top_speed: float) -> Route:
    """A lane of a street from end to end."""
    start, end = (street.start, street.end) if direction > 0 else (street.end, street.start)
    along = np.arange(start, end, direction * STEP_M)
    offset = street.right_side(direction) * street.lane_offset(lane)
    return route_through(plan, street.uv(along, offset), top_speed)


def turning_route(plan: Plan, lane: int, top_speed: float) -> Route:
    """The recording vehicle's: along the main street, around the corner if the plan says so, and on to the end."""
    main, street = plan.main, plan.turn_street
    if street is None:
        return lane_route(plan, main, 1, lane, top_speed)
    side = -plan.turn  # +1: the corner's inside lies on the right
    direction = plan.turn  # along the crossing street: left turns go to +v
    v = main.right_side(1) * main.lane_offset(lane)
    u = street.center + street.right_side(direction) * street.lane_offset(min(lane, street.lanes - 1))
    radius = _turn_radius(main, street, v, u, side)
    angles = np.arange(0.0, np.pi / 2, STEP_M / radius)
    arc = np.stack([u - radius + radius * np.sin(angles), v - side * (radius - radius * np.cos(angles))], -1)
    before = np.arange(main.start, u - radius, STEP_M)
    end = street.end if direction > 0 else street.start
    after = np.arange(v + direction * radius, end, direction * STEP_M)
    line = np.concatenate(
        [np.stack([before, np.full_like(before, v)], -1), arc, np.stack([np.full_like(after, u), after], -1)]
    )
    return route_through(plan, _smoothed(line), top_speed)


def _turn_radius(main: Street, street: Street, v: float, u: float, side: int) -> float:
    if side > 0:  # right: concentric with the rounded corner
        return min(street.outer_half - abs(u - street.center), main.outer_half - abs(v)) - 0.2
    return min(street.road_half + abs(u - street.center), main.road_half + abs(v)) - 0.5


def _smoothed(line: np.ndarray) -> np.ndarray:
    """Gaussian average along the line: the steering wheel takes time to turn."""
    reach = int(3 * _SMOOTHING_M / STEP_M)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP_M / _SMOOTHING_M) ** 2)
    weights /= weights.sum()
    smooth = np.stack([np.convolve(line[:, axis], weights, mode="valid") for axis in (0, 1)], -1)
    return np.concatenate([line[:reach], smooth, line[-reach:]])
