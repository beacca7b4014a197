"""A flat world of boxes with known identities, seen from a moving vehicle: exact grids of classes, ids and velocities,
and a model that publishes them with new numbers in every frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from occ_perception.frame import Frame
from occ_perception.geometry import VoxelGrid, inverse, rigid_from_rotation, transform_points
from occ_perception.models.base import ModelOutput
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN

SMALL_GRID = VoxelGrid((-20.0, -20.0, -0.8), 0.4, (100, 100, 8))
EYE_M = 2.0
"""What is lower hides nothing."""


@dataclass(frozen=True)
class Body:
    """One object: ``path`` gives x, y, yaw (world frame) at a time in seconds; ``gone`` are times without it."""

    identity: int
    name: str
    size: tuple[float, float, float]
    path: Callable[[float], tuple[float, float, float]]
    gone: tuple[float, float] = (0.0, 0.0)

    def pose(self, time_s: float) -> np.ndarray:
        """world_from_body, z = 0 is the ground."""
        x, y, yaw = self.path(time_s)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        return rigid_from_rotation(turn, [x, y, 0.0])

    def velocity(self, time_s: float) -> np.ndarray:
        """World frame, [2], m/s."""
        step = 1e-3
        return (self.pose(time_s + step) - self.pose(time_s - step))[:2, 3] / (2 * step)

    def is_there(self, time_s: float) -> bool:
        return not self.gone[0] <= time_s < self.gone[1]


def straight(x: float, y: float, speed: float = 0.0, yaw: float = 0.0) -> Callable[[float], tuple[float, float, float]]:
    """From (x, y) along yaw."""
    return lambda time: (x + speed * time * np.cos(yaw), y + speed * time * np.sin(yaw), yaw)


@dataclass
class Snapshot:
    """Arrays [X, Y, Z] at one time: classes, identities, velocities, visibility; and where the vehicle is."""

    stamp_ns: int
    odom_from_ego: np.ndarray
    semantics: np.ndarray
    identities: np.ndarray
    flow: np.ndarray
    visibility: np.ndarray


class MovingObjects:
    """Bodies on the ground, and the vehicle's path; what is wholly behind another body is not seen."""

    def __init__(
        self,
        bodies: Sequence[Body],
        ego: Callable[[float], tuple[float, float, float]] = straight(0.0, 0.0),  # noqa: B008
        grid: VoxelGrid = SMALL_GRID,
    ) -> None:
        self.bodies, self.ego, self.grid = tuple(bodies), Body(0, "car", (4.0, 2.0, 1.5), ego), grid
        self._centers = grid.centers().reshape(-1, 3).astype(np.float64)
        self._linear = np.arange(grid.num_voxels).reshape(grid.size)
        self._shots: dict[float, Snapshot] = {}

    def at(self, time_s: float) -> Snapshot:
        """Everything at a time; do not change it."""
        time_s = round(time_s, 6)
        if time_s not in self._shots:
            self._shots[time_s] = self._look(time_s)
        return self._shots[time_s]

    def _look(self, time_s: float) -> Snapshot:
        grid, pose = self.grid, self.ego.pose(time_s)
        semantics = np.full(grid.num_voxels, FREE, np.uint8)
        semantics[self._centers[:, 2] < 0] = OCC3D.id_of("driveable_surface")
        identities = np.zeros(grid.num_voxels, np.uint16)
        flow = np.zeros((grid.num_voxels, 2), np.float32)
        visibility = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN).astype(np.uint8)
        far = np.hypot(*(np.array(grid.size[:2]) * grid.voxel_size)) / 2 + 10.0
        there = [b for b in self.bodies if b.is_there(time_s) and np.hypot(*(b.pose(time_s) - pose)[:2, 3]) < far]
        for body in there:
            cells = self._cells(body, time_s, pose)
            if self._hidden(body, there, time_s, pose[:2, 3]):
                cells = cells[semantics[cells] == FREE]
                semantics[cells], visibility[cells] = UNKNOWN, Visibility.OCCLUDED
                continue
            semantics[cells], identities[cells] = OCC3D.id_of(body.name), body.identity
            flow[cells] = pose[:2, :2].T @ body.velocity(time_s)
            visibility[cells] = Visibility.OCCUPIED_SEEN
        size = grid.size
        return Snapshot(
            round(time_s * 1e9) + 10**9,
            pose,
            semantics.reshape(size),
            identities.reshape(size),
            flow.reshape(*size, 2),
            visibility.reshape(size),
        )

    def _cells(self, body: Body, time_s: float, odom_from_ego: np.ndarray) -> np.ndarray:
        """Cells whose centre is in the body, linear."""
        body_from_ego = inverse(body.pose(time_s)) @ odom_from_ego
        middle, reach = inverse(body_from_ego)[:2, 3], np.hypot(*body.size[:2]) / 2
        first, last = (
            np.clip(np.floor((end - self.grid.lower[:2]) / self.grid.voxel_size), 0, self.grid.size[:2]).astype(int)
            for end in (middle - reach, middle + reach + self.grid.voxel_size)
        )
        near = self._linear[first[0] : last[0], first[1] : last[1]].reshape(-1)
        local = transform_points(body_from_ego, self._centers[near])
        length, width, height = body.size
        inside = (np.abs(local[:, :2]) <= [length / 2, width / 2]).all(axis=1) & (local[:, 2] > 0)
        return near[inside & (local[:, 2] <= height)]

    @staticmethod
    def _hidden(body: Body, there: Sequence[Body], time_s: float, eye: np.ndarray) -> bool:
        """Whether all five points of it (middle and corners) lie behind others as high as the eye."""
        length, width, _ = body.size
        corners = np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]]) * [length / 2, width / 2]
        pose = body.pose(time_s)
        ends = corners @ pose[:2, :2].T + pose[:2, 3]
        way = eye + np.linspace(0.0, 0.98, 80)[:, None, None] * (ends - eye)  # [80, 5, 2]
        behind = np.zeros(5, bool)
        for other in (o for o in there if o.size[2] >= EYE_M and o.identity != body.identity):
            blocker = other.pose(time_s)
            local = np.abs((way - blocker[:2, 3]) @ blocker[:2, :2])
            behind |= (local <= [other.size[0] / 2, other.size[1] / 2]).all(axis=2).any(axis=0)
        return bool(behind.all())


