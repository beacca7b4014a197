"""A spinning LiDAR in a scene: 32 beams x 1084 columns, one clockwise turn in 50 ms, compensated to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.data.synthetic.scene import Scene, TriangleMesh
from occ_perception.data.synthetic.scene_buffers import BodyPoses, body_instances, mesh_radius
from occ_perception.data.synthetic.warp_runtime import load_kernels, load_warp
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import check_rigid, inverse, transform_points

COLUMNS, RINGS = 1084, 32
PERIOD_S = 0.05
MAX_RANGE_M, RANGE_NOISE_M = 75.0, 0.02

_ELEVATIONS = np.deg2rad(np.linspace(-30.0, 10.5, RINGS))
_AZIMUTHS = np.pi - 2 * np.pi / COLUMNS * np.arange(
    COLUMNS
)  # LiDAR axes (x right, y forward): from the left, clockwise
_OFFSETS_S = (np.arange(COLUMNS) - (COLUMNS - 1)) * PERIOD_S / COLUMNS


@dataclass(frozen=True)
class LidarScan:
    """One turn.

    Attributes:
        points: float32 [N, 4], x, y, z (metres, LiDAR frame at the stamp) and intensity 0..255.
        rings: uint16 [N], 0 = lowest beam.
        offsets_s: float32 [N], when each point was measured relative to the stamp (<= 0).
        class_ids: uint8 [N], Occ3D class of what was hit.
        instances: uint16 [N], its `Actor.instance_id`, 0 = none.
    """

    points: np.ndarray
    rings: np.ndarray
    offsets_s: np.ndarray
    class_ids: np.ndarray
    instances: np.ndarray


@dataclass(frozen=True)
class _Returns:
    """What N beams met: column, ring, range (metres), body, face of its mesh, cosine of the angle of incidence."""

    columns: np.ndarray
    rings: np.ndarray
    ranges: np.ndarray
    bodies: np.ndarray
    faces: np.ndarray
    facings: np.ndarray

    def kept(self, keep: np.ndarray) -> _Returns:
        """Those of a mask or an index."""
        return _Returns(
            self.columns[keep],
            self.rings[keep],
            self.ranges[keep],
            self.bodies[keep],
            self.faces[keep],
            self.facings[keep],
        )


class SceneLidar:
    """Measures a scene from the recording vehicle, which is not in its own way.

    Args:
        scene: what to measure; `scene.ego` carries the LiDAR.
        ego_from_lidar: mounting pose, float64 [4, 4]; LiDAR axes as nuScenes has them, x right, y forward, z up.
        device: Warp's name of where to cast the beams, "cpu" or "cuda".

    Raises:
        ConfigurationError: Warp is missing or has no such device.
        InvalidInputError: the mounting is no rigid transform.
    """

    def __init__(self, scene: Scene, ego_from_lidar: np.ndarray, device: str = "cpu") -> None:
        self._scene, self._device = scene, device
        self._ego_from_lidar = check_rigid(ego_from_lidar, "ego_from_lidar")
        self._warp, self._kernels = load_warp(device), load_kernels("_lidar_kernels", device)
        self._poses = BodyPoses(scene)
        self._static = self._mesh(scene.static)
        self._actors = [self._mesh(actor.mesh) for actor in scene.actors]
        self._radii = np.array([mesh_radius(actor.mesh) for actor in scene.actors], np.float32)
        meshes = [scene.static, *(actor.mesh for actor in scene.actors)]
        # Truth by body and face: faces of all meshes in one row.
        self._first_face = np.cumsum([0, *(len(mesh.faces) for mesh in meshes)])[:-1]
        self._class_ids = np.concatenate([mesh.class_ids for mesh in meshes])
        self._materials = np.concatenate([mesh.materials for mesh in meshes])
        self._instances = body_instances(scene)
        directions = np.stack(np.broadcast_arrays(*_directions(_AZIMUTHS[:, None], _ELEVATIONS[None])), -1)
        self._directions = directions  # float64 [columns, rings, 3], LiDAR frame
        self._beams = self._warp.array(directions.astype(np.float32), dtype=self._warp.vec3, device=device)

    def scan(self, end_time_s: float, noise: bool = True) -> LidarScan:
        """The turn that ends at a time.

        Args:
            end_time_s: the stamp, seconds since the scene's start.
            noise: range noise and lost returns; without, every beam that meets a surface returns exactly.

        Raises:
            InvalidInputError: the time is not finite.
        """
        if not np.isfinite(end_time_s):
            raise InvalidInputError(f"LiDAR scan: expected a finite time in seconds, got {end_time_s}")
        world_from_lidar = self._scene.ego.poses(end_time_s + _OFFSETS_S) @ self._ego_from_lidar
        returns = self._cast(world_from_lidar, end_time_s)
        rows = self._first_face[returns.bodies] + returns.faces
        reflectivity = self._scene.materials.reflectivity[self._materials[rows]]
        intensity = reflectivity * (0.25 + 0.75 * returns.facings)
        if noise:
            rng = np.random.default_rng([self._scene.seed & 0xFFFFFFFF, round(end_time_s * 1e6) & 0xFFFFFFFFFFFF])
            heard = rng.random(len(rows)) >= self._lost_share(returns, intensity)
            returns, rows, intensity = returns.kept(heard), rows[heard], intensity[heard]
            returns.ranges[:] += rng.normal(0, RANGE_NOISE_M, len(rows))
            intensity = intensity * rng.normal(1.0, 0.08, len(rows))
        poses = world_from_lidar[returns.columns]
        local = self._directions[returns.columns, returns.rings] * returns.ranges[:, None]
        world = np.einsum("nij,nj->ni", poses[:, :3, :3], local) + poses[:, :3, 3]
        points = transform_points(inverse(world_from_lidar[-1]), world)
        return LidarScan(
            np.column_stack([points, np.clip(intensity, 0, 255)]).astype(np.float32),
            returns.rings.astype(np.uint16),
            _OFFSETS_S[returns.columns].astype(np.float32),
            self._class_ids[rows].astype(np.uint8),
            self._instances[returns.bodies],
        )

    def _lost_share(self, returns: _Returns, intensity: np.ndarray) -> np.ndarray:
        """Probability that a beam is not heard again: far, dark and flat ones, more in the rain."""
        wetness = self._scene.weather.wetness
        far = (returns.ranges / MAX_RANGE_M) ** 2
        weak = far * np.clip(1.3 - intensity / 20.0, 0.1, 1.0)
        flat = np.clip(1.0 - returns.facings / 0.15, 0.0, 1.0)
        return np.clip(0.02 + 0.4 * weak + flat * (0.1 + 0.5 * wetness) + wetness * (0.05 + 0.4 * far), 0.0, 0.95)

    def _cast(self, world_from_lidar: np.ndarray, end_time_s: float) -> _Returns:
        """What the beams of poses [columns, 4, 4] meet."""
        warp, device = self._warp, self._device
        near, starts, ends = self._actors_within_reach(world_from_lidar[-1, :3, 3], end_time_s)
        shape = (COLUMNS, RINGS)
        ranges, facings = (warp.empty(shape, dtype=warp.float32, device=device) for _ in range(2))
        bodies, faces = (warp.empty(shape, dtype=warp.int32, device=device) for _ in range(2))
        inputs = [
            warp.array(world_from_lidar.astype(np.float32), dtype=warp.mat44, device=device),
            self._beams,
            warp.array(1.0 + _OFFSETS_S / PERIOD_S, dtype=warp.float32, device=device),
            self._static.id if self._static else 0,
            warp.array(np.array([self._actors[i].id for i in near], np.uint64), dtype=warp.uint64, device=device),
            warp.array(self._radii[near], dtype=warp.float32, device=device),
            warp.array(starts, dtype=warp.vec4, device=device),
            warp.array(ends, dtype=warp.vec4, device=device),
            warp.array((near + 1).astype(np.int32), dtype=warp.int32, device=device),
            MAX_RANGE_M,
        ]
        warp.launch(
            self._kernels.cast, dim=shape, inputs=inputs, outputs=[ranges, bodies, faces, facings], device=device
        )
        columns, rings = np.nonzero(bodies.numpy() >= 0)
        found = (array.numpy()[columns, rings] for array in (ranges, bodies, faces, facings))
        return _Returns(columns, rings, *found)

    def _actors_within_reach(self, position: np.ndarray, end_time_s: float) -> tuple[np.ndarray, Any, Any]:
        """Indices [K] of actors that beams can meet, and their x, y, z, yaw at the turn's ends, float32 [K, 4]."""
        starts, ends = self._poses.states(np.array([end_time_s - PERIOD_S, end_time_s]))
        distances = np.linalg.norm(ends[:, :3] - position, axis=1)
        has_mesh = np.array([mesh is not None for mesh in self._actors], bool)
        near = np.flatnonzero(has_mesh & (distances < MAX_RANGE_M + self._radii + 5.0))
        return near, starts[near].astype(np.float32), ends[near].astype(np.float32)

    def _mesh(self, mesh: TriangleMesh) -> Any:
        """A mesh with its search tree on the device; None if it has no faces."""
        if not len(mesh.faces):
            return None
        warp = self._warp
        return warp.Mesh(
            points=warp.array(mesh.vertices, dtype=warp.vec3, device=self._device),
            indices=warp.array(mesh.faces.ravel(), dtype=warp.int32, device=self._device),
        )


def _directions(azimuths: np.ndarray, elevations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of beams, x, y, z."""
    level = np.cos(elevations)
    return level * np.cos(azimuths), level * np.sin(azimuths), np.sin(elevations)
