"""Objects of a labelled frame as the Object Module is trained on them (specs/offsetocc.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from occ_perception.data.labels import GridLabel
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, VoxelGroups
from occ_perception.metrics.instance_truth import instances_from_boxes
from occ_perception.training.task import LabelledFrame

MAX_OBJECTS = 256
"""Rows of the targets; of more objects the smallest are left out.  nuScenes has well below 200 in a grid."""


class ObjectTargets(NamedTuple):
    """Objects of one frame (no batch axis) or of B frames."""

    instances: Tensor  # int16 [..., X, Y, Z]: row of the voxel's object + 1, 0 for none
    classes: Tensor  # int64 [..., MAX_OBJECTS]: position among the thing classes; -1: no object in this row
    centres: Tensor  # float32 [..., MAX_OBJECTS, 3]: centre of the box, metres, frame of the label's grid
    left_out: Tensor  # int64 [...]: objects beyond MAX_OBJECTS


def object_targets(sample: LabelledFrame, things: Sequence[int]) -> ObjectTargets:
    """The objects of which at least one voxel is seen by a camera; their hidden voxels belong to them too.

    Voxels that no box claims belong to no object.

    Args:
        sample: a frame with boxes.
        things: the classes whose objects count, ids of the label's ontology.

    Raises:
        InvalidInputError: the frame has no boxes.
    """
    label = sample.label
    if sample.boxes is None or sample.box_classes is None:
        raise InvalidInputError("object targets: expected a frame with boxes and their classes, got none")
    instances, boxes = _numbered(label, sample.boxes, sample.box_classes, sample.box_ids)
    groups = VoxelGroups.of(instances)
    rows = boxes[groups.ids - 1]
    positions = np.full(label.ontology.num_classes, -1)
    positions[list(things)] = np.arange(len(things))
    classes = np.where(rows >= 0, positions[sample.box_classes[rows]], -1) if len(sample.boxes) else rows
    kept = np.flatnonzero(_seen(groups, label.mask_camera) & (classes >= 0))
    found = len(kept)
    kept = kept[np.sort(np.argsort(-groups.counts[kept], kind="stable")[:MAX_OBJECTS])]
    numbers = np.zeros(len(groups), np.int64)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return ObjectTargets(
        torch.from_numpy(groups.renumbered(numbers, label.grid.num_voxels).astype(np.int16).reshape(label.grid.size)),
        _padded(classes[kept], -1),
        _padded(sample.boxes[rows[kept], :3].astype(np.float32), 0.0),
        torch.tensor(found - len(kept)),
    )


def _numbered(
    label: GridLabel, boxes: np.ndarray, classes: np.ndarray, ids: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """An instance grid, and the box of every id (at id - 1; -1 for none): the dataset's own, else from the boxes."""
    if label.instances is not None and ids is not None:
        box_of = np.full(max(int(label.instances.max()), int(ids.max(initial=0))), -1)
        named = np.flatnonzero(ids > 0)[::-1]  # of boxes with one id, the first; 0: the box has no voxels
        box_of[ids[named] - 1] = named
        return label.instances, box_of
    names = [label.ontology.class_names[c] for c in classes]
    maximum = int(np.iinfo(np.uint16).max)
    numbered = instances_from_boxes(
        label.semantics, boxes[:, :7], names, np.eye(4), label.ontology, label.grid, maximum
    )
    others = np.full(int(numbered.instances.max()) - len(numbered.boxes), -1)
    return numbered.instances, np.concatenate([numbered.boxes, others])


def _seen(groups: VoxelGroups, mask_camera: np.ndarray | None) -> np.ndarray:
    """Whether a camera sees a voxel of each group, bool [K]; all, if the dataset does not say."""
    if mask_camera is None or not len(groups):
        return np.ones(len(groups), bool)
    return np.logical_or.reduceat(mask_camera.reshape(-1)[groups.voxels], groups.starts[:-1])


def _padded(values: np.ndarray, fill: float) -> Tensor:
    padded = np.full((MAX_OBJECTS, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return torch.from_numpy(padded)


def object_voxels(instances: Tensor, count: int, grid: VoxelGrid) -> list[Tensor]:
    """Centres of the voxels of objects 1..count, float32 [n, 3] metres each.

    Args:
        instances: ids [X, Y, Z] of ``ObjectTargets``.
        count: objects.
        grid: of the ids.
    """
    cells = instances.nonzero()
    ids = instances[cells.unbind(dim=1)].long()
    order = ids.argsort(stable=True)
    centres = (cells[order] + 0.5) * grid.voxel_size + torch.tensor(grid.origin, device=cells.device)
    sizes = torch.bincount(ids, minlength=count + 1)[1:].tolist()
    return list(centres.split(sizes))
