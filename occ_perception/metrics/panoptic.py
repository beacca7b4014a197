"""Panoptic nuScenes: PQ, SQ, RQ and PQ-dagger of points (benchmarks.md 7)."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, zero_sums
from occ_perception.metrics.lidarseg_iou import POINT_MASK, check_point_labels, point_confusion
from occ_perception.metrics.points_from_voxels import POLICY
from occ_perception.metrics.segments import match_segments
from occ_perception.ontology import LIDARSEG

MIN_POINTS = 15
"""Unmatched segments with fewer points are ignored."""
_EPS = 1e-15


class PanopticQuality(Accumulator):
    """PQ, SQ, RQ, PQ-dagger and mIoU over the 16 challenge classes.

    As in the official evaluator these are plain means: a class without any segment counts as 0, so a perfect result on
    few scans may score below 1.

    Args:
        source: how the point predictions came about, for the report.
    """

    name = "panoptic_nuscenes"

    def __init__(self, source: str = POLICY) -> None:
        super().__init__({"source": source})
        classes = LIDARSEG.num_classes
        for kind in ("true_positive", "false_positive", "false_negative"):
            self.counts[kind] = np.zeros(classes, np.int64)
        self.counts["confusion"] = np.zeros((classes, classes), np.int64)
        self.sums["iou"] = zero_sums((classes,))

    def update(self, true_panoptic: np.ndarray, predicted_panoptic: np.ndarray) -> None:
        """Add one scan.

        Args:
            true_panoptic, predicted_panoptic: uint16 [P]; 1000 * challenge class + instance, 0 = ignored or none.

        Raises:
            InvalidInputError: wrong shapes, dtypes or classes.
        """
        for name, panoptic in (("true panoptic", true_panoptic), ("predicted panoptic", predicted_panoptic)):
            if panoptic.dtype != np.uint16:
                raise InvalidInputError(f"{name}: expected uint16 1000 * class + instance, got {panoptic.dtype}")
            check_point_labels(name, panoptic // 1000, lowest=0)
        true_class, predicted_class = true_panoptic // 1000, predicted_panoptic // 1000
        self.counts["confusion"] += point_confusion(true_class, predicted_class)
        counted = true_class != 0
        none = np.uint16(LIDARSEG.num_classes)
        matches = match_segments(
            true_class[counted], (true_panoptic[counted] % 1000).astype(np.int64),
            np.where(predicted_class == 0, none, predicted_class)[counted],
            (predicted_panoptic[counted] % 1000).astype(np.int64),
            LIDARSEG.num_classes, MIN_POINTS,
        )  # fmt: skip
        for kind in ("true_positive", "false_positive", "false_negative"):
            self.counts[kind] += getattr(matches, kind)
        self._add_sum("iou", matches.iou_sum)
        self.frames += 1

    def compute(self) -> MetricResult:
        tp, fp, fn = (
            self.counts[k][1:].astype(np.float64) for k in ("true_positive", "false_positive", "false_negative")
        )
        segmentation = np.nan_to_num(self._mean("iou", self.counts["true_positive"]))[1:]
        recognition = tp / np.maximum(tp + fp / 2 + fn / 2, _EPS)
        quality = segmentation * recognition
        matrix = self.counts["confusion"]
        union = (matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix))[1:]
        iou = np.diag(matrix)[1:] / np.maximum(union, _EPS)
        is_thing = np.isin(np.arange(1, LIDARSEG.num_classes), LIDARSEG.thing_ids)
        values = {
            "PQ": float(quality.mean()),
            "SQ": float(segmentation.mean()),
            "RQ": float(recognition.mean()),
            "PQ_dagger": float(np.where(is_thing, quality, iou).mean()),
            "mIoU": float(iou.mean()),
        }
        per_class: dict[str, list[float]] = {
            "PQ": quality.tolist(), "SQ": segmentation.tolist(), "RQ": recognition.tolist(), "IoU": iou.tolist(),
        }  # fmt: skip
        for kind in ("true_positive", "false_positive", "false_negative"):
            per_class[kind.replace("_", " ")] = self.counts[kind][1:].tolist()
        if not self.frames:
            values = dict.fromkeys(values, float("nan"))
        return MetricResult(values, LIDARSEG.class_names[1:], per_class, headline="PQ")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel(
            "Panoptic nuScenes", LIDARSEG.name, POINT_MASK, f"nuScenes panoptic challenge; {self.settings['source']}"
        )
