"""Whether objects keep their identities: CLEAR MOT and IDF1.

MOTA, MOTP and switches after Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance: The CLEAR
MOT Metrics, 2008, section 2.1; IDF1, IDP and IDR after Ristani et al., Performance Measures and a Data Set for
Multi-Target, Multi-Camera Tracking, 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult, ratio, zero_sums
from occ_perception.metrics.checks import check_instances

THRESHOLD_PERCENT = 50
"""Least similarity (voxel IoU, say) of a true and a predicted object that are the same."""
SAME_CENTRE_M = 2.0
"""Objects whose centres are no further apart on the ground may be the same (nuScenes' tracking benchmark)."""
_COUNTS = ("true", "predicted", "matched", "missed", "invented", "switches", "identified", "object_ms")


@dataclass(frozen=True)
class TrackedFrame:
    """The objects of one frame.

    Attributes:
        stamp_ns: nanoseconds.
        true_ids: int64 [N], distinct; who is there.
        predicted_ids: int64 [M], distinct; who is said to be there.
        similarity: float64 [N, M], 0..1; 0 across classes, if there are classes.
        true_classes, predicted_classes: int64 [N] and [M], or both None: objects of any class may be the same.
    """

    stamp_ns: int
    true_ids: np.ndarray
    predicted_ids: np.ndarray
    similarity: np.ndarray
    true_classes: np.ndarray | None = None
    predicted_classes: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.true_ids), len(self.predicted_ids))
        if self.similarity.shape != shape or not np.isfinite(self.similarity).all():
            raise InvalidInputError(f"similarity: expected finite {shape}, got {self.similarity.shape}")
        for name, ids in (("true", self.true_ids), ("predicted", self.predicted_ids)):
            if len(np.unique(ids)) != len(ids):
                raise InvalidInputError(f"{name} ids: expected each once in a frame, got {ids.tolist()}")
        true, predicted = self.true_classes, self.predicted_classes
        if true is None and predicted is None:
            return
        if true is None or predicted is None or (len(true), len(predicted)) != shape:
            got = tuple(None if classes is None else len(classes) for classes in (true, predicted))
            raise InvalidInputError(f"classes: expected none, or those of all {shape} objects, got {got}")
        object.__setattr__(self, "similarity", np.where(true[:, None] == predicted, self.similarity, 0.0))

    @staticmethod
    def of_grids(
        stamp_ns: int,
        true: np.ndarray,
        predicted: np.ndarray,
        true_class_of: Mapping[int, int] | None = None,
        predicted_class_of: Mapping[int, int] | None = None,
    ) -> TrackedFrame:
        """Objects by their voxels, similar by IoU.

        Args:
            stamp_ns: of both.
            true, predicted: integers [X, Y, Z], 0..65535, 0 = none.
            true_class_of, predicted_class_of: classes of all ids, or both None: classes do not matter.

        Raises:
            InvalidInputError: arrays or ids that cannot be, or an id without class.
        """
        true = check_instances("true instances", true, true.shape).ravel()
        predicted = check_instances("predicted instances", predicted.ravel(), true.shape)
        true_ids, true_size = np.unique(true[true > 0], return_counts=True)
        predicted_ids, predicted_size = np.unique(predicted[predicted > 0], return_counts=True)
        both = (true > 0) & (predicted > 0)
        rows, columns = np.searchsorted(true_ids, true[both]), np.searchsorted(predicted_ids, predicted[both])
        shape = (len(true_ids), len(predicted_ids))
        common = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
        iou = common / np.maximum(true_size[:, None] + predicted_size - common, 1)
        classes = _classes(true_ids, true_class_of), _classes(predicted_ids, predicted_class_of)
        return TrackedFrame(stamp_ns, true_ids, predicted_ids, iou, *classes)

    @staticmethod
    def of_centres(stamp_ns: int, true: np.ndarray, predicted: np.ndarray, voxel_size: float) -> TrackedFrame:
        """Objects by the centres of their voxels on the ground: similarity 1 at one place, 0.5 at `SAME_CENTRE_M`.

        For predictions of networks, whose surfaces are a voxel thicker or thinner than true ones: that alone halves the
        IoU of a pedestrian.

        Args:
            stamp_ns: of both.
            true, predicted: integers [X, Y, Z], 0..65535, 0 = none.
            voxel_size: metres.

        Raises:
            InvalidInputError: arrays or ids that cannot be.
        """
        (true_ids, there), (predicted_ids, said) = (
            _centres(check_instances(name, ids, true.shape))
            for name, ids in (("true instances", true), ("predicted instances", predicted))
        )
        distance = np.linalg.norm(there[:, None] - said, axis=2) * voxel_size
        similarity = np.clip(1 - distance / (2 * SAME_CENTRE_M), 0, 1)
        return TrackedFrame(stamp_ns, true_ids, predicted_ids, similarity)


