"""The voxel renderer on tiny grids: what is drawn where, in which colour, and what hides what."""

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, rigid
from occ_perception.occupancy import ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, UNKNOWN
from occ_perception.viz.colors import FREE_FLOOR, HEIGHT_RAMP, UNKNOWN_FLOOR, UNKNOWN_STRIPE
from occ_perception.viz.render import Style, render
from occ_perception.viz.solids import Box, paint_box, paint_floor
from occ_perception.viz.views import look_at, pixel_rays, project_points

GRID = VoxelGrid((-4.0, -4.0, 0.0), 0.5, (16, 16, 8))
PLAIN = Style(edge=0.0, fade_to_m=0.0, background=(0, 0, 0))
CAR, TRUCK = OCC3D.id_of("car"), OCC3D.id_of("truck")


def occupancy_of(voxels, ontology=OCC3D, fill=FREE):
    """A grid with the given classes by cell."""
    semantics = np.full(GRID.size, fill, np.uint8)
    for cell, class_id in voxels.items():
        semantics[cell] = class_id
    seen = {FREE: Visibility.FREE_SEEN, UNKNOWN: Visibility.UNKNOWN}.get(fill, Visibility.OCCUPIED_SEEN)
    visibility = np.where(semantics < FREE, np.uint8(Visibility.OCCUPIED_SEEN), np.uint8(seen))
    return Occupancy(1, ModelInfo("lidar-carving", ontology, GRID), semantics, visibility)


def camera(eye=(-9.0, 0.3, 4.0), target=(0.0, 0.0, 1.0)):
    return look_at(eye, target, 160, 120)


def center(cell):
    return GRID.lower + (np.asarray(cell) + 0.5) * GRID.voxel_size


def test_a_voxel_is_drawn_inside_the_outline_of_its_corners_and_nowhere_else():
    view = camera()
    cell = (9, 6, 3)
    drawn = render(occupancy_of({cell: CAR}), view, PLAIN)
    corners = center(cell) + 0.25 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    pixels, _ = project_points(view, corners)
    rows, columns = np.nonzero(drawn.coverage)
    assert len(rows) > 20
    assert (rows + 0.5 >= pixels[:, 1].min()).all()
    assert (rows + 0.5 <= pixels[:, 1].max()).all()
    # The outline is filled to its extremes, within a pixel.
    assert abs(columns.min() - pixels[:, 0].min()) < 1.5
    assert abs(columns.max() + 1 - pixels[:, 0].max()) < 1.5
    u, v = project_points(view, center(cell)[None])[0][0]
    assert (drawn.cell[int(v), int(u)] == cell).all()
    assert (drawn.cell[drawn.coverage == 0] == -1).all()
    assert (drawn.rgb[drawn.coverage == 0] == 0).all()


def test_colours_are_those_of_the_class_times_one_brightness_per_face():
    drawn = render(occupancy_of({(9, 6, 3): CAR}), camera(), PLAIN)
    ratios = drawn.rgb[drawn.coverage > 0][:, 1:] / np.array(OCC3D.colors[CAR])[1:]  # the red of a car is 0
    np.testing.assert_allclose(ratios[:, 0], ratios[:, 1], rtol=1e-5)
    brightness = np.unique(ratios[:, 0].round(4))
    assert 2 <= len(brightness) <= 3  # faces of a cube that one sees at once
    assert brightness.max() == 1.0  # the top is lit in full
    assert brightness.min() > 0.4


def test_edges_darken_the_outline_of_each_voxel():
    near = look_at((-2.0, 0.25, 1.75), (2.0, 0.25, 1.75), 160, 120)
    drawn = render(occupancy_of({(9, 8, 3): CAR}), near, Style(edge=0.5, fade_to_m=0.0))
    blue = drawn.rgb[..., 2]
    u, v = (int(p) for p in project_points(near, center((9, 8, 3))[None])[0][0])
    row = np.flatnonzero(drawn.coverage[v])
    assert blue[v, row[0] + 0] < 0.7 * blue[v, u]
    assert blue[v, row[-1]] < 0.7 * blue[v, u]


