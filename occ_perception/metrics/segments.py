"""Matching of predicted to true segments, the core of every panoptic quality (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ID_BITS = 17  # segment ids are below 2^17 (65 535 and some room)


@dataclass(frozen=True)
class SegmentMatches:
    """Outcome by class.

    Attributes:
        true_positive, false_positive, false_negative: int64 [C].
        iou_sum: float64 [C]; IoU of the matched pairs, added up.
    """

    true_positive: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    iou_sum: np.ndarray


@dataclass(frozen=True)
class _Segments:
    """Segments of one side: class and size of each, and the segment each element belongs to (-1 for none)."""

    class_id: np.ndarray
    size: np.ndarray
    of_element: np.ndarray

    @classmethod
    def collect(cls, class_ids: np.ndarray, ids: np.ndarray, num_classes: int) -> _Segments:
        """Group elements (int [N]) by (class, id), leaving out those of other classes."""
        counted = class_ids < num_classes
        keys = (class_ids[counted].astype(np.int64) << _ID_BITS) | ids[counted]
        unique, inverse, size = np.unique(keys, return_inverse=True, return_counts=True)
        of_element = np.full(len(class_ids), -1, np.int64)
        of_element[counted] = inverse
        return cls(unique >> _ID_BITS, size, of_element)


def match_segments(
    true_class: np.ndarray,
    true_id: np.ndarray,
    predicted_class: np.ndarray,
    predicted_id: np.ndarray,
    num_classes: int,
    min_size: int,
    overlaps: np.ndarray | None = None,
) -> SegmentMatches:
    """Match segments of the same class whose IoU is above one half.

    Args:
        true_class, predicted_class: unsigned [N]; class of each element, ``num_classes`` or more for none.
        true_id, predicted_id: int64 [N], 0..131 071; a segment is what shares class and id.
        num_classes: C.
        min_size: unmatched segments with fewer elements are neither false positives nor false negatives.
        overlaps: bool [N]; which elements may count as intersection (all if None).  Sizes count all elements.
    """
    true = _Segments.collect(true_class, true_id, num_classes)
    predicted = _Segments.collect(predicted_class, predicted_id, num_classes)
    common = (true.of_element >= 0) & (predicted.of_element >= 0) & (true_class == predicted_class)
    if overlaps is not None:
        common &= overlaps
    width = max(len(predicted.size), 1)
    pairs, intersection = np.unique(true.of_element[common] * width + predicted.of_element[common], return_counts=True)
    rows, columns = pairs // width, pairs % width
    iou = intersection / (true.size[rows] + predicted.size[columns] - intersection)
    matched = iou > 0.5
    rows, columns, iou = rows[matched], columns[matched], iou[matched]
    return SegmentMatches(
        true_positive=np.bincount(true.class_id[rows], minlength=num_classes),
        false_positive=_unmatched(predicted, columns, min_size, num_classes),
        false_negative=_unmatched(true, rows, min_size, num_classes),
        iou_sum=np.bincount(true.class_id[rows], weights=iou, minlength=num_classes),
    )


def panoptic_quality(
    true_positive: np.ndarray, false_positive: np.ndarray, false_negative: np.ndarray, mean_iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PQ, SQ and RQ, float64 of the arguments' shape; NaN where there is no segment at all.

    Args:
        true_positive, false_positive, false_negative: numbers of segments.
        mean_iou: of the matched pairs; NaN where there is none.
    """
    seen = true_positive + false_positive + false_negative > 0
    found = true_positive / np.where(seen, true_positive + false_positive / 2 + false_negative / 2, 1.0)
    segmentation = np.where(seen, np.nan_to_num(mean_iou), np.nan)
    recognition = np.where(seen, found, np.nan)
    return segmentation * recognition, segmentation, recognition


def _unmatched(segments: _Segments, matched: np.ndarray, min_size: int, num_classes: int) -> np.ndarray:
    counts = segments.size >= min_size
    counts[matched] = False
    return np.bincount(segments.class_id[counts], minlength=num_classes)
