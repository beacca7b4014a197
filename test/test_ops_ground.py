"""Ground on slopes, banks and kerbs, and what must not be taken for it: walls, their feet, cars, bridges, crowns."""

import numpy as np
import pytest
from lidar_scenes import ego_points, flat, pose, scan

from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.ops.ground import Footprint, GroundSettings, GroundSurface, feet, fit_ground, on_ground

FOOTPRINT = Footprint((-1.1, -1.1), (4.1, 1.1))
SETTINGS = GroundSettings()


def street(height):
    """Two rows of parked cars, walls with gaps behind them, and a bridge across."""
    boxes = []
    for x in np.arange(-38, 38, 7.0):
        for y in (5.0, -7.0):
            z = float(height(np.array(x + 2.2), np.array(y + 0.9)))
            boxes.append(([x, y, z + 0.25], [x + 4.5, y + 1.8, z + 1.5]))
    for x in np.arange(-40, 40, 13.0):
        for y in (12.0, -15.0):
            z = float(height(np.array(x), np.array(y)))
            boxes.append(([x, y, z - 1], [x + 10, y + 0.3, z + 6]))
    boxes.append(([-20, -30, 6.0], [-14, 30, 7.0]))
    return boxes


TERRAINS = {
    "flat": flat,
    "15 % up, all over": lambda x, y: 0.15 * x + 0 * y,
    "15 % up from 8 m on": lambda x, y: 0.15 * np.maximum(x - 8, 0) + 0 * y,
    "15 % down from 8 m on": lambda x, y: -0.15 * np.maximum(x - 8, 0) + 0 * y,
    "10 % across": lambda x, y: 0.10 * y + 0 * x,
    "3 % camber": lambda x, y: -0.03 * np.abs(y) + 0 * x,
    "rolling hills": lambda x, y: 1.5 * np.sin(x / 12) + 0 * y,
}


@pytest.mark.parametrize("terrain", TERRAINS)
def test_ground_is_found_and_objects_are_not_ground(terrain):
    height = TERRAINS[terrain]
    boxes = street(height)
    points = ego_points(scan(pose(), boxes, height))
    points = points[(np.abs(points[:, :2]) < 40).all(axis=1)]
    surface = fit_ground(points, OCC3D_GRID, FOOTPRINT, SETTINGS)
    true_height = height(points[:, 0], points[:, 1])
    on_box = np.zeros(len(points), bool)
    for lower, upper in boxes:
        on_box |= ((points > np.array(lower) - 0.1) & (points < np.array(upper) + 0.1)).all(axis=1)
    above = points[:, 2] - surface.at(points)
    labelled = (above <= SETTINGS.tolerance) & (above >= -SETTINGS.depth)
    is_ground = ~on_box & (np.abs(points[:, 2] - true_height) < 0.08)
    is_object = on_box & (points[:, 2] - true_height > 0.35)
    assert is_ground.sum() > 3000
    assert is_object.sum() > 1500
    assert labelled[is_ground].mean() > 0.99
    assert labelled[is_object].mean() < 0.01
    error = np.abs(surface.at(points) - true_height)[is_ground & (np.hypot(*points[:, :2].T) < 20)]
    assert np.percentile(error, 95) < 0.06


def test_ghost_points_below_the_road_do_not_pull_the_surface_down():
    points = ego_points(scan(pose()))
    rng = np.random.default_rng(1)
    ghosts = np.stack([rng.uniform(-20, 20, 40), rng.uniform(-20, 20, 40), rng.uniform(-4, -1.5, 40)], axis=1)
    surface = fit_ground(np.concatenate([points, ghosts]), OCC3D_GRID, FOOTPRINT, SETTINGS)
    assert np.abs(surface.at(points[np.hypot(*points[:, :2].T) < 20])).max() < 0.1


def test_ground_under_clutter_everywhere():
    """Stems and bushes in every square metre, from a hand's breadth up; a third of the points are ground."""
    rng = np.random.default_rng(2)
    ground = np.stack([*rng.uniform(-20, 20, (2, 6000)), rng.normal(0, 0.02, 6000)], axis=1)
    clutter = np.stack([*rng.uniform(-20, 20, (2, 12000)), rng.uniform(0.25, 1.5, 12000)], axis=1)
    surface = fit_ground(np.concatenate([ground, clutter]), OCC3D_GRID, FOOTPRINT, SETTINGS)
    assert np.percentile(np.abs(surface.at(ground)), 95) < 0.08


