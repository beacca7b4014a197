"""Panoptic quality of voxel grids: that of Kirillov et al. (CVPR 2019), with voxels in place of pixels."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, zero_sums
from occ_perception.metrics.checks import check_ground_truth, check_instances, check_prediction, check_shape
from occ_perception.metrics.segments import match_segments, panoptic_quality
from occ_perception.metrics.semantic_iou import MASKS
from occ_perception.ontology import FREE, UNKNOWN, ontology_by_name


class VoxelPanopticQuality(Accumulator):
    """PQ, SQ and RQ over the occupied classes that occur, and PQ of those among them that have instances (things).

    Every other class is one segment per frame.  A true thing voxel without an instance is left out, as nobody knows
    what it belongs to; a predicted one belongs to no segment.  Segments of one voxel count as much as large ones.

    Args:
        ontology: name of the label set.
        mask: score voxels seen by a "camera", by the "lidar", or all ("none").
    """

    name = "voxel_pq"

    def __init__(self, ontology: str = "occ3d", mask: str = "camera") -> None:
        super().__init__({"ontology": ontology, "mask": mask})
        if mask not in MASKS:
            raise ConfigurationError(f"unknown mask '{mask}'; known: {MASKS}")
        self.ontology, self.mask = ontology_by_name(ontology), mask
        for kind in ("true_positive", "false_positive", "false_negative"):
            self.counts[kind] = np.zeros(self.ontology.num_classes, np.int64)
        self.sums["iou"] = zero_sums((self.ontology.num_classes,))
        self._is_thing = np.zeros(256, bool)
        self._is_thing[list(self.ontology.thing_ids)] = True

    def update(
        self,
        ground_truth: np.ndarray,
        true_instances: np.ndarray,
        prediction: np.ndarray,
        predicted_instances: np.ndarray,
        visible: np.ndarray,
    ) -> None:
        """Add one frame.

        Args:
            ground_truth: uint8 [X, Y, Z]; classes, FREE or UNKNOWN.
            prediction: uint8 [X, Y, Z]; classes or FREE.
            true_instances, predicted_instances: integers [X, Y, Z], 0..65535, 0 = none; only those of things count.
            visible: [X, Y, Z] bool or 0/1; the mask this metric was made for (all true for "none").

        Raises:
            InvalidInputError: wrong shape, dtype, class or instance ids.
        """
        check_ground_truth(ground_truth, self.ontology)
        check_prediction(prediction, self.ontology, ground_truth.shape)
        check_shape(f"{self.mask} mask", visible, ground_truth.shape)
        true_ids = check_instances("true instances", true_instances, ground_truth.shape)
        predicted_ids = check_instances("predicted instances", predicted_instances, ground_truth.shape)
        is_known = (ground_truth != UNKNOWN) & ~(self._is_thing[ground_truth] & (true_ids == 0))
        scored = visible.astype(bool, copy=False) & is_known
        matches = match_segments(
            *self._segments(ground_truth[scored], true_ids[scored]),
            *self._segments(prediction[scored], predicted_ids[scored]),
            self.ontology.num_classes, min_size=1,
        )  # fmt: skip
        for kind in self.counts:
            self.counts[kind] += getattr(matches, kind)
        self._add_sum("iou", matches.iou_sum)
        self.frames += 1

    def _segments(self, classes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class and segment id of voxels: things without an instance are in no segment, other classes are one."""
        is_thing = self._is_thing[classes]
        return np.where(is_thing & (ids == 0), FREE, classes), np.where(is_thing, ids, 0)

    def compute(self) -> MetricResult:
        tp, fp, fn = (self.counts[kind] for kind in ("true_positive", "false_positive", "false_negative"))
        quality, segmentation, recognition = panoptic_quality(tp, fp, fn, self._mean("iou", tp))
        values = {
            "PQ": nan_mean(quality),
            "SQ": nan_mean(segmentation),
            "RQ": nan_mean(recognition),
            "PQ_things": nan_mean(quality[list(self.ontology.thing_ids)]),
        }
        per_class: dict[str, list[float]] = {
            "PQ": quality.tolist(), "SQ": segmentation.tolist(), "RQ": recognition.tolist(),
        }  # fmt: skip
        for kind, counts in self.counts.items():
            per_class[kind.replace("_", " ")] = counts.tolist()
        return MetricResult(values, self.ontology.class_names, per_class, headline="PQ")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("Voxel PQ", self.ontology.name, self.mask, "Kirillov et al.; classes that occur, any size")
