"""The colour of every voxel, and the legend that explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.occupancy import Occupancy
from occ_perception.ontology import GEOMETRY

BACKGROUND = (18, 21, 27)
PANEL = (30, 34, 42)
TEXT = (232, 234, 238)
TEXT_DIM = (150, 156, 166)
WARNING = (214, 40, 40)
FREE_FLOOR = (34, 62, 76)
UNKNOWN_FLOOR = (58, 56, 54)
UNKNOWN_STRIPE = (38, 37, 36)
EGO = (245, 245, 245)
ARROW = (255, 255, 90)

HEIGHT_RANGE_M = (-0.5, 4.0)
"""Heights in base_link between which the colour of an "occupied" voxel runs through `HEIGHT_RAMP`."""
HEIGHT_RAMP = np.array(
    [[52, 76, 190], [30, 140, 215], [40, 190, 170], [130, 205, 85], [235, 205, 60], [240, 130, 45], [215, 60, 60]],
    np.float32,
)


@dataclass(frozen=True)
class LegendEntry:
    """One entry of a legend: a name with one colour, a ramp from low to high, or the hatching of the unknown."""

    name: str
    colors: tuple[tuple[int, int, int], ...] = ()
    hatched: bool = False


def height_colors(height_m: np.ndarray) -> np.ndarray:
    """Colours of heights [N] in metres, float32 [N, 3] in 0..255."""
    low, high = HEIGHT_RANGE_M
    position = np.clip((height_m - low) / (high - low), 0.0, 1.0) * (len(HEIGHT_RAMP) - 1)
    steps = np.arange(len(HEIGHT_RAMP))
    return np.stack([np.interp(position, steps, channel) for channel in HEIGHT_RAMP.T], axis=-1).astype(np.float32)


def voxel_colors(occupancy: Occupancy, cells: np.ndarray) -> np.ndarray:
    """Colours of cells: that of their class, or that of their height where all that is known is "occupied".

    Args:
        occupancy: the grid.
        cells: int [N, 3].

    Returns:
        float32 [N, 3] in 0..255.
    """
    classes = occupancy.semantics[tuple(cells.T)]
    colors = occupancy.ontology.palette()[classes].astype(np.float32)
    if occupancy.ontology.name == GEOMETRY.name:
        by_height = classes == GEOMETRY.id_of("occupied")
        grid = occupancy.grid
        colors[by_height] = height_colors(grid.origin[2] + (cells[by_height, 2] + 0.5) * grid.voxel_size)
    return colors


def legend_of(occupancy: Occupancy) -> list[LegendEntry]:
    """Classes that are in the grid, most voxels first, with their counts."""
    palette = occupancy.ontology.palette()
    counts = occupancy.counts()
    present = sorted((name for name in occupancy.ontology.class_names if counts.get(name)), key=lambda n: -counts[n])
    entries = []
    for name in present:
        colors: tuple[tuple[int, int, int], ...] = (_rgb(palette[occupancy.ontology.id_of(name)]),)
        text = f"{name} {counts[name]:,}"
        if occupancy.ontology.name == GEOMETRY.name and name == "occupied":
            colors = tuple(_rgb(step) for step in HEIGHT_RAMP)
            text += f" (by height, {HEIGHT_RANGE_M[0]:g} to {HEIGHT_RANGE_M[1]:g} m)"
        entries.append(LegendEntry(text, colors))
    return entries


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in color)
    return red, green, blue
