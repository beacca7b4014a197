"""Small scenes with closed forms for the tests of the synthetic world: a ground, boxes, a road with walls, a camera."""

import dataclasses

import numpy as np

from occ_perception.data.synthetic.scene import Actor, Materials, Scene, Trajectory, TriangleMesh, Weather
from occ_perception.geometry import PinholeCamera, inverse, rigid_from_rotation, transform_points
from occ_perception.ontology import OCC3D

ROAD, CAR, PEDESTRIAN = (OCC3D.id_of(name) for name in ("driveable_surface", "car", "pedestrian"))
MANMADE, VEGETATION = (OCC3D.id_of(name) for name in ("manmade", "vegetation"))
_CATEGORIES = {CAR: "vehicle.car", PEDESTRIAN: "human.pedestrian.adult"}
GREY, RED, LAMP, DULL = range(4)  # materials
CLEAR = Weather(
    sun_direction=(0.0, 0.0, 1.0),
    sun_color=(1.0, 1.0, 1.0),
    ambient_color=(0.3, 0.3, 0.3),
    sky_color=(0.2, 0.4, 0.9),
    horizon_color=(0.8, 0.9, 1.0),
    noise=0.0,
)
NO_TRIANGLES = TriangleMesh(
    np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int32)
)


def materials() -> Materials:
    color = np.array([[0.4, 0.4, 0.4], [0.6, 0.05, 0.05], [0.5, 0.5, 0.5], [0.4, 0.4, 0.4]], np.float32)
    emission = np.zeros((4, 3), np.float32)
    emission[LAMP] = 3.0
    return Materials(
        color, color.copy(), np.zeros(4, np.uint8), np.ones(4, np.float32), emission, np.zeros(4, np.float32),
        np.array([20, 60, 30, 2], np.float32),
    )  # fmt: skip


def triangles(corners, class_id, material=GREY):
    """A mesh of [F, 3, 3] corners."""
    count = len(corners)
    return TriangleMesh(
        np.asarray(corners, np.float32).reshape(-1, 3),
        np.arange(3 * count, dtype=np.int32).reshape(-1, 3),
        np.full(count, class_id, np.uint8),
        np.full(count, material, np.int32),
    )


def quads(corners, class_id, material=GREY):
    """A mesh of [Q, 4, 3] corners, two triangles each."""
    corners = np.asarray(corners, np.float64)
    return triangles(corners[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3), class_id, material)


def ground(half=200.0, tile=None):
    """The plane z = 0 in square tiles (None: one)."""
    tile = tile or 2 * half
    x, y = np.meshgrid(np.arange(-half, half, tile), np.arange(-half, half, tile))
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * tile
    return quads(np.stack([x, y, 0 * x], -1).reshape(-1, 1, 3) + corners, ROAD)


