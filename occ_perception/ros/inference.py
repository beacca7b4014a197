"""From synchronised sets to published grids: one model thread behind one waiting set. Makes no ROS calls itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from occ_perception.assembler import Assembler, Late, Measurement
from occ_perception.errors import InvalidInputError, OccPerceptionError
from occ_perception.frame import Frame
from occ_perception.occupancy import Occupancy
from occ_perception.ros.model_worker import ModelWorker
from occ_perception.ros.monitor import Monitor
from occ_perception.ros.supervisor import Supervisor
from occ_perception.session import Session
from occ_perception.synchroniser import Arrival, Missing, SyncConfig, SyncedSet, Synchroniser

logger = logging.getLogger(__name__)

_LOOK_FOR_TF_S = 0.02
_PREPARE_AHEAD_S = 0.2


class Reading(Protocol):
    """A message that has come."""

    def begin(self) -> object:
        """Start whatever takes time; need not be called."""

    def read(self) -> Measurement:
        """What is in it."""


@dataclass(frozen=True)
class ReadLater:
    """A `Reading` that is quickly done when it is asked for."""

    read: Callable[[], Measurement]

    def begin(self) -> None:
        """Nothing to start."""


@dataclass(frozen=True)
class Received:
    """A message on its way, and when it came (monotonic seconds)."""

    reading: Reading
    received_s: float


@dataclass(frozen=True)
class Channel:
    """A model with the synchroniser that feeds it: the one that was asked for, or the fallback."""

    session: Session
    synchroniser: Synchroniser[Received]
    is_fallback: bool = False


@dataclass(frozen=True)
class _Job:
    channel: Channel
    synced: SyncedSet[Received]
    submitted_s: float


class Inference:
    """Runs sessions on sets, one at a time, and hands the grids to ``publish`` on its own thread.

    Args:
        assembler: makes frames.
        supervisor: told of success and failure.
        monitor: told of everything.
        publish: where grids go.
        now_ns: the clock that sets were closed on.
    """

    def __init__(
        self,
        assembler: Assembler,
        supervisor: Supervisor,
        monitor: Monitor,
        publish: Callable[[Occupancy], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._assembler = assembler
        self._supervisor = supervisor
        self._monitor = monitor
        self._publish = publish
        self._now_ns = now_ns
        self._transforms = threading.Condition()
        self._began_s: float | None = None  # of the frame in progress
        self._usual_s = 0.0
        self._worker: ModelWorker[_Job] = ModelWorker(self._process, self._skipped)

    def submit(self, channel: Channel, synced: SyncedSet[Received]) -> None:
        """Hand over a set; it replaces one of the same channel that has not begun."""
        if not channel.is_fallback and not self._supervisor.model_is_due(time.monotonic()):
            self._monitor.count("sets not tried: the model fails")
            return
        self._monitor.count("sets")
        if synced.missing:
            self._monitor.count("sets with sensors missing")
        submitted_s = time.monotonic()
        if self._began_s is None:  # the worker is about to begin: images that come meanwhile need not hurry
            self._began_s = submitted_s
        self._worker.submit(_Job(channel, synced, submitted_s), channel.is_fallback)

    @property
    def wants_preparation(self) -> bool:
        """Whether images that come now should be prepared at once: not if the model will be busy until they are old."""
        began_s, usual_s = self._began_s, self._usual_s
        if began_s is None:
            return True
        # A frame that takes much longer than usual may take much longer still.
        return usual_s - _PREPARE_AHEAD_S < time.monotonic() - began_s < 2 * usual_s + _PREPARE_AHEAD_S

    def transforms_arrived(self) -> None:
        """Frames that wait for transforms may look again."""
        with self._transforms:
            self._transforms.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Finish the frame in progress and begin no other; returns whether it ended in time."""
        self.transforms_arrived()
        return self._worker.stop(timeout_s)

    def _skipped(self, job: _Job) -> None:
        self._monitor.count("sets skipped: the model was busy")

    def _process(self, job: _Job) -> None:
        began_s = self._began_s = time.monotonic()
        self._monitor.duration("wait for the model", (began_s - job.submitted_s) * 1e3)
        try:
            self._run(job)
        finally:
            took_s = time.monotonic() - began_s
            self._usual_s += 0.2 * (took_s - self._usual_s) if self._usual_s else took_s
            self._began_s = None

    def _run(self, job: _Job) -> None:
        try:
            occupancy = self._perceive(job)
        except TooFewImagesError as error:
            self._monitor.problem("sets dropped: too few usable images", str(error))
            self._supervisor.failed(str(error), time.monotonic())
        except OccPerceptionError as error:
            self._failed(job.channel, str(error))
        except Exception as error:  # out of memory, a driver's fault, a bug: the node reports it and goes on
            self._failed(job.channel, f"{type(error).__name__}: {error}", traceback=True)
        else:
            self._succeeded(job, occupancy)

    def _perceive(self, job: _Job) -> Occupancy:
        with self._monitor.timed("wait for images"):
            synced = read_set(job.synced)
        with self._monitor.timed("assemble"):
            frame = self._assemble(synced)
        if job.channel.session.needs_images:
            check_images(frame, synced, job.channel.synchroniser.config)
        return job.channel.session.step(frame)

    def _assemble(self, synced: SyncedSet[Measurement]) -> Frame:
        """Wait for late transforms, but not for longer than configured."""
        timeout_s = self._assembler.config.tf_timeout_s
        patience_s = time.monotonic() + 10 * timeout_s  # should the clock stand still
        while True:
            waited_s = (self._now_ns() - synced.closed_ns) * 1e-9
            out_of_time = waited_s >= timeout_s or time.monotonic() > patience_s
            frame = self._assembler.assemble(synced, give_up=out_of_time or self._worker.stopping)
            if not isinstance(frame, Late):
                return frame
            with self._transforms:
                self._transforms.wait(_LOOK_FOR_TF_S)

    def _failed(self, channel: Channel, error: str, traceback: bool = False) -> None:
        self._monitor.problem("model failed" if not channel.is_fallback else "fallback failed", error, traceback)
        if not channel.is_fallback:
            self._supervisor.failed(error, time.monotonic())

    def _succeeded(self, job: _Job, occupancy: Occupancy) -> None:
        if not job.channel.is_fallback:
            self._supervisor.succeeded()
        elif not self._supervisor.reason:
            return  # the model has taken over meanwhile
        try:
            with self._monitor.timed("publish"):
                self._publish(occupancy)
        except Exception as error:  # a fault of the middleware must not end the thread
            self._monitor.problem("publishing failed", f"{type(error).__name__}: {error}", traceback=True)
            return
        anchor: Arrival[Received] = job.synced.arrivals[job.synced.anchor]
        self._monitor.durations(occupancy.timings_ms)
        self._monitor.duration("wait for the set", (job.submitted_s - anchor.payload.received_s) * 1e3)
        self._monitor.duration(
            "total: anchor received to published", (time.monotonic() - anchor.payload.received_s) * 1e3
        )
        self._monitor.published(occupancy)


