"""Ground truth of a synthetic scene as the occupancy benchmarks store it (specs/benchmarks.md sections 1, 4 and 8).

Occupied is every voxel with surface in it, seen or not: all that stands still is sampled once per scene, objects once
in their own frame, where they are filled (a car is solid, as accumulated LiDAR and mesh reconstruction make it in
Occ3D).  A voxel has the class of most of its samples, where samples of walls and plants count double and those of
objects fourfold: a wheel is not lost in the road below it.  Differences from Occ3D: surfaces that no sensor ever saw
(backs of houses) are occupied here, and "free" is the truth everywhere, not only where the masks say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occ_perception.data.labels import GridLabel
from occ_perception.data.synthetic.beams import Beams, CameraViews, seen_voxels
from occ_perception.data.synthetic.lidar import LidarScan
from occ_perception.data.synthetic.scene import Actor, Scene
from occ_perception.data.synthetic.static_samples import PITCH_M, StaticSamples
from occ_perception.data.synthetic.surface import Samples, solid_points
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, inverse, transform_points
from occ_perception.ontology import FREE, OCC3D

_FLAT = tuple(OCC3D.id_of(name) for name in ("driveable_surface", "other_flat", "sidewalk", "terrain"))
_WEIGHTS = np.full(OCC3D.num_classes, 2, np.int64)
_WEIGHTS[list(_FLAT)] = 1
_WEIGHTS[list(OCC3D.thing_ids)] = 4


@dataclass(frozen=True)
class SceneTruth:
    """Ground truth of one moment, in the grid of the vehicle at that moment.

    Attributes:
        label: semantics, flow and instances, and masks if there were beams.
        boxes: float64 [K, 9] of the objects whose centre is above the grid: x, y, z of the centre, length, width,
            height, yaw, velocity x, y over ground (metres, radians, m/s).
        box_classes: int64 [K], Occ3D classes.
        box_ids: int64 [K], the values in ``label.instances``.
    """

    label: GridLabel
    boxes: np.ndarray
    box_classes: np.ndarray
    box_ids: np.ndarray


class SceneLabels:
    """Labels of a scene at any time.

    Args:
        scene: the scene.
        grid: of the labels, in the vehicle's frame.
    """

    def __init__(self, scene: Scene, grid: VoxelGrid = OCC3D_GRID) -> None:
        self.scene, self.grid = scene, grid
        self._static = StaticSamples(scene, grid)
        self._solids = {actor.instance_id: _solid_samples(actor) for actor in scene.actors}
        self._reach = {actor.instance_id: float(np.linalg.norm(actor.size)) / 2 for actor in scene.actors}

    def at(
        self,
        time_s: float,
        returns: Samples | None = None,
        views: CameraViews | None = None,
        lidar_beams: Beams | None = None,
        stamp_ns: int | None = None,
    ) -> SceneTruth:
        """Ground truth at a time.

        Args:
            time_s: seconds since the scene's start; of the LIDAR stamp, as in the benchmarks.
            returns: further points that are occupied, world frame (see `surface_returns`).
            views: what the cameras show; None leaves their mask out.
            lidar_beams: what the LiDAR looked through; None leaves its mask out.
            stamp_ns: of the label.
        """
        world_from_grid = self.scene.ego.pose(time_s)
        grid_from_world = inverse(world_from_grid)
        near = self._near_actors(time_s, world_from_grid[:3, 3])
        parts = [(self._static.near(world_from_grid[:3, 3]), grid_from_world)]
        parts += [(self._solids[a.instance_id], grid_from_world @ a.trajectory.pose(time_s)) for a in near]
        if returns is not None:
            parts.append((returns, grid_from_world))
        counted = _counted(parts, self.grid)
        boxes = [_box(actor, time_s, grid_from_world) for actor in near]
        label = GridLabel(
            semantics=counted.semantics,
            ontology=OCC3D,
            grid=self.grid,
            frame="base_link",
            stamp_ns=stamp_ns,
            mask_lidar=None if lidar_beams is None else seen_voxels(lidar_beams, grid_from_world, self.grid),
            mask_camera=None if views is None else self._shown(views, counted, world_from_grid),
            flow=_flow(counted.instances, near, boxes),
            instances=counted.instances,
            source=Path(f"synthetic scene {self.scene.seed}"),
        )
        above = [i for i, box in enumerate(boxes) if _is_above(box, self.grid)]
        return SceneTruth(
            label,
            np.array([boxes[i] for i in above], np.float64).reshape(-1, 9),
            np.array([near[i].class_id for i in above], np.int64),
            np.array([near[i].instance_id for i in above], np.int64),
        )

    def _shown(self, views: CameraViews, counted: _Counted, world_from_grid: np.ndarray) -> np.ndarray:
        """Voxels that a camera looks through, or whose surface it shows; bool [X, Y, Z]."""
        seen = seen_voxels(views.beams(), inverse(world_from_grid), self.grid)
        surface = transform_points(world_from_grid, counted.points.astype(np.float64))
        seen.ravel()[counted.voxels[views.show(surface)]] = True
        return seen

    def _near_actors(self, time_s: float, position: np.ndarray) -> list[Actor]:
        """Those that may reach into the grid."""
        reach = float(np.abs([self.grid.lower[:2], self.grid.upper[:2]]).max()) * np.sqrt(2)
        return [
            actor
            for actor in self.scene.actors
            if np.linalg.norm(actor.trajectory.pose(time_s)[:2, 3] - position[:2])
            < reach + self._reach[actor.instance_id]
        ]


def moving_instances(scene: Scene) -> np.ndarray:
    """Ids of the objects that ever move, int64 [M]."""
    return np.array([a.instance_id for a in scene.actors if np.ptp(a.trajectory.positions, axis=0).max() > 0], np.int64)


def surface_returns(scan: LidarScan, time_s: float, scene: Scene, ego_from_lidar: np.ndarray) -> Samples:
    """Returns of a sweep where their surfaces are at its end: what moved since it was hit is moved along.

    Returns:
        Samples in the world frame.
    """
    points = transform_points(scene.ego.pose(time_s) @ ego_from_lidar, scan.points[:, :3].astype(np.float64))
    moving = set(moving_instances(scene).tolist()) & set(np.unique(scan.instances).tolist())
    for actor in scene.actors:
        if actor.instance_id in moving:
            mine = np.flatnonzero(scan.instances == actor.instance_id)
            poses = actor.trajectory.poses(time_s + scan.offsets_s[mine].astype(np.float64))
            moved = actor.trajectory.pose(time_s) @ inverse(poses)
            points[mine] = np.einsum("nij,nj->ni", moved[:, :3, :3], points[mine]) + moved[:, :3, 3]
    return Samples(np.ascontiguousarray(points.T, np.float32), scan.class_ids, scan.instances)


def _solid_samples(actor: Actor) -> Samples:
    """Samples of an object in its own frame."""
    points, class_ids = solid_points(actor.mesh, PITCH_M)
    instances = np.full(len(points), actor.instance_id, np.uint16)
    return Samples(np.ascontiguousarray(points.T), class_ids, instances)


@dataclass(frozen=True)
class _Counted:
    """What samples say of the voxels.

    Attributes:
        semantics: uint8 [X, Y, Z], FREE where there is no sample.
        instances: uint16 [X, Y, Z].
        voxels: int64 [V], linear indices of those that are occupied.
        points: float32 [V, 3], one sample of each, metres in the grid's frame.
    """

    semantics: np.ndarray
    instances: np.ndarray
    voxels: np.ndarray
    points: np.ndarray


def _counted(parts: list[tuple[Samples, np.ndarray]], grid: VoxelGrid) -> _Counted:
    """Count the samples in every voxel.

    Args:
        parts: samples, and the transform that takes them into the grid's frame.
        grid: the grid.
    """
    samples = Samples.joined([_in_voxels(samples, grid_from_samples, grid) for samples, grid_from_samples in parts])
    x, y, z = samples.points.astype(np.int32)
    voxel = (x * grid.size[1] + y) * grid.size[2] + z
    sample_in = np.full(grid.num_voxels, -1, np.int32)
    sample_in[voxel] = np.arange(len(voxel), dtype=np.int32)
    occupied = np.flatnonzero(sample_in >= 0)
    row_of = np.cumsum(sample_in >= 0, dtype=np.int32) - 1
    rows, num_classes = row_of[voxel], OCC3D.num_classes
    votes = np.bincount(rows * num_classes + samples.class_ids, minlength=len(occupied) * num_classes)
    winners = (votes.reshape(-1, num_classes) * _WEIGHTS).argmax(axis=1)
    semantics = np.full(grid.num_voxels, FREE, np.uint8)
    semantics[occupied] = winners
    objects = np.flatnonzero((samples.instances > 0) & (samples.class_ids == winners[rows]))
    instances = np.zeros(grid.num_voxels, np.uint16)
    instances[occupied] = _most_frequent(rows[objects], samples.instances[objects], len(occupied))
    points = samples.points[:, sample_in[occupied]].T * np.float32(grid.voxel_size) + grid.lower.astype(np.float32)
    return _Counted(semantics.reshape(grid.size), instances.reshape(grid.size), occupied, points)


def _in_voxels(samples: Samples, grid_from_samples: np.ndarray, grid: VoxelGrid) -> Samples:
    """The samples that are inside the grid, in voxels from its lower corner."""
    scaled = (grid_from_samples[:3, :3] / grid.voxel_size).astype(np.float32) @ samples.points
    scaled += ((grid_from_samples[:3, 3] - grid.lower) / grid.voxel_size).astype(np.float32)[:, None]
    inside = np.ones(scaled.shape[1], bool)
    for row, size in zip(scaled, grid.size, strict=True):
        inside &= row >= 0
        inside &= row < size
    inside = np.flatnonzero(inside)
    return Samples(scaled[:, inside], samples.class_ids[inside], samples.instances[inside])


def _most_frequent(rows: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """The id that is most often with each of ``count`` rows, 0 where there is none; uint16 [count]."""
    most = np.zeros(count, np.uint16)
    pairs, times = np.unique(rows.astype(np.int64) << 16 | ids, return_counts=True)
    order = np.argsort(times, kind="stable")  # the last one written stays
    most[pairs[order] >> 16] = pairs[order] & 0xFFFF
    return most


def _box(actor: Actor, time_s: float, grid_from_world: np.ndarray) -> np.ndarray:
    """Box of an object in the grid's frame, float64 [9] (see `SceneTruth`)."""
    pose = grid_from_world @ actor.trajectory.pose(time_s)
    velocity = grid_from_world[:3, :3] @ actor.trajectory.velocity(time_s)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return np.array([*pose[:2, 3], pose[2, 3] + actor.size[2] / 2, *actor.size, yaw, *velocity[:2]])


def _is_above(box: np.ndarray, grid: VoxelGrid) -> bool:
    return bool(np.all((box[:2] >= grid.lower[:2]) & (box[:2] < grid.upper[:2])))


def _flow(instances: np.ndarray, actors: list[Actor], boxes: list[np.ndarray]) -> np.ndarray:
    """Velocity over ground of the object in every voxel, grid axes, m/s; float32 [X, Y, Z, 2]."""
    flow = np.zeros((*instances.shape, 2), np.float32)
    velocity = np.zeros((int(instances.max()) + 1, 2), np.float32)
    for actor, box in zip(actors, boxes, strict=True):
        if actor.instance_id < len(velocity):
            velocity[actor.instance_id] = box[7:]
    moving = instances > 0
    flow[moving] = velocity[instances[moving]]
    return flow
