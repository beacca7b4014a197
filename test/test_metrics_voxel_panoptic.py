"""Panoptic quality of voxels, by hand."""

import numpy as np
import pytest

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.voxel_panoptic import VoxelPanopticQuality
from occ_perception.ontology import FREE, OCC3D, UNKNOWN

CAR, BUS, ROAD = OCC3D.id_of("car"), OCC3D.id_of("bus"), OCC3D.id_of("driveable_surface")


def row(*values, dtype=np.uint8):
    return np.array(values, dtype).reshape(1, 1, -1)


# A road, two cars of which one is hidden in part, a car that nobody numbered, a voxel without a label.
TRUTH = row(ROAD, ROAD, CAR, CAR, CAR, CAR, CAR, FREE, CAR, UNKNOWN)
IDS = row(0, 0, 1, 1, 1, 2, 2, 0, 0, 0, dtype=np.uint16)
SEEN = row(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)


def scored(prediction, ids, seen=SEEN):
    metric = VoxelPanopticQuality()
    metric.update(TRUTH, IDS, prediction, ids.astype(np.int32), seen)
    return metric


def test_what_is_known_said_back_is_perfect():
    values = scored(np.where(TRUTH == UNKNOWN, FREE, TRUTH), IDS).compute().values
    assert values == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "PQ_things": 1.0}


def test_by_hand():
    # The first car is matched with IoU 2/3, the second is missed: two segments take it; a bus is made up where no label
    # is; a car without an instance is no segment; half of the road is seen.
    prediction = row(ROAD, FREE, CAR, CAR, FREE, CAR, CAR, BUS, CAR, BUS)
    metric = scored(prediction, row(5, 5, 7, 7, 0, 8, 9, 3, 0, 3))
    columns = metric.compute().per_class
    assert [columns[kind][CAR] for kind in ("true positive", "false positive", "false negative")] == [1, 2, 1]
    assert [columns[kind][BUS] for kind in ("true positive", "false positive", "false negative")] == [0, 1, 0]
    assert [columns[kind][ROAD] for kind in ("true positive", "false positive", "false negative")] == [0, 1, 1]
    assert columns["SQ"][CAR] == pytest.approx(2 / 3)
    assert columns["RQ"][CAR] == pytest.approx(1 / 2.5)
    values = metric.compute().values
    assert values["PQ_things"] == pytest.approx((2 / 3 / 2.5 + 0) / 2)
    assert values["PQ"] == pytest.approx((2 / 3 / 2.5 + 0 + 0) / 3)
    assert np.isnan(columns["PQ"][OCC3D.id_of("truck")])


def test_only_voxels_of_the_mask_count_and_workers_merge():
    prediction, ids = row(*[ROAD] * 2, *[CAR] * 5, BUS, FREE, FREE), row(0, 0, 1, 1, 1, 1, 1, 2, 0, 0)
    half = scored(prediction, ids, row(1, 1, 1, 1, 1, 0, 0, 0, 0, 0))
    assert half.compute().values["PQ"] == 1.0
    whole = scored(prediction, ids)
    assert whole.compute().values["PQ_things"] == pytest.approx(0.6 / (1 + 0.5) / 2)
    total = VoxelPanopticQuality()
    for part in (half, whole):
        total.merge(Accumulator.from_json(part.to_json()))
    assert total.counts["true_positive"][CAR] == 2
    assert total.frames == 2


def test_what_does_not_fit_is_refused():
    metric = VoxelPanopticQuality(mask="none")
    with pytest.raises(InvalidInputError, match="predicted instances: expected integer"):
        metric.update(TRUTH, IDS, np.full_like(TRUTH, FREE), IDS.astype(float), SEEN)
    with pytest.raises(InvalidInputError, match="true instances: expected"):
        metric.update(TRUTH, IDS[..., 1:], np.full_like(TRUTH, FREE), IDS, SEEN)
    with pytest.raises(ConfigurationError, match="unknown mask"):
        VoxelPanopticQuality(mask="radar")
