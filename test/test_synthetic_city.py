"""The procedural city: the same from the same seed, closed solids, ground everywhere, and nobody in the way."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.data.synthetic.city import make_scene
from occ_perception.data.synthetic.overlap import rectangles_overlap
from occ_perception.data.synthetic.plan import child_generator
from occ_perception.errors import InvalidInputError
from occ_perception.ontology import OCC3D

SEEDS = (0, 2, 3, 7, 9)  # straight on, left, right; waiting and not; by day, at dusk, in fog, at night
DURATION_S = 20.0
GROUND = [OCC3D.id_of(name) for name in ("driveable_surface", "other_flat", "sidewalk", "terrain")]
EGO_LENGTH, EGO_MIDDLE, EGO_WIDTH = 4.1, 1.05, 1.73


@pytest.fixture(scope="module")
def scenes():
    return {seed: make_scene(seed, DURATION_S) for seed in SEEDS}


@pytest.fixture(params=SEEDS)
def scene(request, scenes):
    return scenes[request.param]


def arrays_of(scene):
    """Everything a scene holds, as bytes."""
    meshes = [scene.static, *(actor.mesh for actor in scene.actors)]
    trajectories = [scene.ego, *(actor.trajectory for actor in scene.actors)]
    names = ("color", "second_color", "pattern", "scale", "emission", "gloss", "reflectivity")
    arrays = [getattr(mesh, name) for mesh in meshes for name in ("vertices", "faces", "class_ids", "materials")]
    arrays += [getattr(trajectory, name) for trajectory in trajectories for name in ("times_s", "positions", "yaws")]
    arrays += [getattr(scene.materials, name) for name in names]
    facts = [(a.instance_id, a.class_id, a.category, a.size) for a in scene.actors]
    return b"".join(array.tobytes() for array in arrays) + repr((facts, scene.weather, scene.description)).encode()


def test_same_seed_same_bytes(scenes):
    assert arrays_of(make_scene(SEEDS[0], DURATION_S)) == arrays_of(scenes[SEEDS[0]])


def test_seeds_differ(scenes):
    assert len({arrays_of(scene) for scene in scenes.values()}) == len(SEEDS)


def test_negative_seed_is_named():
    with pytest.raises(InvalidInputError, match=r"seed.*-1"):
        make_scene(-1)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, np.nan, np.inf])
def test_bad_duration_is_named(duration_s):
    with pytest.raises(InvalidInputError, match="duration"):
        make_scene(0, duration_s)


def test_short_scene():
    scene = make_scene(4, 0.5)
    assert scene.ego.times_s[-1] >= 0.5
    assert len(scene.actors) > 0


def test_child_generators_are_independent():
    alone = child_generator(5, "walkers").random(4)
    child_generator(5, "traffic").random(100)
    assert np.array_equal(alone, child_generator(5, "walkers").random(4))
    assert not np.array_equal(alone, child_generator(5, "traffic").random(4))


# -- meshes ------------------------------------------------------------------------------------------------------


def test_meshes_are_valid(scene):
    rows = len(scene.materials.color)
    for mesh in (scene.static, *(actor.mesh for actor in scene.actors)):
        assert mesh.vertices.dtype == np.float32
        assert mesh.faces.dtype == np.int32
        assert np.isfinite(mesh.vertices).all()
        assert mesh.faces.min() >= 0
        assert mesh.faces.max() < len(mesh.vertices)
        assert mesh.class_ids.max() < OCC3D.num_classes
        assert mesh.materials.min() >= 0
        assert mesh.materials.max() < rows
        a, b, c = np.moveaxis(mesh.corners().astype(np.float64), 1, 0)
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
        assert (areas < 1e-7).mean() < 0.001


def test_material_table(scene):
    materials = scene.materials
    assert materials.color.shape == materials.second_color.shape == materials.emission.shape
    assert np.all((materials.color >= 0) & (materials.color <= 1))
    assert np.all(materials.scale > 0)
    assert np.all((materials.gloss >= 0) & (materials.gloss <= 1))
    assert np.all((materials.reflectivity >= 0) & (materials.reflectivity <= 255))


# -- actors ------------------------------------------------------------------------------------------------------


def test_actors_lie_tightly_in_their_boxes(scene):
    for actor in scene.actors:
        low, high = actor.mesh.vertices.min(0), actor.mesh.vertices.max(0)
        length, width, height = actor.size
        assert low == pytest.approx((-length / 2, -width / 2, 0.0), abs=1e-3)
        assert high == pytest.approx((length / 2, width / 2, height), abs=1e-3)


def test_actors_have_identities_and_things_classes(scene):
    ids = [actor.instance_id for actor in scene.actors]
    assert sorted(set(ids)) == sorted(ids)
    assert min(ids) > 0
    assert {actor.class_id for actor in scene.actors} <= set(OCC3D.thing_ids)
    assert all(actor.category.split(".")[0] in ("vehicle", "human", "movable_object") for actor in scene.actors)


def boxes_at(scene, times):
    """Middles [A, T, 2], headings [A, T] and half sizes [A, 2] of all actors."""
    centers = np.stack([actor.trajectory.poses(times)[:, :2, 3] for actor in scene.actors])
    yaws = np.stack([np.interp(times, a.trajectory.times_s, a.trajectory.yaws) for a in scene.actors])
    return centers, yaws, np.array([actor.size[:2] for actor in scene.actors]) / 2


def ego_box_at(scene, times):
    poses = scene.ego.poses(times)
    centers = poses[:, :2, 3] + EGO_MIDDLE * poses[:, :2, 0]
    return centers, np.interp(times, scene.ego.times_s, scene.ego.yaws), np.array([EGO_LENGTH, EGO_WIDTH]) / 2


def test_nobody_touches_the_recording_vehicle(scene):
    times = np.arange(0.0, DURATION_S, 0.05)
    centers, yaws, halves = boxes_at(scene, times)
    ego_centers, ego_yaws, ego_halves = ego_box_at(scene, times)
    assert not rectangles_overlap(centers, yaws, halves[:, None], ego_centers, ego_yaws, ego_halves).any()


def test_nothing_fixed_stands_in_the_recording_vehicles_way(scene):
    vertices = scene.static.vertices[np.unique(scene.static.faces[~np.isin(scene.static.class_ids, GROUND)])]
    low = vertices[vertices[:, 2] < 2.0, :2].astype(np.float64)
    centers, yaws, halves = ego_box_at(scene, np.arange(0.0, DURATION_S, 0.25))
    gap = low - centers[:, None]
    ahead = np.abs(gap[..., 0] * np.cos(yaws)[:, None] + gap[..., 1] * np.sin(yaws)[:, None])
    aside = np.abs(gap[..., 1] * np.cos(yaws)[:, None] - gap[..., 0] * np.sin(yaws)[:, None])
    assert not ((ahead < halves[0]) & (aside < halves[1])).any()


def test_actors_do_not_touch_each_other(scene):
    times = np.arange(0.0, DURATION_S, 0.4)
    centers, yaws, halves = boxes_at(scene, times)
    first, second = np.triu_indices(len(yaws), 1)
    near = np.linalg.norm(centers[first] - centers[second], axis=-1).min(1) < 16
    first, second = first[near], second[near]
    hits = rectangles_overlap(
        centers[first], yaws[first], halves[first][:, None], centers[second], yaws[second], halves[second][:, None]
    )
    assert not hits.any()


def test_speeds_and_accelerations_are_bounded(scene):
    for trajectory in (scene.ego, *(actor.trajectory for actor in scene.actors)):
        if len(trajectory.times_s) < 3:
            continue
        velocities = np.diff(trajectory.positions[:, :2], axis=0) / np.diff(trajectory.times_s)[:, None]
        speeds = np.linalg.norm(velocities, axis=1)
        assert speeds.max() < 16.0
        steps = np.diff(trajectory.times_s)[1:]
        # Walkers set out and stop at once.
        limit = 9.0 if speeds.max() > 2.0 else 2.0 / steps.min()
        assert (np.linalg.norm(np.diff(velocities, axis=0), axis=1) / steps).max() < limit


def test_recording_vehicle_drives_where_it_looks(scene):
    velocities = np.diff(scene.ego.positions[:, :2], axis=0) / np.diff(scene.ego.times_s)[:, None]
    fast = np.linalg.norm(velocities, axis=1) > 1.0
    headings = np.arctan2(velocities[fast, 1], velocities[fast, 0])
    difference = np.angle(np.exp(1j * (headings - scene.ego.yaws[:-1][fast])))
    assert np.all(np.abs(difference) < 0.15)
    assert scene.ego.times_s[0] == 0.0
    assert scene.ego.times_s[-1] >= DURATION_S
    assert np.ptp(scene.ego.positions[:, 2]) == 0.0


# -- what is around ------------------------------------------------------------------------------------------------


def classes_around(scene, times):
    """Whether each class is within 40 m of the vehicle, bool [T, 17]."""
    middles = scene.static.corners().mean(1)[:, :2]
    seen = np.zeros((len(times), OCC3D.num_classes), bool)
    actor_classes = np.array([actor.class_id for actor in scene.actors])
    centers = boxes_at(scene, times)[0]
    for row, position in enumerate(scene.ego.poses(times)[:, :2, 3]):
        seen[row, scene.static.class_ids[np.linalg.norm(middles - position, axis=1) < 40]] = True
        seen[row, actor_classes[np.linalg.norm(centers[:, row] - position, axis=1) < 40]] = True
    return seen


def test_all_classes_are_around_often(scenes):
    times = np.arange(0.0, DURATION_S, 2.0)
    shares = np.concatenate([classes_around(scene, times) for scene in scenes.values()]).mean(0)
    assert dict(zip(OCC3D.class_names, shares >= 0.25, strict=True)) == dict.fromkeys(OCC3D.class_names, True)


def test_triangles_are_few(scene):
    middles = scene.static.corners().mean(1)[:, :2]
    path = scene.ego.positions[::20, :2]
    near = np.linalg.norm(middles[:, None] - path, axis=-1).min(1) < 90
    assert near.sum() < 50_000
    assert np.mean([len(actor.mesh.faces) for actor in scene.actors]) < 220


def ground_below(scene, points):
    """Highest ground surface at points [N, 2]: height (-inf where there is none) and class."""
    chosen = np.isin(scene.static.class_ids, GROUND)
    corners = scene.static.corners()[chosen].astype(np.float64)
    class_ids = scene.static.class_ids[chosen]
    a, b, c = np.moveaxis(corners[..., :2], 1, 0)
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    up = area > 1e-9
    a, ab, ac, area, heights, class_ids = (x[up] for x in (a, ab, ac, area, corners[..., 2], class_ids))
    found, classes = np.full(len(points), -np.inf), np.full(len(points), 255)
    for start in range(0, len(points), 100):
        gap = points[start : start + 100, None] - a
        t1 = (gap[..., 0] * ac[:, 1] - gap[..., 1] * ac[:, 0]) / area
        t2 = (ab[:, 0] * gap[..., 1] - ab[:, 1] * gap[..., 0]) / area
        inside = (t1 >= -1e-5) & (t2 >= -1e-5) & (t1 + t2 <= 1 + 1e-5)
        z = heights[:, 0] + t1 * (heights[:, 1] - heights[:, 0]) + t2 * (heights[:, 2] - heights[:, 0])
        z = np.where(inside, z, -np.inf)
        found[start : start + 100] = z.max(1)
        classes[start : start + 100] = class_ids[z.argmax(1)]
    return found, classes


def test_ground_is_everywhere(scene):
    rng = np.random.default_rng(0)
    path = scene.ego.positions[::40, :2]
    angles, distances = rng.uniform(0, 2 * np.pi, (len(path), 60)), rng.uniform(0, 110, (len(path), 60))
    around = path[:, None] + distances[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    heights, _ = ground_below(scene, around.reshape(-1, 2))
    assert heights.min() >= -0.15
    assert heights.max() <= 1.0
    horizon = 350.0 * np.stack([np.cos(angles[0]), np.sin(angles[0])], -1) + path[-1]
    assert np.isfinite(ground_below(scene, horizon)[0]).all()
    heights, classes = ground_below(scene, path)
    assert np.abs(heights).max() < 0.03
    assert set(classes) == {OCC3D.id_of("driveable_surface")}


def test_ground_looks_up_and_curbs_look_down_the_step(scene):
    corners = scene.static.corners()[np.isin(scene.static.class_ids, GROUND)].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert normals[:, 2].min() > -1e-3
    middles, path = corners.mean(1), scene.ego.positions[::20, :2]
    near = np.linalg.norm(middles[:, None, :2] - path, axis=-1).min(1) < 40
    steps = np.flatnonzero(near & (normals[:, 2] < 0.05))
    steps = np.random.default_rng(0).choice(steps, 200)
    ahead, _ = ground_below(scene, middles[steps, :2] + 0.05 * normals[steps, :2])
    behind, _ = ground_below(scene, middles[steps, :2] - 0.05 * normals[steps, :2])
    assert np.all(ahead < behind)


def test_sidewalks_are_higher_than_roads(scene):
    sidewalks = scene.static.corners()[scene.static.class_ids == OCC3D.id_of("sidewalk")][..., 2]
    top = sidewalks[np.ptp(sidewalks, axis=1) == 0]
    assert np.all((top > 0.119) & (top < 0.181))
    assert (np.ptp(sidewalks, axis=1) > 0.05).any()  # curb faces
