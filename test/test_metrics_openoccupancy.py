"""OpenOccupancy's SC IoU and SSC mIoU against the official evaluator."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.openoccupancy import OpenOccupancyScore
from occ_perception.ontology import FREE, UNKNOWN

SIZE = (512, 512, 40)


@pytest.fixture(scope="module")
def golden(shared: Path):
    arrays = dict(np.load(shared / "golden" / "metrics_openoccupancy.npz"))
    rows = arrays["gt_rows_zyx_cls"]
    truth = np.full(SIZE, FREE, np.uint8)
    truth[rows[:, 2], rows[:, 1], rows[:, 0]] = np.where(rows[:, 3] == 0, UNKNOWN, rows[:, 3])  # no cell occurs twice
    arrays["truth"] = truth
    return arrays, json.loads((shared / "golden" / "metrics_openoccupancy.json").read_text())


@pytest.mark.parametrize("case", ["perfect", "noisy", "all_free"])
def test_official_numbers(golden, case):
    arrays, expected = golden
    prediction = np.full(SIZE, FREE, np.uint8)
    classes = arrays[f"pred_nonzero_class_{case}"]
    prediction[tuple(arrays[f"pred_nonzero_index_xyz_{case}"].astype(int).T)] = classes
    metric = OpenOccupancyScore()
    metric.update(arrays["truth"], prediction)
    np.testing.assert_array_equal(metric.counts["confusion"], arrays[f"cm_ssc_{case}"])
    matrix = metric.counts["confusion"]
    binary = [[matrix[0, 0], matrix[0, 1:].sum()], [matrix[1:, 0].sum(), matrix[1:, 1:].sum()]]
    np.testing.assert_array_equal(binary, arrays[f"cm_sc_{case}"])
    result, official = metric.compute(), expected[case]
    assert result.values["SC IoU"] == pytest.approx(official["SC_IoU"], abs=1e-9)
    mean = float("nan") if official["SSC_mIoU"] is None else official["SSC_mIoU"]
    assert result.values["SSC mIoU"] == pytest.approx(mean, abs=1e-9, nan_ok=True)
    per_class = np.array(official["SSC_per_class_iou_free_first"], float)
    np.testing.assert_allclose(result.per_class["IoU"], per_class, atol=1e-9)
    assert bool(result.warnings) == np.isnan(mean)
    twice = Accumulator.from_json(metric.to_json())
    twice.merge(metric)
    np.testing.assert_array_equal(twice.counts["confusion"], 2 * matrix)


def test_noise_must_be_unknown():
    grid = np.full((2, 2, 2), FREE, np.uint8)
    with pytest.raises(InvalidInputError, match="others"):
        OpenOccupancyScore().update(grid, np.zeros_like(grid))