class KnownObjects:
    """A model that publishes the truth of `MovingObjects`, its numbers shuffled in every frame, damaged as told."""

    image_spec = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(
        self,
        world: MovingObjects,
        flow: bool = True,
        damage: Callable[[Snapshot, np.random.Generator], Snapshot] | None = None,
    ) -> None:
        self.info = ModelInfo("known", OCC3D, world.grid)
        self.world, self.flow, self.damage = world, flow, damage
        self.random = np.random.default_rng(0)
        self.last: Snapshot | None = None

    def step(self, inputs, state, prev_ego_from_ego):
        shot = self.world.at((inputs.frame.stamp_ns - 10**9) * 1e-9)
        self.last = shot
        if self.damage is not None:
            shot = self.damage(
                replace(shot, identities=shot.identities.copy(), semantics=shot.semantics.copy()), self.random
            )
        numbers = np.append(0, self.random.permutation(int(shot.identities.max())) + 1)
        flow = torch.from_numpy(shot.flow) if self.flow else None
        return ModelOutput(
            torch.from_numpy(shot.semantics),
            torch.from_numpy(shot.visibility),
            flow=flow,
            instances=torch.from_numpy(numbers[shot.identities]),
            state=0,
        )

    def frame(self, time_s: float, **change) -> Frame:
        """A frame of the world at a time."""
        values = {"odom_from_ego": self.world.at(time_s).odom_from_ego, **change}
        return Frame(round(time_s * 1e9) + 10**9, **values)