def test_the_nearer_voxel_hides_the_one_behind_it():
    view = camera(eye=(-9.0, 0.25, 1.25), target=(0.0, 0.25, 1.25))
    both = render(occupancy_of({(5, 8, 2): CAR, (12, 8, 2): TRUCK}), view, PLAIN)
    assert {tuple(c) for c in both.cell[both.coverage > 0]} == {(5, 8, 2)}
    assert both.distance[60, 80] == pytest.approx(9.0 - 1.5, abs=0.01)


def test_a_translucent_voxel_shows_the_opaque_one_behind_it():
    view = camera(eye=(-9.0, 0.25, 1.25), target=(0.0, 0.25, 1.25))
    grid = occupancy_of({(5, 8, 2): CAR, (12, 8, 2): TRUCK})
    opacity = np.ones(GRID.size, np.float32)
    opacity[5, 8, 2] = 0.25
    mixed = render(grid, view, PLAIN, opacity).rgb[60, 80]
    behind = render(occupancy_of({(12, 8, 2): TRUCK}), view, PLAIN).rgb[60, 80]
    front = render(occupancy_of({(5, 8, 2): CAR}), view, PLAIN).rgb[60, 80]
    np.testing.assert_allclose(mixed, 0.25 * front + 0.75 * behind, atol=0.01)
    alone = occupancy_of({(5, 8, 2): CAR})
    assert render(alone, view, PLAIN, opacity).coverage[60, 80] == 0.25
    opacity[5, 8, 2] = 0.0
    assert render(alone, view, PLAIN, opacity).coverage.max() == 0.0


def test_opacity_of_another_shape_is_refused():
    with pytest.raises(InvalidInputError, match="opacity"):
        render(occupancy_of({}), camera(), PLAIN, np.ones((2, 2, 2)))


def test_the_camera_may_be_inside_the_grid_and_inside_a_voxel():
    inside = look_at((0.3, 0.3, 1.3), (3.0, 0.3, 1.3), 160, 120)
    drawn = render(occupancy_of({(8, 8, 2): CAR, (12, 8, 2): TRUCK}), inside, PLAIN)  # the eye is in the first one
    assert {tuple(c) for c in drawn.cell[drawn.coverage > 0]} == {(12, 8, 2)}
    assert drawn.distance[60, 80] == pytest.approx(2.0 - 0.3, abs=0.01)


def test_a_grid_that_is_full_can_be_looked_at_from_a_face_between_voxels():
    drawn = render(occupancy_of({}, fill=CAR), look_at((0.0, 0.0, 2.0), (1.0, 0.0, 2.0), 64, 48), PLAIN)
    assert (drawn.coverage == 1).all()
    assert drawn.distance.min() > 0.3
    assert np.isfinite(drawn.rgb).all()


@pytest.mark.parametrize("fill", [FREE, UNKNOWN])
def test_a_grid_without_occupied_voxels_is_background(fill):
    drawn = render(occupancy_of({}, fill=fill), camera(), Style(background=(1, 2, 3)))
    assert drawn.coverage.max() == 0
    assert np.isinf(drawn.distance).all()
    assert (drawn.rgb == np.array([1, 2, 3])).all()


def test_occupied_of_the_geometry_set_is_coloured_by_height():
    drawn = render(occupancy_of({(9, 8, 0): 0, (9, 8, 7): 0, (9, 4, 0): 1}, GEOMETRY), camera(), PLAIN)
    blue_to_red = {tuple(c): drawn.rgb[(drawn.cell == c).all(axis=2)].mean(axis=0) for c in ((9, 8, 0), (9, 8, 7))}
    assert blue_to_red[9, 8, 0][2] > blue_to_red[9, 8, 0][0]
    assert blue_to_red[9, 8, 7][0] > blue_to_red[9, 8, 7][2]
    assert HEIGHT_RAMP[0][2] > HEIGHT_RAMP[0][0]
    ground = drawn.rgb[(drawn.cell == (9, 4, 0)).all(axis=2)]
    np.testing.assert_allclose(ground.max(axis=0), GEOMETRY.colors[1], atol=0.5)


def test_surfaces_fade_into_the_background_with_distance():
    grid = occupancy_of({(9, 8, 2): CAR})
    near = render(grid, camera((-9.0, 0.25, 1.25), (0.0, 0.25, 1.25)), Style(0.0, 5.0, 20.0, 1.0, (0, 0, 0)))
    far = render(grid, camera((-17.0, 0.25, 1.25), (0.0, 0.25, 1.25)), Style(0.0, 5.0, 20.0, 1.0, (0, 0, 0)))
    assert far.rgb.max() < 0.3 * near.rgb.max()


