"""Groups measurements of several sensors into sets: one message per sensor around an anchor message.

Free of ROS and of clocks: the node (ROS time) and the bag replayer (log time) give every arrival with the time it
came, and get sets back, so both make the same sets of the same data.

* A message of the *anchor* sensor opens a set; its stamp is the stamp of the set.
* Every other sensor contributes the message nearest to ``anchor stamp + its offset - the anchor's offset``, within a
  tolerance.  Which one is nearest is decided from stamps alone, so it does not depend on how topics interleave.
* A set goes out when every sensor has contributed, has moved past the window (its message was lost) or is silent; at
  the latest at the deadline, counted from the arrival of the anchor, with what is there, if that is enough cameras.
* The newest set that can go out does; older open ones are dropped.  If the anchor falls silent the next sensor takes
  over until it returns.
* Nothing grows, and nothing vanishes uncounted: `Synchroniser.drops` says what was dropped and why.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.sensor_stream import Arrival, Drop, Payload, SensorStream

__all__ = ["Arrival", "Drop", "Missing", "SyncConfig", "SyncedSet", "Synchroniser", "default_anchor"]

logger = logging.getLogger(__name__)

_MAX_OPEN = 8
_KEPT_CLOSED = 16


class Missing(str, Enum):
    """Why a sensor has no message in a set."""

    LOST = "lost"
    """It has delivered a later one, so this one will not come."""
    SILENT = "silent"
    """It has delivered nothing for a while; sets no longer wait for it."""
    DEADLINE = "deadline"
    """It did not come in time."""


def default_anchor(cameras: tuple[str, ...]) -> str:
    """The camera that looks forward, by its name, otherwise the first; "" if there is none."""
    forward = [c for c in cameras if "front" in c.lower() and not any(s in c.lower() for s in ("left", "right"))]
    return (forward or [*cameras, ""])[0]


@dataclass(frozen=True)
class SyncConfig:
    """How sets are made.

    Attributes:
        cameras: names of the cameras.
        lidar: name of the LiDAR, "" if there is none.
        anchor: sensor whose messages open sets; "" = the front camera, or the LiDAR if there is no camera.
        offsets_s: usual time of a sensor's message relative to any common reference, seconds, by sensor name; those
            not named are 0.  Only differences matter.
        tolerance_s: greatest distance of a message from where it is expected.
        deadline_s: how long after the anchor's arrival a set waits for the others.
        min_cameras: fewest cameras in a set; LiDAR alone is enough when every camera is silent.
        silent_after_s: a sensor that delivered nothing for so long is not waited for.
        jump_back_s: a stamp so much older than it should be means that time went back; less is a message out of order.
        kept_s: how long messages wait for an anchor.
    """

    cameras: tuple[str, ...] = ()
    lidar: str = ""
    anchor: str = ""
    offsets_s: Mapping[str, float] = field(default_factory=dict)
    tolerance_s: float = 0.05
    deadline_s: float = 0.1
    min_cameras: int = 1
    silent_after_s: float = 1.0
    jump_back_s: float = 0.5
    kept_s: float = 0.5

    def __post_init__(self) -> None:
        sensors = self.sensors
        if not sensors or len(set(sensors)) != len(sensors):
            raise ConfigurationError(f"synchroniser: expected at least one sensor and no name twice, got {sensors}")
        if self.anchor and self.anchor not in sensors:
            raise ConfigurationError(f"synchroniser: anchor '{self.anchor}' is none of the sensors {sensors}")
        unknown = sorted(set(self.offsets_s) - set(sensors))
        if unknown:
            raise ConfigurationError(f"synchroniser: offsets of unknown sensors {unknown}; the sensors are {sensors}")
        for name in ("tolerance_s", "deadline_s", "silent_after_s", "jump_back_s", "kept_s"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"synchroniser: {name} must be > 0, got {getattr(self, name)}")
        if self.cameras and not 0 <= self.min_cameras <= len(self.cameras):
            raise ConfigurationError(
                f"synchroniser: expected min_cameras in 0..{len(self.cameras)}, got {self.min_cameras}"
            )

    @property
    def sensors(self) -> tuple[str, ...]:
        """All sensors, cameras first."""
        return (*self.cameras, self.lidar) if self.lidar else tuple(self.cameras)

    @property
    def preferred_anchor(self) -> str:
        """The anchor while it works."""
        return self.anchor or default_anchor(self.cameras) or self.lidar

    def stream(self, sensor: str) -> SensorStream:
        """An empty stream of a sensor."""
        seconds = (
            self.offsets_s.get(sensor, 0.0),
            self.tolerance_s,
            self.jump_back_s,
            self.silent_after_s,
            self.kept_s,
        )
        return SensorStream(*(round(s * 1e9) for s in seconds))


@dataclass(frozen=True)
class SyncedSet(Generic[Payload]):
    """One message per sensor around an anchor.

    Attributes:
        stamp_ns: stamp of the anchor's message.
        anchor: the sensor that opened the set.
        closed_ns: when the set went out, on the caller's clock.
        arrivals: the messages by sensor, the anchor's included.
        missing: the sensors without one, and why.
    """

    stamp_ns: int
    anchor: str
    closed_ns: int
    arrivals: Mapping[str, Arrival[Payload]]
    missing: Mapping[str, Missing]


@dataclass(frozen=True)
class _OpenSet(Generic[Payload]):
    anchor: str
    arrival: Arrival[Payload]
    reference_ns: int  # the anchor's stamp less its offset: what all expected stamps refer to
    deadline_ns: int


class Synchroniser(Generic[Payload]):
    """Makes sets of arrivals; the same arrivals make the same sets.

    Attributes:
        config: how.
        drops: messages not used, by (sensor, reason), without the anchor messages of `dropped_sets`.
        dropped_sets: sets that were opened and did not go out, by reason.
        resets: how often time went back and the open sets were dropped.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self.drops: Counter[tuple[str, Drop]] = Counter()
        self.dropped_sets: Counter[Drop] = Counter()
        self.resets = 0
        self._streams: dict[str, SensorStream[Payload]] = {s: config.stream(s) for s in config.sensors}
        self._open: list[_OpenSet[Payload]] = []
        self._closed: deque[tuple[int, frozenset[str]]] = deque(maxlen=_KEPT_CLOSED)  # (reference, sensors missing)
        self._since_ns: int | None = None
        self._now_ns: int | None = None
        self._anchor = config.preferred_anchor

    @property
    def anchor(self) -> str:
        """The sensor that opens sets now."""
        return self._anchor

    @property
    def next_deadline_ns(self) -> int | None:
        """When `poll` has something to do, on the caller's clock; None while no set is open."""
        return min((s.deadline_ns for s in self._open), default=None)

    def silent_sensors(self, now_ns: int) -> tuple[str, ...]:
        """Sensors that delivered nothing for a while."""
        if self._since_ns is None:
            return ()
        return tuple(name for name, stream in self._streams.items() if stream.silent(now_ns, self._since_ns))

    def lag_ns(self, sensor: str) -> int | None:
        """Newest stamp of a sensor less the anchor's (both less their offsets); None if either has none."""
        stream, anchor = self._streams[sensor], self._streams[self._anchor]
        if stream.newest is None or anchor.newest is None:
            return None
        return stream.newest.stamp_ns - stream.offset_ns - (anchor.newest.stamp_ns - anchor.offset_ns)

    def add(self, sensor: str, stamp_ns: int, arrival_ns: int, payload: Payload) -> list[SyncedSet[Payload]]:
        """Take a message; returns the sets that go out: those whose deadline passed before it, then what it completes.

        Args:
            sensor: one of the configured sensors.
            stamp_ns: when it was measured.
            arrival_ns: when it came, on the clock that `poll` is given.
            payload: handed back in the set.

        Raises:
            InvalidInputError: no such sensor.
        """
        if sensor not in self._streams:
            raise InvalidInputError(f"synchroniser: no sensor '{sensor}', only {list(self._streams)}")
        ready = self.poll(arrival_ns)
        if self._follows(sensor, stamp_ns, arrival_ns):
            arrival = Arrival(stamp_ns, arrival_ns, payload)
            self._keep(sensor, arrival)
            self._choose_anchor(arrival_ns)
            if sensor == self._anchor:
                self._open_set(arrival)
            ready += self._close_ready(arrival_ns)
        return ready

    def poll(self, now_ns: int) -> list[SyncedSet[Payload]]:
        """Close the sets whose deadline has passed, in the order of their deadlines; returns those that go out."""
        if self._now_ns is not None and self._now_ns - now_ns > self.config.jump_back_s * 1e9:
            logger.warning("the clock went back by %.3f s: starting anew", (self._now_ns - now_ns) * 1e-9)
            self._restart_all()
        self._now_ns = now_ns
        self._since_ns = now_ns if self._since_ns is None else self._since_ns
        ready: list[SyncedSet[Payload]] = []
        while (deadline_ns := self.next_deadline_ns) is not None and deadline_ns <= now_ns:
            ready += self._close_ready(deadline_ns)
        return ready

    # -- taking a message

    def _follows(self, sensor: str, stamp_ns: int, arrival_ns: int) -> bool:
        stream = self._streams[sensor]
        refused = stream.refuse(stamp_ns, arrival_ns)
        if refused is None:
            return True
        if refused is not Drop.WENT_BACK:
            self.drops[sensor, refused] += 1
            return False
        newest_ns = stream.newest.stamp_ns if stream.newest is not None else stamp_ns
        logger.warning("%s: stamps went back by %.3f s", sensor, (newest_ns - stamp_ns) * 1e-9)
        self._count(sensor, stream.restart())
        if sensor == self._anchor:
            self._drop_open_sets()
        return True

    def _keep(self, sensor: str, arrival: Arrival[Payload]) -> None:
        stream = self._streams[sensor]
        if any(sensor in missing and stream.in_window(arrival, reference) for reference, missing in self._closed):
            arrival.fate = Drop.LATE  # unless a later set can use it
        self._count(sensor, stream.append(arrival))

    def _choose_anchor(self, now_ns: int) -> None:
        """The preferred anchor while it works, else the first sensor that does."""
        silent = self.silent_sensors(now_ns)
        order = (self.config.preferred_anchor, *self.config.sensors)
        anchor = next((s for s in order if s not in silent), self._anchor)
        if anchor != self._anchor:
            why = f"{self._anchor} is silent" if self._anchor in silent else "it is back"
            logger.warning("the anchor is now %s: %s", anchor, why)
            self._anchor = anchor

    def _open_set(self, arrival: Arrival[Payload]) -> None:
        reference_ns = arrival.stamp_ns - self._streams[self._anchor].offset_ns
        if self._closed and reference_ns <= self._closed[-1][0]:  # the anchor changed and this one lags behind
            arrival.fate = Drop.LATE
            return
        deadline_ns = arrival.arrival_ns + round(self.config.deadline_s * 1e9)
        arrival.fate = None
        self._open.append(_OpenSet(self._anchor, arrival, reference_ns, deadline_ns))
        if len(self._open) > _MAX_OPEN:
            self._close(self._open.pop(0), {}, Drop.SUPERSEDED)

    # -- closing sets

    def _close_ready(self, now_ns: int) -> list[SyncedSet[Payload]]:
        """Close the newest open set that can go out, and drop all before it."""
        for position in reversed(range(len(self._open))):
            candidate = self._open[position]
            chosen, missing, settled = self._choose(candidate, now_ns)
            if settled or candidate.deadline_ns <= now_ns:
                for older in self._open[:position]:
                    self._close(older, {}, Drop.SUPERSEDED)
                del self._open[: position + 1]
                enough = self._enough(chosen, missing)
                self._close(candidate, chosen, None if enough else Drop.TOO_FEW_CAMERAS)
                stamp_ns = candidate.arrival.stamp_ns
                return [SyncedSet(stamp_ns, candidate.anchor, now_ns, chosen, missing)] if enough else []
        return []

    def _choose(
        self, candidate: _OpenSet[Payload], now_ns: int
    ) -> tuple[dict[str, Arrival[Payload]], dict[str, Missing], bool]:
        """The messages of an open set, the sensors without one, and whether waiting could change either."""
        chosen: dict[str, Arrival[Payload]] = {candidate.anchor: candidate.arrival}
        missing: dict[str, Missing] = {}
        all_settled = True
        silent = self.silent_sensors(now_ns)
        for sensor, stream in self._streams.items():
            if sensor == candidate.anchor:
                continue
            arrival, settled = stream.pick(candidate.reference_ns)
            if arrival is not None:
                chosen[sensor] = arrival
            elif sensor in silent:
                missing[sensor] = Missing.SILENT
            else:
                missing[sensor] = Missing.LOST if settled else Missing.DEADLINE
            all_settled &= settled or sensor in silent
        return chosen, missing, all_settled

    def _enough(self, chosen: Mapping[str, Arrival[Payload]], missing: Mapping[str, Missing]) -> bool:
        cameras = sum(camera in chosen for camera in self.config.cameras)
        lidar_alone = all(missing.get(camera) is Missing.SILENT for camera in self.config.cameras)
        return cameras >= self.config.min_cameras or (lidar_alone and self.config.lidar in chosen)

    def _close(self, closed: _OpenSet[Payload], chosen: Mapping[str, Arrival[Payload]], dropped: Drop | None) -> None:
        """Settle what the messages of a set count as, and forget those no later set can use."""
        if dropped is not None:
            self.dropped_sets[dropped] += 1
        missing = frozenset(s for s in self._streams if s not in chosen)
        self._closed.append((closed.reference_ns, missing))
        for sensor, stream in self._streams.items():
            for arrival in stream.arrivals:
                if arrival is chosen.get(sensor) and dropped is None:
                    arrival.fate = None
                elif arrival.fate is Drop.OUT_OF_WINDOW and stream.in_window(arrival, closed.reference_ns):
                    arrival.fate = dropped or Drop.SURPLUS
            self._count(sensor, stream.forget_until(closed.reference_ns))

    def _count(self, sensor: str, forgotten: Iterable[Arrival[Payload]]) -> None:
        self.drops.update((sensor, arrival.fate) for arrival in forgotten if arrival.fate is not None)

    # -- time went back

    def _drop_open_sets(self) -> None:
        self.resets += 1
        self.dropped_sets[Drop.WENT_BACK] += len(self._open)
        self._open.clear()
        self._closed.clear()

    def _restart_all(self) -> None:
        for sensor, stream in self._streams.items():
            self._count(sensor, stream.restart())
        self._drop_open_sets()
        self._since_ns = None
        self._anchor = self.config.preferred_anchor
