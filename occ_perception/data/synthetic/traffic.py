"""Vehicles on the move: who drives on which lane, where the lights are red, and the resulting trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.following import STEP_S, Drivers, RedLight, simulate
from occ_perception.data.synthetic.markings import STOP_LINE_M
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel
from occ_perception.data.synthetic.people import bicycle, motorcycle
from occ_perception.data.synthetic.plan import Plan, Street
from occ_perception.data.synthetic.routes import Route, lane_route, turning_route
from occ_perception.data.synthetic.scene import Trajectory
from occ_perception.data.synthetic.vehicles import bus, car, trailer, truck

EGO_FRONT_M, EGO_REAR_M, EGO_WIDTH_M = 3.1, 1.0, 1.73
"""The recording vehicle's box about base_link (middle of the rear axle), metres."""
_NEAR_M = 50.0
_KINDS = ("car", "truck", "bus", "motorcycle", "bicycle", "rig")
_SHARES = (0.46, 0.1, 0.13, 0.09, 0.1, 0.12)
_CLEARING_S = 4.0


@dataclass(frozen=True)
class Phase:
    """The lights where the main street meets another: the main street waits until `wait_s`, the other one after."""

    crossing: Street
    wait_s: float


@dataclass(frozen=True)
class Moving:
    """A vehicle that drives."""

    model: ActorModel
    trajectory: Trajectory


@dataclass(frozen=True)
class Itinerary:
    """What the recording vehicle is up to.

    Attributes:
        route: it follows.
        start: length along the route where it starts, metres.
        lane: of the main street.
        phases: of all junctions of the main street.
    """

    route: Route
    start: float
    lane: int
    phases: tuple[Phase, ...]

    def path(self, reach: float) -> np.ndarray:
        """The part that it can cover, plan points [N, 2], every few metres."""
        inside = (self.route.lengths >= self.start) & (self.route.lengths <= self.start + reach)
        return self.route.plan_points[inside][::8]


def make_itinerary(rng: np.random.Generator, plan: Plan, duration_s: float) -> Itinerary:
    """Lane, lights and place to start from."""
    main = plan.main
    lane = 0 if plan.turn > 0 else main.lanes - 1 if plan.turn < 0 else int(rng.integers(main.lanes))
    route = turning_route(plan, lane, plan.speed)
    crossings = plan.crossings(main)
    first = next((c for c in crossings if c.center > 20), None)
    phases, start_u = [], 0.0
    waiting = float(rng.random())
    for crossing in crossings:
        wait_s = 0.0
        if crossing is first and waiting < 0.3:
            wait_s = float(rng.uniform(0.3, 0.65)) * duration_s
        elif crossing is first and waiting < 0.37:  # stands at the red light from the first to the last moment
            wait_s = 2 * duration_s
            start_u = crossing.center - crossing.road_half - STOP_LINE_M - EGO_FRONT_M - float(rng.uniform(0.8, 4))
        phases.append(Phase(crossing, wait_s))
    start = route.length_at(np.array([start_u, main.right_side(1) * main.lane_offset(lane)]))
    return Itinerary(route, start, lane, tuple(phases))


def make_traffic(
    rng: np.random.Generator, plan: Plan, palette: Palette, itinerary: Itinerary, duration_s: float
) -> tuple[Trajectory, list[Moving]]:
    """The recording vehicle's trajectory and those of the vehicles around it, the ones on its own lane first."""
    routes, lights = [itinerary.route], _lights(plan, itinerary, 0, plan.main, 1, itinerary.route)
    path = itinerary.path(plan.reach)
    spaces = [_free_stretches(plan, itinerary.route, path)]
    for street, direction, lane in _lanes(plan, itinerary):
        route = lane_route(plan, street, direction, lane, float(rng.uniform(6, 14)))
        lights += _lights(plan, itinerary, len(routes), street, direction, route)
        spaces.append(_free_stretches(plan, route, path, _closed_before(plan, itinerary, street, direction, lane)))
        routes.append(route)
    crowd = _Crowd(rng, palette, float(rng.choice([22.0, 40.0, 80.0])))
    crowd.add_ego(itinerary.start, plan.speed)
    for index, space in enumerate(spaces):
        crowd.fill(index, space, itinerary.start if index == 0 else None)
    history = simulate(crowd.drivers(), routes, lights, duration_s)
    ego = _trajectory(itinerary.route, history[:, 0])
    moving = []
    for column, (route_index, models) in enumerate(crowd.vehicles, start=1):
        for model, behind in models:
            moving.append(Moving(model, _trajectory(routes[route_index], history[:, column] - behind)))
    return ego, moving


def _trajectory(route: Route, lengths: np.ndarray) -> Trajectory:
    xy, yaws = route.at(lengths)
    times = np.arange(len(lengths)) * STEP_S
    return Trajectory(times, np.column_stack([xy, np.zeros(len(xy))]), np.unwrap(yaws))


def _lanes(plan: Plan, itinerary: Itinerary) -> list[tuple[Street, int, int]]:
    """All lanes with traffic but the recording vehicle's: of the main street and of those it crosses."""
    lanes = [(plan.main, -1, lane) for lane in range(plan.main.lanes)]
    lanes += [(plan.main, 1, lane) for lane in range(plan.main.lanes) if lane != itinerary.lane or plan.turn]
    for crossing in plan.crossings(plan.main):
        lanes += [(crossing, direction, lane) for direction in (-1, 1) for lane in range(crossing.lanes)]
    return lanes


