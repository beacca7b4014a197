"""SIGTERM and Ctrl-C as a wish that the loop grants after its step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """SIGTERM and Ctrl-C let the running step finish; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within."""
        kept = {number: signal.signal(number, self._heard) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
