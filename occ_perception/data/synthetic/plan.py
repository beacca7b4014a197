"""The city's plan: streets on a rectangular raster, and the smooth warp that bends the raster into the world.

Everything is laid out in plan coordinates (u, v), where streets run along u or v; the warp then gives bends and
oblique junctions while neighbouring surfaces stay neighbours.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from occ_perception.errors import InvalidInputError

SURROUNDINGS_M = 130.0
"""How far streets, lots and fine ground reach beyond the vehicle's path, metres."""


def child_generator(seed: int, name: str) -> np.random.Generator:
    """A random generator of its own for each part of a scene, so that parts do not disturb each other.

    Raises:
        InvalidInputError: the seed is negative.
    """
    if seed < 0:
        raise InvalidInputError(f"scene seed: expected >= 0, got {seed}")
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class Warp:
    """world = rotation @ (u + a0 sin(k0 v + p0), v + a1 sin(k1 u + p1)); one to one as long as all a k < 1."""

    yaw: float
    amplitudes: tuple[float, float]
    wave_numbers: tuple[float, float]
    phases: tuple[float, float]

    def points(self, uv: np.ndarray) -> np.ndarray:
        """World x, y of plan points, float64 [..., 2]."""
        u, v = uv[..., 0], uv[..., 1]
        bent_u = u + self.amplitudes[0] * np.sin(self.wave_numbers[0] * v + self.phases[0])
        bent_v = v + self.amplitudes[1] * np.sin(self.wave_numbers[1] * u + self.phases[1])
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([cosine * bent_u - sine * bent_v, sine * bent_u + cosine * bent_v], -1)

    def heading(self, uv: np.ndarray, plan_heading: np.ndarray | float) -> np.ndarray:
        """World yaw of a plan direction at plan points, radians."""
        step = 0.05 * np.stack([np.cos(plan_heading), np.sin(plan_heading)], -1)
        difference = self.points(uv + step) - self.points(uv - step)
        return np.arctan2(difference[..., 1], difference[..., 0])


@dataclass(frozen=True)
class Street:
    """A straight street in the plan.

    Attributes:
        axis: 0 if it runs along u, 1 along v.
        center: the other coordinate of its middle.
        start, end: along its axis.
        lanes: per direction.
        lane_width, median, parking, sidewalk: widths, metres; median and parking may be 0.
        curb: height of the sidewalk, metres.
    """

    axis: int
    center: float
    start: float
    end: float
    lanes: int
    lane_width: float
    median: float
    parking: float
    sidewalk: float
    curb: float

    @property
    def lane_edge(self) -> float:
        """From the middle to the outer edge of the outermost lane."""
        return self.median / 2 + self.lanes * self.lane_width

    @property
    def road_half(self) -> float:
        """From the middle to the curb."""
        return self.lane_edge + self.parking

    @property
    def outer_half(self) -> float:
        """From the middle to the outer edge of the sidewalk."""
        return self.road_half + self.sidewalk

    def lane_offset(self, lane: int) -> float:
        """From the middle to the middle of a lane; lane 0 is the innermost."""
        return self.median / 2 + (lane + 0.5) * self.lane_width

    def uv(self, along: np.ndarray | float, offset: np.ndarray | float) -> np.ndarray:
        """Plan point(s) at a coordinate along the axis and an offset from the middle towards the other plan axis."""
        along, across = np.broadcast_arrays(np.asarray(along, np.float64), np.asarray(offset, np.float64) + self.center)
        return np.stack([along, across] if self.axis == 0 else [across, along], -1)

    def right_side(self, direction: int) -> int:
        """Sign of the offsets on the right of traffic that goes along (+1) or against (-1) the axis."""
        return -direction if self.axis == 0 else direction

    def plan_heading(self, direction: int) -> float:
        """Plan angle of traffic along (+1) or against (-1) the axis."""
        return (0.0 if direction > 0 else np.pi) + (np.pi / 2 if self.axis == 1 else 0.0)

    def reaches(self, along: float) -> bool:
        """Whether the street exists at a coordinate along its axis."""
        return self.start <= along <= self.end


