"""Actors that stand: parked vehicles, work zones with machines, cones and barriers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.lots import Lot
from occ_perception.data.synthetic.machines import construction_vehicle
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel
from occ_perception.data.synthetic.people import bicycle, motorcycle
from occ_perception.data.synthetic.plan import Street
from occ_perception.data.synthetic.site import Site
from occ_perception.data.synthetic.small_objects import barrier, traffic_cone
from occ_perception.data.synthetic.vehicles import bus, car, trailer, truck

_NEAR_M = 40.0
_DECK = {"car": 8, "truck": 2, "bus": 1, "trailer": 2, "construction": 1, "motorcycle": 1, "bicycle": 1}
_JUNCTION_MARGIN_M = 10.0


@dataclass(frozen=True)
class Standing:
    """An actor that does not move: its model, plan position, and plan heading."""

    model: ActorModel
    uv: np.ndarray
    plan_heading: float


class Deck:
    """Deals kinds of parked vehicles so that rare ones turn up as regularly as `_DECK` says."""

    def __init__(self, rng: np.random.Generator, palette: Palette) -> None:
        self._rng, self._palette = rng, palette
        self._kinds = self._shuffled()

    def _shuffled(self) -> Iterator[str]:
        cards = [kind for kind, count in _DECK.items() for _ in range(count)]
        while True:
            yield from (cards[index] for index in self._rng.permutation(len(cards)))

    def next_model(self, longest: float = 14.0) -> ActorModel:
        """The next vehicle that is no longer than this; a car if the next one is."""
        rng, palette = self._rng, self._palette
        makers: dict[str, Callable[[], ActorModel]] = {
            "car": lambda: car(rng, palette),
            "truck": lambda: truck(rng, palette),
            "bus": lambda: bus(rng, palette),
            "trailer": lambda: trailer(rng, palette),
            "construction": lambda: construction_vehicle(rng, palette),
            "motorcycle": lambda: motorcycle(rng, palette, ridden=False),
            "bicycle": lambda: bicycle(rng, palette, ridden=False),
        }
        model = makers[next(self._kinds)]()
        return model if model.size[0] <= longest else car(rng, palette)


def near_spans(site: Site, street: Street, margin: float, near: float = _NEAR_M) -> list[tuple[float, float]]:
    """Stretches of a street between junctions, cut to what lies near the vehicle's path."""
    spans = []
    for start, end in site.plan.spans(street, margin):
        along = np.arange(start, end, 4.0)
        if len(along) == 0:
            continue
        close = along[site.distance(street.uv(along, 0.0)) < near]
        if len(close) and close[-1] - close[0] > 6.0:
            spans.append((float(close[0]), float(close[-1])))
    return spans


def bus_stops(rng: np.random.Generator, site: Site, palette: Palette) -> list[Standing]:
    """Buses that wait at the curb, about one in a hundred metres."""
    found = []
    for street in site.plan.streets:
        if not street.parking:
            continue
        for start, end in near_spans(site, street, _JUNCTION_MARGIN_M, 25.0):
            position = start + float(rng.uniform(0, 40))
            while position < end - 14.0:
                direction = int(rng.choice([-1, 1]))
                found += _at_curb(rng, site, street, direction, position, bus(rng, palette))
                position += 60.0 + float(rng.exponential(40))
    return found


def _at_curb(
    rng: np.random.Generator, site: Site, street: Street, direction: int, start: float, model: ActorModel
) -> list[Standing]:
    """A vehicle in the parking lane from a coordinate along the street on, if there is room."""
    length, width, _ = model.size
    middle = start + length / 2
    offset = street.lane_edge + max(street.parking / 2, width / 2 + 0.25) + float(rng.normal(0, 0.07))
    across = street.right_side(direction) * offset
    steps = np.linspace(-0.5, 0.5, 2 + int(length / 2)) * max(length - 1.8, 0.0)
    if not site.claim_row(street.uv(middle + steps, across), 0.9):
        return []
    heading = street.plan_heading(direction) + float(rng.normal(0, 0.02)) + (np.pi if rng.random() < 0.06 else 0.0)
    return [Standing(model, street.uv(middle, across), heading)]


def work_zones(rng: np.random.Generator, site: Site, palette: Palette) -> list[Standing]:
    """Road works at the curb: a machine behind barriers, cones before and after."""
    found = []
    for street in site.plan.streets:
        for start, end in near_spans(site, street, _JUNCTION_MARGIN_M, 30.0):
            for side in (-1, 1):
                position = start + float(rng.uniform(0, 35))
                while position < end - 18.0:
                    found += _work_zone(rng, site, palette, street, side, position)
                    position += 55.0 + float(rng.exponential(60))
    return found


