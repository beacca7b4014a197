"""The planner's view: blocked, clear or unknown cells."""

import numpy as np
import pytest

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import VoxelGrid
from occ_perception.ground_grid import band_of, ground_grid
from occ_perception.occupancy import ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, UNKNOWN

GRID = VoxelGrid((0.0, 0.0, -1.0), 0.4, (3, 2, 16))  # layers start at -1.0, -0.6, -0.2, 0.2, 0.6 ...
BAND = (0.2, 2.0)
IN_BAND, LAST_IN_BAND, ABOVE, BELOW = 3, 7, 8, 2


def grid_of(voxels, ontology=OCC3D, background=FREE):
    """An occupancy that is all background but for some voxels."""
    semantics = np.full(GRID.size, background, np.uint8)
    for cell, value in voxels.items():
        semantics[cell] = value
    visibility = np.full(GRID.size, Visibility.FREE_SEEN, np.uint8)
    visibility[semantics < FREE] = Visibility.OCCUPIED_SEEN
    visibility[semantics == UNKNOWN] = Visibility.UNKNOWN
    return Occupancy(0, ModelInfo("m", ontology, GRID), semantics, visibility)


def cell_of(voxels, **kwargs):
    cells = ground_grid(grid_of({(1, 1, z): value for z, value in voxels.items()}, **kwargs), *BAND)
    assert cells.dtype == np.int8
    assert cells.shape == (3, 2)
    return cells[1, 1]


CAR, ROAD, TERRAIN = OCC3D.id_of("car"), OCC3D.id_of("driveable_surface"), OCC3D.id_of("terrain")


def test_band_covers_every_layer_it_touches():
    assert band_of(GRID, 0.2, 2.0) == slice(3, 8)  # 0.2 .. 2.2: the layer 1.8..2.2 is touched
    assert band_of(GRID, 0.2, 2.2) == slice(3, 8)
    assert band_of(GRID, 0.19, 2.21) == slice(2, 9)
    assert band_of(GRID, -5.0, 50.0) == slice(0, 16)
    with pytest.raises(ConfigurationError, match="lies outside the grid"):
        band_of(GRID, 6.0, 7.0)


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        ({}, 0),
        ({IN_BAND: CAR}, 100),
        ({LAST_IN_BAND: CAR}, 100),
        ({ABOVE: CAR}, 0),  # a bridge one fits under
        ({BELOW: CAR}, 0),  # flat on the road
        ({BELOW: ROAD}, 0),
        ({IN_BAND: TERRAIN}, 0),  # a slope
        ({IN_BAND: TERRAIN, IN_BAND + 1: CAR}, 100),
        ({IN_BAND: UNKNOWN}, -1),
        ({LAST_IN_BAND: UNKNOWN}, -1),
        ({ABOVE: UNKNOWN, BELOW: UNKNOWN}, 0),
        ({IN_BAND: CAR, LAST_IN_BAND: UNKNOWN}, 100),
        ({IN_BAND: UNKNOWN, IN_BAND + 1: TERRAIN}, 0),  # inside the ground
        ({IN_BAND: TERRAIN, IN_BAND + 1: UNKNOWN}, -1),  # hidden above it
    ],
)
def test_cells(voxels, expected):
    assert cell_of(voxels) == expected


def test_nothing_seen_is_nothing_known():
    assert np.all(ground_grid(grid_of({}, background=UNKNOWN), *BAND) == -1)


def test_ground_is_known_by_name_in_every_label_set():
    assert cell_of({IN_BAND: GEOMETRY.id_of("ground")}, ontology=GEOMETRY) == 0
    assert cell_of({IN_BAND: GEOMETRY.id_of("occupied")}, ontology=GEOMETRY) == 100


def test_never_free_where_a_voxel_of_the_band_is_unknown_and_not_under_ground():
    random = np.random.default_rng(0)
    for _ in range(50):
        semantics = random.choice([FREE, UNKNOWN, CAR, ROAD], GRID.size, p=[0.8, 0.1, 0.05, 0.05]).astype(np.uint8)
        occupancy = grid_of(dict(np.ndenumerate(semantics)))
        cells = ground_grid(occupancy, *BAND)
        for x, y in np.ndindex(cells.shape):
            column = semantics[x, y, IN_BAND : LAST_IN_BAND + 1].tolist()
            top = max((z for z, value in enumerate(column) if value == ROAD), default=-1)
            expected = 100 if CAR in column else -1 if UNKNOWN in column[top + 1 :] else 0
            assert cells[x, y] == expected
