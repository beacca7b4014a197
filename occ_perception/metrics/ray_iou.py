"""RayIoU: semantic IoU of what rays from the LiDAR positions of a scene end on (benchmarks.md 2; SparseOcc)."""

from __future__ import annotations

import numpy as np

from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, ratio
from occ_perception.metrics.evaluation_rays import EvaluationRays
from occ_perception.ontology import ontology_by_name

THRESHOLDS_M = (1.0, 2.0, 4.0)


class RayIoU(Accumulator):
    """RayIoU at depth errors below 1, 2 and 4 m, and their mean; no visibility mask takes part.

    Args:
        ontology: name of the label set.
    """

    name = "ray_iou"

    def __init__(self, ontology: str = "occ3d") -> None:
        super().__init__({"ontology": ontology})
        self.ontology = ontology_by_name(ontology)
        classes = self.ontology.num_classes
        self.counts["true"] = np.zeros(classes, np.int64)
        self.counts["predicted"] = np.zeros(classes, np.int64)
        self.counts["matched"] = np.zeros((len(THRESHOLDS_M), classes), np.int64)

    def update(self, rays: EvaluationRays) -> None:
        """Add one frame's rays."""
        self.counts["true"] += self._histogram(rays.true_label)
        self.counts["predicted"] += self._histogram(rays.predicted_label)
        same = rays.true_label == rays.predicted_label
        error = rays.depth_error()
        for row, threshold in enumerate(THRESHOLDS_M):
            self.counts["matched"][row] += self._histogram(rays.true_label[same & (error < np.float32(threshold))])
        self.frames += 1

    def iou(self) -> np.ndarray:
        """IoU by threshold and class, float64 [3, N]; NaN for classes in neither truth nor prediction."""
        matched = self.counts["matched"]
        return ratio(matched, self.counts["true"] + self.counts["predicted"] - matched)

    def compute(self) -> MetricResult:
        iou = self.iou()
        names = [f"RayIoU@{threshold:g}" for threshold in THRESHOLDS_M]
        values = {"RayIoU": nan_mean(iou), **{n: nan_mean(row) for n, row in zip(names, iou, strict=True)}}
        per_class: dict[str, list[float]] = {n: row.tolist() for n, row in zip(names, iou, strict=True)}
        per_class["rays in truth"] = self.counts["true"].tolist()
        per_class["rays predicted"] = self.counts["predicted"].tolist()
        return MetricResult(values, self.ontology.class_names, per_class, headline="RayIoU")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("RayIoU", self.ontology.name, "none (rays that end on something labelled)", "SparseOcc")

    def _histogram(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=256)[: self.ontology.num_classes]