def street(seconds: float, seed: int = 0) -> MovingObjects:
    """Parked cars that come and go as the vehicle passes, traffic both ways, people crossing.

    The vehicle drives at 8 m/s and swerves; delivery vans at the roadside hide what is behind them for up to a second.
    """
    random = np.random.default_rng(seed)
    bodies: list[Body] = []

    def add(name: str, size: tuple[float, float, float], path: Callable[[float], tuple[float, float, float]]) -> None:
        bodies.append(Body(len(bodies) + 1, name, size, path))

    far = 8.0 * seconds
    for side in (-1, 1):
        for x in np.arange(-25.0, far + 25, 8.0):
            size = (float(random.uniform(3.9, 4.9)), 1.8, 1.5)
            add("car", size, straight(x + random.uniform(-1, 1), 7.5 * side, 0.0, random.normal(0, 0.04)))
    for start in np.arange(15.0, 18 * seconds, 24.0):
        add("car", (4.5, 1.8, 1.5), straight(start, 3.4, 9.0, np.pi))
    add("car", (4.4, 1.8, 1.5), straight(12.0, 0.0, 8.0))
    for x in np.arange(10.0, far, 30.0):
        add("truck", (5.0, 2.2, 3.0), straight(x, -3.5))
    add("bus", (9.0, 2.6, 3.0), straight(60.0, 3.4, 7.0, np.pi))
    add("bicycle", (1.8, 0.7, 1.7), straight(2.0, -5.2, 6.5))
    for x in np.arange(5.0, far, 9.0):
        start = float(random.uniform(0, 3))
        path = straight(x, -11.0 - start, 1.4, np.pi / 2 + random.normal(0, 0.2))
        add("pedestrian", (0.6, 0.6, 1.7), path)
        add("pedestrian", (0.6, 0.6, 1.7), straight(x + 4, 10.0, float(random.uniform(0.8, 1.5)), np.pi))
    return MovingObjects(bodies, lambda t: (8.0 * t, 0.8 * np.sin(0.5 * t), 0.05 * np.cos(0.5 * t)))


class Continuous:
    """Identities as a tracker may know them: what was missing for longer than ``memory_s`` comes back as another."""

    def __init__(self, memory_s: float = 1.0) -> None:
        self._memory_ns = memory_s * 1e9
        self._missing_since: dict[int, int] = {}
        self._number: dict[int, int] = {}
        self._given = 0

    def __call__(self, shot: Snapshot) -> np.ndarray:
        """Identities of a later snapshot, uint16 [X, Y, Z]."""
        there = set(np.unique(shot.identities[shot.identities > 0]).tolist())
        for identity in there:
            missing_since = self._missing_since.pop(identity, shot.stamp_ns)
            if identity not in self._number or shot.stamp_ns - missing_since > self._memory_ns:
                self._given += 1
                self._number[identity] = self._given
        for identity in self._number.keys() - there:
            self._missing_since.setdefault(identity, shot.stamp_ns)
        table = np.zeros(int(shot.identities.max()) + 1, np.uint16)
        table[sorted(there)] = [self._number[identity] for identity in sorted(there)]
        return table[shot.identities]


def voxels_dropped(share: float, objects: float) -> Callable[[Snapshot, np.random.Generator], Snapshot]:
    """A share of all voxels, and of all objects, becomes free in each frame."""

    def damage(shot: Snapshot, random: np.random.Generator) -> Snapshot:
        lost = random.random(shot.identities.shape) < share
        gone = random.random(int(shot.identities.max()) + 1) < objects
        lost |= gone[shot.identities]
        shot.semantics[lost & (shot.identities > 0)] = FREE
        shot.identities[lost] = 0
        return shot

    return damage


def merged_and_split(share: float) -> Callable[[Snapshot, np.random.Generator], Snapshot]:
    """A share of the objects is one with its neighbour, another falls in two, anew in each frame."""

    def damage(shot: Snapshot, random: np.random.Generator) -> Snapshot:
        ids = np.unique(shot.identities[shot.identities > 0])
        cells = {i: np.argwhere(shot.identities == i) for i in ids.tolist()}
        middle = np.array([cells[i].mean(axis=0) for i in ids.tolist()]).reshape(-1, 3)
        number = int(shot.identities.max())
        for row, identity in enumerate(ids.tolist()):
            kind = random.random()
            if kind < share and len(ids) > 1:
                distance = np.linalg.norm(middle - middle[row], axis=1)
                distance[row] = np.inf
                shot.identities[tuple(cells[int(ids[distance.argmin()])].T)] = identity
            elif kind < 2 * share:
                number += 1
                half = cells[identity][cells[identity][:, 0] > middle[row, 0]]
                shot.identities[tuple(half.T)] = number
        return shot

    return damage
