"""Which object of this frame is which track: by the voxels they share once the tracks are moved, else by distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from occ_perception.geometry import VoxelGrid, transform_points
from occ_perception.occupancy import Visibility
from occ_perception.ontology import Ontology
from occ_perception.tracking.motion import ACCELERATION_MPS2, common_motion
from occ_perception.tracking.track import Detections, Track

MIN_SHARED = 0.1, 0.5
"""Least IoU, or share of the smaller in the larger (of what comes into view), of tracks and objects that are joined by
their voxels; others may only be by their distance."""
_NEAR_M, _FAR_M = 0.8, 6.0  # what a voxel more or less at both sides can do, and the longest way between two frames
_SIDEWAYS = 0.25  # of its way, a vehicle that steers and whose heading is but known by its voxels
# A pair without common voxels costs 1, one with all in common 0.  What was seen in the last frame goes before what was
# hidden in it (else the two would take turns), and of equals the older identity.
_DISTANCE_COST, _CLASS_COST, _UNSEEN_COST, _YOUNG_COST = 0.5, 0.3, 0.3, 0.6
# What it costs to leave a track without an object.  It must be finite: what is exactly in its place must not be given
# away so that two poor pairs can be made of one good one.  Even the poorest possible pair is a little better than none.
_ALONE_COST, _LEAST_GAIN = 2.0, 0.05
_CONFUSED = (("car", "truck", "bus", "trailer", "construction_vehicle"), ("bicycle", "motorcycle"))
_TOP_SPEED_MPS = {
    **dict.fromkeys(_CONFUSED[0], 25.0), **dict.fromkeys(_CONFUSED[1], 12.0), "pedestrian": 3.0,
    "traffic_cone": 0.0, "barrier": 0.0,
}  # fmt: skip
_OTHERS_TOP_SPEED_MPS = 10.0


@dataclass(frozen=True)
class ClassTable:
    """What classes mean for tracking.

    Attributes:
        group: int64 [N]; classes of one group are taken for each other, at a cost.
        top_speed: float64 [N], m/s; how fast something may be whose velocity is not known.
    """

    group: np.ndarray
    top_speed: np.ndarray

    @classmethod
    def of(cls, ontology: Ontology) -> ClassTable:
        """That of a label set, by the names of its classes."""
        group_of = {name: number for number, names in enumerate(_CONFUSED) for name in names}
        groups = [group_of.get(name, len(_CONFUSED) + i) for i, name in enumerate(ontology.class_names)]
        speeds = [_TOP_SPEED_MPS.get(name, _OTHERS_TOP_SPEED_MPS) for name in ontology.class_names]
        return cls(np.array(groups), np.array(speeds))


@dataclass(frozen=True)
class Overlap:
    """Where the voxels of T tracks are by now, and what is there.

    Attributes:
        shared: int64 [T, K], how many of a track's voxels lie in those of each object of the frame.
        in_grid: int64 [T], how many of them lie in the grid.
        of_track, of_object: int64 [T] and [K], how many there are.
        seen_free: float64 [T], share of those in the grid where the frame shows free space.
    """

    shared: np.ndarray
    in_grid: np.ndarray
    of_track: np.ndarray
    of_object: np.ndarray
    seen_free: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union, float64 [T, K]; of tracks, what lies in the grid."""
        return self.shared / np.maximum(self.in_grid[:, None] + self.of_object - self.shared, 1)

    @property
    def of_track_in_object(self) -> np.ndarray:
        """Share of each track in each object, float64 [T, K]; of tracks, what lies in the grid."""
        return self.shared / np.maximum(self.in_grid, 1)[:, None]

    @property
    def covered(self) -> np.ndarray:
        """Share of each track in any object, float64 [T]."""
        return self.of_track_in_object.sum(axis=1)

    @property
    def of_object_in_track(self) -> np.ndarray:
        """Share of each object in each track, float64 [T, K]."""
        return self.shared / np.maximum(self.of_object, 1)

    @property
    def inside(self) -> np.ndarray:
        """Share of each track that lies in the grid, float64 [T]."""
        return self.in_grid / np.maximum(self.of_track, 1)


