"""Pictures of what a network said beside what was true, from above."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.occupancy import ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, UNKNOWN, Ontology
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.drawing import label

_WIDTH = 400
_GAP = 6


class Pair(NamedTuple):
    """Ground truth and prediction of one frame."""

    truth: np.ndarray  # uint8 [X, Y, Z]
    prediction: np.ndarray  # uint8 [X, Y, Z]
    sample: tuple[int, int]  # (scene, frame)


def side_by_side(pair: Pair, ontology: Ontology) -> np.ndarray:
    """Ground truth (left) and prediction (right) from above, uint8 RGB [H, W, 3]."""
    titles = ("ground truth", "prediction")
    views = [_view(grid, ontology, title) for grid, title in zip((pair.truth, pair.prediction), titles, strict=True)]
    sheet = Image.new("RGB", (2 * _WIDTH + _GAP, views[0].height))
    for index, view in enumerate(views):
        sheet.paste(view, (index * (_WIDTH + _GAP), 0))
    return np.asarray(sheet)


def _view(semantics: np.ndarray, ontology: Ontology, title: str) -> Image.Image:
    grid = OCC3D_GRID
    if semantics.shape != grid.size:  # a picture of it, not measured
        grid = VoxelGrid(OCC3D_GRID.origin, OCC3D_GRID.voxel_size, semantics.shape)
    visibility = np.full(semantics.shape, Visibility.OCCUPIED_SEEN, np.uint8)
    visibility[semantics == FREE] = Visibility.FREE_SEEN
    visibility[semantics == UNKNOWN] = Visibility.UNKNOWN
    image = birds_eye(Occupancy(0, ModelInfo("training", ontology, grid), semantics, visibility), _WIDTH)
    label(image, (8, 8), title)
    return image
