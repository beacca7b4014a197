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


def cell_of(voxels, require_ground=True, **kwargs):
    occupancy = grid_of({(1, 1, z): value for z, value in voxels.items()}, **kwargs)
    cells = ground_grid(occupancy, *BAND, require_ground)
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
        ({BELOW: ROAD}, 0),
        ({BELOW: CAR}, 0),  # flat on the road
        ({IN_BAND: CAR}, 100),
        ({LAST_IN_BAND: CAR}, 100),
        ({BELOW: ROAD, ABOVE: CAR}, 0),  # a bridge one fits under
        ({IN_BAND: TERRAIN}, 0),  # a slope
        ({IN_BAND: TERRAIN, IN_BAND + 1: CAR}, 100),
        ({BELOW: ROAD, IN_BAND: UNKNOWN}, -1),
        ({BELOW: ROAD, LAST_IN_BAND: UNKNOWN}, -1),
        ({BELOW: ROAD, ABOVE: UNKNOWN, BELOW - 1: UNKNOWN}, 0),
        ({IN_BAND: CAR, LAST_IN_BAND: UNKNOWN}, 100),
        ({IN_BAND: TERRAIN, BELOW: UNKNOWN}, 0),  # inside the ground
        ({IN_BAND: TERRAIN, IN_BAND + 1: UNKNOWN}, -1),  # hidden above it
    ],
)
def test_cells(voxels, expected):
    assert cell_of(voxels) == expected


def test_ground_high_up_makes_nothing_below_it_known():
    below = dict.fromkeys(range(LAST_IN_BAND), UNKNOWN)
    assert cell_of({LAST_IN_BAND: ROAD, **below}) == -1
    assert cell_of({LAST_IN_BAND: ROAD, **below}, require_ground=False) == -1
    assert cell_of({LAST_IN_BAND: ROAD, BELOW: ROAD}) == -1  # a vehicle would hit it, if it is there


@pytest.mark.parametrize("under", [{}, {0: ROAD}, {BELOW: UNKNOWN, BELOW - 1: UNKNOWN, 0: UNKNOWN}])
def test_nothing_to_stand_on_is_not_free(under):
    """Stairs, the edge of a dock: the band is empty, but nobody saw ground there, or saw it far below."""
    assert cell_of(under) == -1
    assert cell_of(under, require_ground=False) == 0


def test_nothing_seen_is_nothing_known():
    assert np.all(ground_grid(grid_of({}, background=UNKNOWN), *BAND) == -1)


def test_ground_is_known_by_name_in_every_label_set():
    assert cell_of({IN_BAND: GEOMETRY.id_of("ground")}, ontology=GEOMETRY) == 0
    assert cell_of({IN_BAND: GEOMETRY.id_of("occupied")}, ontology=GEOMETRY) == 100


def test_never_free_without_ground_and_a_known_band_above_it():
    random = np.random.default_rng(0)
    free = 0
    for _ in range(50):
        semantics = random.choice([FREE, UNKNOWN, CAR, ROAD], GRID.size, p=[0.8, 0.1, 0.05, 0.05]).astype(np.uint8)
        cells = ground_grid(grid_of(dict(np.ndenumerate(semantics))), *BAND)
        for x, y in np.ndindex(cells.shape):
            column = semantics[x, y].tolist()
            band, reach = column[IN_BAND : LAST_IN_BAND + 1], column[1 : IN_BAND + 1]  # reach: -0.6 .. 0.6 m
            if CAR in band:
                expected = 100
            else:
                above = band[1:] if band[0] == ROAD else band
                expected = 0 if set(above) <= {FREE} and {CAR, ROAD} & set(reach) else -1
            free += expected == 0
            assert cells[x, y] == expected
    assert free > 10


def test_ground_is_looked_for_where_the_vehicle_stands():
    road_below = grid_of({(1, 1, 0): ROAD})  # -1.0 .. -0.6 m
    assert ground_grid(road_below, *BAND)[1, 1] == -1
    assert ground_grid(road_below, *BAND, ground_height=-0.8)[1, 1] == 0
