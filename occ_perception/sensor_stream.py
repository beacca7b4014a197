"""The recent messages of one sensor, and which of them is nearest to an instant (for `synchroniser`)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

Payload = TypeVar("Payload")

_MAX_MESSAGES = 256
_INTERVALS = 8


class Drop(str, Enum):
    """Why a message, or the set an anchor message opened, was not used."""

    NO_STAMP = "no stamp"
    """Its stamp is zero: the driver does not fill it in."""
    DUPLICATE = "duplicate stamp"
    OUT_OF_ORDER = "out of order"
    WENT_BACK = "time went back"
    """It was waiting when time went back (a bag began anew, a clock was set)."""
    LATE = "late"
    """Its set had gone out without it."""
    OUT_OF_WINDOW = "out of window"
    """No anchor message is near enough in time."""
    SURPLUS = "surplus"
    """Its set has a message of this sensor that is nearer in time (the sensor is faster than the anchor)."""
    SUPERSEDED = "superseded"
    """A newer set was ready before its set was."""
    TOO_FEW_CAMERAS = "too few cameras"
    """Its set had fewer cameras than it takes."""
    OVERFLOW = "buffer full"


@dataclass
class Arrival(Generic[Payload]):
    """One message.

    Attributes:
        stamp_ns: when it was measured.
        arrival_ns: when it came, on the caller's clock.
        payload: whatever the caller gave.
        interval_ns: shortest of the sensor's last intervals between stamps; None if there was none.
        fate: what it counts as if it is forgotten now; None: a set used it.
    """

    stamp_ns: int
    arrival_ns: int
    payload: Payload
    interval_ns: int | None = None
    fate: Drop | None = Drop.OUT_OF_WINDOW


class SensorStream(Generic[Payload]):
    """The recent messages of one sensor, by stamp.

    Args:
        offset_ns: usual time of its messages relative to the common reference.
        tolerance_ns: greatest distance of a message from where it is expected.
        jump_back_ns: a stamp so much older than it should be means that time went back.
        silent_after_ns: how long without messages makes it silent.
        kept_ns: how long messages wait for their set.
    """

    def __init__(
        self, offset_ns: int, tolerance_ns: int, jump_back_ns: int, silent_after_ns: int, kept_ns: int
    ) -> None:
        self.offset_ns = offset_ns
        self.arrivals: deque[Arrival[Payload]] = deque()
        self.newest: Arrival[Payload] | None = None
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._tolerance_ns = tolerance_ns
        self._jump_back_ns = jump_back_ns
        self._silent_after_ns = silent_after_ns
        self._kept_ns = kept_ns

    def refuse(self, stamp_ns: int, arrival_ns: int) -> Drop | None:
        """Why a new message does not follow the newest one; None if it does."""
        if stamp_ns <= 0:
            return Drop.NO_STAMP
        if self.newest is None or stamp_ns > self.newest.stamp_ns:
            return None
        # Measured against where the stamp should be by now, so that a loop over a very short bag is noticed too.
        expected_ns = self.newest.stamp_ns + max(arrival_ns - self.newest.arrival_ns, 0)
        if expected_ns - stamp_ns > self._jump_back_ns:
            return Drop.WENT_BACK
        return Drop.DUPLICATE if stamp_ns == self.newest.stamp_ns else Drop.OUT_OF_ORDER

    def append(self, arrival: Arrival[Payload]) -> list[Arrival[Payload]]:
        """Keep a message; returns those that waited too long, which are forgotten."""
        if self.newest is not None:
            self._intervals.append(arrival.stamp_ns - self.newest.stamp_ns)
            arrival.interval_ns = min(self._intervals)
        self.newest = arrival
        self.arrivals.append(arrival)
        forgotten = self._take_until(arrival.stamp_ns - self._kept_ns)
        if len(self.arrivals) > _MAX_MESSAGES:
            self.arrivals[0].fate = self.arrivals[0].fate and Drop.OVERFLOW
            forgotten.append(self.arrivals.popleft())
        return forgotten

    def in_window(self, arrival: Arrival[Payload], reference_ns: int) -> bool:
        """Whether a message can belong to the set of a reference time."""
        return abs(arrival.stamp_ns - self.offset_ns - reference_ns) <= self._tolerance_ns

    def pick(self, reference_ns: int) -> tuple[Arrival[Payload] | None, bool]:
        """The message nearest to a reference time, and whether that is settled: no later one is nearer, or will come.

        Decided from stamps alone: the next message is taken to come no sooner than the shortest of the last intervals
        (nuScenes' cameras alternate between 50 and 100 ms), the tolerance after the first.
        """
        expected_ns = reference_ns + self.offset_ns
        best: Arrival[Payload] | None = None
        for arrival in self.arrivals:
            delta = arrival.stamp_ns - expected_ns
            if delta < -self._tolerance_ns:
                continue
            if delta > self._tolerance_ns:  # past the window; much later means another time line: time went back
                return best, delta < self._tolerance_ns + self._jump_back_ns
            if best is None or abs(delta) < abs(best.stamp_ns - expected_ns):
                best = arrival
            interval = self._tolerance_ns if arrival.interval_ns is None else arrival.interval_ns
            if delta >= 0 or delta + interval >= -delta:
                return best, True
        return best, False

    def forget_until(self, reference_ns: int) -> list[Arrival[Payload]]:
        """Forget the messages that are too old for every set after a reference time; returns them."""
        return self._take_until(reference_ns + self.offset_ns - self._tolerance_ns)

    def restart(self) -> list[Arrival[Payload]]:
        """Forget everything (time went back); returns the messages that were waiting."""
        forgotten = list(self.arrivals)
        for arrival in forgotten:
            arrival.fate = arrival.fate and Drop.WENT_BACK
        self.arrivals.clear()
        self.newest = None
        self._intervals.clear()
        return forgotten

    def silent(self, now_ns: int, since_ns: int) -> bool:
        """Whether nothing came for a while; ``since_ns``: when we began to listen."""
        last_ns = self.newest.arrival_ns if self.newest is not None else since_ns
        return now_ns - last_ns > self._silent_after_ns

    def _take_until(self, stamp_ns: int) -> list[Arrival[Payload]]:
        taken = []
        while self.arrivals and self.arrivals[0].stamp_ns <= stamp_ns:
            taken.append(self.arrivals.popleft())
        return taken
