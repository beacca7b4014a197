"""mIoU, IoU and mIoU_D of voxel grids (benchmarks.md 1.3; Occ3D challenge, ALOcc)."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, nan_mean, ratio
from occ_perception.metrics.checks import check_ground_truth, check_prediction, check_shape
from occ_perception.ontology import FREE, OPENOCC, UNKNOWN, Ontology, ontology_by_name

MASKS = ("camera", "lidar", "none")
MOVABLE = OPENOCC.things
"""The eight classes of mIoU_D, of the flow metrics, and with instances in RayPQ: no barrier, no traffic cone."""


def confusion_matrix(ground_truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs of labels; ground truth UNKNOWN is left out.

    Args:
        ground_truth, prediction: uint8, same shape, classes 0..num_classes-1 or FREE (ground truth also UNKNOWN).

    Returns:
        int64 [N + 1, N + 1], rows ground truth, columns prediction, the last of each is free.
    """
    compact = np.arange(256, dtype=np.uint8)
    compact[FREE] = num_classes
    labelled = ground_truth != UNKNOWN
    rows = compact[ground_truth[labelled]].astype(np.intp)
    columns = compact[prediction[labelled]]
    side = num_classes + 1
    return np.bincount(rows * side + columns, minlength=side * side).reshape(side, side)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) of each class of a confusion matrix; NaN if in neither truth nor prediction."""
    true_positive = np.diag(matrix)
    return ratio(true_positive, matrix.sum(axis=0) + matrix.sum(axis=1) - true_positive)


class SemanticIoU(Accumulator):
    """mIoU over the occupied classes, IoU of "occupied", and mIoU_D over the movable classes.

    Args:
        ontology: name of the label set.
        mask: score voxels seen by a "camera" (the Occ3D leaderboard), by the "lidar", or all ("none").
        empty_gt_is_nan: skip classes absent from the ground truth even if predicted (SparseOcc's evaluator);
            otherwise they count as IoU 0 (Occ3D, FlashOCC, ALOcc).

    Voxels whose label is UNKNOWN are skipped everywhere.  The reference evaluators count them as occupied in the
    "occupied" IoU; this differs on purpose.
    """

    name = "semantic_iou"

    def __init__(self, ontology: str = "occ3d", mask: str = "camera", empty_gt_is_nan: bool = False) -> None:
        super().__init__({"ontology": ontology, "mask": mask, "empty_gt_is_nan": empty_gt_is_nan})
        if mask not in MASKS:
            raise ConfigurationError(f"unknown mask '{mask}'; known: {MASKS}")
        self.ontology: Ontology = ontology_by_name(ontology)
        self.mask = mask
        self.empty_gt_is_nan = empty_gt_is_nan
        side = self.ontology.num_classes + 1
        self.counts["confusion"] = np.zeros((side, side), np.int64)

    def update(self, ground_truth: np.ndarray, prediction: np.ndarray, visible: np.ndarray | None = None) -> None:
        """Add one frame.

        Args:
            ground_truth: uint8 [X, Y, Z]; classes, FREE or UNKNOWN.
            prediction: uint8 [X, Y, Z]; classes or FREE.
            visible: [X, Y, Z] bool or 0/1; the mask this metric was made for.  Must be given unless mask is "none".

        Raises:
            InvalidInputError: wrong shape, dtype or class ids.
            ConfigurationError: the mask is missing.
        """
        check_ground_truth(ground_truth, self.ontology)
        check_prediction(prediction, self.ontology, ground_truth.shape)
        if self.mask != "none":
            if visible is None:
                raise ConfigurationError(f"semantic_iou with mask '{self.mask}' needs that mask for every frame")
            check_shape(f"{self.mask} mask", visible, ground_truth.shape)
            selected = visible.astype(bool, copy=False)
            ground_truth, prediction = ground_truth[selected], prediction[selected]
        self.counts["confusion"] += confusion_matrix(ground_truth, prediction, self.ontology.num_classes)
        self.frames += 1

    def compute(self) -> MetricResult:
        matrix = self.counts["confusion"]
        iou = iou_per_class(matrix)
        if self.empty_gt_is_nan:
            iou = np.where(matrix.sum(axis=1) == 0, np.nan, iou)
        occupied = iou[: self.ontology.num_classes]
        movable = [i for i, name in enumerate(self.ontology.class_names) if name in MOVABLE]
        values = {
            "mIoU": nan_mean(occupied),
            "IoU": self._occupied_iou(),
            "mIoU_D": nan_mean(occupied[movable]),
        }
        per_class = {
            "IoU": iou.tolist(),
            "voxels in truth": matrix.sum(axis=1).tolist(),
            "voxels predicted": matrix.sum(axis=0).tolist(),
            "voxels correct": np.diag(matrix).tolist(),
        }
        return MetricResult(values, (*self.ontology.class_names, "free"), per_class, headline="mIoU")

    @property
    def label(self) -> MetricLabel:
        variant = "SparseOcc (classes not in the truth skipped)" if self.empty_gt_is_nan else "Occ3D challenge"
        return MetricLabel("Semantic IoU", self.ontology.name, self.mask, variant)

    def _occupied_iou(self) -> float:
        matrix = self.counts["confusion"]
        both_free = matrix[-1, -1]
        either = matrix.sum() - both_free
        return float(ratio(matrix[:-1, :-1].sum(), either))
