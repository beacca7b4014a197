"""Point labels from voxels, lidarseg mIoU and panoptic quality against the official evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, rigid, transform_points
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.lidarseg_iou import LidarsegIoU
from occ_perception.metrics.panoptic import PanopticQuality
from occ_perception.metrics.points_from_voxels import border_cells, panoptic_labels, point_labels
from occ_perception.ontology import FREE, LIDARSEG, OCC3D

CASES = ["perfect", "iou_exactly_half", "small_segments", "random", "points_in_ignored_gt"]
KINDS = ("true_positive", "false_positive", "false_negative")


@pytest.fixture(scope="module")
def golden(shared: Path):
    arrays = np.load(shared / "golden" / "metrics_panoptic.npz")
    return arrays, json.loads((shared / "golden" / "metrics_panoptic.json").read_text())


@pytest.fixture(scope="module")
def keyframe_golden(shared: Path):
    arrays = np.load(shared / "golden" / "metrics_voxel_points.npz")
    return arrays, json.loads((shared / "golden" / "metrics_voxel_points.json").read_text())


def check_panoptic(metric, official):
    result = metric.compute()
    values = {**result.values, "mIoU_panoptic_evaluator": result.values["mIoU"]}
    for name in ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU", "mIoU_panoptic_evaluator"):
        if name in official:
            assert values[name] == pytest.approx(official[name], abs=1e-9), name
    for kind, short in zip(KINDS, ("tp", "fp", "fn"), strict=True):
        assert metric.counts[kind].tolist() == official[short]
    for name in ("PQ", "SQ", "RQ", "IoU"):
        if f"{name}_per_class" in official:
            np.testing.assert_allclose(result.per_class[name], official[f"{name}_per_class"][1:], atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_official_panoptic_numbers(golden, case):
    arrays, expected = golden
    metric = PanopticQuality()
    for scan in (0, 1):
        metric.update(arrays[f"gt_panoptic_scan{scan}"], arrays[f"pred_panoptic_{case}_scan{scan}"])
    check_panoptic(metric, expected[case])
    iou_sum = metric.sums["iou"].astype(np.float64) / 2.0**40
    np.testing.assert_allclose(iou_sum, expected[case]["iou_sum"], atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_official_lidarseg_numbers(golden, case):
    arrays, expected = golden
    scans = [
        ((arrays[f"gt_panoptic_scan{scan}"] // 1000), arrays[f"pred_panoptic_{case}_scan{scan}"] // 1000)
        for scan in (0, 1)
    ]
    metric = LidarsegIoU()
    official = expected[case]["lidarseg"]
    if case == "perfect":
        assert "rejects predictions of class 0" in official
        with pytest.raises(InvalidInputError, match=r"1\.\.16, got \[0\]"):
            metric.update(*scans[0])
        return
    for true, predicted in scans:
        metric.update(true.astype(np.uint8), predicted.astype(np.uint8))
    result = metric.compute()
    assert result.values["mIoU"] == pytest.approx(official["mIoU"], abs=1e-9)
    assert result.values["fwIoU"] == pytest.approx(official["fwIoU"], abs=1e-9)
    np.testing.assert_allclose(result.per_class["IoU"], np.array(official["per_class_iou"][1:], float), atol=1e-9)


@pytest.mark.parametrize("metric_class", [PanopticQuality, LidarsegIoU])
def test_workers_merge_to_identical_results(golden, metric_class):
    arrays, _ = golden
    alone, first, second = metric_class(), metric_class(), metric_class()
    for metric, scans in ((alone, (0, 1)), (first, (1,)), (second, (0,))):
        for scan in scans:
            true, predicted = arrays[f"gt_panoptic_scan{scan}"], arrays[f"pred_panoptic_random_scan{scan}"]
            if metric_class is LidarsegIoU:
                true, predicted = true // 1000, predicted // 1000
            metric.update(true, predicted)
    first.merge(Accumulator.from_json(second.to_json()))
    assert first.to_json() == alone.to_json()
    assert repr(first.compute()) == repr(alone.compute())


def test_real_keyframe_from_voxels_to_panoptic(keyframe_golden):
    arrays, expected = keyframe_golden
    mount = rigid(arrays["lidar2ego_translation"], arrays["lidar2ego_rotation_wxyz"][[1, 2, 3, 0]])
    points = transform_points(mount, arrays["points_lidar_xyz"].astype(np.float64))
    cells = border_cells(points, OCC3D_GRID)
    clamped = np.clip(arrays["cell_index"], 0, np.array(OCC3D_GRID.size) - 1)
    np.testing.assert_array_equal(cells, OCC3D_GRID.linear_index(clamped))
    unclamped, inside = OCC3D_GRID.cells_of(points)
    np.testing.assert_array_equal(inside, arrays["inside"])
    np.testing.assert_array_equal(unclamped[inside], arrays["cell_index"][inside])
    semantics = arrays["grid_semantics"]
    np.testing.assert_array_equal(semantics.ravel()[cells], arrays["point_label"])
    instances = arrays["grid_instances"].ravel()[cells]
    np.testing.assert_array_equal(instances, arrays["point_instance"])
    # the golden file's own rule for free and "others": manmade
    labels = np.where(np.isin(arrays["point_label"], (0, 17)), LIDARSEG.id_of("manmade"), arrays["point_label"])
    panoptic = panoptic_labels(labels.astype(np.uint8), instances)
    np.testing.assert_array_equal(panoptic, arrays["pred_panoptic"])
    metric = PanopticQuality()
    metric.update(arrays["gt_panoptic"], panoptic)
    check_panoptic(metric, expected)


def test_points_in_unlabelled_cells_take_the_nearest_class_or_the_best_score():
    grid = VoxelGrid((0.0, 0.0, 0.0), 1.0, (20, 4, 4))
    semantics = np.full(grid.size, FREE, np.uint8)
    semantics[0, 0, 0] = OCC3D.id_of("car")
    semantics[6, 0, 0] = OCC3D.id_of("manmade")
    semantics[1, 0, 0] = OCC3D.id_of("others")
    points = np.array([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [4.5, 0.5, 0.5], [15.5, 0.5, 0.5], [-3.0, 0.2, 9.9]])
    labels = point_labels(semantics, points, grid, OCC3D)
    assert [LIDARSEG.class_names[i] for i in labels] == ["car", "car", "manmade", "driveable_surface", "car"]
    scores = np.zeros((*grid.size, OCC3D.num_classes), np.float32)
    scores[..., OCC3D.id_of("others")] = 3.0
    scores[..., OCC3D.id_of("terrain")] = 1.0
    labels = point_labels(semantics, points, grid, OCC3D, scores)
    assert [LIDARSEG.class_names[i] for i in labels] == ["car"] + ["terrain"] * 4


def test_large_instance_ids_are_renumbered_within_their_class():
    car, road = LIDARSEG.id_of("car"), LIDARSEG.id_of("driveable_surface")
    labels = np.array([car, car, car, car, road], np.uint8)
    panoptic = panoptic_labels(labels, np.array([0, 40000, 7, 40000, 9], np.uint16))
    assert (panoptic - 1000 * labels.astype(int)).tolist() == [0, 2, 1, 2, 0]
    with pytest.raises(InvalidInputError, match="at most 999"):
        panoptic_labels(np.full(2000, car, np.uint8), np.arange(1, 2001))
    with pytest.raises(InvalidInputError, match="65535"):
        panoptic_labels(labels, np.full(5, 65536))


def test_bad_points_are_named():
    with pytest.raises(InvalidInputError, match="finite"):
        border_cells(np.array([[np.nan, 0, 0]]), OCC3D_GRID)
    with pytest.raises(InvalidInputError, match="uint16"):
        PanopticQuality().update(np.zeros(3, np.uint16), np.zeros(3, np.int64))
    with pytest.raises(InvalidInputError, match=r"\[17\]"):
        PanopticQuality().update(np.zeros(3, np.uint16), np.full(3, 17000, np.uint16))
    with pytest.raises(InvalidInputError, match="predictions"):
        LidarsegIoU().update(np.ones(3, np.uint8), np.ones(4, np.uint8))
