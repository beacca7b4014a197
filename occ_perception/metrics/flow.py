"""OpenOcc occupancy and flow: RayIoU, velocity errors and the Occ score (benchmarks.md 4.2)."""

from __future__ import annotations

import math

import numpy as np

from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, zero_sums
from occ_perception.metrics.checks import check_flow, check_ground_truth, check_shape
from occ_perception.metrics.evaluation_rays import EvaluationRays
from occ_perception.metrics.ray_iou import RAY_MASK, add_ray_counts, new_ray_counts, summarise_ray_iou
from occ_perception.metrics.semantic_iou import MOVABLE
from occ_perception.ontology import ontology_by_name

DETECTION_RADIUS_M = 2.0
"""A ray counts as detected for the velocity error if its class is right and its depth error below this."""
_SAMPLES = ("detected_rays", "true_rays", "voxels")


class OpenOccScore(Accumulator):
    """RayIoU, average velocity errors (AVE) over the movable classes, and the Occ score.

    Three velocity errors are in use; all are means of ||v_true - v_predicted|| per class, then over classes:

    * ``mAVE_TP`` (the benchmark's mAVE): rays with the right class and a depth error below 2 m, each flow read in the
      voxel its own ray ends in;
    * ``mAVE_rays`` (ALOcc): all rays whose true class is movable, whatever was predicted;
    * ``mAVE`` (ALOcc's mAVE): all voxels whose true class is movable, both flows in the same voxel.

    Occ score = 0.9 RayIoU + 0.1 max(1 - mAVE_TP, 0).  True flow that is not finite is left out.  The challenge
    repository's server script computes another mAVE (a known defect) and is not followed.

    Args:
        ontology: name of the label set.
    """

    name = "openocc"

    def __init__(self, ontology: str = "openocc") -> None:
        super().__init__({"ontology": ontology})
        self.ontology = ontology_by_name(ontology)
        classes = self.ontology.num_classes
        self.counts.update(new_ray_counts(classes))
        for kind in _SAMPLES:
            self.counts[f"flow_{kind}"] = np.zeros(classes, np.int64)
            self.sums[f"flow_{kind}"] = zero_sums((classes,))
        self._movable = np.zeros(256, bool)
        self._movable[[i for i, name in enumerate(self.ontology.class_names) if name in MOVABLE]] = True

    def update(
        self, rays: EvaluationRays, ground_truth: np.ndarray, true_flow: np.ndarray, predicted_flow: np.ndarray
    ) -> None:
        """Add one frame.

        Args:
            rays: from `cast_evaluation_rays` on the semantics of both grids.
            ground_truth: uint8 [X, Y, Z]; classes, FREE or UNKNOWN.
            true_flow, predicted_flow: float [X, Y, Z, 2], m/s over ground along grid x and y.

        Raises:
            InvalidInputError: wrong shape, dtype or labels, or a predicted flow that is not finite.
        """
        check_ground_truth(ground_truth, self.ontology)
        check_shape("ground truth", ground_truth, rays.shape)
        true_flow = check_flow("true flow", true_flow, rays.shape, finite=False).reshape(-1, 2)
        predicted_flow = check_flow("predicted flow", predicted_flow, rays.shape, finite=True).reshape(-1, 2)
        add_ray_counts(self.counts, rays)
        movable = self._movable[rays.true_label]
        detected = movable & (rays.true_label == rays.predicted_label)
        detected &= rays.depth_error() < np.float32(DETECTION_RADIUS_M)
        for kind, chosen in (("detected_rays", detected), ("true_rays", movable)):
            self._add_errors(
                kind,
                rays.true_label[chosen],
                true_flow[rays.true_cell[chosen]],
                predicted_flow[rays.predicted_cell[chosen]],
            )
        voxels = np.flatnonzero(self._movable[ground_truth])
        self._add_errors("voxels", ground_truth.ravel()[voxels], true_flow[voxels], predicted_flow[voxels])
        self.frames += 1

    def velocity_errors(self, kind: str) -> np.ndarray:
        """AVE by class, m/s, float64 [N], over "detected_rays", "true_rays" or "voxels"; NaN where there are none."""
        return self._mean(f"flow_{kind}", self.counts[f"flow_{kind}"])

    def compute(self) -> MetricResult:
        values, per_class = summarise_ray_iou(self.counts)
        for name, kind in (("mAVE_TP", "detected_rays"), ("mAVE_rays", "true_rays"), ("mAVE", "voxels")):
            errors = self.velocity_errors(kind)
            values[name] = nan_mean(errors)
            per_class[name[1:]] = errors.tolist()
        missing = math.isnan(values["mAVE_TP"])
        flow_term = 0.0 if missing else max(1.0 - values["mAVE_TP"], 0.0)
        values["Occ score"] = 0.9 * values["RayIoU"] + 0.1 * flow_term
        warnings = ("no movable object was detected: mAVE_TP does not exist, its term is 0",) if missing else ()
        units = {name: "m/s" for name in (*values, *per_class) if "AVE" in name}
        return MetricResult(values, self.ontology.class_names, per_class, "Occ score", warnings, units)

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("OpenOcc", self.ontology.name, RAY_MASK, "OpenOcc v2 as documented, ALOcc's mAVE beside it")

    def _add_errors(self, kind: str, label: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
        """Add the errors of N samples: label uint8 [N], flows float32 [N, 2]."""
        known = np.isfinite(true).all(axis=1)
        label = label[known]
        error = np.linalg.norm(true[known].astype(np.float64) - predicted[known], axis=1)
        classes = self.ontology.num_classes
        self.counts[f"flow_{kind}"] += np.bincount(label, minlength=classes)
        self._add_sum(f"flow_{kind}", np.bincount(label, weights=error, minlength=classes))
