"""A scene as flat arrays on a device, and where its bodies are at any time: what renderer and LiDAR share.

A *body* is what moves as one: body 0 is everything that stands still (its frame is the world), body i is actor i - 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from occ_perception.data.synthetic.scene import Scene, TriangleMesh
from occ_perception.data.synthetic.warp_runtime import load_warp


class SceneBuffers:
    """All triangles of a scene in their bodies' frames, on a device.

    Attributes:
        count: number of triangles F.
        corners: Warp vec3 [3 F], metres, body frames.
        radii: Warp float32 [F], of a sphere about the first corner that holds the triangle.
        bodies: Warp int32 [F].
        class_ids: Warp uint8 [F].
        materials: Warp int32 [F].
        instances: Warp uint16 [B], instance of a body (0 = the static world).
    """

    def __init__(self, scene: Scene, device: str) -> None:
        warp = load_warp(device)
        meshes = [scene.static, *(actor.mesh for actor in scene.actors)]
        counts = [len(mesh.faces) for mesh in meshes]
        self.count = sum(counts)

        def upload(values: np.ndarray, dtype: Any) -> Any:
            return warp.array(np.ascontiguousarray(values), dtype=dtype, device=device)

        corners = np.concatenate([mesh.corners().reshape(-1, 3) for mesh in meshes]).astype(np.float32)
        sides = corners.reshape(-1, 3, 3)[:, 1:] - corners[::3, None]
        self.corners = upload(corners, warp.vec3)
        self.radii = upload(np.sqrt((sides**2).sum(-1).max(-1)) * np.float32(1.0001), warp.float32)
        self.bodies = upload(np.repeat(np.arange(len(meshes)), counts).astype(np.int32), warp.int32)
        self.class_ids = upload(np.concatenate([mesh.class_ids for mesh in meshes]).astype(np.uint8), warp.uint8)
        self.materials = upload(np.concatenate([mesh.materials for mesh in meshes]).astype(np.int32), warp.int32)
        self.instances = upload(body_instances(scene), warp.uint16)


def body_instances(scene: Scene) -> np.ndarray:
    """Instance id of every body, uint16 [B]; 0 for the static world."""
    return np.array([0, *(actor.instance_id for actor in scene.actors)], np.uint16)


def mesh_radius(mesh: TriangleMesh) -> float:
    """Radius of the sphere about the mesh's origin that holds it, metres."""
    return float(np.sqrt((mesh.vertices.astype(np.float64) ** 2).sum(1).max())) if len(mesh.vertices) else 0.0


class BodyPoses:
    """Poses of all bodies at once: `Trajectory.poses` of many trajectories without a loop over them."""

    def __init__(self, scene: Scene) -> None:
        tracks = [actor.trajectory for actor in scene.actors]
        knots = max((len(track.times_s) for track in tracks), default=1)
        self._times = np.full((len(tracks), knots), np.inf)
        self._states = np.zeros((len(tracks), knots, 4))  # x, y, z, yaw
        self._last = np.array([len(track.times_s) - 1 for track in tracks], np.int64)
        for i, track in enumerate(tracks):
            count = len(track.times_s)
            self._times[i, :count] = track.times_s
            self._states[i, :count, :3] = track.positions
            self._states[i, :count, 3] = track.yaws

    def states(self, times_s: np.ndarray) -> np.ndarray:
        """x, y, z and yaw of every actor at times [T], float64 [T, A, 4]."""
        times = np.asarray(times_s, np.float64)[:, None]
        actors = np.arange(len(self._last))[None]
        before = (self._times[None] <= times[:, :, None]).sum(-1) - 1
        before = np.clip(before, 0, np.maximum(self._last - 1, 0))
        after = np.minimum(before + 1, self._last)
        start, end = self._times[actors, before], self._times[actors, after]
        fraction = np.clip((times - start) / np.where(end > start, end - start, 1.0), 0.0, 1.0)[..., None]
        first, second = self._states[actors, before], self._states[actors, after]
        return first + fraction * (second - first)

    def world_from_body(self, times_s: np.ndarray) -> np.ndarray:
        """Poses of all bodies at times [T], float64 [T, B, 4, 4]."""
        states = self.states(times_s)
        poses = np.zeros((len(states), states.shape[1] + 1, 4, 4))
        poses[:, :, [0, 1, 2, 3], [0, 1, 2, 3]] = 1.0
        poses[:, 1:, :3, 3] = states[..., :3]
        poses[:, 1:, 0, 0] = poses[:, 1:, 1, 1] = np.cos(states[..., 3])
        poses[:, 1:, 1, 0] = np.sin(states[..., 3])
        poses[:, 1:, 0, 1] = -poses[:, 1:, 1, 0]
        return poses
