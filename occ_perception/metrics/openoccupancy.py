"""OpenOccupancy: scene completion IoU and semantic scene completion mIoU (benchmarks.md 5)."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, ratio
from occ_perception.metrics.checks import check_ground_truth, check_prediction
from occ_perception.metrics.semantic_iou import confusion_matrix, iou_per_class
from occ_perception.ontology import OPENOCCUPANCY

_FREE_FIRST = (-1, *range(1, OPENOCCUPANCY.num_classes))  # "others" never occurs


class OpenOccupancyScore(Accumulator):
    """SC IoU of occupied voxels and SSC mIoU over classes 1..16; labels "noise" must come as UNKNOWN (not scored).

    SSC mIoU is a plain mean as in the reference: NaN if a class is in neither truth nor prediction.
    """

    name = "openoccupancy"

    def __init__(self) -> None:
        super().__init__({})
        side = OPENOCCUPANCY.num_classes
        self.counts["confusion"] = np.zeros((side, side), np.int64)

    def update(self, ground_truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one frame.

        Args:
            ground_truth: uint8 [X, Y, Z]; classes 1..16, FREE or UNKNOWN.
            prediction: uint8 [X, Y, Z]; classes 1..16 or FREE.

        Raises:
            InvalidInputError: wrong shape, dtype or class ids; class 0 ("others"), which the benchmark does not know.
        """
        check_ground_truth(ground_truth, OPENOCCUPANCY)
        check_prediction(prediction, OPENOCCUPANCY, ground_truth.shape)
        for name, labels in (("ground truth", ground_truth), ("prediction", prediction)):
            if (labels == 0).any():
                raise InvalidInputError(
                    f"{name}: class 0 (others) is not scored by OpenOccupancy, expected 1..16 or free"
                )
        matrix = confusion_matrix(ground_truth, prediction, OPENOCCUPANCY.num_classes)
        self.counts["confusion"] += matrix[np.ix_(_FREE_FIRST, _FREE_FIRST)]
        self.frames += 1

    def compute(self) -> MetricResult:
        matrix = self.counts["confusion"]
        iou = iou_per_class(matrix)
        occupied_either = matrix.sum() - matrix[0, 0]
        values = {
            "SSC mIoU": float(iou[1:].sum() / len(iou[1:])),
            "SC IoU": float(ratio(matrix[1:, 1:].sum(), occupied_either)),
        }
        per_class = {
            "IoU": iou.tolist(),
            "voxels in truth": matrix.sum(axis=1).tolist(),
            "voxels predicted": matrix.sum(axis=0).tolist(),
        }
        names = ("free", *OPENOCCUPANCY.class_names[1:])
        missing = [name for name, value in zip(names, iou, strict=True) if np.isnan(value)]
        warnings = (f"SSC mIoU does not exist: no voxel of {', '.join(missing)}",) if missing else ()
        return MetricResult(values, names, per_class, "SSC mIoU", warnings)

    @property
    def label(self) -> MetricLabel:
        return MetricLabel("OpenOccupancy", OPENOCCUPANCY.name, "none (all labelled voxels)", "OpenOccupancy v0.1")
