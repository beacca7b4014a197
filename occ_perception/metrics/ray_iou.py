"""RayIoU: semantic IoU of what rays from the LiDAR positions of a scene end on (benchmarks.md 2; SparseOcc)."""

from __future__ import annotations

import numpy as np

from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, ratio
from occ_perception.metrics.evaluation_rays import EvaluationRays
from occ_perception.ontology import ontology_by_name

THRESHOLDS_M = (1.0, 2.0, 4.0)
RAY_MASK = "none (all rays that end on something labelled)"


class RayIoU(Accumulator):
    """RayIoU at depth errors below 1, 2 and 4 m, and their mean; no visibility mask takes part.

    Args:
        ontology: name of the label set.
    """

    name = "ray_iou"

    def __init__(self, ontology: str = "occ3d") -> None:
        super().__init__({"ontology": ontology})
        self.ontology = ontology_by_name(ontology)
        self.counts.update(new_ray_counts(self.ontology.num_classes))

    def update(self, rays: EvaluationRays) -> None:
        """Add one frame's rays."""
        add_ray_counts(self.counts, rays)
        self.frames += 1

    def iou(self) -> np.ndarray:
        """IoU by threshold and class, float64 [3, N]; NaN for classes in neither truth nor prediction."""
        return ray_iou_of(self.counts)

    def compute(self) -> MetricResult:
        values, per_class = summarise_ray_iou(self.counts)
        return MetricResult(values, self.ontology.class_names, per_class, headline="RayIoU")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("RayIoU", self.ontology.name, RAY_MASK, "SparseOcc")


def new_ray_counts(num_classes: int) -> dict[str, np.ndarray]:
    """Counters of RayIoU, all zero: rays by true and by predicted class, matched rays by threshold and class."""
    return {
        "true_rays": np.zeros(num_classes, np.int64),
        "predicted_rays": np.zeros(num_classes, np.int64),
        "matched_rays": np.zeros((len(THRESHOLDS_M), num_classes), np.int64),
    }


def add_ray_counts(counts: dict[str, np.ndarray], rays: EvaluationRays) -> None:
    """Add one frame's rays to counters made by `new_ray_counts`."""
    num_classes = len(counts["true_rays"])
    counts["true_rays"] += _histogram(rays.true_label, num_classes)
    counts["predicted_rays"] += _histogram(rays.predicted_label, num_classes)
    same = rays.true_label == rays.predicted_label
    error = rays.depth_error()
    for row, threshold in enumerate(THRESHOLDS_M):
        counts["matched_rays"][row] += _histogram(rays.true_label[same & (error < np.float32(threshold))], num_classes)


def ray_iou_of(counts: dict[str, np.ndarray]) -> np.ndarray:
    """IoU by threshold and class, float64 [3, N]; NaN for classes in neither truth nor prediction."""
    matched = counts["matched_rays"]
    return ratio(matched, counts["true_rays"] + counts["predicted_rays"] - matched)


def summarise_ray_iou(counts: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Headline figures and per-class columns of RayIoU."""
    iou = ray_iou_of(counts)
    names = [f"RayIoU@{threshold:g}" for threshold in THRESHOLDS_M]
    values = {"RayIoU": nan_mean(iou), **{n: nan_mean(row) for n, row in zip(names, iou, strict=True)}}
    per_class: dict[str, list[float]] = {n: row.tolist() for n, row in zip(names, iou, strict=True)}
    per_class["rays in truth"] = counts["true_rays"].tolist()
    per_class["rays predicted"] = counts["predicted_rays"].tolist()
    return values, per_class


def _histogram(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=256)[:num_classes]
