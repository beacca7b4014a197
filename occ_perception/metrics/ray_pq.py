"""RayPQ: panoptic quality of what rays end on (benchmarks.md 3; SparseOcc panoptic, Panoptic-FlashOCC)."""

from __future__ import annotations

import numpy as np

from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, zero_sums
from occ_perception.metrics.checks import check_instances
from occ_perception.metrics.evaluation_rays import EvaluationRays
from occ_perception.metrics.ray_iou import RAY_MASK, THRESHOLDS_M
from occ_perception.metrics.segments import match_segments, panoptic_quality
from occ_perception.metrics.semantic_iou import MOVABLE
from occ_perception.ontology import ontology_by_name

MIN_RAYS = 10
"""Unmatched segments with fewer rays are ignored."""


class RayPQ(Accumulator):
    """Panoptic quality at depth errors below 1, 2 and 4 m, and their mean.

    Only the eight movable classes have instances; in the ground truth every other class, barrier and traffic_cone
    included, is one segment.  Predicted ids are taken as given: a predictor must give each of those classes one id.

    Args:
        ontology: name of the label set.
    """

    name = "ray_pq"

    def __init__(self, ontology: str = "occ3d") -> None:
        super().__init__({"ontology": ontology})
        self.ontology = ontology_by_name(ontology)
        shape = (len(THRESHOLDS_M), self.ontology.num_classes)
        for kind in ("true_positive", "false_positive", "false_negative"):
            self.counts[kind] = np.zeros(shape, np.int64)
        self.sums["iou"] = zero_sums(shape)
        self._has_instances = np.zeros(256, bool)
        self._has_instances[[i for i, n in enumerate(self.ontology.class_names) if n in MOVABLE]] = True

    def update(self, rays: EvaluationRays, true_instances: np.ndarray, predicted_instances: np.ndarray) -> None:
        """Add one frame.

        Args:
            rays: from `cast_evaluation_rays` on the semantics of both grids.
            true_instances, predicted_instances: integers [X, Y, Z], 0..65535, 0 = none.

        Raises:
            InvalidInputError: wrong shape, dtype or ids.
        """
        true_grid = check_instances("true instances", true_instances, rays.shape)
        predicted_grid = check_instances("predicted instances", predicted_instances, rays.shape)
        true_id = self._true_segments(rays.true_label, true_grid.ravel()[rays.true_cell])
        predicted_id = predicted_grid.ravel()[rays.predicted_cell]
        error = rays.depth_error()
        iou_sum = np.zeros(self.sums["iou"].shape)
        for row, threshold in enumerate(THRESHOLDS_M):
            matches = match_segments(
                rays.true_label, true_id, rays.predicted_label, predicted_id,
                self.ontology.num_classes, MIN_RAYS, overlaps=error < np.float32(threshold),
            )  # fmt: skip
            for kind in self.counts:
                self.counts[kind][row] += getattr(matches, kind)
            iou_sum[row] = matches.iou_sum
        self._add_sum("iou", iou_sum)
        self.frames += 1

    def quality(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ by threshold and class, float64 [3, N] each; NaN for classes without any segment."""
        tp, fp, fn = (self.counts[kind] for kind in ("true_positive", "false_positive", "false_negative"))
        return panoptic_quality(tp, fp, fn, self._mean("iou", tp))

    def compute(self) -> MetricResult:
        quality, segmentation, recognition = self.quality()
        names = [f"RayPQ@{threshold:g}" for threshold in THRESHOLDS_M]
        values = {
            "RayPQ": nan_mean(quality),
            **{n: nan_mean(row) for n, row in zip(names, quality, strict=True)},
            "RaySQ": nan_mean(segmentation),
            "RayRQ": nan_mean(recognition),
        }
        per_class: dict[str, list[float]] = {n: row.tolist() for n, row in zip(names, quality, strict=True)}
        for kind, counts in self.counts.items():
            per_class[f"{kind.replace('_', ' ')}@2"] = counts[1].tolist()
        return MetricResult(values, self.ontology.class_names, per_class, headline="RayPQ")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("RayPQ", self.ontology.name, RAY_MASK, "SparseOcc")

    def _true_segments(self, label: np.ndarray, instance: np.ndarray) -> np.ndarray:
        """Segment id of each ray within its class: its instance where that is usable, else 0; int64 [R].

        An instance is usable if the rays that end on it show one class only, and that class has instances.
        """
        pairs = np.unique(instance * 256 + label)
        classes_of_instance = np.bincount(pairs // 256, minlength=1)
        usable = (classes_of_instance == 1)[instance] & self._has_instances[label]
        return np.where(usable, instance, 0)
