"""What a planner on wheels asks of a voxel grid: which cells of the ground are blocked, clear, or not known.

The band is the space the vehicle's body takes, in heights above ``base_link`` (on the ground in most vehicles).  A cell
is

* OCCUPIED if a voxel of the band holds something one cannot drive on;
* FREE if every voxel of the band is known: seen to be empty, or ground (and what lies below the ground);
* UNKNOWN otherwise.  One voxel that nobody saw is enough: unknown is not free.
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


def ground_grid(occupancy: Occupancy, min_height: float, max_height: float) -> np.ndarray:
    """Cells of the ground.

    Args:
        occupancy: the voxel grid.
        min_height, max_height: the band, metres above the grid frame's z = 0; voxels that overlap it count.

    Returns:
        int8 [X, Y] of OCCUPIED_CELL, FREE_CELL, UNKNOWN_CELL.

    Raises:
        ConfigurationError: the band lies outside the grid.
    """
    band = band_of(occupancy.grid, min_height, max_height)
    semantics = occupancy.semantics[:, :, band]
    is_ground = ground_table(occupancy.ontology)[semantics]
    blocked = ((semantics < FREE) & ~is_ground).any(axis=2)
    below_ground = np.flip(np.maximum.accumulate(np.flip(is_ground, axis=2), axis=2), axis=2)
    known = ((semantics == FREE) | below_ground).all(axis=2)
    cells = np.where(known, np.int8(FREE_CELL), np.int8(UNKNOWN_CELL))
    cells[blocked] = OCCUPIED_CELL
    return cells


def band_of(grid: VoxelGrid, min_height: float, max_height: float) -> slice:
    """The layers of a grid that overlap a band of heights.

    Raises:
        ConfigurationError: there are none.
    """
    first = int(np.floor((min_height - grid.origin[2]) / grid.voxel_size + 1e-6))
    last = int(np.ceil((max_height - grid.origin[2]) / grid.voxel_size - 1e-6))
    band = slice(max(first, 0), min(last, grid.size[2]))
    if band.start >= band.stop:
        top = grid.origin[2] + grid.size[2] * grid.voxel_size
        raise ConfigurationError(
            f"the band {min_height}..{max_height} m lies outside the grid, which has {grid.origin[2]}..{top:g} m"
        )
    return band


def ground_table(ontology: Ontology) -> np.ndarray:
    """bool [256]: which ids are ground."""
    table = np.zeros(256, bool)
    table[: ontology.num_classes] = [name in GROUND_CLASSES for name in ontology.class_names]
    return table
