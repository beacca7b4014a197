"""What the city is made of: closed solids of plausible sizes, drivers, weather, overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from occ_perception.data.synthetic import furniture
from occ_perception.data.synthetic.buildings import building
from occ_perception.data.synthetic.following import STEP_S, Drivers, RedLight, simulate
from occ_perception.data.synthetic.machines import construction_vehicle
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.overlap import rectangles_overlap, without_collisions
from occ_perception.data.synthetic.people import bicycle, motorcycle, pedestrian
from occ_perception.data.synthetic.plan import child_generator, make_plan
from occ_perception.data.synthetic.routes import lane_route
from occ_perception.data.synthetic.small_objects import barrier, other_object, traffic_cone
from occ_perception.data.synthetic.vegetation import bush, street_tree, tree
from occ_perception.data.synthetic.vehicles import bus, car, trailer, truck
from occ_perception.data.synthetic.weather import KINDS, make_weather
from occ_perception.ontology import OCC3D

DURATION_S = 20.0


def assert_closed_and_outward(mesh):
    """Every connected part is watertight (each edge once in each direction) and has a positive volume."""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).astype(np.int64)
    forth, back = edges[:, 0] * len(mesh.vertices) + edges[:, 1], edges[:, 1] * len(mesh.vertices) + edges[:, 0]
    assert len(np.unique(forth)) == len(forth)
    assert np.array_equal(np.sort(forth), np.sort(back))
    links = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(mesh.vertices),) * 2)
    parts = connected_components(links, directed=False)[1][mesh.faces[:, 0]]
    corners = mesh.corners().astype(np.float64)
    corners -= corners.reshape(-1, 3).mean(0)
    volumes = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert (np.bincount(parts, volumes)[np.unique(parts)] > 0).all()


MAKERS = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "trailer": trailer,
    "construction_vehicle": construction_vehicle,
    "bicycle": lambda rng, palette: bicycle(rng, palette, ridden=True),
    "motorcycle": lambda rng, palette: motorcycle(rng, palette, ridden=True),
    "pedestrian": pedestrian,
    "traffic_cone": traffic_cone,
    "barrier": barrier,
}
# Lengths, widths and heights that are plausible, metres.
BOUNDS = {
    "car": ((3.2, 1.5, 1.3), (5.8, 2.2, 2.4)),
    "truck": ((5.8, 2.0, 2.4), (10.0, 2.8, 4.2)),
    "bus": ((8.8, 2.4, 2.8), (12.8, 2.8, 3.9)),
    "trailer": ((2.4, 1.4, 1.0), (12.5, 2.8, 4.3)),
    "construction_vehicle": ((3.0, 1.5, 1.9), (8.5, 4.5, 4.9)),
    "bicycle": ((1.5, 0.4, 1.0), (2.0, 0.9, 2.0)),
    "motorcycle": ((1.5, 0.4, 1.0), (2.4, 1.0, 2.0)),
    "pedestrian": ((0.15, 0.3, 0.9), (1.3, 1.3, 2.5)),
    "traffic_cone": ((0.2, 0.2, 0.4), (0.6, 0.6, 1.3)),
    "barrier": ((1.1, 0.04, 0.7), (3.1, 0.7, 1.2)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_actor_models(name):
    low, high = BOUNDS[name]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        model = MAKERS[name](rng, Palette(rng, night=False))
        assert OCC3D.class_names[model.class_id] == name
        assert set(model.mesh.class_ids) == {model.class_id}
        assert np.all(np.array(model.size) >= low), (seed, model.size)
        assert np.all(np.array(model.size) <= high), (seed, model.size)
        assert_closed_and_outward(model.mesh)


def test_static_models_are_solids():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        palette = Palette(rng, night=True)
        meshes = [
            building(rng, palette, 14.0, 10.0, detailed=True),
            tree(rng, palette),
            street_tree(rng, palette),
            bush(rng, palette),
            other_object(rng, palette),
            furniture.street_lamp(palette, 7.0, 1.5),
            furniture.traffic_light(palette, 4.0, "red"),
            furniture.sign(rng, palette),
            furniture.bus_shelter(palette),
            furniture.bench(palette),
            furniture.cabinet(rng, palette),
            furniture.mast(rng, palette),
        ]
        for mesh in meshes:
            assert_closed_and_outward(mesh)


def test_weather_shares():
    kinds = [make_weather(child_generator(seed, "weather"))[0] for seed in range(300)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in KINDS}
    assert 0.5 < shares["day"] < 0.7
    assert 0.1 < shares["dusk"] + shares["overcast"] < 0.22
    assert 0.1 < shares["night"] < 0.2
    assert 0.05 < shares["fog"] + shares["rain"] < 0.16


@pytest.fixture
def lane():
    plan = make_plan(np.random.default_rng(1), DURATION_S)
    return lane_route(plan, plan.main, 1, 0, 12.0)


def test_drivers_stop_at_the_red_light_and_keep_apart(lane):
    drivers = Drivers(
        np.zeros(3, int), np.array([10.0, 30.0, 50.0]), np.full(3, 2.3), np.full(3, 2.3), np.full(3, 11.0)
    )
    history = simulate(drivers, [lane], [RedLight(0, 100.0, 0.0, np.inf)], 40.0)
    assert history.shape == (int(40.0 / STEP_S) + 1, 3)
    assert 90.0 < history[-1, 2] + 2.3 < 100.0
    assert np.all(np.diff(history, axis=1) > 4.6)
    assert np.all(np.diff(history, axis=0) >= 0)


def test_drivers_go_when_the_light_turns_green(lane):
    drivers = Drivers(np.zeros(1, int), np.array([50.0]), np.full(1, 2.3), np.full(1, 2.3), np.full(1, 9.0))
    history = simulate(drivers, [lane], [RedLight(0, 100.0, 0.0, 15.0)], 30.0)[:, 0]
    assert history[int(15.0 / STEP_S)] < 97.8
    assert history[-1] > 130.0


def test_rectangles_overlap():
    def hit(center, yaw):
        middle, half = np.zeros(2), np.array([2.0, 1.0])
        return bool(rectangles_overlap(middle, np.float64(0), half, np.array(center), np.float64(yaw), half))

    assert hit((3.9, 0.0), 0.0)
    assert not hit((4.1, 0.0), 0.0)
    assert hit((0.0, 2.9), np.pi / 2)
    assert not hit((0.0, 2.9), 0.0)
    assert not hit((3.0, 2.0), np.pi / 4 * 3)


def test_of_two_that_meet_the_later_goes():
    times = np.linspace(-10, 10, 41)
    still, moving = np.zeros((41, 2)), np.column_stack([times, np.zeros(41)])
    aside = moving + np.array([0.0, 5.0])
    stays = without_collisions(np.stack([still, moving, aside]), np.zeros((3, 41)), np.full((3, 2), 1.0))
    assert stays.tolist() == [True, False, True]
