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
_NEAR_M = 40.0


@dataclass(frozen=True)
class Walker:
    """A pedestrian and the way it goes."""

    model: ActorModel
    trajectory: Trajectory


def make_walkers(
    rng: np.random.Generator, site: Site, palette: Palette, lots: list[Lot], itinerary: Itinerary, duration_s: float
) -> list[Walker]:
    """All pedestrians near the path; some of their ways may meet, which the caller sorts out."""
    mean_gap = float(rng.choice([10.0, 22.0, 45.0]))
    ways = [*_on_sidewalks(rng, site, mean_gap), *_across_streets(rng, site, itinerary)]
    ways += _on_lots(rng, site, lots)
    return [Walker(pedestrian(rng, palette), _walk(site, *way, duration_s)) for way in ways]


def _walk(
    site: Site, start: np.ndarray, velocity: np.ndarray, begin_s: float, heading: float, duration_s: float
) -> Trajectory:
    """A straight walk in the plan with this velocity from `begin_s` on; `heading` counts while standing."""
    times = np.arange(0.0, duration_s + _STEP_S, _STEP_S)
    uv = start + np.maximum(times - begin_s, 0.0)[:, None] * velocity
    moving = float(np.hypot(*velocity)) > 0.05
    direction = float(np.arctan2(velocity[1], velocity[0])) if moving else heading
    positions = np.column_stack([site.plan.warp.points(uv), site.ground.height(uv)])
    return Trajectory(times, positions, np.unwrap(site.plan.warp.heading(uv, direction)))


_Way = tuple[np.ndarray, np.ndarray, float, float]


def _on_sidewalks(rng: np.random.Generator, site: Site, mean_gap: float) -> list[_Way]:
    ways: list[_Way] = []
    for street in site.plan.streets:
        along_axis = np.array([1.0, 0.0] if street.axis == 0 else [0.0, 1.0])
        for start, end in near_spans(site, street, 0.0, _NEAR_M):
            for side in (-1, 1):
                position = start + float(rng.exponential(mean_gap))
                while position < end:
                    speed = 0.0 if rng.random() < 0.2 else float(rng.uniform(0.8, 1.7)) * float(rng.choice([-1, 1]))
                    for _ in range(1 if rng.random() < 0.75 else 2):  # alone or in pairs
                        offset = float(rng.uniform(street.road_half + 1.5, street.outer_half - 0.4))
                        start_uv = street.uv(position + rng.normal(0, 0.3), side * offset)
                        ways.append((start_uv, along_axis * speed, 0.0, float(rng.uniform(-np.pi, np.pi))))
                    position += 1.5 + float(rng.exponential(mean_gap))
    return ways


def _across_streets(rng: np.random.Generator, site: Site, itinerary: Itinerary) -> list[_Way]:
    """On the crossings: over the main street while it waits, over the others once it goes."""
    ways: list[_Way] = []
    main = site.plan.main
    for phase in itinerary.phases:
        for sign in (-1, 1):
            if phase.wait_s > 6.0:
                curb = phase.crossing.center + sign * (phase.crossing.road_half + 2.5)
                ways += _crossing_walks(rng, main, curb, 0.0, max(phase.wait_s - 14.0, 0.5))
            curb = main.center + sign * (main.road_half + 2.5)
            if phase.crossing.reaches(curb) and site.distance(phase.crossing.uv(curb, 0.0))[0] < _NEAR_M:
                ways += _crossing_walks(rng, phase.crossing, curb, phase.wait_s, phase.wait_s + 8.0)
    return ways


def _crossing_walks(
    rng: np.random.Generator, street: Street, along: float, first_s: float, last_s: float
) -> list[_Way]:
    """People who set out over `street` at a coordinate along it between two times."""
    ways: list[_Way] = []
    across_axis = np.array([0.0, 1.0] if street.axis == 0 else [1.0, 0.0])
    for _ in range(int(rng.integers(0, 4))):
        side = float(rng.choice([-1, 1]))
        start = street.uv(along + rng.uniform(-1.2, 1.2), side * (street.road_half + rng.uniform(0.3, 1.5)))
        heading = float(np.arctan2(-side * across_axis[1], -side * across_axis[0]))
        ways.append((start, -side * across_axis * rng.uniform(1.1, 1.7), float(rng.uniform(first_s, last_s)), heading))
    return ways


def _on_lots(rng: np.random.Generator, site: Site, lots: list[Lot]) -> list[_Way]:
    ways: list[_Way] = []
    for lot in lots:
        if lot.use not in ("plaza", "park") or lot.distance > _NEAR_M + 10:
            continue
        for _ in range(int(rng.integers(0, 4))):
            start = rng.uniform(np.array(lot.low) + 1, np.array(lot.high) - 1)
            direction = rng.uniform(-np.pi, np.pi)
            speed = float(rng.uniform(0.4, 1.3)) * float(rng.random() < 0.6)
            reach = lot.center - start  # roughly towards the middle, so as to stay on the lot for a while
            direction = np.arctan2(reach[1], reach[0]) + rng.normal(0, 0.4)
            ways.append((start, speed * np.array([np.cos(direction), np.sin(direction)]), 0.0, float(direction)))
    return ways
