"""What a planner on wheels asks of a voxel grid: which cells of the ground are blocked, clear, or not known.

The band is the space the vehicle's body takes, in heights above ``base_link`` (on the ground in most vehicles).  A cell
is

* OCCUPIED if a voxel of the band holds something one cannot drive on;
* FREE if every voxel of the band is known, seen to be empty or ground (and what lies below the ground), and something
  to stand on was seen under it;
* UNKNOWN otherwise.  One voxel that nobody saw is enough: unknown is not free.

Ground counts only within `GROUND_REACH` of the height the vehicle stands at.  What a model calls ground high up may be
a bridge or a mistake, and ground far down is no support (stairs, the edge of a dock); hills and ramps that lead up
or down further than that are therefore unknown, too.
"""

from __future__ import annotations

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import VoxelGrid
from occ_perception.occupancy import Occupancy
from occ_perception.ontology import FREE, Ontology

OCCUPIED_CELL = 100
FREE_CELL = 0
UNKNOWN_CELL = -1

GROUND_CLASSES = frozenset({"driveable_surface", "other_flat", "sidewalk", "terrain", "ground"})
"""Classes one can stand on, by name, whatever the label set."""

GROUND_REACH = 0.6
"""How far above or below the vehicle's own standing height ground is believed to be ground it can reach, metres."""


def ground_grid(
    occupancy: Occupancy, min_height: float, max_height: float, require_ground: bool = True, ground_height: float = 0.0
) -> np.ndarray:
    """Cells of the ground.

    Args:
        occupancy: the voxel grid.
        min_height, max_height: the band, metres above the grid frame's z = 0; voxels that overlap it count.
        require_ground: a cell is free only if ground, or anything else to stand on, was seen under the band.
        ground_height: of the ground that the vehicle stands on, metres in the grid frame.

    Returns:
        int8 [X, Y] of OCCUPIED_CELL, FREE_CELL, UNKNOWN_CELL.

    Raises:
        ConfigurationError: the band lies outside the grid.
    """
    band = band_of(occupancy.grid, min_height, max_height)
    semantics = occupancy.semantics[:, :, : band.stop]
    near = np.zeros(semantics.shape[2], bool)
    near[_layers(occupancy.grid, ground_height - GROUND_REACH, ground_height + GROUND_REACH)] = True
    is_ground = ground_table(occupancy.ontology)[semantics]
    blocked = ((semantics < FREE) & ~is_ground)[:, :, band].any(axis=2)
    below_ground = np.flip(np.maximum.accumulate(np.flip(is_ground & near, axis=2), axis=2), axis=2)
    clear = ((semantics == FREE) | below_ground)[:, :, band].all(axis=2)
    if require_ground:
        clear &= ((semantics < FREE) & near).any(axis=2)
    cells = np.where(clear, np.int8(FREE_CELL), np.int8(UNKNOWN_CELL))
    cells[blocked] = OCCUPIED_CELL
    return cells


def band_of(grid: VoxelGrid, min_height: float, max_height: float) -> slice:
    """The layers of a grid that overlap a band of heights.

    Raises:
        ConfigurationError: there are none.
    """
    band = _layers(grid, min_height, max_height)
    if band.start >= band.stop:
        top = grid.origin[2] + grid.size[2] * grid.voxel_size
        raise ConfigurationError(
            f"the band {min_height}..{max_height} m lies outside the grid, which has {grid.origin[2]}..{top:g} m"
        )
    return band


def _layers(grid: VoxelGrid, low: float, high: float) -> slice:
    """Layers that overlap these heights, possibly none."""
    first = int(np.floor((low - grid.origin[2]) / grid.voxel_size + 1e-6))
    last = int(np.ceil((high - grid.origin[2]) / grid.voxel_size - 1e-6))
    return slice(max(first, 0), max(min(last, grid.size[2]), 0))


def ground_table(ontology: Ontology) -> np.ndarray:
    """bool [256]: which ids are ground."""
    table = np.zeros(256, bool)
    table[: ontology.num_classes] = [name in GROUND_CLASSES for name in ontology.class_names]
    return table