class TooFewImagesError(InvalidInputError):
    """A set does not have the images it takes, now that they have been decoded and assembled."""


def check_images(frame: Frame, synced: SyncedSet[Measurement], config: SyncConfig) -> None:
    """Raise if fewer than ``min_cameras`` images can be used; LiDAR alone is enough when every camera is silent."""
    all_silent = all(synced.missing.get(camera) is Missing.SILENT for camera in config.cameras)
    if len(frame.images) < config.min_cameras and not (all_silent and frame.lidar):
        usable, notes = sorted(frame.images), "; ".join(frame.notes)
        raise TooFewImagesError(f"expected {config.min_cameras} usable images, got {len(usable)} {usable}: {notes}")


def read_set(synced: SyncedSet[Received]) -> SyncedSet[Measurement]:
    """The set with its messages read; waits for those that are still being prepared."""
    for arrival in synced.arrivals.values():
        arrival.payload.reading.begin()
    arrivals: dict[str, Arrival[Measurement]] = {
        sensor: Arrival(arrival.stamp_ns, arrival.arrival_ns, arrival.payload.reading.read(), arrival.interval_ns)
        for sensor, arrival in synced.arrivals.items()
    }
    return SyncedSet(synced.stamp_ns, synced.anchor, synced.closed_ns, arrivals, synced.missing)
