"""Upright boxes around groups of voxels, all groups at once.

The footprint of each group gets the rectangle, over 30 directions, with the least

    area / smallest area  +  mean distance of the cells to the nearest side, in cells.

The second term decides where the first cannot: of an L (the two sides of a car that are seen) the rectangle along the
legs and the one along the hypotenuse have the same area, but only the first has the cells on its sides (Zhang et al.,
Efficient L-Shape Fitting for Vehicle Detection Using Laser Scanners, 2017, criteria III-B and III-C).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import VoxelGrid, VoxelGroups

DIRECTIONS = 30
"""Of a side within a quarter turn, so 3 degrees apart."""
MIN_CELLS = 8
"""Footprints of fewer cells do not tell a direction."""
_MIN_CONTRAST = 0.2  # and neither do those whose largest rectangle is hardly larger than the smallest: round ones


@dataclass(frozen=True)
class FittedBoxes:
    """One box a group, in the grid's frame.

    Attributes:
        centers: float64 [K, 3], metres.
        sizes: float64 [K, 3], length (along yaw), width, height, metres; half a cell around the outermost centres.
        yaws: float64 [K], radians, (-pi, pi].
    """

    centers: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray


def fit_boxes(groups: VoxelGroups, grid: VoxelGrid, headings: np.ndarray | None = None) -> FittedBoxes:
    """Fit a box to each group of voxels.

    The longer side is the length and its direction is known up to half a turn (yaw in (-pi/2, pi/2]).  Where a heading
    is given, the yaw is the side nearest to it, so that of what moves the length lies along its motion even if only
    the broad rear is seen; where the footprint itself does not tell a direction, the yaw is the heading.

    Args:
        groups: the voxels.
        grid: what they are cells of.
        headings: float64 [K], direction of motion, radians; NaN where it is not known.
    """
    if not len(groups):
        return FittedBoxes(np.empty((0, 3)), np.empty((0, 3)), np.empty(0))
    headings = np.full(len(groups), np.nan) if headings is None else headings
    cells, starts = _footprints(groups, grid)
    points = grid.lower[:2] + (cells + 0.5) * grid.voxel_size
    sides, contrast = _best_directions(points, starts, grid.voxel_size)
    told = (np.diff(starts, append=len(points)) >= MIN_CELLS) & (contrast >= _MIN_CONTRAST)
    yaws = _yaws(points, starts, sides, headings, told)
    middle, extent = _rectangles(points, starts, yaws)
    low, high = _heights(groups, grid)
    centers = np.column_stack([middle, (low + high) / 2])
    return FittedBoxes(centers, np.column_stack([extent + grid.voxel_size, high - low]), yaws)


def _footprints(groups: VoxelGroups, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Columns that each group covers: cells int64 [F, 2], and where those of each group start, int64 [K]."""
    columns = groups.voxels // grid.size[2]
    first = np.ones(len(columns), bool)
    first[1:] = columns[1:] != columns[:-1]  # voxels of a group ascend, so those of a column lie together
    first[groups.starts[:-1]] = True
    starts = np.cumsum(first)[groups.starts[:-1]] - 1
    kept = columns[first]
    return np.stack([kept // grid.size[1], kept % grid.size[1]], axis=1), starts


def _heights(groups: VoxelGroups, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of each group, float64 [K], metres."""
    layers = groups.voxels % grid.size[2]
    low = np.minimum.reduceat(layers, groups.starts[:-1])
    high = np.maximum.reduceat(layers, groups.starts[:-1]) + 1
    return grid.origin[2] + low * grid.voxel_size, grid.origin[2] + high * grid.voxel_size


def _best_directions(points: np.ndarray, starts: np.ndarray, voxel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Direction of a side of the best rectangle, float64 [K] in [0, pi/2), and how much larger the largest is."""
    angles = np.arange(DIRECTIONS) * (np.pi / 2 / DIRECTIONS)
    # Choosing needs no more than single precision, and takes half as long.
    turn = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    flank = np.stack([np.cos(angles), -np.sin(angles)]).astype(np.float32)
    xy = points.astype(np.float32)
    along, across = xy @ turn, xy[:, ::-1] @ flank
    counts = np.diff(starts, append=len(points))
    (length, to_ends), (width, to_flanks) = (_extents(position, starts, counts) for position in (along, across))
    area = (length + voxel_size) * (width + voxel_size)
    distance = np.add.reduceat(np.minimum(to_ends, to_flanks), starts) / counts[:, None]
    smallest = area.min(axis=1)
    best = np.argmin(area / smallest[:, None] + distance / voxel_size, axis=1)
    return angles[best], area.max(axis=1) / smallest - 1


def _extents(positions: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range of each group's positions [F, D] on D axes, float64 [K, D], and how far each is from its ends [F, D]."""
    low, high = np.minimum.reduceat(positions, starts), np.maximum.reduceat(positions, starts)
    from_low, from_high = positions - np.repeat(low, counts, axis=0), np.repeat(high, counts, axis=0) - positions
    return high - low, np.minimum(from_low, from_high)


def _yaws(
    points: np.ndarray, starts: np.ndarray, sides: np.ndarray, headings: np.ndarray, told: np.ndarray
) -> np.ndarray:
    """The direction that is forward, float64 [K]."""
    _, extent = _rectangles(points, starts, sides)
    longer = sides + np.where(extent[:, 0] >= extent[:, 1], 0.0, np.pi / 2)
    longer = np.where(longer > np.pi / 2, longer - np.pi, longer)
    quarters = np.round((headings - sides) / (np.pi / 2))  # the side nearest to the heading
    forward = np.where(told, sides + quarters * (np.pi / 2), headings)
    yaws = np.where(np.isfinite(headings), forward, longer)
    return np.pi - np.mod(np.pi - yaws, 2 * np.pi)


def _rectangles(points: np.ndarray, starts: np.ndarray, yaws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rectangle around the points of each group in its own direction: middle and extent, float64 [K, 2] each."""
    counts = np.diff(starts, append=len(points))
    cosine, sine = np.cos(yaws), np.sin(yaws)
    c, s = np.repeat(cosine, counts), np.repeat(sine, counts)
    local = np.stack([c * points[:, 0] + s * points[:, 1], c * points[:, 1] - s * points[:, 0]], axis=1)
    low, high = np.minimum.reduceat(local, starts), np.maximum.reduceat(local, starts)
    along, across = np.moveaxis((low + high) / 2, 1, 0)
    return np.column_stack([cosine * along - sine * across, sine * along + cosine * across]), high - low
