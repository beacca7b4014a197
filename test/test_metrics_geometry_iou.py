"""IoU of "something is there": counted by hand, unknown neither hidden nor taken for free."""

import numpy as np
import pytest

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.geometry_iou import GeometryIoU
from occ_perception.ontology import FREE, UNKNOWN


def grid(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


TRUTH = grid(4, 4, 4, 11, FREE, FREE, FREE, UNKNOWN)
PREDICTION = grid(0, 1, FREE, UNKNOWN, 0, FREE, UNKNOWN, 0)  # hit hit missed unknown | alarm right unknown | skipped


def test_counted_by_hand() -> None:
    metric = GeometryIoU(mask="none")
    metric.update(TRUTH, PREDICTION)
    assert metric.counts["confusion"].tolist() == [[1, 1, 1], [1, 2, 1]]
    result = metric.compute()
    assert result.values["IoU"] == 2 / 5
    assert result.values["precision"] == 2 / 3
    assert result.values["recall"] == 2 / 4
    assert result.values["IoU where known"] == 2 / 4
    assert result.values["unknown"] == 2 / 7
    assert result.per_class["unknown"] == [1 / 4, 1 / 3]


def test_unknown_everywhere_scores_nothing() -> None:
    metric = GeometryIoU(mask="none")
    metric.update(TRUTH, np.full_like(TRUTH, UNKNOWN))
    values = metric.compute().values
    assert values["IoU"] == values["recall"] == 0
    assert np.isnan(values["precision"])
    assert np.isnan(values["IoU where known"])
    assert values["unknown"] == 1


def test_mask_merge_and_json() -> None:
    masked, rest = GeometryIoU(mask="camera"), GeometryIoU(mask="camera")
    mask = np.arange(8).reshape(1, 1, 8) < 3
    masked.update(TRUTH, PREDICTION, mask)
    rest.update(TRUTH, PREDICTION, ~mask)
    assert masked.counts["confusion"].tolist() == [[0, 0, 0], [1, 2, 0]]
    restored = Accumulator.from_json(masked.to_json())
    restored.merge(rest)
    assert restored.counts["confusion"].tolist() == [[1, 1, 1], [1, 2, 1]]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigurationError, match="unknown mask 'radar'"):
        GeometryIoU(mask="radar")
    metric = GeometryIoU(mask="lidar")
    with pytest.raises(ConfigurationError, match="needs that mask"):
        metric.update(TRUTH, PREDICTION)
    with pytest.raises(InvalidInputError, match="prediction: expected"):
        metric.update(TRUTH, PREDICTION[..., :4], TRUTH)
    with pytest.raises(InvalidInputError, match="expected uint8"):
        metric.update(TRUTH, PREDICTION.astype(np.int64), TRUTH)