def test_without_points_the_ground_is_flat_under_the_vehicle():
    footprint = Footprint((-1.0, -1.0), (1.0, 1.0), height=-0.3)
    surface = fit_ground(np.zeros((0, 3)), OCC3D_GRID, footprint, SETTINGS)
    assert np.allclose(surface.heights, -0.3, atol=1e-3)


def test_surface_is_bilinear_and_constant_beyond_its_border():
    surface = GroundSurface((0.0, 0.0), 2.0, np.array([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0]], np.float32))
    points = np.array([[1.0, 1.0], [2.0, 0.5], [0.0, 9.0], [-5.0, -5.0], [4.0, 2.0]])
    assert np.allclose(surface.at(points), [1.5, 2.25, 1.0, 0.0, 3.0])


def labels(points, grid=OCC3D_GRID, surface=None):
    """(occupied, ground) voxels of points, by default over ground at zero."""
    surface = surface or GroundSurface((-40.0, -40.0), 80.0, np.zeros((2, 2), np.float32))
    voxels = grid.linear_index(grid.cells_of(points)[0])
    is_ground = on_ground(points, voxels // grid.size[2], surface, SETTINGS)
    occupied, ground = np.zeros(grid.size, bool), np.zeros(grid.size, bool)
    occupied.ravel()[voxels[~is_ground]] = True
    ground.ravel()[voxels[is_ground]] = True
    ground &= ~occupied
    foot = feet(ground, occupied)
    return occupied | foot, ground & ~foot


def column(*heights, x=10.1, y=5.1):
    return np.array([[x, y, z] for z in heights])


def class_at(points, z, grid=OCC3D_GRID):
    occupied, ground = labels(points)
    cell = tuple(grid.cells_of(np.array([[points[0, 0], points[0, 1], z]]))[0][0])
    return "occupied" if occupied[cell] else "ground" if ground[cell] else "nothing"


def test_voxel_with_ground_only_is_ground():
    assert class_at(column(-0.03, 0.0, 0.04), 0.0) == "ground"


def test_voxel_with_ground_and_higher_points_is_occupied():
    grid = VoxelGrid((-40, -40, -0.1), 0.4, (200, 200, 16))
    occupied, ground = labels(column(0.0, 0.28), grid)
    assert (occupied.sum(), ground.sum()) == (1, 0)


def test_foot_of_a_wall_is_not_ground():
    wall = column(0.0, 0.05, 0.3, 0.7, 1.1)
    assert class_at(wall, 0.0) == "occupied"
    assert class_at(wall, 0.3) == "occupied"


def test_ground_below_a_bridge_is_ground_and_the_bridge_is_not():
    bridge = column(0.0, 4.1)
    assert class_at(bridge, 0.0) == "ground"
    assert class_at(bridge, 4.1) == "occupied"


def test_kerb_edge_is_not_ground_but_both_levels_are():
    points = ego_points(scan(pose(), height=lambda x, y: 0.15 * (y > 4.0) + 0 * x, columns=1084))
    points = points[OCC3D_GRID.cells_of(points)[1]]
    surface = fit_ground(points, OCC3D_GRID, FOOTPRINT, SETTINGS)
    occupied, ground = labels(points, surface=surface)
    voxels = OCC3D_GRID.linear_index(OCC3D_GRID.cells_of(points)[0])
    face = voxels[(np.abs(points[:, 1] - 4.0) < 0.02) & (np.abs(points[:, 0]) < 8)]
    flat_parts = voxels[(np.abs(points[:, 1] - 4.0) > 1.0) & (np.abs(points[:, 0]) < 15) & (np.abs(points[:, 1]) < 15)]
    assert len(np.unique(face)) > 5
    assert ground.ravel()[np.unique(flat_parts)].mean() > 0.97
    assert occupied.ravel()[np.unique(face)].mean() > 0.5


def test_reflections_below_the_road_leave_it_ground():
    assert class_at(column(-0.3, -0.35, 0.0, 0.01), 0.0) == "ground"


def test_points_deep_below_the_surface_are_not_ground():
    assert class_at(column(-0.7), -0.7) == "occupied"
