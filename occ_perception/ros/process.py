"""How a node's process starts, and ends on SIGINT and SIGTERM."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from itertools import pairwise

from occ_perception.errors import ConfigurationError

_SLICE_S = 0.1


class StopFlag:
    """Whether to stop.  Plain, because a signal handler must not touch locks that the main thread may hold."""

    def __init__(self) -> None:
        self._stop = False

    def set(self) -> None:
        """Stop."""
        self._stop = True

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._stop

    def sleep_until(self, due_s: float) -> None:
        """Sleep until a monotonic time, or a little longer than until asked to stop."""
        while not self._stop and (remaining_s := due_s - time.monotonic()) > 0:
            time.sleep(min(remaining_s, _SLICE_S))


def start_ros(arguments: Sequence[str]) -> None:
    """Initialise rclpy without its signal handlers, which would pull the context away from under a running node.

    Args:
        arguments: of the process, the program's name first.

    Raises:
        ConfigurationError: arguments or a parameter file that ROS cannot read.
    """
    import rclpy  # not before the environment has been prepared
    from rclpy.signals import SignalHandlerOptions

    for flag, path in pairwise(arguments):
        if flag == "--params-file" and not os.access(path, os.R_OK):  # rcl would say it in lines of its own first
            raise ConfigurationError(f"parameter file {path}: there is none that can be read")
    try:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise ConfigurationError(f"ROS arguments {list(arguments[1:])}: {error}") from error


def stop_on_signals() -> StopFlag:
    """A flag that SIGINT and SIGTERM set, so that the main loop ends by itself while everything still works."""
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