def _work_zone(
    rng: np.random.Generator, site: Site, palette: Palette, street: Street, side: int, start: float
) -> list[Standing]:
    length, depth = float(rng.uniform(8, 13)), max(street.parking, 1.2)
    inner = street.road_half - depth + 0.4 if street.parking else street.road_half + 0.5
    if not site.claim_row(street.uv(start + np.arange(0, length + 3.0, 3.0), side * (inner + 1.0)), 1.6):
        return []
    heading = street.plan_heading(1)
    found = []
    if rng.random() < 0.75:
        machine = construction_vehicle(rng, palette)
        across = inner + 0.5 + machine.size[1] / 2
        turned = heading + (np.pi if rng.random() < 0.5 else 0.0)
        found.append(Standing(machine, street.uv(start + length / 2, side * across), turned))
    style = rng.random()
    position = start
    while position < start + length:
        cone = rng.random() < (0.15 if style < 0.6 else 0.7)
        model = traffic_cone(rng, palette) if cone else barrier(rng, palette)
        middle = street.uv(position + model.size[0] / 2, side * inner)
        found.append(Standing(model, middle, heading + float(rng.normal(0, 0.04))))
        position += model.size[0] + float(rng.uniform(0.15, 0.5) if not cone else rng.uniform(1.6, 2.6))
    for end in (start - 0.8, position + 0.6):
        for share in (0.35, 0.75)[: int(rng.integers(1, 3))]:
            found.append(Standing(traffic_cone(rng, palette), street.uv(end, side * (inner + share * depth)), heading))
    return found


def parked_at_curb(rng: np.random.Generator, site: Site, deck: Deck) -> list[Standing]:
    """Vehicles in the parking lanes of streets near the path."""
    found, gap = [], float(rng.choice([5.0, 12.0, 22.0]))
    for street in site.plan.streets:
        if not street.parking:
            continue
        for start, end in near_spans(site, street, _JUNCTION_MARGIN_M):
            for direction in (-1, 1):
                position = start + float(rng.exponential(gap))
                while position < end:
                    model = deck.next_model(end - position)
                    if position + model.size[0] < end:
                        found += _at_curb(rng, site, street, direction, position, model)
                    position += model.size[0] + 0.9 + float(rng.exponential(gap))
    return found


def parked_on_lots(rng: np.random.Generator, site: Site, lots: list[Lot], deck: Deck) -> list[Standing]:
    """Rows of vehicles on car parks, machines and lorries on building sites."""
    found = []
    for lot in lots:
        if not lot.near or lot.use not in ("car_park", "site"):
            continue
        length, width = lot.size
        rows = [0.25, 0.75] if lot.use == "car_park" and width > 17 else [0.5]
        for share in rows:
            position = 2.5
            while position < length - 3.0:
                uv = np.array([lot.low[0] + position, lot.low[1] + width * share])
                if rng.random() < 0.65 or site.distance(uv)[0] > _NEAR_M:
                    position += 3.0
                    continue
                model = deck.next_model(min(width * 0.5, 8.0) if len(rows) == 2 else min(width - 2.0, 12.0))
                uv[0] += model.size[1] / 2
                position += model.size[1] + float(rng.uniform(0.7, 1.2))
                if position < length - 1.5 and site.claim(uv, model.size[1] / 2):
                    found.append(Standing(model, uv, np.pi / 2 + (np.pi if rng.random() < 0.4 else 0.0)))
    return found


def parked_two_wheelers(rng: np.random.Generator, site: Site, palette: Palette) -> list[Standing]:
    """Bicycles and motorcycles on the sidewalks, alone or a few side by side."""
    found = []
    for street in site.plan.streets:
        for start, end in near_spans(site, street, _JUNCTION_MARGIN_M, 30.0):
            for side in (-1, 1):
                position = start + float(rng.exponential(45))
                while position < end - 4.0:
                    maker = bicycle if rng.random() < 0.5 else motorcycle
                    for _ in range(int(rng.integers(1, 4))):
                        uv = street.uv(position, side * (street.road_half + 1.0))
                        if site.claim(uv, 0.35):
                            heading = street.plan_heading(1) + np.pi / 2 + float(rng.normal(0, 0.15))
                            found.append(Standing(maker(rng, palette, ridden=False), uv, heading))
                        position += 1.0
                    position += 25.0 + float(rng.exponential(50))
    return found
