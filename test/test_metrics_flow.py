"""OpenOcc flow metrics against the official evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays
from occ_perception.metrics.flow import OpenOccScore
from occ_perception.ontology import FREE, OPENOCC

CASES = ["perfect", "zero_flow", "swapped_xy_flow", "shift_x1", "all_free"]
SHAPE = (200, 200, 16)


@pytest.fixture(scope="module")
def golden(shared: Path):
    arrays = dict(np.load(shared / "golden" / "metrics_openocc_flow.npz"))
    return arrays, json.loads((shared / "golden" / "metrics_openocc_flow.json").read_text())


def dense_flow(index, value, frame):
    flow = np.zeros((*SHAPE, 2), np.float32)
    here = index[:, 0] == frame
    flow[tuple(index[here, 1:].T)] = value[here]
    return flow


def case_frame(arrays, case, frame):
    """Truth, true flow, predicted semantics and flow of one frame."""
    truth = OPENOCC.from_dataset(arrays["gt_semantics"][frame])
    flow = dense_flow(arrays["gt_flow_index"], arrays["gt_flow_value"], frame)
    semantics = OPENOCC.from_dataset(arrays.get(f"pred_sem_{case}", arrays["gt_semantics"])[frame])
    if case == "shift_x1":
        predicted = dense_flow(arrays["pred_flow_index_shift_x1"], arrays["pred_flow_value_shift_x1"], frame)
    else:
        predicted = {"perfect": flow, "swapped_xy_flow": flow[..., ::-1]}.get(case, np.zeros_like(flow))
    return truth, flow, semantics, predicted


def add_frame(metric, arrays, case, frame):
    truth, flow, semantics, predicted = case_frame(arrays, case, frame)
    rays = cast_evaluation_rays(truth, semantics, arrays[f"origins_frame{frame}"], OPENOCC)
    metric.update(rays, truth, flow, predicted)


def test_all_cases_are_covered(golden):
    assert sorted(golden[1]) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_official_numbers(golden, case):
    arrays, expected = golden
    metric = OpenOccScore()
    for frame in range(2):
        add_frame(metric, arrays, case, frame)
    result, official = metric.compute(), expected[case]
    for name in ("RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"):
        assert result.values[name] == pytest.approx(official[name], abs=1e-9)
    iou = np.array([result.per_class[f"RayIoU@{t}"] for t in (1, 2, 4)])
    np.testing.assert_allclose(iou, np.array(official["per_class_iou_1_2_4m"], float), atol=1e-9)
    alocc = official["alocc"]
    for name, mean, per_class in (
        ("AVE_TP", official["mAVE_TP"], official["AVE_TP_per_class"]),
        ("AVE_rays", alocc["mAVE_gt_rays"], alocc["AVE_gt_rays_per_class"]),
        ("AVE", alocc["mAVE_all_gt_voxels"], alocc["AVE_all_gt_voxels_per_class"]),
    ):
        expected_mean = float("nan") if mean is None else mean
        assert result.values[f"m{name}"] == pytest.approx(expected_mean, rel=1e-4, nan_ok=True)
        np.testing.assert_allclose(result.per_class[name], np.array(per_class, float), rtol=1e-4)
    if official["occ_score"] is None:  # the reference has no score here; ours gives the flow term nothing and says so
        assert result.values["Occ score"] == pytest.approx(0.9 * official["RayIoU"])
        assert "mAVE_TP does not exist" in result.warnings[0]
    else:
        assert result.values["Occ score"] == pytest.approx(official["occ_score"], abs=1e-5)
        assert not result.warnings


def test_workers_merge_to_identical_results(golden):
    arrays, _ = golden
    alone, first, second = OpenOccScore(), OpenOccScore(), OpenOccScore()
    for metric, frames in ((alone, (0, 1)), (first, (1,)), (second, (0,))):
        for frame in frames:
            add_frame(metric, arrays, "swapped_xy_flow", frame)
    first.merge(Accumulator.from_json(second.to_json()))
    assert first.to_json() == alone.to_json()
    assert repr(first.compute()) == repr(alone.compute())


def test_true_flow_that_is_not_finite_is_left_out(golden):
    arrays, _ = golden
    truth, flow, semantics, _ = case_frame(arrays, "perfect", 0)
    rays = cast_evaluation_rays(truth, semantics, arrays["origins_frame0"], OPENOCC)
    predicted = np.nan_to_num(flow)
    car = truth == OPENOCC.id_of("car")
    half = car & (np.arange(SHAPE[1]) % 2 == 0)[:, None]
    flow[half] = np.nan
    flow[half & (np.arange(SHAPE[0]) % 2 == 0)[:, None, None]] = np.inf
    metric = OpenOccScore()
    metric.update(rays, truth, flow, predicted)
    assert metric.compute().values["mAVE"] == 0.0
    assert metric.counts["flow_voxels"][OPENOCC.id_of("car")] == (car & ~half).sum() > 0


def test_bad_flow_is_named():
    free = np.full(SHAPE, FREE, np.uint8)
    rays = cast_evaluation_rays(free, free, np.zeros((1, 3)), OPENOCC)
    flow = np.zeros((*SHAPE, 2), np.float16)
    broken = flow.copy()
    broken[3, 2, 1, 0] = np.nan
    for bad, message in (
        (broken, r"not finite, the first at \[3, 2, 1, 0\]"),
        (flow[..., :1], "expected"),
        (flow.astype(int), "m/s"),
    ):
        with pytest.raises(InvalidInputError, match=f"predicted flow.*{message}"):
            OpenOccScore().update(rays, free, flow, bad)
    OpenOccScore().update(rays, free, flow, flow)
