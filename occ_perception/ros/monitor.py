"""What the node counts and times, from several threads; `diagnostics` reports it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from occ_perception.occupancy import Occupancy
from occ_perception.ontology import UNKNOWN

logger = logging.getLogger(__name__)

_KEPT = 120
_MISSED_INTERVALS = 3
_LOG_EVERY_S = 5.0


@dataclass
class SensorRecord:
    """What a sensor delivered.

    Attributes:
        arrivals_s: when its last messages came, monotonic seconds.
        received, unreadable: how many came, and how many of them could not be used.
        problem: the last thing wrong with it, and when (monotonic seconds).
    """

    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    received: int = 0
    unreadable: int = 0
    problem: str = ""
    problem_s: float = -np.inf

    def rate_hz(self, now_s: float, window_s: float = 5.0) -> float:
        """Messages per second over the last seconds, up to now: it falls as soon as messages stop."""
        recent = [t for t in self.arrivals_s if now_s - t <= window_s]
        return (len(recent) - 1) / (now_s - recent[0]) if len(recent) > 1 and now_s > recent[0] else 0.0

    def overdue_s(self, now_s: float, patience_s: float) -> float:
        """Age of the last message if it is more than that and more than some of the usual intervals, else 0."""
        times = self.arrivals_s
        if not times:
            return 0.0
        usual_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        age_s = now_s - times[-1]
        return age_s if age_s > max(patience_s, _MISSED_INTERVALS * usual_s) else 0.0


class Monitor:
    """Counters, durations and the last problems of the node; thread safe.

    Attributes:
        counts: events by name.
        last: the newest occupancy that was published.
        known: the share of its voxels that is not unknown.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: Occupancy | None = None
        self.known = 0.0
        self._lock = threading.Lock()
        self._sensors: dict[str, SensorRecord] = {}
        self._stages: dict[str, deque[float]] = {}
        self._problems: dict[str, tuple[str, float]] = {}
        self._logged_s: dict[str, float] = {}

    def received(self, sensor: str) -> None:
        """A message of a sensor came."""
        with self._lock:
            record = self._sensors.setdefault(sensor, SensorRecord())
            record.received += 1
            record.arrivals_s.append(time.monotonic())

    def unreadable(self, sensor: str, problem: str) -> None:
        """A message of a sensor could not be used."""
        with self._lock:
            record = self._sensors.setdefault(sensor, SensorRecord())
            record.unreadable += 1
            record.problem, record.problem_s = problem, time.monotonic()
        self._log(sensor, problem)

    def count(self, event: str, times: int = 1) -> None:
        """Something happened that is worth counting."""
        with self._lock:
            self.counts[event] += times

    def problem(self, topic: str, text: str, traceback: bool = False) -> None:
        """Something is wrong: shown in /diagnostics for a while, and in the log now and then.

        Args:
            topic: what it is about; also the name it is counted under.
            text: what is wrong.
            traceback: log where the exception that is being handled came from, too.
        """
        with self._lock:
            self.counts[topic] += 1
            self._problems[topic] = (text, time.monotonic())
        self._log(topic, text, traceback)

    def published(self, occupancy: Occupancy) -> None:
        """A grid went out; its rate is that of the sensor "output"."""
        self.received("output")
        known = float(np.mean(occupancy.semantics != UNKNOWN))
        with self._lock:
            self.counts["published"] += 1
            self.known = known
            self.last = occupancy

    def duration(self, stage: str, milliseconds: float) -> None:
        """A stage took this long."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=_KEPT)).append(milliseconds)

    def durations(self, stages: Mapping[str, float]) -> None:
        """Several stages at once, in milliseconds."""
        for stage, milliseconds in stages.items():
            self.duration(stage, milliseconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.duration(stage, (time.perf_counter() - start) * 1e3)

    def sensor(self, name: str) -> SensorRecord:
        """A copy of what is known of a sensor."""
        with self._lock:
            record = self._sensors.get(name, SensorRecord())
            arrivals = deque(record.arrivals_s, maxlen=_KEPT)
            return SensorRecord(arrivals, record.received, record.unreadable, record.problem, record.problem_s)

    def latencies(self) -> dict[str, tuple[float, float, float]]:
        """Median, 95th percentile and maximum of the last runs of every stage, milliseconds."""
        with self._lock:
            stages = {stage: np.array(values) for stage, values in self._stages.items()}
        return {s: (float(np.median(v)), float(np.percentile(v, 95)), float(v.max())) for s, v in stages.items()}

    def recent_problems(self, within_s: float = 5.0) -> dict[str, str]:
        """What went wrong lately, by topic."""
        now = time.monotonic()
        with self._lock:
            return {topic: text for topic, (text, when) in self._problems.items() if now - when <= within_s}

    def counted(self) -> dict[str, int]:
        """A copy of the counters."""
        with self._lock:
            return dict(self.counts)

    def _log(self, topic: str, text: str, traceback: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._logged_s.get(topic, -np.inf) < _LOG_EVERY_S:
                return
            self._logged_s[topic] = now
        logger.warning("%s: %s", topic, text, exc_info=traceback)