def _centres(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N] and the mean x and y of their voxels, float64 [N, 2], in voxels."""
    voxels = np.nonzero(instances)
    ids, rows, counts = np.unique(instances[voxels], return_inverse=True, return_counts=True)
    sums = [np.bincount(rows, voxels[axis], minlength=len(ids)) for axis in (0, 1)]
    return ids, np.stack(sums, axis=1) / counts[:, None]


def _classes(ids: np.ndarray, class_of: Mapping[int, int] | None) -> np.ndarray | None:
    if class_of is None:
        return None
    unknown = [i for i in ids.tolist() if i not in class_of]
    if unknown:
        raise InvalidInputError(f"classes: expected one of every id, got none of {unknown}")
    return np.array([class_of[i] for i in ids.tolist()], np.int64)


class TrackingScore(Accumulator):
    """MOTA, IDF1 and what they are made of, over sequences; each sequence has its own identities.

    ``frames`` counts the frames of all sequences.

    Args:
        ontology: name of the label set of the objects, for the report; classes are not compared.
        threshold_percent: least similarity of objects that may be matched, in per cent.
    """

    name = "tracking"

    def __init__(self, ontology: str = "occ3d", threshold_percent: int = THRESHOLD_PERCENT) -> None:
        super().__init__({"ontology": ontology, "threshold_percent": threshold_percent})
        self._threshold = threshold_percent / 100
        self.counts.update({name: np.zeros(1, np.int64) for name in _COUNTS})
        self.sums["similarity"] = zero_sums((1,))

    def update(self, sequence: Sequence[TrackedFrame]) -> None:
        """Add a sequence, its frames in order of time.

        Raises:
            InvalidInputError: stamps that do not ascend.
        """
        stamps = [frame.stamp_ns for frame in sequence]
        if any(later <= earlier for earlier, later in pairwise(stamps)):
            raise InvalidInputError("sequence: expected ascending stamps")
        self._count_clear_mot(sequence)
        self.counts["identified"] += _identified(sequence, self._threshold)
        for frame, before in zip(sequence[1:], stamps, strict=False):
            self.counts["object_ms"] += len(frame.true_ids) * round((frame.stamp_ns - before) * 1e-6)
        self.frames += len(sequence)

    def _count_clear_mot(self, sequence: Sequence[TrackedFrame]) -> None:
        last: dict[int, int] = {}  # the predicted object that each true one was matched with last
        for frame in sequence:
            rows, columns = _matches(frame, last, self._threshold)
            pairs = dict(zip(frame.true_ids[rows].tolist(), frame.predicted_ids[columns].tolist(), strict=True))
            self.counts["switches"] += sum(last.get(true, said) != said for true, said in pairs.items())
            last |= pairs
            self.counts["true"] += len(frame.true_ids)
            self.counts["predicted"] += len(frame.predicted_ids)
            self.counts["matched"] += len(pairs)
            self.counts["missed"] += len(frame.true_ids) - len(pairs)
            self.counts["invented"] += len(frame.predicted_ids) - len(pairs)
            self._add_sum("similarity", frame.similarity[rows, columns].sum(keepdims=True))

    def compute(self) -> MetricResult:
        count = {name: self.counts[name].astype(np.float64) for name in _COUNTS}
        errors = count["missed"] + count["invented"] + count["switches"]
        minutes = count["object_ms"] / 60_000
        figures = {
            "IDF1": ratio(2 * count["identified"], count["true"] + count["predicted"]),
            "IDP": ratio(count["identified"], count["predicted"]),
            "IDR": ratio(count["identified"], count["true"]),
            "MOTA": 1 - ratio(errors, count["true"]),
            "MOTP": self._mean("similarity", self.counts["matched"]),
            "recall": ratio(count["matched"], count["true"]),
            "precision": ratio(count["matched"], count["predicted"]),
            "switches per object and minute": ratio(count["switches"], minutes),
        }
        per_class: dict[str, list[float]] = {name: value.tolist() for name, value in figures.items()}
        per_class |= {name: self.counts[name].tolist() for name in _COUNTS[:-1]}
        values = {name: float(value[0]) for name, value in figures.items()}
        units = {"switches per object and minute": "1/min"}
        return MetricResult(values, ("all objects",), per_class, headline="IDF1", units=units)

    @property
    def label(self) -> MetricLabel:
        mask = f"objects of voxel IoU of at least {self.settings['threshold_percent']} %"
        return MetricLabel("Tracking", self.settings["ontology"], mask, "CLEAR MOT 2008, IDF1 2016")


def _matches(frame: TrackedFrame, last: dict[int, int], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of one frame: first those of before that still hold, then as many and as similar as possible."""
    possible = frame.similarity >= threshold
    before = np.array([last.get(true, -1) for true in frame.true_ids.tolist()], np.int64)
    kept = possible & (before[:, None] == frame.predicted_ids)
    # Of two true objects that had the same match at different times, only one can keep it.
    kept &= np.cumsum(kept, axis=0) == 1
    value = np.where(possible, 1.0 + frame.similarity, 0.0)
    value[kept.any(axis=1)] = 0.0
    value[:, kept.any(axis=0)] = 0.0
    rows, columns = linear_sum_assignment(value, maximize=True)
    new = value[rows, columns] > 0
    kept_rows, kept_columns = np.nonzero(kept)
    return np.append(kept_rows, rows[new]), np.append(kept_columns, columns[new])


def _identified(sequence: Sequence[TrackedFrame], threshold: float) -> int:
    """Detections that have the right identity if each true one has one predicted one, the best for all together."""
    none = np.empty(0, np.int64)
    true_ids = np.unique(np.concatenate([none, *(frame.true_ids for frame in sequence)]))
    predicted_ids = np.unique(np.concatenate([none, *(frame.predicted_ids for frame in sequence)]))
    together = np.zeros((len(true_ids), len(predicted_ids)), np.int64)
    for frame in sequence:
        rows, columns = np.nonzero(frame.similarity >= threshold)
        at = (
            np.searchsorted(true_ids, frame.true_ids[rows]),
            np.searchsorted(predicted_ids, frame.predicted_ids[columns]),
        )
        together[at] += 1
    rows, columns = linear_sum_assignment(together, maximize=True)
    return int(together[rows, columns].sum())
