"""Executable ``perception``: the live node, from start to clean end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from occ_perception.errors import ConfigurationError, OccPerceptionError
from occ_perception.ros.environment import prepare_process
from occ_perception.ros.process import start_ros, stop_on_signals

if TYPE_CHECKING:
    from rclpy.executors import SingleThreadedExecutor

    from occ_perception.ros.monitor import Monitor

_WAKE_UP_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        argv: arguments without the program's name (``--ros-args ...``); those of the process if not given.

    Returns:
        Exit status: 0 after a clean end, 2 if the configuration is no good (one line on stderr says why).
    """
    prepare_process()  # before rclpy: it reads the environment when it is loaded
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.utilities import remove_ros_args

    from occ_perception.ros.perception_node import PerceptionNode

    stop = stop_on_signals()
    executor = node = None
    try:
        arguments = sys.argv if argv is None else ["perception", *argv]
        start_ros(arguments)
        unknown = remove_ros_args(arguments)[1:]
        if unknown:  # a misspelt --ros-args would otherwise start a node that knows nothing of what was asked for
            raise ConfigurationError(f"unknown arguments {unknown}; expected --ros-args ... or none")
        executor = SingleThreadedExecutor()
        node = PerceptionNode()
        executor.add_node(node)
        while not stop.is_set():
            spin_once(executor, node.monitor)
        return 0
    except OccPerceptionError as error:
        print(f"perception: {error}", file=sys.stderr)
        return 2
    finally:  # in this order nothing is left in /dev/shm
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def spin_once(executor: SingleThreadedExecutor, monitor: Monitor) -> None:
    """Run what is ready; a callback that fails is a bug, but no reason to leave the robot without perception."""
    try:
        executor.spin_once(timeout_sec=_WAKE_UP_S)
    except Exception as error:
        monitor.problem("callback failed", f"{type(error).__name__}: {error}", traceback=True)


if __name__ == "__main__":
    sys.exit(main())
