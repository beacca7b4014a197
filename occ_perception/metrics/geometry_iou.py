"""IoU of "something is there" for answers that may be unknown: occupied, free, unknown against occupied, free."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, ratio
from occ_perception.metrics.checks import check_ground_truth, check_shape
from occ_perception.metrics.semantic_iou import MASKS
from occ_perception.ontology import FREE, UNKNOWN, ontology_by_name

_FREE, _OCCUPIED, _UNKNOWN = range(3)


class GeometryIoU(Accumulator):
    """IoU of occupied voxels, whatever their class, for a model that knows geometry only and may say "unknown".

    Benchmarks have no "unknown": they score every voxel as occupied or free.  ``IoU`` follows them and counts unknown
    as not occupied, so an unknown voxel that is occupied in truth is a miss.  What that hides is reported beside it:
    the share of scored voxels that are unknown, and the IoU over the voxels the model does speak about.

    Args:
        ontology: name of the label set of the ground truth.
        mask: score voxels seen by a "camera", by the "lidar", or all ("none").
    """

    name = "geometry_iou"

    def __init__(self, ontology: str = "occ3d", mask: str = "camera") -> None:
        super().__init__({"ontology": ontology, "mask": mask})
        if mask not in MASKS:
            raise ConfigurationError(f"unknown mask '{mask}'; known: {MASKS}")
        self.ontology = ontology_by_name(ontology)
        self.mask = mask
        self.counts["confusion"] = np.zeros((2, 3), np.int64)  # rows truth, columns prediction

    def update(self, ground_truth: np.ndarray, prediction: np.ndarray, visible: np.ndarray | None = None) -> None:
        """Add one frame; voxels whose truth is UNKNOWN are skipped.

        Args:
            ground_truth: uint8 [X, Y, Z]; classes, FREE or UNKNOWN.
            prediction: uint8 [X, Y, Z]; any class id counts as occupied, FREE, or UNKNOWN.
            visible: [X, Y, Z] bool or 0/1; the mask this metric was made for.  Must be given unless mask is "none".

        Raises:
            InvalidInputError: wrong shape, dtype or class ids.
            ConfigurationError: the mask is missing.
        """
        check_ground_truth(ground_truth, self.ontology)
        check_shape("prediction", prediction, ground_truth.shape)
        if prediction.dtype != np.uint8:
            raise InvalidInputError(f"prediction: expected uint8, got {prediction.dtype}")
        scored = ground_truth != UNKNOWN
        if self.mask != "none":
            if visible is None:
                raise ConfigurationError(f"geometry_iou with mask '{self.mask}' needs that mask for every frame")
            check_shape(f"{self.mask} mask", visible, ground_truth.shape)
            scored &= visible.astype(bool, copy=False)
        pairs = 3 * _states()[ground_truth[scored]] + _states()[prediction[scored]]
        self.counts["confusion"] += np.bincount(pairs, minlength=6).reshape(2, 3)
        self.frames += 1

    def compute(self) -> MetricResult:
        matrix = self.counts["confusion"]
        hit, false_alarm = matrix[_OCCUPIED, _OCCUPIED], matrix[_FREE, _OCCUPIED]
        missed = matrix[_OCCUPIED, _FREE] + matrix[_OCCUPIED, _UNKNOWN]
        known = matrix[:, :_UNKNOWN]
        truth = matrix.sum(axis=1)
        values = {
            "IoU": float(ratio(hit, hit + false_alarm + missed)),
            "precision": float(ratio(hit, hit + false_alarm)),
            "recall": float(ratio(hit, hit + missed)),
            "IoU where known": float(ratio(hit, known.sum() - known[_FREE, _FREE])),
            "unknown": float(ratio(matrix[:, _UNKNOWN].sum(), matrix.sum())),
        }
        rows = [_OCCUPIED, _FREE]
        per_class = {
            "correct": ratio(np.array([hit, matrix[_FREE, _FREE]]), truth[rows]).tolist(),
            "unknown": ratio(matrix[rows, _UNKNOWN], truth[rows]).tolist(),
            "voxels in truth": truth[rows].tolist(),
        }
        return MetricResult(values, ("occupied", "free"), per_class, headline="IoU")

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("Geometry IoU", self.ontology.name, self.mask, "occupied or not; unknown is not occupied")


def _states() -> np.ndarray:
    """State (free, occupied, unknown) of every id, intp [256]."""
    states = np.full(256, _OCCUPIED, np.intp)
    states[FREE], states[UNKNOWN] = _FREE, _UNKNOWN
    return states