@dataclass(frozen=True)
class Plan:
    """Streets, and what the recording vehicle is going to do.

    Attributes:
        streets: the first is the one the vehicle starts on (along +u at v = 0, from u = 0).
        turn: -1 right, 0 straight on, 1 left.
        turn_street: the street it turns into (None if straight on).
        speed: it would like to drive, m/s.
        reach: it can drive within the scene, metres.
        low, high: corners of the built-up plan.
        warp: from plan to world.
    """

    streets: tuple[Street, ...]
    turn: int
    turn_street: Street | None
    speed: float
    reach: float
    low: tuple[float, float]
    high: tuple[float, float]
    warp: Warp

    @property
    def main(self) -> Street:
        """The street the vehicle starts on."""
        return self.streets[0]

    def streets_along(self, axis: int) -> list[Street]:
        """Streets of one axis in the order of their centres."""
        return sorted((s for s in self.streets if s.axis == axis), key=lambda street: street.center)

    def crossings(self, street: Street) -> list[Street]:
        """Streets that meet this one, in order."""
        across = self.streets_along(1 - street.axis)
        return [s for s in across if s.reaches(street.center) and street.reaches(s.center)]

    def spans(self, street: Street, margin: float) -> list[tuple[float, float]]:
        """(from, to) along a street's axis between its junctions, `margin` short of the crossing streets' curbs."""
        edges = [street.start]
        for crossing in self.crossings(street):
            edges += [crossing.center - crossing.road_half - margin, crossing.center + crossing.road_half + margin]
        edges.append(street.end)
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def make_plan(rng: np.random.Generator, duration_s: float) -> Plan:
    """A random plan for a scene of this duration."""
    speed = float(rng.uniform(5.0, 14.0))
    reach = speed * duration_s + 25.0
    turn = int(rng.choice([-1, 0, 1], p=[0.25, 0.5, 0.25]))
    first_crossing = float(np.round(rng.uniform(30, 75)))
    turn_reach = max(reach - first_crossing, 0.0) + 15.0
    low = [-SURROUNDINGS_M, -SURROUNDINGS_M]
    high = [(first_crossing + 15 if turn else reach) + SURROUNDINGS_M, SURROUNDINGS_M]
    if turn > 0:
        high[1] += turn_reach
    elif turn < 0:
        low[1] -= turn_reach
    lower, upper = (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))

    curb = float(rng.choice([0.12, 0.15, 0.18]))
    main = _street(rng, 0, 0.0, lower[0], upper[0], curb)
    streets = [main, *_parallel_streets(rng, lower, upper, curb)]
    crossing_streets = _crossing_streets(rng, first_crossing, turn, lower, upper, curb)
    streets += crossing_streets
    turn_street = next((s for s in crossing_streets if s.center == first_crossing), None) if turn else None
    return Plan(tuple(streets), turn, turn_street, speed, reach, lower, upper, _warp(rng))


def _street(
    rng: np.random.Generator, axis: int, center: float, start: float, end: float, curb: float, parked: bool = False
) -> Street:
    lanes = int(rng.choice([1, 2], p=[0.65, 0.35]))
    return Street(
        axis=axis,
        center=center,
        start=start,
        end=end,
        lanes=lanes,
        lane_width=float(rng.choice([3.0, 3.25, 3.5, 3.75])),
        median=float(rng.choice([0.0, 1.5, 2.5, 4.0], p=[0.4, 0.2, 0.2, 0.2])),
        parking=2.5 if parked or rng.random() < 0.75 else 0.0,
        sidewalk=float(rng.choice([2.5, 3.0, 3.5, 4.0, 4.5])),
        curb=curb,
    )


def _parallel_streets(
    rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float], curb: float
) -> list[Street]:
    centers: list[float] = []
    for direction, limit in ((1, high[1]), (-1, -low[1])):
        distance = float(np.round(rng.uniform(60, 100)))
        while distance < limit - 20:
            centers.append(direction * distance)
            distance += float(np.round(rng.uniform(60, 110)))
    return [_street(rng, 0, center, low[0], high[0], curb) for center in centers]


def _crossing_streets(
    rng: np.random.Generator, first: float, turn: int, low: tuple[float, float], high: tuple[float, float], curb: float
) -> list[Street]:
    streets = []
    for direction, limit in ((1, high[0]), (-1, -low[0])):
        center = first if direction > 0 else first - float(np.round(rng.uniform(60, 110)))
        while direction * center < limit - 20:
            is_turn = center == first and turn != 0
            start, end = low[1], high[1]
            if not is_turn and rng.random() < 0.4:  # a T-junction with the main street
                start, end = (0.0, end) if rng.random() < 0.5 else (start, 0.0)
            streets.append(_street(rng, 1, center, start, end, curb, parked=is_turn))
            center += direction * float(np.round(rng.uniform(60, 110)))
    return streets


def _warp(rng: np.random.Generator) -> Warp:
    slopes = rng.uniform(0.0, 0.24, 2) * (rng.random(2) < 0.75)
    wave_numbers = 2 * np.pi / rng.uniform(140.0, 320.0, 2)
    amplitudes, phases = slopes / wave_numbers, rng.uniform(0, 2 * np.pi, 2)
    return Warp(
        float(rng.uniform(0, 2 * np.pi)),
        (float(amplitudes[0]), float(amplitudes[1])),
        (float(wave_numbers[0]), float(wave_numbers[1])),
        (float(phases[0]), float(phases[1])),
    )
