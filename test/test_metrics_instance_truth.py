"""Instances from boxes against the official generator, synthetic and real."""

from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, rigid
from occ_perception.metrics.instance_truth import instances_from_boxes
from occ_perception.ontology import FREE, OCC3D


def mount_of(golden):
    return rigid(golden["lidar2ego_translation"], golden["lidar2ego_rotation_wxyz"][[1, 2, 3, 0]])


@pytest.mark.parametrize("frame", [0, 1])
def test_official_instances_of_synthetic_frames(shared: Path, frame):
    golden = np.load(shared / "golden" / "metrics_raypq.npz")
    instances, _ = instances_from_boxes(
        OCC3D.from_dataset(golden["gt_semantics"][frame]),
        golden[f"boxes_lidar_frame{frame}_xyz_lwh_yaw"],
        golden[f"box_names_frame{frame}"],
        mount_of(golden),
    )
    np.testing.assert_array_equal(instances, golden["gt_instances"][frame])


def test_official_instances_of_the_real_keyframe(shared: Path):
    golden = np.load(shared / "golden" / "metrics_voxel_points.npz")
    instances, _ = instances_from_boxes(
        OCC3D.from_dataset(golden["grid_semantics"]),
        golden["boxes_lidar_xyz_lwh_yaw"],
        golden["box_names"],
        mount_of(golden),
    )
    np.testing.assert_array_equal(instances, golden["grid_instances"])


def test_first_box_wins_and_left_overs_go_to_the_nearest():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (12, 3, 1))
    car, road = OCC3D.id_of("car"), OCC3D.id_of("driveable_surface")
    semantics = np.full(grid.size, FREE, np.uint8)
    semantics[:10, 1, 0] = car
    semantics[11, 1, 0] = road
    boxes = np.array([[2.5, 1.5, 0.5, 4, 1, 1, 0], [5.0, 1.5, 0.5, 4, 1, 1, 0], [5, 1.5, 0.5, 4, 1, 1, 0]], float)
    instances, rows = instances_from_boxes(semantics, boxes, ["car", "car", "truck"], np.eye(4), grid=grid)
    # centres 0.5 and 4.5 lie on box borders, which count; 7.5 is 0.5 m off, beyond the 0.4 m of the second pass
    assert instances[:10, 1, 0].tolist() == [1, 1, 1, 1, 1, 2, 2, 0, 0, 0]
    assert instances[11, 1, 0] == 3
    assert rows.tolist() == [0, 1]  # the truck's box has no voxel
    grown = boxes.copy()
    grown[1, 3] = 4.4
    assert instances_from_boxes(semantics, grown, ["car"] * 3, np.eye(4), grid=grid).instances[7, 1, 0] == 2


def test_more_instances_than_label_files_hold_only_where_that_is_allowed():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (20, 20, 1))
    semantics = np.full(grid.size, OCC3D.id_of("car"), np.uint8)
    boxes = np.array([[x + 0.5, y + 0.5, 0.5, 0.5, 0.5, 0.5, 0] for x in range(20) for y in range(20)])
    with pytest.raises(InvalidInputError, match="at most 255, got 400"):
        instances_from_boxes(semantics, boxes, ["car"] * 400, np.eye(4), grid=grid)
    numbered = instances_from_boxes(semantics, boxes, ["car"] * 400, np.eye(4), grid=grid, maximum_id=65535)
    assert numbered.instances.dtype == np.uint16
    assert numbered.instances.ravel().tolist() == list(range(1, 401))


def test_bad_boxes_are_named():
    semantics = np.full((200, 200, 16), FREE, np.uint8)
    with pytest.raises(InvalidInputError, match="1 names"):
        instances_from_boxes(semantics, np.zeros((2, 7)), ["car"], np.eye(4))
    with pytest.raises(InvalidInputError, match="finite"):
        instances_from_boxes(semantics, np.full((1, 7), np.nan), ["car"], np.eye(4))