def box(center, size, class_id=MANMADE, material=GREY):
    """An axis-parallel box; center: of its volume."""
    signs = np.array(
        [[-1, -1, -1], [1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]
    )
    faces = [[3, 2, 1, 0], [4, 5, 6, 7], [0, 1, 5, 4], [2, 3, 7, 6], [1, 2, 6, 5], [3, 0, 4, 7]]
    return quads((np.asarray(center) + signs * np.asarray(size) / 2)[faces], class_id, material)


def box_between(lower, upper, class_id=MANMADE, material=GREY):
    """The same from its lowest corner to its highest."""
    lower, upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    return box((lower + upper) / 2, upper - lower, class_id, material)


def standing(x=0.0, y=0.0, yaw=0.0):
    """A trajectory that stays."""
    return Trajectory(np.zeros(1), np.array([[x, y, 0.0]]), np.array([yaw]))


def straight(start, velocity, yaw, duration_s):
    """A trajectory on a line; the body looks along ``yaw`` wherever it goes."""
    knots = np.array([[*start, 0.0], [*(np.asarray(start) + np.asarray(velocity) * duration_s), 0.0]])
    return Trajectory(np.array([0.0, duration_s]), knots, np.full(2, yaw))


def car(instance_id, trajectory, size=(4.0, 2.0, 1.5), clearance=0.0, class_id=CAR):
    """An actor that is a red box, ``clearance`` above the road."""
    length, width, height = size
    mesh = box_between((-length / 2, -width / 2, clearance), (length / 2, width / 2, height), class_id, RED)
    return Actor(instance_id, class_id, _CATEGORIES[class_id], mesh, size, trajectory)


def scene(meshes=(), actors=(), weather=CLEAR, ego=None, duration_s=2.0):
    static = TriangleMesh.merged(list(meshes)) if meshes else NO_TRIANGLES
    return Scene(7, duration_s, static, tuple(actors), materials(), weather, ego or standing())


def walled_road(duration_s=4.0, speed=8.0, yaw=0.3):
    """Driving along ``yaw`` between walls 9 m to either side: an oncoming car (1), a parked one (2), and a person
    who walks (7); the whole world is turned by ``yaw``."""
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])

    def path(start, velocity, heading=0.0):
        return straight(turn @ start, turn @ velocity, yaw + heading, duration_s)

    road = box_between((-45, -45, -1.5), (65, 45, 0), ROAD)
    walls = box_between((-30, 9, 0), (60, 10, 7)), box_between((-30, -10, 0), (60, -9, 4), VEGETATION)
    actors = (
        car(1, path((30, 3.5), (-10, 0), np.pi), (4.4, 1.9, 1.5), 0.2),
        car(2, path((12, -5.5), (0, 0)), (4.4, 1.9, 1.5), 0.2),
        car(7, path((22, -6), (0, 1.5), np.pi / 2), (0.6, 0.6, 1.75), class_id=PEDESTRIAN),
    )
    noisy = dataclasses.replace(CLEAR, noise=0.01)
    return scene([_turned(mesh, turn) for mesh in (road, *walls)], actors, noisy, path((0, 0), (speed, 0)), duration_s)


def _turned(mesh, turn):
    """A mesh turned about z by a matrix [2, 2]."""
    vertices = np.column_stack([mesh.vertices[:, :2] @ turn.T, mesh.vertices[:, 2]])
    return dataclasses.replace(mesh, vertices=vertices.astype(np.float32))


HEIGHT = 1.5


def camera(width=176, height=64, yaw=0.0):
    """A level camera above the vehicle's origin, with nuScenes' field of view."""
    forward, right = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    focal = 1266.0 * width / 1600
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return PinholeCamera(intrinsics, rigid_from_rotation(rotation, [0, 0, HEIGHT]), width, height)


def pixel_rays(view):
    """Rays of depth 1 through the pixels' middles in the vehicle's axes, float64 [H, W, 3]."""
    u, v = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.intrinsics).T
    return rays @ view.ego_from_camera[:3, :3].T


def pixel_of(view, point):
    """Row and column of the pixel that shows a point of the vehicle's frame."""
    pixels, _, visible = view.project(transform_points(inverse(view.ego_from_camera), np.array([point], np.float64)))
    assert visible[0], f"{point} is outside the picture"
    column, row = np.floor(pixels[0]).astype(int)
    return int(row), int(column)


def first_hits(origins, directions, corners):
    """Distance in units of the direction (inf = none) and triangle of the first hit of rays [N, 3] (Moeller and
    Trumbore 1997), float64."""
    p0, p1, p2 = np.moveaxis(np.asarray(corners, np.float64), 1, 0)
    across = np.cross(directions[:, None], (p2 - p0)[None])
    determinant = (across * (p1 - p0)).sum(-1)
    offset = origins[:, None] - p0
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (offset * across).sum(-1) / determinant
        other = np.cross(offset, (p1 - p0)[None])
        v = (directions[:, None] * other).sum(-1) / determinant
        t = ((p2 - p0) * other).sum(-1) / determinant
        t = np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0.05), t, np.inf)
    return t.min(1), t.argmin(1)


def distance_to_box(points, center, size):
    """Distance of points [N, 3] to an axis-parallel box's surface."""
    outside = np.abs(points - np.asarray(center)) - np.asarray(size) / 2
    return np.abs(np.linalg.norm(np.maximum(outside, 0), axis=1) + np.minimum(outside.max(1), 0))