@pytest.mark.parametrize(
    ("eye", "density"),
    [((-0.1, 0.1, 1.9), 0.05), ((-4.2, 0.1, 1.9), 0.3), ((0.0, 0.0, 2.0), 0.3)],
    ids=["inside", "just outside the grid", "on a corner of voxels"],
)
def test_every_pixel_shows_the_nearest_voxel_on_its_ray(eye, density):
    """Against brute force: each ray with the slabs of each occupied voxel."""
    semantics = np.where(np.random.default_rng(0).random(GRID.size) < density, CAR, FREE).astype(np.uint8)
    semantics[7:9, 7:9, 3:5] = FREE  # around the eye
    visibility = np.where(semantics == FREE, np.uint8(Visibility.FREE_SEEN), np.uint8(Visibility.OCCUPIED_SEEN))
    view = look_at(eye, (3.0, 1.0, 1.5), 64, 48)
    drawn = render(Occupancy(1, ModelInfo("m", OCC3D, GRID), semantics, visibility), view, PLAIN)

    cells = np.argwhere(semantics < FREE)
    eye, rays = view.ego_from_camera[:3, 3], pixel_rays(view)[:, None]
    lower = GRID.lower + cells * GRID.voxel_size
    first, second = (lower - eye) / rays, (lower + GRID.voxel_size - eye) / rays
    entry, leave = np.minimum(first, second).max(axis=2), np.maximum(first, second).min(axis=2)
    entry[(entry > leave) | (leave < 0) | (entry < 0)] = np.inf
    nearest = entry.argmin(axis=1)
    hit = np.isfinite(entry.min(axis=1))
    assert hit.sum() > 500
    assert ((drawn.coverage.ravel() > 0) == hit).all()
    np.testing.assert_allclose(drawn.distance.ravel()[hit], entry.min(axis=1)[hit], atol=1e-4)
    assert (drawn.cell.reshape(-1, 3)[hit] == cells[nearest[hit]]).all()


def test_the_floor_tells_free_from_unknown_and_never_covers_a_voxel():
    view = camera(eye=(-9.0, 0.0, 9.0))
    voxels = {(9, 8, 0): CAR}
    free, unknown = (occupancy_of(voxels, fill=fill) for fill in (FREE, UNKNOWN))
    plain = render(free, view, PLAIN)
    on_free, on_unknown = (paint_floor(plain, grid, view, PLAIN.background) for grid in (free, unknown))
    shown = plain.coverage > 0
    assert (on_free.rgb[shown] == plain.rgb[shown]).all()
    floor = ~shown & (on_free.rgb.sum(axis=2) > 0)
    assert floor.mean() > 0.2
    np.testing.assert_allclose(on_free.rgb[floor], np.broadcast_to(FREE_FLOOR, (floor.sum(), 3)), atol=1)
    hatching = np.unique(on_unknown.rgb[floor].round(), axis=0)
    assert len(hatching) > 1
    assert hatching.min() >= min(UNKNOWN_STRIPE) - 1
    assert hatching.max() <= max(UNKNOWN_FLOOR) + 1


def test_a_box_is_hidden_by_nearer_voxels_and_hides_what_is_behind_it():
    view = camera(eye=(-9.0, 0.25, 1.25), target=(0.0, 0.25, 1.25))
    box = Box(rigid([0.0, 0.25, 1.25], np.array([0.0, 0.0, 0.0, 1.0])), (1.0, 1.0, 1.0), (255, 255, 255))
    behind = paint_box(render(occupancy_of({(12, 8, 2): TRUCK}), view, PLAIN), box, view)
    before = paint_box(render(occupancy_of({(3, 8, 2): TRUCK}), view, PLAIN), box, view)
    assert behind.distance[60, 80] == pytest.approx(8.5, abs=0.01)
    assert behind.rgb[60, 80].min() == behind.rgb[60, 80].max() > 150  # white, shaded
    assert before.rgb[60, 80].max() < 255
    assert before.rgb[60, 80, 2] > before.rgb[60, 80, 1]  # purple of the truck
