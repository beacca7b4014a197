"""Reports say what a score means, in JSON, text and a picture, written whole or not at all."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays
from occ_perception.metrics.flow import OpenOccScore
from occ_perception.metrics.lidarseg_iou import LidarsegIoU
from occ_perception.metrics.openoccupancy import OpenOccupancyScore
from occ_perception.metrics.panoptic import PanopticQuality
from occ_perception.metrics.ray_iou import RayIoU
from occ_perception.metrics.ray_pq import RayPQ
from occ_perception.metrics.report import Report
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.ontology import FREE, OCC3D, OPENOCC

METRICS = [SemanticIoU, RayIoU, RayPQ, OpenOccScore, OpenOccupancyScore, LidarsegIoU, PanopticQuality]


@pytest.fixture(scope="module")
def half_right():
    """Two classes, one of them half right: IoU 1/2 and 2/3."""
    truth = np.full((4, 4, 4), FREE, np.uint8)
    truth[0], truth[1] = OCC3D.id_of("car"), OCC3D.id_of("sidewalk")
    prediction = truth.copy()
    prediction[0, :2] = OCC3D.id_of("sidewalk")
    metric = SemanticIoU(mask="none")
    metric.update(truth, prediction)
    return Report.of(metric, "ego frame at the LiDAR stamp", "a test")


@pytest.mark.parametrize("metric_class", METRICS)
def test_every_metric_states_what_its_figures_mean(metric_class, tmp_path):
    report = Report.of(metric_class(), "ego frame at the LiDAR stamp", "nothing yet")
    stored = json.loads(report.to_json())
    for key in ("ontology", "mask", "variant", "grid frame"):
        assert stored[key]
        assert stored[key] in report.to_text()
    assert stored["frames"] == 0
    assert stored["values"][stored["headline"]] in (None, 0.0)
    assert [path.suffix for path in report.write(tmp_path, "empty")] == [".json", ".txt", ".png"]


def test_json_has_full_precision_and_the_counters(half_right):
    stored = json.loads(half_right.to_json())
    assert stored["values"]["mIoU"] == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-15)
    assert stored["values"]["IoU"] == 1.0
    assert stored["per_class"]["IoU"]["bus"] is None
    assert stored["frames"] == 1
    again = Accumulator.from_json(json.dumps(stored["counters"]))
    assert again.compute().values["mIoU"] == stored["values"]["mIoU"]


def test_text_is_in_per_cent_with_units(half_right):
    text = half_right.to_text()
    assert ["mIoU", "58.33", "%"] in [line.split() for line in text.splitlines()]
    row = next(line for line in text.splitlines() if line.startswith("sidewalk"))
    assert row.split() == ["sidewalk", "66.67", "16", "24", "16"]
    assert next(line for line in text.splitlines() if line.startswith("bus")).split()[1] == "-"


def test_velocity_errors_are_in_metres_per_second():
    shape = (200, 200, 16)
    truth = np.full(shape, FREE, np.uint8)
    truth[120:124, 98:103, 3:8] = OPENOCC.id_of("car")
    flow = np.where((truth != FREE)[..., None], np.float32([3.0, 4.0]), np.float32(0))
    metric = OpenOccScore()
    metric.update(cast_evaluation_rays(truth, truth, np.zeros((1, 3)), OPENOCC), truth, flow, np.zeros_like(flow))
    text = Report.of(metric, "ego", "test").to_text()
    assert ["mAVE_TP", "5.000", "m/s"] in [line.split() for line in text.splitlines()]
    assert "AVE_TP [m/s]" in text
    assert metric.compute().values["Occ score"] == pytest.approx(0.9)


def test_bars_are_as_long_as_the_figures(half_right):
    picture = np.array(half_right.bars())
    for name, share in (("car", 1 / 2), ("sidewalk", 2 / 3)):
        color = OCC3D.colors[OCC3D.id_of(name)]
        longest = (picture == color).all(axis=2).sum(axis=1).max()
        assert longest == pytest.approx(560 * share, abs=2)
    assert not (picture == OCC3D.colors[OCC3D.id_of("bus")]).all(axis=2).any()


def test_files_are_whole_and_agree(half_right, tmp_path):
    paths = half_right.write(tmp_path / "new" / "folder", "clean")
    assert json.loads(paths[0].read_text()) == json.loads(half_right.to_json())
    assert paths[1].read_text() == half_right.to_text()
    assert Image.open(paths[2]).size == half_right.bars().size
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["clean.json", "clean.png", "clean.txt"]


def test_failed_write_leaves_the_old_file(half_right, tmp_path, monkeypatch):
    half_right.write(tmp_path, "score")
    before = (tmp_path / "score.json").read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("occ_perception.files.os.replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        Report.of(SemanticIoU(), "ego", "other").write(tmp_path, "score")
    assert (tmp_path / "score.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_warnings_are_in_every_form(tmp_path):
    metric = OpenOccScore()
    free = np.full((200, 200, 16), FREE, np.uint8)
    metric.update(
        cast_evaluation_rays(free, free, np.zeros((1, 3)), OPENOCC),
        free,
        *(np.zeros((*free.shape, 2), np.float32),) * 2,
    )
    report = Report.of(metric, "ego", "test")
    assert "mAVE_TP does not exist" in report.to_text()
    assert "mAVE_TP does not exist" in report.to_json()
    assert math.isnan(metric.compute().values["mAVE_TP"])
