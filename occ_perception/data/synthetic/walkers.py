"""Pedestrians: along the sidewalks, across the streets, standing, or strolling over squares and parks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.lots import Lot
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel
from occ_perception.data.synthetic.people import pedestrian
from occ_perception.data.synthetic.plan import Street
from occ_perception.data.synthetic.scene import Trajectory
from occ_perception.data.synthetic.site import Site
from occ_perception.data.synthetic.standing import near_spans
from occ_perception.data.synthetic.traffic import Itinerary

_STEP_S = 0.25
_NEAR_M = 36.0


@dataclass(frozen=True)
class Walker:
    """A pedestrian and where it is when."""

    model: ActorModel
    trajectory: Trajectory


@dataclass(frozen=True)
class Way:
    """A straight walk in the plan.

    Attributes:
        start: plan point.
        heading: plan angle, walking or standing.
        speed: m/s; 0 = stands.
        begin_s: when it sets out.
        reach: after so many metres it stops.
    """

    start: np.ndarray
    heading: float
    speed: float
    begin_s: float = 0.0
    reach: float = np.inf


def make_walkers(
    rng: np.random.Generator, site: Site, palette: Palette, lots: list[Lot], itinerary: Itinerary, duration_s: float
) -> list[Walker]:
    """All pedestrians near the path; some of their ways may meet, which the caller sorts out."""
    mean_gap = float(rng.choice([22.0, 45.0, 90.0]))
    ways = [*_on_sidewalks(rng, site, mean_gap), *_across_streets(rng, site, itinerary)]
    ways += _on_lots(rng, site, lots)
    return [Walker(pedestrian(rng, palette), _walk(site, way, duration_s)) for way in ways]


def _walk(site: Site, way: Way, duration_s: float) -> Trajectory:
    times = np.arange(0.0, duration_s + _STEP_S, _STEP_S)
    progress = np.clip((times - way.begin_s) * way.speed, 0.0, way.reach)
    uv = way.start + progress[:, None] * np.array([np.cos(way.heading), np.sin(way.heading)])
    positions = np.column_stack([site.plan.warp.points(uv), site.ground.height(uv)])
    return Trajectory(times, positions, np.unwrap(site.plan.warp.heading(uv, way.heading)))


def _on_sidewalks(rng: np.random.Generator, site: Site, mean_gap: float) -> list[Way]:
    ways = []
    for street in site.plan.streets:
        for start, end in near_spans(site, street, 0.0, _NEAR_M):
            for side in (-1, 1):
                position = start + float(rng.exponential(mean_gap))
                while position < end:
                    stands = rng.random() < 0.2
                    speed = 0.0 if stands else float(rng.uniform(0.8, 1.7))
                    heading = float(rng.uniform(-np.pi, np.pi)) if stands else street.plan_heading(rng.choice([-1, 1]))
                    for _ in range(1 if rng.random() < 0.75 else 2):  # alone or in pairs
                        offset = float(rng.uniform(street.road_half + 1.5, street.outer_half - 0.4))
                        point = street.uv(position + rng.normal(0, 0.3), side * offset)
                        ways.append(Way(point, heading, speed))
                    position += 1.5 + float(rng.exponential(mean_gap))
    return ways


def _across_streets(rng: np.random.Generator, site: Site, itinerary: Itinerary) -> list[Way]:
    """On the crossings: over the main street while it waits, over the others once it goes."""
    ways = []
    main = site.plan.main
    for phase in itinerary.phases:
        for sign in (-1, 1):
            if phase.wait_s > 6.0:
                curb = phase.crossing.center + sign * (phase.crossing.road_half + 2.5)
                ways += _crossing_walks(rng, main, curb, (0.0, max(phase.wait_s - 14.0, 0.5)))
            curb = main.center + sign * (main.road_half + 2.5)
            if phase.crossing.reaches(curb) and site.distance(phase.crossing.uv(curb, 0.0))[0] < _NEAR_M:
                ways += _crossing_walks(rng, phase.crossing, curb, (phase.wait_s, phase.wait_s + 8.0))
    return ways


def _crossing_walks(
    rng: np.random.Generator, street: Street, along: float, between_s: tuple[float, float]
) -> list[Way]:
    """People who set out over `street` at a coordinate along it between two times."""
    ways = []
    for _ in range(int(rng.integers(0, 3))):
        side = int(rng.choice([-1, 1]))
        waits = float(rng.uniform(0.3, 1.2))  # from the curb
        point = street.uv(along + rng.uniform(-1.2, 1.2), side * (street.road_half + waits))
        across = float(np.arctan2(-side, 0.0) if street.axis == 0 else np.arctan2(0.0, -side))
        reach = 2 * street.road_half + waits + float(rng.uniform(0.8, street.sidewalk - 0.5))
        ways.append(Way(point, across, float(rng.uniform(1.1, 1.7)), float(rng.uniform(*between_s)), reach))
    return ways


def _on_lots(rng: np.random.Generator, site: Site, lots: list[Lot]) -> list[Way]:
    """On squares and in parks, standing or walking through the middle."""
    ways = []
    for lot in lots:
        if lot.use not in ("plaza", "park") or lot.distance > _NEAR_M:
            continue
        for _ in range(int(rng.integers(0, 3))):
            point = rng.uniform(np.array(lot.low) + 1, np.array(lot.high) - 1)
            gap = lot.center - point
            heading = float(np.arctan2(gap[1], gap[0]) + rng.normal(0, 0.3))
            speed = float(rng.uniform(0.4, 1.3)) * float(rng.random() < 0.6)
            ways.append(Way(point, heading, speed, reach=float(np.hypot(*gap)) * 1.5))
    return ways
