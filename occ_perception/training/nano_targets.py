"""Targets of `nano` from a grid label: classes, velocities and object centres, in the network's coarse columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from occ_perception.data.labels import GridLabel
from occ_perception.models.nano_types import columns_from_grid
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.training.targets import BevFlip

IGNORE = 255
_CENTRE_SIGMA = 0.6  # metres: how far around its centre cells count as centre


class NanoTargets(NamedTuple):
    """Targets of one frame (no batch axis) or of B frames, after augmentation; coarse columns, see `nano_types`."""

    classes: Tensor  # uint8 [..., Y, X, 2, 2, Z]; network classes (free is the last), 255 ignored
    velocity: Tensor  # float32 [..., Y, X, 2] (x, y) m/s of the things in a coarse cell; NaN without
    heatmap: Tensor  # float32 [..., Y, X, 2, 2], 1 at object centres; -1 where nothing is labelled
    offsets: Tensor  # float32 [..., Y, X, 2, 2, 2] (x, y) metres to the centre of the column's object; NaN without


def nano_targets(label: GridLabel, free_class: int, flip: BevFlip) -> NanoTargets:
    """Targets of one frame.

    Args:
        label: ground truth; voxels outside both of its masks are ignored (all count if it has none).
        free_class: the network's index of free space.
        flip: bird's-eye-view augmentation.
    """
    classes = np.where(label.semantics == FREE, free_class, label.semantics).astype(np.uint8)
    seen = _seen(label)
    classes = np.where(seen & (label.semantics != UNKNOWN), classes, IGNORE).astype(np.uint8)
    # What nobody saw teaches nothing, of objects either.
    things = np.isin(label.semantics, label.ontology.thing_ids) & seen
    heatmap, offsets = _centres(label, things, np.asarray(seen.any(axis=2)))
    signs = np.array([-1.0 if flip.x else 1.0, -1.0 if flip.y else 1.0], np.float32)
    arrays = (classes, _velocities(label, things) * signs, heatmap, offsets * signs)
    classes_, velocity, heatmap_, offsets_ = (torch.from_numpy(_flipped(array, flip)) for array in arrays)
    return NanoTargets(
        columns_from_grid(classes_[None])[0].contiguous(),
        velocity.transpose(0, 1).contiguous(),
        columns_from_grid(heatmap_[None, :, :, None])[0, ..., 0].contiguous(),
        columns_from_grid(offsets_[None, :, :, None])[0, ..., 0, :].contiguous(),
    )


def _seen(label: GridLabel) -> np.ndarray:
    """bool [X, Y, Z]: within a mask of the label, if it has any."""
    masks = [mask for mask in (label.mask_camera, label.mask_lidar) if mask is not None]
    if not masks:
        return np.ones(label.semantics.shape, bool)
    seen = masks[0].copy()
    for mask in masks[1:]:
        seen |= mask
    return seen


def _velocities(label: GridLabel, things: np.ndarray) -> np.ndarray:
    """Mean velocity of the thing voxels in each coarse cell, float32 [X / 2, Y / 2, 2], NaN without any."""
    x, y = label.semantics.shape[:2]
    if label.flow is None:
        return np.full((x // 2, y // 2, 2), np.nan, np.float32)
    counted = things & np.isfinite(label.flow).all(axis=-1)
    flow = np.where(counted[..., None], label.flow, 0.0)
    total = flow.sum(axis=2).reshape(x // 2, 2, y // 2, 2, 2).sum(axis=(1, 3))
    number = counted.sum(axis=2).reshape(x // 2, 2, y // 2, 2).sum(axis=(1, 3))[..., None]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def _centres(label: GridLabel, things: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heatmap [X, Y] and offsets [X, Y, 2]; a column belongs to the highest id in it, a centre is its columns' mean."""
    shape = label.semantics.shape[:2]
    heatmap = np.where(labelled, 0.0, -1.0).astype(np.float32)
    offsets = np.full((*shape, 2), np.nan, np.float32)
    if label.instances is None:
        return np.full(shape, -1.0, np.float32), offsets
    ids = np.where(things, label.instances, 0).max(axis=2)
    cells = np.stack(np.nonzero(ids), axis=1)
    _, object_of, counts = np.unique(ids[tuple(cells.T)], return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(object_of, cells[:, axis], len(counts)) for axis in (0, 1)], axis=1)
    centres = sums / np.maximum(counts, 1)[:, None]
    difference = (centres[object_of] - cells) * label.grid.voxel_size
    squared = (difference**2).sum(axis=1)
    # The cell nearest to the centre is the peak, whichever side of the centre it lies on.
    nearest = np.full(len(counts), np.inf)
    np.minimum.at(nearest, object_of, squared)
    peak = np.exp(-(squared - nearest[object_of]) / (2 * _CENTRE_SIGMA**2))
    heatmap[tuple(cells.T)] = peak
    offsets[tuple(cells.T)] = difference
    return heatmap, offsets


def _flipped(array: np.ndarray, flip: BevFlip) -> np.ndarray:
    """Flip the axes x and y of [X, Y, ...]."""
    axes = tuple(axis for axis, wanted in ((0, flip.x), (1, flip.y)) if wanted)
    return np.ascontiguousarray(np.flip(array, axes)) if axes else np.ascontiguousarray(array)
