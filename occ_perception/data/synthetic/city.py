"""The procedural city: `make_scene` puts the parts together."""

from __future__ import annotations

from itertools import chain

import numpy as np

from occ_perception.data.synthetic.ground import make_ground
from occ_perception.data.synthetic.ground_mesh import ground_mesh
from occ_perception.data.synthetic.lots import Lot, make_lots
from occ_perception.data.synthetic.markings import road_markings
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel
from occ_perception.data.synthetic.overlap import without_collisions
from occ_perception.data.synthetic.plan import child_generator, make_plan
from occ_perception.data.synthetic.scene import Actor, Scene, Trajectory, TriangleMesh
from occ_perception.data.synthetic.scenery import lot_scenery, street_scenery, traffic_lights
from occ_perception.data.synthetic.site import Site
from occ_perception.data.synthetic.standing import (
    Deck,
    Standing,
    bus_stops,
    parked_at_curb,
    parked_on_lots,
    parked_two_wheelers,
    work_zones,
)
from occ_perception.data.synthetic.traffic import (
    EGO_FRONT_M,
    EGO_REAR_M,
    EGO_WIDTH_M,
    Itinerary,
    make_itinerary,
    make_traffic,
)
from occ_perception.data.synthetic.walkers import make_walkers
from occ_perception.data.synthetic.weather import make_weather
from occ_perception.errors import InvalidInputError

_STEP_S = 0.1
_EGO_MARGIN_M, _ACTOR_MARGIN_M = 0.35, 0.03

Placed = tuple[ActorModel, Trajectory]


def make_scene(seed: int, duration_s: float = 20.0) -> Scene:
    """A city drive; equal seeds (>= 0) and durations give equal scenes.

    Raises:
        InvalidInputError: the seed is negative, or the duration not positive and finite.
    """
    if not 0 < duration_s < np.inf:
        raise InvalidInputError(f"scene duration: expected seconds > 0, got {duration_s}")
    kind, weather = make_weather(child_generator(seed, "weather"))
    palette = Palette(child_generator(seed, "palette"), night=weather.headlights)
    plan = make_plan(child_generator(seed, "plan"), duration_s)
    itinerary = make_itinerary(child_generator(seed, "itinerary"), plan, duration_s)
    path = itinerary.path(plan.reach)
    lots = make_lots(child_generator(seed, "lots"), plan, path)
    site = Site(plan, make_ground(child_generator(seed, "ground"), plan, palette, lots, path), path)

    lights = traffic_lights(child_generator(seed, "traffic lights"), site, palette, itinerary)
    ego, actors = _actors(seed, site, palette, lots, itinerary, duration_s)
    static = [
        ground_mesh(site.ground, plan.warp, palette.curb),
        *road_markings(child_generator(seed, "markings"), plan, palette, path),
        *lights,
        *street_scenery(child_generator(seed, "street scenery"), site, palette),
        *lot_scenery(child_generator(seed, "lot scenery"), site, palette, lots),
    ]
    turn = {-1: "right turn", 0: "straight on", 1: "left turn"}[plan.turn]
    waits = any(phase.wait_s > 0 for phase in itinerary.phases)
    description = ", ".join([kind, turn, *(["red light"] if waits else [])])
    materials = palette.table.build()
    return Scene(seed, duration_s, TriangleMesh.merged(static), actors, materials, weather, ego, description)


def _actors(
    seed: int, site: Site, palette: Palette, lots: list[Lot], itinerary: Itinerary, duration_s: float
) -> tuple[Trajectory, tuple[Actor, ...]]:
    """The recording vehicle's trajectory, and all actors that touch neither it nor each other."""
    traffic_rng = child_generator(seed, "traffic")
    ego, moving = make_traffic(traffic_rng, site.plan, palette, itinerary, duration_s)
    deck = Deck(child_generator(seed, "deck"), palette)
    standing = [
        *bus_stops(child_generator(seed, "bus stops"), site, palette),
        *work_zones(child_generator(seed, "work zones"), site, palette),
        *parked_at_curb(child_generator(seed, "curb"), site, deck),
        *parked_two_wheelers(child_generator(seed, "two-wheelers"), site, palette),
        *parked_on_lots(child_generator(seed, "lot parking"), site, lots, deck),
    ]
    walkers = make_walkers(child_generator(seed, "walkers"), site, palette, lots, itinerary, duration_s)
    placed: list[Placed] = list(
        chain(
            ((item.model, _held(site, item)) for item in standing),
            ((item.model, item.trajectory) for item in moving),
            ((item.model, item.trajectory) for item in walkers),
        )
    )
    stays = _untouched(ego, placed, duration_s)
    return ego, tuple(
        Actor(index, model.class_id, model.category, model.mesh, model.size, trajectory)
        for index, (model, trajectory) in enumerate((p for p, stay in zip(placed, stays, strict=True) if stay), start=1)
    )


def _held(site: Site, item: Standing) -> Trajectory:
    position = site.position(item.uv)
    return Trajectory(np.zeros(1), position[None], np.array([site.yaw(item.uv, item.plan_heading)]))


def _untouched(ego: Trajectory, placed: list[Placed], duration_s: float) -> np.ndarray:
    """Which actors may stay, bool [N]."""
    times = np.arange(0.0, duration_s + _STEP_S / 2, _STEP_S)
    ego_poses = ego.poses(times)
    middle = (EGO_FRONT_M - EGO_REAR_M) / 2
    centers = [ego_poses[:, :2, 3] + middle * ego_poses[:, :2, 0]]
    yaws = [np.interp(times, ego.times_s, ego.yaws)]
    ego_half = np.array([EGO_FRONT_M + EGO_REAR_M, EGO_WIDTH_M]) / 2 + _EGO_MARGIN_M
    halves = [ego_half]
    for model, trajectory in placed:
        centers.append(trajectory.poses(times)[:, :2, 3])
        yaws.append(np.interp(times, trajectory.times_s, trajectory.yaws))
        halves.append(np.array(model.size[:2]) / 2 + _ACTOR_MARGIN_M)
    return without_collisions(np.stack(centers), np.stack(yaws), np.stack(halves))[1:]
