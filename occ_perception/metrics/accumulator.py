"""What all metrics share: counters that add up to the same result however the frames are split over workers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from occ_perception.errors import ConfigurationError, InvalidInputError

FIXED_POINT_BITS = 40
"""Sums of measured values are kept as whole multiples of 2^-40 (9e-13), as Python integers of any length."""

_METRICS: dict[str, type[Accumulator]] = {}


@dataclass(frozen=True)
class MetricResult:
    """Figures computed from counters.

    Attributes:
        values: headline figures by name; ratios are 0..1, NaN where nothing was there to measure.
        class_names: rows of ``per_class``.
        per_class: columns of figures by name, one value per class.
        headline: name of the one figure to quote.
        warnings: what a reader must know before quoting it.
        units: unit of figures that are neither ratios nor counts, by name of value or column.
    """

    values: Mapping[str, float]
    class_names: tuple[str, ...]
    per_class: Mapping[str, Sequence[float]]
    headline: str
    warnings: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricLabel:
    """What a figure means: without it a score cannot be compared with another.

    Attributes:
        title: name for people, such as "RayIoU".
        ontology: label set.
        mask: which voxels, rays or points were scored.
        variant: which of the published evaluators' definitions was followed.
    """

    title: str
    ontology: str
    mask: str
    variant: str


class Accumulator(ABC):
    """A metric as integer counters: ``update`` per frame, ``merge`` across workers, ``compute`` at the end.

    Counters are int64 arrays; sums of measured values (flow errors, IoUs of segments) are Python integers in units of
    2^-40, rounded once per frame.  Integer addition has no order, so any split of the frames over workers gives
    bit-identical results.

    Attributes:
        name: key of the metric in files.
        settings: constructor arguments, JSON-able; only equal settings can be merged.
        frames: number of updates.
        counts: named int64 arrays.
        sums: named arrays (dtype object) of Python integers, units of 2^-40.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _METRICS[cls.name] = cls

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.frames = 0
        self.counts: dict[str, np.ndarray] = {}
        self.sums: dict[str, np.ndarray] = {}

    @abstractmethod
    def compute(self) -> MetricResult:
        """The figures of all frames so far."""

    @property
    @abstractmethod
    def label(self) -> MetricLabel:
        """What the figures mean."""

    def merge(self, other: Accumulator) -> None:
        """Add another worker's counters to these.

        Raises:
            ConfigurationError: the other is another metric or has other settings.
        """
        if other.name != self.name or other.settings != self.settings:
            raise ConfigurationError(
                f"cannot merge {other.name} {other.settings} into {self.name} {self.settings}: they count differently"
            )
        self.frames += other.frames
        for mine, theirs in ((self.counts, other.counts), (self.sums, other.sums)):
            for key in mine:
                mine[key] = mine[key] + theirs[key]

    def to_json(self) -> str:
        """Settings and counters as JSON text; `from_json` restores them exactly."""
        return json.dumps(
            {
                "metric": self.name,
                "settings": self.settings,
                "frames": self.frames,
                "counts": {key: value.tolist() for key, value in self.counts.items()},
                "sums_2^-40": {key: value.tolist() for key, value in self.sums.items()},
            }
        )

    @staticmethod
    def from_json(text: str) -> Accumulator:
        """Restore whichever metric `to_json` wrote.

        Raises:
            InvalidInputError: not such a text, or counters that do not fit the metric.
        """
        try:
            stored = json.loads(text)
            metric = _METRICS[stored["metric"]](**stored["settings"])
            metric.frames = int(stored["frames"])
            _restore(metric.counts, stored["counts"], np.int64)
            _restore(metric.sums, stored["sums_2^-40"], object)
        except (KeyError, TypeError, OverflowError, json.JSONDecodeError, ConfigurationError) as error:
            raise InvalidInputError(f"metric JSON: not one of {sorted(_METRICS)} that fits: {error!r}") from error
        return metric

    def _add_sum(self, name: str, values: np.ndarray) -> None:
        """Add one frame's sums (float64, shape of ``sums[name]``, finite)."""
        scaled = [round(float(value) * 2.0**FIXED_POINT_BITS) for value in values.ravel()]
        self.sums[name] = self.sums[name] + np.array(scaled, dtype=object).reshape(values.shape)

    def _mean(self, sum_name: str, counts: np.ndarray) -> np.ndarray:
        """Sums over counts as float64, NaN where the count is 0."""
        unit = 1 << FIXED_POINT_BITS
        pairs = zip(self.sums[sum_name].ravel(), counts.ravel().tolist(), strict=True)
        return np.array([total / (n * unit) if n else np.nan for total, n in pairs]).reshape(counts.shape)


def _restore(arrays: dict[str, np.ndarray], stored: Mapping[str, Any], dtype: type) -> None:
    if set(arrays) != set(stored):
        raise InvalidInputError(f"metric JSON: expected counters {sorted(arrays)}, got {sorted(stored)}")
    for key, template in arrays.items():
        value = np.array(stored[key], dtype=object)
        if value.shape != template.shape or not all(type(v) is int for v in value.ravel()):
            raise InvalidInputError(f"metric JSON: {key}: expected integers {template.shape}, got {value.shape}")
        arrays[key] = value.astype(dtype)


def zero_sums(shape: tuple[int, ...]) -> np.ndarray:
    """An array of Python integers 0 for `Accumulator.sums`."""
    return np.full(shape, 0, dtype=object)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient as float64, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def nan_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    return float(kept.mean()) if kept.size else float("nan")
