"""Decides whether the model or the LiDAR fallback speaks."""

from __future__ import annotations

import logging
import threading

from occ_perception.parameters import Parameters

logger = logging.getLogger(__name__)


class Supervisor:
    """Watches the model; thread safe.

    The fallback takes over after ``fallback_after`` failures in a row, or when no camera works; the model is tried
    again every ``retry_after`` seconds and takes back over with its first success.

    Args:
        parameters: its rules.

    Attributes:
        possible: whether there is anything to fall back to.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.possible = False
        self._parameters = parameters
        self._lock = threading.Lock()
        self._failures = 0
        self._tried_s = 0.0
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the fallback is active; "" while it is not."""
        return self._reason

    def succeeded(self) -> None:
        """The model made a grid."""
        with self._lock:
            self._failures = 0
            if self._reason:
                logger.warning("the model works again: fallback ends")
            self._reason = ""

    def failed(self, error: str, now_s: float) -> None:
        """The model could not make a grid."""
        with self._lock:
            self._failures += 1
            self._tried_s = now_s
            if self._failures >= self._parameters.fallback_after:
                self._activate(f"the model failed {self._failures} times in a row: {error}")

    def no_camera_works(self) -> None:
        """Every camera is silent, and the model needs images."""
        with self._lock:
            self._activate("no camera works")

    def model_is_due(self, now_s: float) -> bool:
        """Whether the model should get the next set: always, but while it keeps failing only now and then."""
        with self._lock:
            failing = self._reason and self._failures >= self._parameters.fallback_after
            return not failing or now_s - self._tried_s >= self._parameters.retry_after

    def _activate(self, reason: str) -> None:
        if self.possible and self._parameters.fallback and not self._reason:
            logger.warning("fallback to LiDAR carving: %s", reason)
            self._reason = reason
