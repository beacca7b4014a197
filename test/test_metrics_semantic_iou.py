"""mIoU, IoU and mIoU_D against the official evaluators, and the promises every accumulator makes."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.checks import align_prediction
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.ontology import FREE, OCC3D, OPENOCC, UNKNOWN

CASES = ["perfect", "all_free", "shift_x1", "shift_z1", "noise", "class_confusion", "outside_mask_filled"]


@pytest.fixture(scope="module")
def golden(shared: Path):
    arrays = np.load(shared / "golden" / "metrics_occ3d.npz")
    return arrays, json.loads((shared / "golden" / "metrics_occ3d.json").read_text())


def score(golden, case, mask, gt="gt", **settings):
    arrays, _ = golden
    metric = SemanticIoU("occ3d", mask=mask, **settings)
    truth, prediction = (OCC3D.from_dataset(arrays[key]) for key in (gt, f"pred_{case}"))
    for frame in range(2):
        visible = None if mask == "none" else arrays[f"mask_{mask}"][frame]
        metric.update(truth[frame], prediction[frame], visible)
    return metric


@pytest.mark.parametrize("mask", ["camera", "lidar", "none"])
@pytest.mark.parametrize("case", CASES)
def test_official_numbers(golden, case, mask):
    arrays, expected = golden
    metric = score(golden, case, mask)
    np.testing.assert_array_equal(metric.counts["confusion"], arrays[f"hist_{case}_{mask}"])
    result, official = metric.compute(), expected[case][mask]
    values = {name: 100 * value for name, value in result.values.items()}
    assert values["mIoU"] == pytest.approx(official["mIoU_percent"], abs=1e-9)
    assert values["IoU"] == pytest.approx(official["IoU_occupied_percent"], abs=1e-9)
    assert values["mIoU_D"] == pytest.approx(official["mIoU_D_percent"], abs=1e-9)
    per_class = np.array(official["per_class_iou"], float)
    np.testing.assert_allclose(result.per_class["IoU"], per_class, atol=1e-9)
    sparse = score(golden, case, mask, empty_gt_is_nan=True).compute().values["mIoU"]
    assert 100 * sparse == pytest.approx(official["mIoU_percent_sparseocc_variant"], abs=1e-9)


def test_unlabelled_voxels_are_dropped_everywhere(golden):
    arrays, _ = golden
    truth, prediction = OCC3D.from_dataset(arrays["gt_with_255"]), OCC3D.from_dataset(arrays["pred_noise"])
    assert (truth == UNKNOWN).any()
    with_holes, labelled_only = SemanticIoU(mask="none"), SemanticIoU(mask="camera")
    for t, p in zip(truth, prediction, strict=True):
        with_holes.update(t, p)
        labelled_only.update(np.where(t == UNKNOWN, FREE, t).astype(np.uint8), p, t != UNKNOWN)
    assert with_holes.compute().values == labelled_only.compute().values


def test_workers_merge_to_identical_results(golden):
    arrays, _ = golden
    truth, prediction = OCC3D.from_dataset(arrays["gt"]), OCC3D.from_dataset(arrays["pred_noise"])
    alone = score(golden, "noise", "camera")
    workers = [SemanticIoU() for _ in range(2)]
    for frame, worker in enumerate(workers):
        worker.update(truth[frame], prediction[frame], arrays["mask_camera"][frame])
    merged = Accumulator.from_json(workers[1].to_json())
    merged.merge(workers[0])
    assert merged.to_json() == alone.to_json()
    assert repr(merged.compute()) == repr(alone.compute())


def test_no_frames_is_nan_not_zero():
    assert np.isnan(list(SemanticIoU().compute().values.values())).all()


def test_cannot_merge_what_counts_differently():
    with pytest.raises(ConfigurationError, match="camera"):
        SemanticIoU(mask="camera").merge(SemanticIoU(mask="lidar"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace("semantic_iou", "other"),
        lambda text: text.replace("occ3d", "openocc"),
        lambda text: text.replace('"confusion"', '"wrong"'),
        lambda text: text.replace("[[0,", "[[0.5,"),
        lambda text: "[]",
    ],
)
def test_damaged_json_is_refused(damage):
    with pytest.raises(InvalidInputError, match="metric JSON"):
        Accumulator.from_json(damage(SemanticIoU().to_json()))


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.full((4, 4, 2), 17, np.uint8), r"\[17\] in 32 places, the first at \[0, 0, 0\]"),
        (np.full((4, 4, 2), UNKNOWN, np.uint8), "255"),
        (np.zeros((4, 4, 3), np.uint8), r"\(4, 4, 2\), got \(4, 4, 3\)"),
        (np.zeros((4, 4, 2), np.int64), "uint8"),
    ],
)
def test_bad_predictions_are_named(prediction, message):
    metric = SemanticIoU(mask="none")
    with pytest.raises(InvalidInputError, match=message):
        metric.update(np.zeros((4, 4, 2), np.uint8), prediction)
    assert metric.frames == 0
    assert metric.counts["confusion"].sum() == 0


def test_missing_or_wrong_mask_is_named():
    grid = np.zeros((4, 4, 2), np.uint8)
    with pytest.raises(ConfigurationError, match="needs that mask"):
        SemanticIoU(mask="camera").update(grid, grid)
    with pytest.raises(InvalidInputError, match="camera mask"):
        SemanticIoU(mask="camera").update(grid, grid, np.ones((4, 4), bool))
    with pytest.raises(ConfigurationError, match="unknown mask"):
        SemanticIoU(mask="radar")


def test_other_class_order_is_renumbered_with_a_warning(caplog):
    car = np.array([OPENOCC.id_of("car"), FREE], np.uint8)
    assert align_prediction(car, OPENOCC, OCC3D).tolist() == [OCC3D.id_of("car"), FREE]
    assert "class order differs" in caplog.text
    caplog.clear()
    assert align_prediction(car, OPENOCC, OPENOCC) is car
    assert not caplog.text
    with pytest.raises(InvalidInputError, match="others"):
        align_prediction(np.array([OCC3D.id_of("others")], np.uint8), OCC3D, OPENOCC)