def overlap(tracks: Sequence[Track], detections: Detections, grid: VoxelGrid, visibility: np.ndarray) -> Overlap:
    """Move the voxels of tracks to the frame and look what they meet.

    Args:
        tracks: as they were last seen.
        detections: the frame.
        grid: its geometry.
        visibility: uint8 [X, Y, Z], `Visibility`.
    """
    num_tracks, num_objects = len(tracks), len(detections.objects)
    counts = np.array([len(track.points) for track in tracks], np.int64)
    shifts = np.array([track.shift(detections.stamp_ns) for track in tracks]).reshape(-1, 3)
    points = np.concatenate([*(track.points for track in tracks), np.empty((0, 3))]) + np.repeat(shifts, counts, axis=0)
    cells, inside = grid.cells_of(transform_points(detections.grid_from_fixed, points))
    linear, row = grid.linear_index(cells)[inside], np.repeat(np.arange(num_tracks), counts)[inside]

    met = np.zeros(grid.num_voxels, np.int32)  # object + 1
    met[detections.groups.voxels] = detections.groups.row_of_voxel + 1
    width = num_objects + 1
    pairs = np.bincount(row * width + met[linear], minlength=num_tracks * width).reshape(num_tracks, width)
    of_object = detections.groups.counts if len(detections.groups) else np.zeros(num_objects, np.int64)
    in_grid = pairs.sum(axis=1)
    free = np.bincount(row, visibility.reshape(-1)[linear] == int(Visibility.FREE_SEEN), num_tracks)
    shared = np.minimum(pairs[:, 1:], of_object)  # several voxels may have come to lie in one
    return Overlap(shared, in_grid, counts, of_object, free / np.maximum(in_grid, 1))


def alike(tracks: Sequence[Track], detections: Detections, classes: ClassTable) -> np.ndarray:
    """Whether the classes of tracks and objects are taken for each other, bool [T, K]."""
    of_track = np.array([track.class_id for track in tracks], np.int64)
    of_object = np.array([item.class_id for item in detections.objects], np.int64)
    return classes.group[of_track][:, None] == classes.group[of_object]


def associate(
    tracks: Sequence[Track], detections: Detections, met: Overlap, classes: ClassTable
) -> tuple[np.ndarray, np.ndarray]:
    """Join tracks and objects so that the sum of the costs is least; to be left alone has a price, too.

    Only classes of one group are joined, and only if they share voxels or are as near as the track's uncertain velocity
    allows (for small and fast objects, whose voxels do not overlap).

    Args:
        tracks, detections: T and K of them.
        met: from `overlap`.
        classes: which classes are taken for each other.

    Returns:
        (tracks, objects): int64 [P] each, the pairs.
    """
    if not tracks or not detections.objects:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    of_track = np.array([track.class_id for track in tracks])
    of_object = np.array([item.class_id for item in detections.objects])
    unseen_s = np.array([detections.stamp_ns - track.stamp_ns for track in tracks]) * 1e-9
    distance = _distance(tracks, detections, unseen_s, classes.top_speed[of_track])
    cost = (
        1.0
        - met.iou
        + _DISTANCE_COST * np.minimum(distance, 1.0)
        + _CLASS_COST * (of_track[:, None] != of_object)
        + _UNSEEN_COST * (unseen_s > unseen_s.min())[:, None]
        + _YOUNG_COST / np.array([track.frames for track in tracks])[:, None]
    )
    contained = np.maximum(met.of_track_in_object, met.of_object_in_track)
    near = (met.iou >= MIN_SHARED[0]) | (contained >= MIN_SHARED[1]) | (distance <= 1.0)
    possible = near & alike(tracks, detections, classes)
    gain = np.where(possible, np.maximum(_ALONE_COST - cost, _LEAST_GAIN), 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    kept = possible[rows, columns]
    return rows[kept], columns[kept]


def _distance(
    tracks: Sequence[Track], detections: Detections, unseen_s: np.ndarray, top_speed: np.ndarray
) -> np.ndarray:
    """How far objects are from where tracks are expected, float64 [T, K]; 1 is as far as one can be.

    It is what both ends moved, so what comes into view and what is uncovered is near though its centre is not.  It is
    measured along and across the way a track points to, by how far it may have gone there: ``top_speed`` float64 [T].
    """
    shifts = np.array([track.shift(detections.stamp_ns)[:2] for track in tracks])
    ends = np.array([track.ends for track in tracks]) + shifts[:, None]
    moved = detections.ends - ends[:, None]
    moved = common_motion(moved[:, :, 0], moved[:, :, 1])
    uncertain = 2 * np.hypot([track.velocity_std for track in tracks], ACCELERATION_MPS2 * unseen_s / 2)
    travel = np.minimum(np.minimum(uncertain, top_speed) * unseen_s, _FAR_M)
    yaw = np.array([track.yaw for track in tracks])
    forward, left = np.stack([np.cos(yaw), np.sin(yaw)], axis=1), np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)
    # What rolls goes where it points to; its velocity may say something else as long as it is a guess.
    rolls = np.array([track.length_is_seen and not track.knows_velocity for track in tracks])
    sideways = np.minimum(travel, _SIDEWAYS * travel + np.abs((left * shifts).sum(axis=1)))
    along, across = (moved * forward[:, None]).sum(axis=2), (moved * left[:, None]).sum(axis=2)
    return np.hypot(
        along / (_NEAR_M + travel)[:, None], across / (_NEAR_M + np.where(rolls, sideways, travel))[:, None]
    )
