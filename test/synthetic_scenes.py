"""Small hand-made scenes: a flat street between two walls with a few cars, whose exact answers are known."""

import numpy as np

from occ_perception.data.synthetic.scene import Actor, Materials, Scene, Trajectory, TriangleMesh, Weather
from occ_perception.ontology import OCC3D

_BOX_FACES = np.array(
    [
        [0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4],
        [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7],
    ],
    np.int32,
)  # fmt: skip


def box_mesh(lower, upper, class_name):
    """A closed box."""
    (x0, y0, z0), (x1, y1, z1) = lower, upper
    floor = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    vertices = np.array([(x, y, z) for z in (z0, z1) for x, y in floor], np.float32)
    return TriangleMesh(vertices, _BOX_FACES, np.full(12, OCC3D.id_of(class_name), np.uint8), np.zeros(12, np.int32))


def car(instance_id, start, velocity, yaw, duration_s, size=(4.4, 1.9, 1.5), class_name="car"):
    """A box that moves in a straight line."""
    length, width, height = size
    bottom = 0.0 if class_name == "pedestrian" else 0.2
    mesh = box_mesh((-length / 2, -width / 2, bottom), (length / 2, width / 2, height), class_name)
    times = np.array([0.0, duration_s])
    positions = np.array([[*start, 0.0], [start[0] + velocity[0] * duration_s, start[1] + velocity[1] * duration_s, 0]])
    trajectory = Trajectory(times, positions, np.full(2, yaw))
    return Actor(
        instance_id,
        OCC3D.id_of(class_name),
        "human.pedestrian.adult" if class_name == "pedestrian" else f"vehicle.{class_name}",
        mesh,
        size,
        trajectory,
    )


def street(duration_s=4.0, speed=8.0, yaw=0.3):
    """Driving along ``yaw`` in a world that is turned by it: an oncoming car, a parked one, and a person who walks."""
    static = TriangleMesh.merged(
        [
            box_mesh((-45, -45, -1.5), (65, 45, 0.0), "driveable_surface"),
            box_mesh((-30, 9, 0.0), (60, 10, 7.0), "manmade"),
            box_mesh((-30, -10, 0.0), (60, -9, 4.0), "vegetation"),
        ]
    )
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s], [s, c]])
    spun = static.vertices.copy()
    spun[:, :2] = spun[:, :2] @ turn.T.astype(np.float32)
    static = TriangleMesh(spun, static.faces, static.class_ids, static.materials)

    def along(x, y):
        return tuple(turn @ np.array([x, y]))

    actors = (
        car(1, along(30, 3.5), along(-10, 0), yaw + np.pi, duration_s),
        car(2, along(12, -5.5), (0.0, 0.0), yaw, duration_s),
        car(7, along(22, -6.0), along(0, 1.5), yaw + np.pi / 2, duration_s, (0.6, 0.6, 1.75), "pedestrian"),
    )
    end = turn @ np.array([speed * duration_s, 0.0])
    ego = Trajectory(np.array([0.0, duration_s]), np.array([[0, 0, 0], [*end, 0.0]]), np.full(2, yaw))
    return Scene(5, duration_s, static, actors, materials(), weather(), ego, "hand-made street")


def materials():
    one = np.ones((1, 3), np.float32)
    return Materials(
        color=0.5 * one,
        second_color=0.2 * one,
        pattern=np.zeros(1, np.uint8),
        scale=np.ones(1, np.float32),
        emission=0 * one,
        gloss=np.zeros(1, np.float32),
        reflectivity=np.full(1, 40, np.float32),
    )


def weather():
    return Weather((0.3, 0.2, 0.93), (1.0, 0.95, 0.9), (0.4, 0.45, 0.5), (0.3, 0.5, 0.9), (0.7, 0.8, 0.9))
