"""RayPQ against the official evaluator."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays
from occ_perception.metrics.ray_pq import RayPQ
from occ_perception.ontology import OCC3D

CASES = [
    "perfect",
    "perfect_with_merged_stuff",
    "all_free",
    "shift_x1",
    "cars_called_trucks",
    "stuff_id_variants",
]


@pytest.fixture(scope="module")
def golden(shared: Path):
    arrays = dict(np.load(shared / "golden" / "metrics_raypq.npz"))
    return arrays, json.loads((shared / "golden" / "metrics_raypq.json").read_text())


def add_frame(metric, arrays, case, frame):
    truth = OCC3D.from_dataset(arrays["gt_semantics"][frame])
    prediction = OCC3D.from_dataset(arrays[f"pred_sem_{case}"][frame])
    rays = cast_evaluation_rays(truth, prediction, arrays[f"origins_frame{frame}"], OCC3D)
    metric.update(rays, arrays["gt_instances"][frame], arrays[f"pred_inst_{case}"][frame])


def test_all_cases_are_covered(golden):
    assert sorted(golden[1]) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_official_numbers(golden, case):
    arrays, expected = golden
    metric = RayPQ()
    for frame in range(2):
        add_frame(metric, arrays, case, frame)
    counts = np.stack([metric.counts[k] for k in ("true_positive", "false_positive", "false_negative")])
    np.testing.assert_array_equal(counts, arrays[f"tp_fp_fn_{case}"][..., :17])
    iou_sum = metric.sums["iou"].astype(np.float64) / 2.0**40
    np.testing.assert_allclose(iou_sum, arrays[f"iou_sum_{case}"][:, :17], atol=1e-9)
    values, official = metric.compute().values, expected[case]
    for name in ("RayPQ", "RayPQ@1", "RayPQ@2", "RayPQ@4"):
        assert values[name] == pytest.approx(official[name], abs=1e-9)
    per_class = np.array(official["per_class_pq"], float)[:, :17]
    np.testing.assert_allclose(metric.quality()[0], per_class, atol=1e-9)


def test_workers_merge_to_identical_results(golden):
    arrays, _ = golden
    alone, first, second = RayPQ(), RayPQ(), RayPQ()
    for metric, frames in ((alone, (0, 1)), (first, (1,)), (second, (0,))):
        for frame in frames:
            add_frame(metric, arrays, "shift_x1", frame)
    first.merge(Accumulator.from_json(second.to_json()))
    assert first.to_json() == alone.to_json()
    assert repr(first.compute()) == repr(alone.compute())


def test_instance_ids_out_of_range_are_named(golden):
    arrays, _ = golden
    truth = OCC3D.from_dataset(arrays["gt_semantics"][0])
    rays = cast_evaluation_rays(truth, truth, np.zeros((1, 3)), OCC3D)
    good = arrays["gt_instances"][0]
    for bad, message in (
        (good.astype(np.int32) + 65536, "65535"),
        (good.astype(np.int16) - 1, r"-1\.\."),
        (good.astype(np.float32), "integer"),
        (good[:5], "expected"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            RayPQ().update(rays, good, bad)
