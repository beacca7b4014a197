"""nuScenes lidarseg mIoU (benchmarks.md 6)."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, ratio
from occ_perception.metrics.points_from_voxels import POLICY
from occ_perception.metrics.semantic_iou import iou_per_class
from occ_perception.ontology import LIDARSEG

POINT_MASK = "points of the keyframe sweep with a label"


class LidarsegIoU(Accumulator):
    """mIoU and frequency-weighted IoU of point classes 1..16; points labelled 0 do not count.

    Args:
        source: how the point predictions came about, for the report.
    """

    name = "lidarseg_iou"

    def __init__(self, source: str = POLICY) -> None:
        super().__init__({"source": source})
        side = LIDARSEG.num_classes
        self.counts["confusion"] = np.zeros((side, side), np.int64)

    def update(self, true_labels: np.ndarray, predicted_labels: np.ndarray) -> None:
        """Add one scan.

        Args:
            true_labels: uint8 [P]; challenge classes, 0 = ignored.
            predicted_labels: uint8 [P], 1..16 (`point_labels`); 0 is refused, as the official tool does.

        Raises:
            InvalidInputError: wrong shapes or classes.
        """
        check_point_labels("true labels", true_labels, lowest=0)
        check_point_labels("predicted labels", predicted_labels, lowest=1)
        self.counts["confusion"] += point_confusion(true_labels, predicted_labels)
        self.frames += 1

    def compute(self) -> MetricResult:
        matrix = self.counts["confusion"]
        iou = iou_per_class(matrix)[1:]
        true_points = matrix.sum(axis=1)[1:]
        present = ~np.isnan(iou)
        weighted = ratio((iou[present] * true_points[present]).sum(), true_points.sum())
        values = {"mIoU": nan_mean(iou), "fwIoU": float(weighted)}
        per_class = {"IoU": iou.tolist(), "points in truth": true_points.tolist()}
        return MetricResult(values, LIDARSEG.class_names[1:], per_class, headline="mIoU")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel(
            "nuScenes lidarseg", LIDARSEG.name, POINT_MASK, f"nuScenes lidarseg challenge; {self.settings['source']}"
        )


def point_confusion(true_labels: np.ndarray, predicted_labels: np.ndarray) -> np.ndarray:
    """Pairs of challenge classes [P] of points whose true class is not 0, int64 [17, 17], rows ground truth.

    Raises:
        InvalidInputError: not the same number of points.
    """
    if true_labels.shape != predicted_labels.shape:
        raise InvalidInputError(f"points: expected {true_labels.shape} predictions, got {predicted_labels.shape}")
    counted = true_labels != 0
    side = LIDARSEG.num_classes
    pairs = true_labels[counted].astype(np.int64) * side + predicted_labels[counted]
    return np.bincount(pairs, minlength=side * side).reshape(side, side)


def check_point_labels(name: str, labels: np.ndarray, lowest: int) -> None:
    """Challenge classes ``lowest``..16 of points, any unsigned type [P]."""
    if labels.ndim != 1 or labels.dtype.kind != "u":
        raise InvalidInputError(f"{name}: expected unsigned [P], got {labels.dtype} {labels.shape}")
    bad = (labels < lowest) | (labels >= LIDARSEG.num_classes)
    if bad.any():
        classes = np.unique(labels[bad]).tolist()
        raise InvalidInputError(
            f"{name}: expected challenge classes {lowest}..16, got {classes} for {int(bad.sum())} points, "
            f"the first is point {int(bad.argmax())}"
        )
