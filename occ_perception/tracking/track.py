"""What is remembered of an object, and the objects of a frame in the fixed frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from occ_perception.geometry import VoxelGrid, VoxelGroups, inverse, transform_points
from occ_perception.instances import MOVING_MPS
from occ_perception.occupancy import Instance
from occ_perception.tracking.motion import EndsFilter

_KNOWN_STD_MPS = 1.0  # a velocity less certain than this is not told
LONG_M, LONG_BY = 3.0, 1.5
"""From this length, and so many times the width, an object points along its long side."""
_VOTES_KEPT = 0.9  # of the past, when the class of another frame is added


@dataclass(frozen=True)
class Detections:
    """The objects of one frame, in the fixed frame too.

    Attributes:
        objects: as they come, grid frame; ids do not matter.
        groups: their voxels, one group an object, in the same order; or no group at all (a model that gives boxes).
        stamp_ns: of the frame.
        fixed_from_grid: float64 [4, 4].
        points: float64 [M, 3], centres of the voxels, in their order in ``groups``.
        centers: float64 [K, 3], of the boxes.
        velocities: float64 [K, 2], m/s, as the model says, NaN where it does not.
        ends: float64 [K, 2, 2], lower and upper end along x and y.
    """

    objects: tuple[Instance, ...]
    groups: VoxelGroups
    stamp_ns: int
    fixed_from_grid: np.ndarray
    points: np.ndarray
    centers: np.ndarray
    velocities: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(
        cls,
        objects: tuple[Instance, ...],
        groups: VoxelGroups,
        grid: VoxelGrid,
        stamp_ns: int,
        fixed_from_grid: np.ndarray,
    ) -> Detections:
        """Move the objects of a frame to the fixed frame."""
        points = transform_points(fixed_from_grid, grid.center_of(groups.voxels).reshape(-1, 3))
        centers = transform_points(fixed_from_grid, _column(objects, "center", 3))
        velocities = _column(objects, "velocity", 3)[:, :2] @ fixed_from_grid[:2, :2].T
        ends = _ends_of_voxels(points, groups) if len(groups) else _ends_of_boxes(objects, centers, fixed_from_grid)
        return cls(objects, groups, stamp_ns, fixed_from_grid, points, centers, velocities, ends)

    def points_of(self, row: int) -> np.ndarray:
        """Voxel centres of an object, float64 [n, 3]."""
        return (
            self.points[self.groups.starts[row] : self.groups.starts[row + 1]] if len(self.groups) else np.empty((0, 3))
        )

    @cached_property
    def heading(self) -> float:
        """Of the grid in the fixed frame, radians."""
        return heading_of(self.fixed_from_grid)

    @cached_property
    def grid_from_fixed(self) -> np.ndarray:
        """The other way round, float64 [4, 4]."""
        return inverse(self.fixed_from_grid)


class Track:
    """An object over time, in the fixed frame, as it was when it was last seen.

    Args:
        identity: its id.
        detections: the frame in which it is new.
        row: which of the objects it is.
        num_classes: of the label set.

    Attributes:
        id: identity, 1..65535.
        stamp_ns: when it was last seen.
        began_ns: when it was first seen.
        missing_since_ns: stamp of the first frame after that without it; None while it is seen.
        frames: in how many frames it was seen.
        part_of: id of the track of which it was a part when it began, for as long as it may be no more; else 0.
        item: as it was then, in the grid's frame of then, with its id.
        center: float64 [3], metres.
        yaw: radians.
        size: length, width, height, metres; like centre, yaw and voxels its own, not that of what it is merged with.
        points: float64 [n, 3], centres of its voxels.
        ends: float64 [2, 2], lower and upper end (rows) along x and y.
        velocity: float64 [2], m/s, best guess: what the model said last, else what its ends did.
        velocity_std: how uncertain it is, m/s.
        knows_velocity: whether it is more than a guess.
    """

    def __init__(self, identity: int, detections: Detections, row: int, num_classes: int) -> None:
        self.id = identity
        self.stamp_ns, self.frames, self.yaw = detections.stamp_ns, 0, 0.0
        self.missing_since_ns: int | None = None
        self.part_of, self.began_ns = 0, detections.stamp_ns
        self.center, self.points, self.ends = detections.centers[row], detections.points_of(row), detections.ends[row]
        self._votes = np.zeros(num_classes)
        self._motion = EndsFilter(detections.ends[row])
        self._see(detections, row)

    def update(self, detections: Detections, row: int) -> None:
        """It is this one of the objects of a later frame."""
        elapsed_s = (detections.stamp_ns - self.stamp_ns) * 1e-9
        self._motion.update(detections.ends[row], elapsed_s)
        self._see(detections, row, self.yaw)

    def update_identity(self, detections: Detections, row: int) -> None:
        """It is this one, but what is seen is more or less than the object: its shape and motion stay as they were."""
        shift = self.shift(detections.stamp_ns)
        self._motion.carry(shift[:2], (detections.stamp_ns - self.stamp_ns) * 1e-9)
        self.center, self.points, self.ends = self.center + shift, self.points + shift, self.ends + shift[:2]
        self._count(detections.stamp_ns)
        self.item = self._oriented(detections.objects[row], detections, self.yaw)  # listed as it is seen

    def _see(self, detections: Detections, row: int, last_yaw: float | None = None) -> None:
        item = detections.objects[row]
        self._count(detections.stamp_ns)
        self._votes *= _VOTES_KEPT
        self._votes[item.class_id] += 1
        self.center, self.points, self.ends = detections.centers[row], detections.points_of(row), detections.ends[row]
        flow = detections.velocities[row]
        self._has_flow = bool(np.isfinite(flow).all())
        self.velocity = flow if self._has_flow else self._motion.velocity
        self.velocity_std = _KNOWN_STD_MPS if self._has_flow else self._motion.velocity_std
        self.knows_velocity = self._has_flow or self.velocity_std < _KNOWN_STD_MPS
        self.item = self._oriented(item, detections, last_yaw)
        self.yaw, self.size = self.item.yaw + detections.heading, self.item.size

    def _count(self, stamp_ns: int) -> None:
        self.stamp_ns, self.missing_since_ns = stamp_ns, None
        self.frames += 1

    def _oriented(self, item: Instance, detections: Detections, last_yaw: float | None) -> Instance:
        """Under its id, with the velocity of the track if the model gives none, its front where it is ahead."""
        velocity, moving = item.velocity, float(np.hypot(*self.velocity)) > MOVING_MPS and self.knows_velocity
        if self.knows_velocity and not self._has_flow:
            x, y, _ = (detections.grid_from_fixed[:3, :2] @ self.velocity).tolist()
            velocity = x, y, 0.0
            if moving:
                item = turned_towards(item, float(np.arctan2(y, x)), np.pi / 2)
        if not moving and last_yaw is not None:
            item = turned_towards(item, last_yaw - detections.heading, np.pi)
        return replace(item, id=self.id, velocity=velocity)

    def miss(self, stamp_ns: int) -> None:
        """It is not in this frame."""
        if self.missing_since_ns is None:
            self.missing_since_ns = stamp_ns

    def missing_for_ns(self, stamp_ns: int) -> int:
        """How long it has been missing; 0 while it is seen."""
        return 0 if self.missing_since_ns is None else stamp_ns - self.missing_since_ns

    @property
    def length_is_seen(self) -> bool:
        """Whether it is so long that its long side is where it points to: a vehicle, and not but its front."""
        return self.size[0] >= LONG_M and self.size[0] >= LONG_BY * self.size[1]

    @property
    def class_id(self) -> int:
        """What it was most of late."""
        return int(self._votes.argmax())

    def shift(self, stamp_ns: int) -> np.ndarray:
        """How far it has gone by ``stamp_ns`` if its velocity stays, float64 [3], metres."""
        elapsed_s = (stamp_ns - self.stamp_ns) * 1e-9
        return np.array([self.velocity[0] * elapsed_s, self.velocity[1] * elapsed_s, 0.0])

    def predicted(self, stamp_ns: int, grid_from_fixed: np.ndarray, memory_s: float) -> Instance:
        """Where it should be by now though it is not seen; the score fades to 0 over ``memory_s``."""
        age_s = (stamp_ns - self.stamp_ns) * 1e-9
        center = transform_points(grid_from_fixed, (self.center + self.shift(stamp_ns))[None])[0]
        velocity = grid_from_fixed[:3, :2] @ self.velocity if self.knows_velocity else np.full(3, np.nan)
        return replace(
            self.item,
            class_id=self.class_id,
            score=self.item.score * max(1.0 - age_s / memory_s, 0.0),
            center=tuple(center.tolist()),
            size=self.size,
            yaw=wrapped(self.yaw + heading_of(grid_from_fixed)),
            velocity=tuple(velocity.tolist()),
            occluded=True,
        )


def turned_towards(item: Instance, heading: float, step: float) -> Instance:
    """The same box with the front on another side: the one nearest to a heading, of those every ``step`` (pi or pi/2).

    By an odd number of quarter turns, length and width change places.
    """
    steps = round((heading - item.yaw) / step)
    if steps == 0:
        return item
    length, width, height = item.size
    swapped = round(steps * step / (np.pi / 2)) % 2 == 1
    return replace(
        item,
        yaw=wrapped(item.yaw + steps * step),
        size=(width, length, height) if swapped else item.size,
    )


def wrapped(angle: float) -> float:
    """The same angle in (-pi, pi]."""
    return float(np.pi - np.mod(np.pi - angle, 2 * np.pi))


def heading_of(dst_from_src: np.ndarray) -> float:
    """Turn about z of a rigid transform, radians."""
    return float(np.arctan2(dst_from_src[1, 0], dst_from_src[0, 0]))


def _column(objects: Sequence[Instance], name: str, width: int) -> np.ndarray:
    return np.array([getattr(item, name) for item in objects], np.float64).reshape(len(objects), width)


def _ends_of_voxels(points: np.ndarray, groups: VoxelGroups) -> np.ndarray:
    starts = groups.starts[:-1]
    low, high = np.minimum.reduceat(points[:, :2], starts), np.maximum.reduceat(points[:, :2], starts)
    return np.stack([low, high], axis=1)


def _ends_of_boxes(objects: Sequence[Instance], centers: np.ndarray, fixed_from_grid: np.ndarray) -> np.ndarray:
    yaws = _column(objects, "yaw", 1)[:, 0] + heading_of(fixed_from_grid)
    length, width, _ = _column(objects, "size", 3).T / 2
    cosine, sine = np.abs(np.cos(yaws)), np.abs(np.sin(yaws))
    reach = np.stack([cosine * length + sine * width, sine * length + cosine * width], axis=1)
    return np.stack([centers[:, :2] - reach, centers[:, :2] + reach], axis=1)
