"""What a synthetic scene is made of: triangle meshes with materials, moving actors, weather, and a vehicle's path.

The world frame is z up, metres; the road surface near the vehicle's path is z = 0.  Layout code makes a `Scene`; the
renderer, the LiDAR and the labels read it and nothing else, so that all of them agree on what is where.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from occ_perception.errors import InvalidInputError


class Pattern(IntEnum):
    """Procedural texture of a material, evaluated at the surface point in its mesh's own frame."""

    PLAIN = 0
    NOISE = 1  # two colours mixed by smooth noise: asphalt, soil, plaster
    LEAVES = 2  # two colours mixed by fine, hard noise: foliage, grass
    BRICKS = 3  # rows of blocks with joints in the second colour: walls, paving
    WINDOWS = 4  # a regular grid of panes in the second colour: facades
    STRIPES = 5  # bands across the first horizontal axis: barriers, cones, crossings


@dataclass(frozen=True)
class Materials:
    """A table of M materials; meshes refer to its rows.

    Attributes:
        color, second_color: float32 [M, 3], linear RGB 0..1.
        pattern: uint8 [M], `Pattern`.
        scale: float32 [M], size of the pattern's features, metres.
        emission: float32 [M, 3], light given off (lamps, windows at night).
        gloss: float32 [M], 0 matt .. 1 mirror-like highlight.
        reflectivity: float32 [M], LiDAR intensity of a perpendicular hit, 0..255.
    """

    color: np.ndarray
    second_color: np.ndarray
    pattern: np.ndarray
    scale: np.ndarray
    emission: np.ndarray
    gloss: np.ndarray
    reflectivity: np.ndarray


@dataclass(frozen=True)
class TriangleMesh:
    """Triangles, counter-clockwise seen from outside.

    Attributes:
        vertices: float32 [V, 3], metres.
        faces: int32 [F, 3].
        class_ids: uint8 [F], Occ3D classes.
        materials: int32 [F], rows of `Materials`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    class_ids: np.ndarray
    materials: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.faces)
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3 or self.faces.shape != (count, 3):
            raise InvalidInputError(
                f"mesh: vertices {self.vertices.shape} and faces {self.faces.shape} are no triangles"
            )
        if len(self.class_ids) != count or len(self.materials) != count:
            raise InvalidInputError(
                f"mesh: {count} faces, {len(self.class_ids)} classes, {len(self.materials)} materials"
            )

    def corners(self) -> np.ndarray:
        """float32 [F, 3, 3], the three corners of every triangle."""
        return self.vertices[self.faces]

    @staticmethod
    def merged(meshes: list[TriangleMesh]) -> TriangleMesh:
        """All meshes as one."""
        offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
        faces = [mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=False)]
        return TriangleMesh(
            np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float32),
            np.concatenate(faces).astype(np.int32),
            np.concatenate([mesh.class_ids for mesh in meshes]).astype(np.uint8),
            np.concatenate([mesh.materials for mesh in meshes]).astype(np.int32),
        )


@dataclass(frozen=True)
class Trajectory:
    """Poses over time, upright on the ground; before the first and after the last the pose is held.

    Attributes:
        times_s: float64 [T], ascending, seconds since the scene's start.
        positions: float64 [T, 3], metres, world frame.
        yaws: float64 [T], radians, unwrapped.
    """

    times_s: np.ndarray
    positions: np.ndarray
    yaws: np.ndarray

    def poses(self, times_s: np.ndarray) -> np.ndarray:
        """world_from_body at times [N], float64 [N, 4, 4]; linear between the knots."""
        times = np.clip(np.asarray(times_s, np.float64), self.times_s[0], self.times_s[-1])
        yaw = np.interp(times, self.times_s, self.yaws)
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, 0, 0] = poses[:, 1, 1] = np.cos(yaw)
        poses[:, 1, 0] = np.sin(yaw)
        poses[:, 0, 1] = -poses[:, 1, 0]
        for axis in range(3):
            poses[:, axis, 3] = np.interp(times, self.times_s, self.positions[:, axis])
        return poses

    def pose(self, time_s: float) -> np.ndarray:
        """world_from_body at one time, float64 [4, 4]."""
        return self.poses(np.array([time_s]))[0]

    def velocity(self, time_s: float, step_s: float = 0.05) -> np.ndarray:
        """Velocity in the world frame, float64 [3], m/s: central difference over two steps."""
        ahead, behind = self.poses(np.array([time_s + step_s, time_s - step_s]))[:, :3, 3]
        return (ahead - behind) / (2 * step_s)


@dataclass(frozen=True)
class Actor:
    """An object with an identity, moving or parked.

    Attributes:
        instance_id: > 0, unique in the scene.
        class_id: Occ3D class.
        category: nuScenes category name, e.g. "vehicle.car".
        mesh: in the actor's own frame: origin in the middle of its footprint on the ground, x forward, z up.
        size: length, width, height of its box, metres; the mesh lies inside.
        trajectory: of that frame.
    """

    instance_id: int
    class_id: int
    category: str
    mesh: TriangleMesh
    size: tuple[float, float, float]
    trajectory: Trajectory


@dataclass(frozen=True)
class Weather:
    """Light and air of a scene; colours are linear RGB float 0..1 or more.

    Attributes:
        sun_direction: unit vector towards the sun (or moon), world frame.
        sun_color: light that a perpendicular surface receives from it.
        ambient_color: light from everywhere.
        sky_color, horizon_color: of the sky overhead and at the horizon.
        cloudiness: 0..1, contrast of clouds.
        fog_density: extinction, 1/m; 0 = clear.
        headlights: the vehicle lights the road ahead (night).
        exposure: factor from light to pixel values before the camera's response curve.
        noise: standard deviation of pixel noise, 0..1 of full scale.
        wetness: 0..1, darker and glossier ground; more LiDAR drop-outs.
    """

    sun_direction: tuple[float, float, float]
    sun_color: tuple[float, float, float]
    ambient_color: tuple[float, float, float]
    sky_color: tuple[float, float, float]
    horizon_color: tuple[float, float, float]
    cloudiness: float = 0.0
    fog_density: float = 0.0
    headlights: bool = False
    exposure: float = 1.0
    noise: float = 0.01
    wetness: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One scene: everything that stands still, everything that moves, the air, and the vehicle's path.

    Attributes:
        seed: equal seeds give equal scenes; renderer and LiDAR seed their noise with it.
        duration_s: for which the trajectories are made, seconds.
        static: the world that never moves (world frame).
        actors: objects with identities, parked ones too.
        materials: table that all meshes refer to.
        weather: light and air.
        ego: path of the recording vehicle (base_link: middle of the rear axle on the ground).
        description: in words, e.g. "night, rain, junction".
    """

    seed: int
    duration_s: float
    static: TriangleMesh
    actors: tuple[Actor, ...]
    materials: Materials
    weather: Weather
    ego: Trajectory
    description: str = ""
