"""Objects from voxels: a grid of instance ids with classes, confidence and flow becomes a list of `Instance`s.

The ids may be any whole numbers that are not negative, in any order, new in every frame; what keeps them stable over
time is `tracking`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from occ_perception.box_fitting import FittedBoxes, fit_boxes
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, VoxelGroups
from occ_perception.occupancy import Instance
from occ_perception.ontology import Ontology

MAX_ID = int(np.iinfo(np.uint16).max)
"""Identities are voxel labels too, which are uint16."""
MOVING_MPS = 1.0
"""Above this speed the direction of motion is a heading."""
TOP_SPEED_MPS = 100.0
"""What is said to be faster than this (360 km/h) has an unknown velocity."""
_FARTHEST_M = 1e5  # of centres and sizes that may be


def thing_voxels(ids: np.ndarray, semantics: np.ndarray, ontology: Ontology) -> VoxelGroups:
    """Voxels by instance, without those that are free, unknown, or of a class that has no instances.

    Args:
        ids: whole numbers [X, Y, Z], 0 = none; may be larger than 65535, they are only told apart.
        semantics: uint8 [X, Y, Z]; classes of ``ontology``, FREE or UNKNOWN.
        ontology: label set.

    Raises:
        InvalidInputError: ids of another shape, not whole, or negative; more than 65535 objects.
    """
    if ids.shape != semantics.shape or ids.dtype.kind not in "iu":
        raise InvalidInputError(f"instances: expected integers {semantics.shape}, got {ids.dtype} {ids.shape}")
    is_thing = np.zeros(256, bool)
    is_thing[list(ontology.thing_ids)] = True
    flat = ids.reshape(-1)
    cells = np.flatnonzero(flat != 0)  # several times faster than of numbers
    cells = cells[is_thing[semantics.reshape(-1)[cells]]]
    labels = flat[cells]
    if labels.size and labels.min() < 0:
        raise InvalidInputError(f"instances: expected ids of 0 and more, got {int(labels.min())}")
    groups = VoxelGroups.of_cells(cells, labels)
    if len(groups) > MAX_ID:
        raise InvalidInputError(f"instances: expected at most {MAX_ID} objects, as ids are uint16, got {len(groups)}")
    return groups


def fitting_ids(ids: np.ndarray) -> np.ndarray:
    """The same grouping as uint16: ids as they are if they fit, else renumbered 1, 2, ... in their order.

    Raises:
        InvalidInputError: ids not whole or negative; more than 65535 of them.
    """
    if ids.dtype.kind not in "iu" or (ids.size and ids.min() < 0):
        raise InvalidInputError(f"instances: expected ids of 0 and more, got {ids.dtype} from {ids.min(initial=0)}")
    if not ids.size or ids.max() <= MAX_ID:
        return ids.astype(np.uint16, copy=False)
    present, renumbered = np.unique(np.append(0, ids.reshape(-1)), return_inverse=True)
    if len(present) - 1 > MAX_ID:
        raise InvalidInputError(f"instances: expected at most {MAX_ID} ids, as they are uint16, got {len(present) - 1}")
    return renumbered.reshape(-1)[1:].reshape(ids.shape).astype(np.uint16)


def check_boxes(objects: Iterable[Instance], ontology: Ontology, source: str) -> None:
    """Whether what ``source`` says of objects can be; velocities may be anything, see `with_believable_velocity`.

    Raises:
        InvalidInputError: a class that is none, a score outside 0..1, a size that is not positive, or a centre, size
            or heading that is no number.
    """
    for item in objects:
        where = f"{source}: object {item.id}"
        if not 0 <= item.class_id < ontology.num_classes:
            raise InvalidInputError(f"{where}: expected a class of 0..{ontology.num_classes - 1}, got {item.class_id}")
        if not 0 <= item.score <= 1:
            raise InvalidInputError(f"{where}: expected a score of 0..1, got {item.score}")
        if not all(0 < length <= _FARTHEST_M for length in item.size):
            raise InvalidInputError(f"{where}: expected a size > 0 and <= {_FARTHEST_M:g} m, got {item.size}")
        if not all(abs(x) <= _FARTHEST_M for x in item.center) or not math.isfinite(item.yaw):
            raise InvalidInputError(
                f"{where}: expected a centre within {_FARTHEST_M:g} m and a finite yaw, got {item.center}, {item.yaw}"
            )


def with_believable_velocity(item: Instance) -> Instance:
    """The same object; its velocity is not known (NaN) if it is no number, or faster than `TOP_SPEED_MPS`."""
    return item if math.hypot(*item.velocity) <= TOP_SPEED_MPS else replace(item, velocity=(math.nan,) * 3)


def objects_from_voxels(
    groups: VoxelGroups,
    semantics: np.ndarray,
    grid: VoxelGrid,
    ontology: Ontology,
    confidence: np.ndarray | None = None,
    flow: np.ndarray | None = None,
    said: Iterable[Instance] = (),
) -> tuple[Instance, ...]:
    """What each group of voxels is, how large, where, and how fast.

    Args:
        groups: from `thing_voxels`, K of them.
        semantics: uint8 [X, Y, Z]; the class of an object is that of most of its voxels, of equals the first.
        grid: geometry of all arrays.
        ontology: label set.
        confidence: uint8 [X, Y, Z]; the score is the mean over the voxels, 1 where nothing is said.
        flow: float [X, Y, Z, 2], m/s; the velocity is the mean over the voxels where it is believable (finite, at
            most `TOP_SPEED_MPS`), NaN without any.
        said: what the model itself said of ids: its score is taken instead if it is one for the class of the voxels.
            Ids without voxels are left out.

    Returns:
        K objects, in the order of the groups, with their ids; boxes as of `box_fitting`, headed along the motion of
        what is faster than 1 m/s.
    """
    velocities = _mean_flow(groups, flow)
    moving = np.hypot(velocities[:, 0], velocities[:, 1]) > MOVING_MPS
    headings = np.where(moving, np.arctan2(velocities[:, 1], velocities[:, 0]), np.nan)
    boxes = fit_boxes(groups, grid, headings)
    classes = _majority(groups, semantics, ontology.num_classes)
    scores = _scores(groups, classes, confidence, said)
    return _as_instances(groups.ids, classes, scores, boxes, velocities)


def _majority(groups: VoxelGroups, semantics: np.ndarray, num_classes: int) -> np.ndarray:
    """Class of most voxels of each group, int64 [K]."""
    votes = groups.row_of_voxel * num_classes + semantics.reshape(-1)[groups.voxels]
    return np.bincount(votes, minlength=len(groups) * num_classes).reshape(len(groups), num_classes).argmax(axis=1)


def _scores(
    groups: VoxelGroups, classes: np.ndarray, confidence: np.ndarray | None, said: Iterable[Instance]
) -> np.ndarray:
    """Score of each group for its class [K], float64 [K]."""
    scores = np.ones(len(groups))
    if confidence is not None:
        total = np.bincount(groups.row_of_voxel, confidence.reshape(-1)[groups.voxels], len(groups))
        scores = total / (255.0 * groups.counts)
    of_model = {(item.id, item.class_id): item.score for item in said}
    own = zip(groups.ids.tolist(), classes.tolist(), scores.tolist(), strict=True)
    return np.array([of_model.get((label, class_id), score) for label, class_id, score in own])


def _mean_flow(groups: VoxelGroups, flow: np.ndarray | None) -> np.ndarray:
    """Mean velocity of each group over its believable voxels, float64 [K, 2], NaN without any."""
    if flow is None:
        return np.full((len(groups), 2), np.nan)
    values = flow.reshape(-1, 2)[groups.voxels].astype(np.float64)
    believed = np.hypot(values[:, 0], values[:, 1]) <= TOP_SPEED_MPS  # false of what is no number, too
    values[~believed] = 0.0
    known = np.bincount(groups.row_of_voxel, believed, len(groups))
    total = np.stack([np.bincount(groups.row_of_voxel, values[:, axis], len(groups)) for axis in (0, 1)], axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(known[:, None] > 0, total / known[:, None], np.nan)


def _as_instances(
    ids: np.ndarray, classes: np.ndarray, scores: np.ndarray, boxes: FittedBoxes, velocities: np.ndarray
) -> tuple[Instance, ...]:
    flat = np.where(np.isfinite(velocities[:, :1]), 0.0, np.nan)  # flow is in the plane
    columns = (ids, classes, scores, boxes.centers, boxes.sizes, boxes.yaws, np.hstack([velocities, flat]))
    return tuple(
        Instance(label, class_id, score, tuple(center), tuple(size), yaw, tuple(velocity))
        for label, class_id, score, center, size, yaw, velocity in zip(*(c.tolist() for c in columns), strict=True)
    )
