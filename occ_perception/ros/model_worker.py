"""One thread that runs the models, with room for one waiting job: late work is skipped, never queued."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Job = TypeVar("Job")


class ModelWorker(Generic[Job]):
    """Runs ``process`` on the newest job; a job that still waits when the next comes is dropped.

    Args:
        process: what to do; what it raises is logged and does not end the thread.
        skipped: called with each job that is dropped, on the thread that submitted the next.
    """

    def __init__(self, process: Callable[[Job], None], skipped: Callable[[Job], None]) -> None:
        self._process = process
        self._skipped = skipped
        self._waiting: dict[Hashable, Job] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, job: Job, source: Hashable = None) -> None:
        """Hand over a job; one from the same source that has not begun makes room for it."""
        with self._changed:
            dropped = self._waiting.pop(source, None)
            self._waiting[source] = job
            self._changed.notify()
        if dropped is not None:
            self._skipped(dropped)

    @property
    def stopping(self) -> bool:
        """Whether a job in progress should come to an end."""
        return self._stopping

    def stop(self, timeout_s: float) -> bool:
        """Begin no further job, and wait for the one in progress; returns whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                source = next(iter(self._waiting))
                job = self._waiting.pop(source)
            try:
                self._process(job)
            except Exception:  # whatever a model does, the node stays alive
                logger.exception("the model thread met an unexpected error")