def _entry(plan: Plan, crossing: Street, street: Street, direction: int) -> float:
    """Coordinate along `street` of its stop line before the junction of the main street with `crossing`."""
    other = crossing if street is plan.main else plan.main
    return other.center - direction * (other.road_half + STOP_LINE_M)


def _lights(
    plan: Plan, itinerary: Itinerary, index: int, street: Street, direction: int, route: Route
) -> list[RedLight]:
    lights = []
    for phase in itinerary.phases:
        if street is not plan.main and street is not phase.crossing:
            continue
        turns = phase.crossing is plan.turn_street
        line = street.uv(_entry(plan, phase.crossing, street, direction), _lane_side(route, street))
        length = route.length_at(line)
        if street is plan.main and (direction > 0 or not turns or plan.turn < 0):
            lights.append(RedLight(index, length, 0.0, phase.wait_s))
        elif street is plan.main:  # oncoming traffic lets the left turn pass
            lights.append(RedLight(index, length, 0.0, np.inf))
        else:
            start = 0.0 if turns else max(phase.wait_s - _CLEARING_S, 0.0)
            lights.append(RedLight(index, length, start, np.inf))
    return lights


def _lane_side(route: Route, street: Street) -> float:
    return float(route.plan_points[0, 1 - street.axis]) - street.center


def _closed_before(
    plan: Plan, itinerary: Itinerary, street: Street, direction: int, lane: int
) -> tuple[np.ndarray, bool] | None:
    """Lanes that share a part with the recording vehicle's route: nobody may start on that part of them.

    Returns:
        (plan point of the junction, whether the part before it is the shared one), or None.
    """
    turn_street = plan.turn_street
    if turn_street is None:
        return None
    junction = np.array([turn_street.center, plan.main.center])
    if street is plan.main and direction > 0 and lane == itinerary.lane:
        return junction, True
    merges = min(itinerary.lane, turn_street.lanes - 1)
    if street is turn_street and direction == plan.turn and lane == merges:
        return junction, False
    return None


def _free_stretches(
    plan: Plan, route: Route, path: np.ndarray, shared: tuple[np.ndarray, bool] | None = None
) -> np.ndarray:
    """Lengths (every half metre) at which a vehicle may start: near the path and not on a junction."""
    points = route.plan_points
    coarse = points[::8]
    near = np.linalg.norm(coarse[:, None] - path, axis=-1).min(1) < _NEAR_M
    free = np.repeat(near, 8)[: len(points)]
    for crossing in plan.crossings(plan.main):
        for street in (plan.main, *(s for s in plan.streets_along(0) if s is not plan.main)):
            margin = (crossing.road_half + 9.0, street.road_half + 9.0)
            free &= (np.abs(points - (crossing.center, street.center)) > margin).any(1)
    if shared is not None:
        junction, before = shared
        at = int(np.linalg.norm(points - junction, axis=1).argmin())
        free[slice(None, at + 30) if before else slice(at, None)] = False
    return route.lengths[free]


class _Crowd:
    """Collects the drivers lane by lane."""

    def __init__(self, rng: np.random.Generator, palette: Palette, mean_gap: float) -> None:
        self._rng, self._palette, self._mean_gap = rng, palette, mean_gap
        self._rows: list[tuple[int, float, float, float, float]] = []
        self.vehicles: list[tuple[int, list[tuple[ActorModel, float]]]] = []

    def add_ego(self, start: float, speed: float) -> None:
        """The recording vehicle is the first driver."""
        self._rows.append((0, start, EGO_FRONT_M, EGO_REAR_M, speed))

    def fill(self, route: int, free: np.ndarray, ego_start: float | None) -> None:
        """Put vehicles on the free lengths of a route, away from the recording vehicle."""
        if len(free) == 0:
            return
        position = float(free[0] + self._rng.uniform(0, self._mean_gap))
        while position < free[-1]:
            models, front, rear = self._vehicle()
            place = position + rear
            blocked = np.abs(free - place).min() > 1.0
            if ego_start is not None:
                blocked |= ego_start - 12.0 - front < place < ego_start + 12.0 + rear
            if not blocked:
                slow = models[0][0].category == "vehicle.bicycle"
                desired = self._rng.uniform(3.0, 5.5) if slow else self._rng.uniform(6.0, 14.0)
                self._rows.append((route, place, front, rear, float(desired)))
                self.vehicles.append((route, models))
            position = place + front + 6.0 + float(self._rng.exponential(self._mean_gap))

    def _vehicle(self) -> tuple[list[tuple[ActorModel, float]], float, float]:
        """Models with how far each is behind the first, and how far all reach ahead of and behind the first."""
        rng, palette = self._rng, self._palette
        kind = str(rng.choice(_KINDS, p=_SHARES))
        if kind == "rig":
            heavy = bool(rng.random() < 0.4)
            puller, pulled = (truck if heavy else car)(rng, palette), trailer(rng, palette, heavy)
            behind = (puller.size[0] + pulled.size[0]) / 2 + 0.3
            return [(puller, 0.0), (pulled, behind)], puller.size[0] / 2, behind + pulled.size[0] / 2
        if kind in ("bicycle", "motorcycle"):
            model = (bicycle if kind == "bicycle" else motorcycle)(rng, palette, ridden=True)
        else:
            model = {"car": car, "truck": truck, "bus": bus}[kind](rng, palette)
        return [(model, 0.0)], model.size[0] / 2, model.size[0] / 2

    def drivers(self) -> Drivers:
        """All drivers; the recording vehicle is number 0."""
        routes, lengths, front, rear, desired = zip(*self._rows, strict=True)
        arrays = (np.array(values, np.float64) for values in (lengths, front, rear, desired))
        return Drivers(np.array(routes), *arrays)
