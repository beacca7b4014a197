"""The core logs with Python's logging; here it reaches the console and /rosout as the node's own."""

from __future__ import annotations

import logging
from typing import Any


class _Forwarder(logging.Handler):
    def __init__(self, ros_logger: Any) -> None:
        super().__init__()
        self._ros_logger = ros_logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # rclpy wants one severity per line of code that logs.
        if record.levelno >= logging.ERROR:
            self._ros_logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros_logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._ros_logger.info(text)
        else:
            self._ros_logger.debug(text)


def forward_logging(ros_logger: Any) -> None:
    """Send everything this package logs to a ROS logger (instead of the one before, if any)."""
    package = logging.getLogger("occ_perception")
    for handler in [h for h in package.handlers if isinstance(h, _Forwarder)]:
        package.removeHandler(handler)
    package.addHandler(_Forwarder(ros_logger))
    package.setLevel(logging.INFO)
    package.propagate = False
