"""Grids, transforms and cameras."""

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import (
    OCC3D_GRID,
    CameraRig,
    ImageAffine,
    PinholeCamera,
    VoxelGrid,
    inverse,
    quaternion_from_rotation,
    rigid,
    rotation_from_quaternion,
)
from occ_perception.ontology import FREE, LIDARSEG, OCC3D, ONTOLOGIES, OPENOCC, UNKNOWN

INTRINSICS = np.array([[800.0, 0, 400], [0, 800, 300], [0, 0, 1]])


def test_cells_of_centres_are_the_cells_themselves() -> None:
    grid = VoxelGrid((-1.0, 2.0, -3.0), 0.4, (5, 4, 3))
    cells, inside = grid.cells_of(grid.centers().reshape(-1, 3))
    assert inside.all()
    np.testing.assert_array_equal(grid.linear_index(cells), np.arange(grid.num_voxels))
    np.testing.assert_allclose(grid.center_of(np.arange(60)), grid.centers().reshape(-1, 3), atol=1e-6)


def test_borders_belong_to_the_upper_cell_and_nonfinite_points_to_none() -> None:
    points = np.array([[-40, -40, -1], [40, 0, 0], [0, 0, 5.4], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 0.0]])
    cells, inside = OCC3D_GRID.cells_of(points)
    assert inside.tolist() == [True, False, False, False, False, True]
    assert cells[0].tolist() == [0, 0, 0]
    assert cells[5].tolist() == [100, 100, 2]


@pytest.mark.parametrize(
    "bad", [((0, 0, 0), 0.0, (1, 1, 1)), ((0, 0, 0), 0.4, (0, 1, 1)), ((np.nan, 0, 0), 1, (1, 1, 1))]
)
def test_impossible_grids_are_refused(bad: tuple) -> None:
    with pytest.raises(InvalidInputError):
        VoxelGrid(*bad)


def test_quaternions_round_trip_for_random_and_half_turn_rotations() -> None:
    rng = np.random.default_rng(1)
    quaternions = [*rng.normal(size=(200, 4)), [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1e-9]]
    for quaternion in quaternions:
        rotation = rotation_from_quaternion(quaternion)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(rotation)), rotation, atol=1e-9)


def test_inverse_of_a_batch() -> None:
    rng = np.random.default_rng(2)
    batch = np.stack([rigid(rng.normal(size=3), rng.normal(size=4)) for _ in range(5)])
    np.testing.assert_allclose(inverse(batch) @ batch, np.broadcast_to(np.eye(4), (5, 4, 4)), atol=1e-12)


def test_projection_and_image_affine_agree() -> None:
    camera = PinholeCamera(INTRINSICS, np.eye(4), 800, 600)
    points = np.array([[0, 0, 2.0], [1, -0.5, 4], [0, 0, -2], [100, 0, 1]])
    pixels, depth, visible = camera.project(points)
    assert visible.tolist() == [True, True, False, False]
    np.testing.assert_allclose(pixels[:2], [[400, 300], [600, 200]])
    np.testing.assert_allclose(depth, points[:, 2])
    affine = ImageAffine((0.5, 0.25), (10, 20))
    np.testing.assert_allclose(affine.matrix() @ [600, 200, 1], [290, 30, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"intrinsics": np.diag([0.0, 800, 1])},
        {"intrinsics": np.full((3, 3), np.nan)},
        {"ego_from_camera": np.diag([2.0, 1, 1, 1])},
        {"ego_from_camera": np.diag([-1.0, 1, 1, 1])},
        {"ego_from_camera": np.full((4, 4), np.inf)},
        {"width": 0},
    ],
)
def test_impossible_calibrations_are_refused(change: dict) -> None:
    good = {"intrinsics": INTRINSICS, "ego_from_camera": np.eye(4), "width": 800, "height": 600}
    PinholeCamera(**good)
    with pytest.raises(InvalidInputError):
        PinholeCamera(**{**good, **change})


def test_fingerprint_changes_with_everything_that_matters() -> None:
    def rig(**change: object) -> CameraRig:
        values = {"intrinsics": INTRINSICS, "ego_from_camera": np.eye(4), "width": 800, "height": 600, **change}
        return CameraRig({"front": PinholeCamera(**values)})

    moved = np.eye(4)
    moved[0, 3] = 1e-6
    others = [rig(width=801), rig(ego_from_camera=moved), rig(intrinsics=INTRINSICS + np.diag([1, 0, 0]))]
    assert len({r.fingerprint for r in (rig(), *others)}) == 4
    assert rig().fingerprint == rig().fingerprint


def test_dataset_labels_round_trip_and_bad_ones_are_named() -> None:
    labels = np.arange(18, dtype=np.uint8)
    ours = OCC3D.from_dataset(np.append(labels, 255))
    assert ours[17] == FREE
    assert ours[18] == UNKNOWN
    np.testing.assert_array_equal(OCC3D.to_dataset(ours)[:18], labels)
    with pytest.raises(InvalidInputError, match="18"):
        OCC3D.from_dataset(np.array([18], np.uint8))


def test_label_sets_map_by_name() -> None:
    table = OPENOCC.map_to(OCC3D)
    assert OCC3D.class_names[table[OPENOCC.id_of("car")]] == "car"
    assert table[FREE] == FREE
    assert table[UNKNOWN] == UNKNOWN
    assert (OCC3D.map_to(OPENOCC)[OCC3D.id_of("others")]) == UNKNOWN
    np.testing.assert_array_equal(OCC3D.map_to(LIDARSEG)[:17], np.arange(17))
    assert all(o.num_classes == len(set(o.class_names)) for o in ONTOLOGIES.values())
