"""Point labels and instances read out of a voxel grid, for the nuScenes point benchmarks (benchmarks.md 6 and 7)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid
from occ_perception.metrics.checks import check_instances, check_prediction, check_shape
from occ_perception.ontology import LIDARSEG, Ontology

SEARCH_CELLS = 5
"""How far from a point in an unlabelled cell a labelled cell is looked for."""
POLICY = (
    "points outside the grid use the border cell; points in cells without a lidarseg class use the best other class "
    f"if scores were given, else the nearest cell with one within {SEARCH_CELLS} cells, else driveable_surface"
)
"""What `point_labels` does, for reports."""
PANOPTIC_POLICY = "a point takes class and instance of the voxel it lies in, void in free voxels and outside the grid"
"""What `panoptic_points` does, for reports."""


def border_cells(points: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Cells of points, those outside moved to the nearest border cell, as PanoOcc-style evaluators do.

    Args:
        points: float [P, 3], metres, the grid's frame.

    Returns:
        int64 [P]; C-order linear index.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InvalidInputError(f"points: expected finite [P, 3], got {points.shape}")
    cells = np.floor((points - grid.lower) / grid.voxel_size)
    return grid.linear_index(np.clip(cells, 0, np.asarray(grid.size) - 1))


def point_labels(
    semantics: np.ndarray, points: np.ndarray, grid: VoxelGrid, ontology: Ontology, scores: np.ndarray | None = None
) -> np.ndarray:
    """lidarseg challenge class 1..16 of every point, see `POLICY`.

    Args:
        semantics: uint8 [X, Y, Z]; classes of ``ontology`` or FREE.
        points: float [P, 3], metres, the grid's frame; the points of the keyframe's sweep.
        scores: float [X, Y, Z, N] of the classes of ``ontology``, if the model has them.

    Returns:
        uint8 [P].
    """
    check_prediction(semantics, ontology, grid.size)
    cells = border_cells(points, grid)
    to_lidarseg = ontology.map_to(LIDARSEG)
    to_lidarseg[to_lidarseg >= LIDARSEG.num_classes] = 0  # free, unknown and "others" are no lidarseg class
    grid_labels = to_lidarseg[semantics]
    labels = grid_labels.ravel()[cells]
    open_points = np.flatnonzero(labels == 0)
    if scores is not None:
        check_shape("scores", scores, (*grid.size, ontology.num_classes))
        classes = to_lidarseg[: ontology.num_classes]
        usable = np.flatnonzero(classes)
        best = scores.reshape(-1, ontology.num_classes)[cells[open_points]][:, usable].argmax(axis=1)
        labels[open_points] = classes[usable[best]]
    else:
        labels[open_points] = _nearest_labels(grid_labels, cells[open_points])
    return labels


def panoptic_points(
    semantics: np.ndarray, instances: np.ndarray, points: np.ndarray, grid: VoxelGrid, ontology: Ontology
) -> np.ndarray:
    """Panoptic prediction of every point, see `PANOPTIC_POLICY` (offsetocc.md 8).

    Args:
        semantics: uint8 [X, Y, Z]; classes of ``ontology`` or FREE.
        instances: integers [X, Y, Z], 0..65535, 0 = none.
        points: float [P, 3], metres, the grid's frame; the points of the keyframe's sweep.
        grid, ontology: of both grids.

    Returns:
        uint16 [P]; as of `panoptic_labels`, 0 = void.
    """
    check_prediction(semantics, ontology, grid.size)
    cells, inside = grid.cells_of(points)
    linear = grid.linear_index(cells)
    to_lidarseg = ontology.map_to(LIDARSEG)
    to_lidarseg[to_lidarseg >= LIDARSEG.num_classes] = 0
    labels = np.where(inside, to_lidarseg[semantics.ravel()[linear]], 0).astype(np.uint8)
    return panoptic_labels(labels, check_instances("instances", instances, grid.size).ravel()[linear])


def panoptic_labels(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Panoptic nuScenes prediction: 1000 * class + instance within the class.

    Args:
        labels: uint8 [P]; lidarseg challenge classes.
        instances: integers [P]; any ids up to 65535, 0 = none.  Ids above 999 are renumbered within their class.

    Returns:
        uint16 [P]; stuff has instance 0.

    Raises:
        InvalidInputError: a class has more than 999 instances.
    """
    ids = check_instances("instances", instances, labels.shape)
    ids = np.where(np.isin(labels, LIDARSEG.thing_ids), ids, 0)
    for class_id in np.unique(labels[ids > 999]).tolist():
        of_class = (labels == class_id) & (ids > 0)
        unique, renumbered = np.unique(ids[of_class], return_inverse=True)
        if len(unique) > 999:
            raise InvalidInputError(f"instances: class {LIDARSEG.class_names[class_id]} has {len(unique)}, at most 999")
        ids[of_class] = renumbered + 1
    return (labels.astype(np.int64) * 1000 + ids).astype(np.uint16)


def _nearest_labels(grid_labels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Label of the nearest labelled cell of each cell (linear index [P]), driveable_surface if none is near."""
    size = np.asarray(grid_labels.shape)
    padded = np.pad(grid_labels, SEARCH_CELLS)
    offsets = _neighbour_offsets() @ [padded.shape[1] * padded.shape[2], padded.shape[2], 1]
    coordinates = np.stack(np.unravel_index(cells, tuple(size))) + SEARCH_CELLS
    starts = np.ravel_multi_index(tuple(coordinates), padded.shape)
    labels = np.full(len(cells), LIDARSEG.id_of("driveable_surface"), np.uint8)
    chunk = 16384  # points at a time: 8 MB of neighbours
    for first in range(0, len(cells), chunk):
        around = padded.ravel()[starts[first : first + chunk, None] + offsets]
        nearest = (around != 0).argmax(axis=1)
        found = np.take_along_axis(around, nearest[:, None], axis=1)[:, 0]
        labels[first : first + chunk][found != 0] = found[found != 0]
    return labels


@lru_cache(maxsize=1)
def _neighbour_offsets() -> np.ndarray:
    """Cells within SEARCH_CELLS of a cell, nearest first (ties in x, y, z order), int64 [M, 3]."""
    axis = np.arange(-SEARCH_CELLS, SEARCH_CELLS + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = (offsets**2).sum(axis=1)
    order = np.argsort(distance, kind="stable")
    return offsets[order][distance[order] <= SEARCH_CELLS**2]
