"""Executable ``play``: plays a rosbag2 into ROS 2 with its own stamps and the quality of service it was recorded with.

On a ROS machine ``ros2 bag play`` does the same.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.bag_storage import RawMessage
from occ_perception.data.topics import detect_topics, require_sensors
from occ_perception.errors import ConfigurationError, DatasetError, OccPerceptionError
from occ_perception.ros.environment import prepare_process
from occ_perception.ros.process import StopFlag, start_ros, stop_on_signals

if TYPE_CHECKING:
    from occ_perception.ros.bag_publishers import BagPublishers

logger = logging.getLogger(__name__)

_LATE_S = 0.05
_SHORTEST_TURN_S = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Play a bag until its end, or until SIGINT or SIGTERM.

    Returns:
        Exit status: 0 after a clean end, 2 if there is nothing to play (one line on stderr says why).
    """
    prepare_process()  # before rclpy: it reads the environment when it is loaded
    import rclpy
    from rclpy.utilities import remove_ros_args

    from occ_perception.ros.bag_publishers import BagPublishers

    arguments = ["play", *(sys.argv[1:] if argv is None else argv)]
    options = _parser().parse_args(remove_ros_args(arguments)[1:])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s play: %(message)s")
    stop = stop_on_signals()
    try:
        with BagReader(options.bag) as bag:
            topics = topics_to_play(bag, options.topics, exclude=("/clock",) if options.clock else ())
            start_ros(arguments)
            node = rclpy.create_node("play")
            try:
                with_clock = options.clock > 0
                publishers = BagPublishers(node, [t for t in bag.topics if t.name in topics], with_clock)
                play(bag, publishers, options, stop)
                publishers.drain(stop)
            finally:
                node.destroy_node()
                rclpy.try_shutdown()
        return 0
    except OccPerceptionError as error:
        print(f"play: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="play", description=__doc__)
    parser.add_argument("bag", type=Path, help="bag folder, or .mcap or .db3 file")
    parser.add_argument("--rate", type=_positive, default=1.0, help="how many times as fast as recorded (default 1)")
    parser.add_argument("--loop", action="store_true", help="start again at the end; stamps go back then")
    parser.add_argument(
        "--clock", type=_positive, nargs="?", const=100.0, default=0.0, metavar="HZ", help="publish /clock (100 Hz)"
    )
    parser.add_argument("--start", type=_finite, default=0.0, metavar="S", help="seconds into the bag")
    parser.add_argument("--duration", type=_positive, default=None, metavar="S", help="seconds of the bag to play")
    parser.add_argument("--delay", type=_finite, default=1.0, metavar="S", help="for others to find us (default 1)")
    parser.add_argument("--topics", nargs="+", default=(), metavar="TOPIC", help="only these")
    return parser


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text}")
    return value


def _positive(text: str) -> float:
    value = _finite(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return value


def topics_to_play(bag: BagReader, wanted: Sequence[str] = (), exclude: Sequence[str] = ()) -> set[str]:
    """Names of the topics to play; says so in the log if perception will have no use for them.

    Raises:
        DatasetError: the bag has none of those wanted (the message lists those it has), or no messages at all.
    """
    available = {topic.name for topic in bag.topics if topic.count} - set(exclude)
    listed = ", ".join(f"{topic.name} [{topic.message_type}]" for topic in bag.topics) or "no topics"
    missing = [name for name in wanted if name not in available]
    if not available or (wanted and len(missing) == len(wanted)):
        raise DatasetError(f"bag {bag.path}: wanted {', '.join(wanted) or 'any topic'} with messages; it has {listed}")
    if missing:
        logger.warning("bag %s has no messages on %s; it has %s", bag.path, missing, listed)
    chosen = set(wanted) & available if wanted else available
    try:
        played = [(name, kind) for name, kind in bag.topic_types if name in chosen]
        require_sensors(detect_topics(played, where=f"bag {bag.path}"), played, f"bag {bag.path}")
    except DatasetError as error:
        logger.warning("perception cannot use what is played: %s", error)
    return chosen


def play(bag: BagReader, publishers: BagPublishers, options: argparse.Namespace, stop: StopFlag) -> None:
    """Publish the wanted part of a bag, once or in a loop, at its own pace times ``rate``.

    Raises:
        ConfigurationError: the part that is asked for lies outside the bag.
        DatasetError: it holds no messages.
    """
    start_ns = bag.start_ns + round(options.start * 1e9)
    stop_ns = bag.end_ns + 1
    if options.duration is not None:
        stop_ns = min(stop_ns, start_ns + round(options.duration * 1e9))
    if not bag.start_ns <= start_ns <= bag.end_ns:
        length_s = (bag.end_ns - bag.start_ns) * 1e-9
        raise ConfigurationError(f"--start {options.start}: the bag is {length_s:.3f} s long")
    if next(bag.messages(publishers.topics, start_ns, stop_ns), None) is None:
        length_s = (stop_ns - start_ns) * 1e-9
        raise DatasetError(f"bag {bag.path}: no messages in the {length_s:.3f} s from {options.start:.3f} s on")
    length_s = (min(stop_ns, bag.end_ns) - start_ns) * 1e-9
    stop.sleep_until(time.monotonic() + options.delay)
    for turn in itertools.count(1):
        if turn > 1:
            logger.info("loop %d: stamps go back by %.3f s", turn, length_s)
        begin_s = time.monotonic()
        publishers.publish_all(latched_before(bag, publishers, start_ns))
        messages = bag.messages(publishers.topics, start_ns, stop_ns)
        late = _play_once(messages, publishers, start_ns, options, stop)
        if late:
            logger.warning("%d messages went out more than %.0f ms late: this machine is too slow", late, _LATE_S * 1e3)
        if bag.damage:
            logger.warning("the bag is damaged: %s", bag.damage)
        if stop.is_set() or not options.loop:
            return
        stop.sleep_until(begin_s + max(length_s / options.rate, _SHORTEST_TURN_S))


def latched_before(bag: BagReader, publishers: BagPublishers, start_ns: int) -> Iterator[RawMessage]:
    """What late joiners would have got at the start: the latched messages before it."""
    latched = {topic.name for topic in bag.topics if topic.latched} & publishers.topics
    return bag.messages(latched, None, start_ns) if latched and start_ns > bag.start_ns else iter(())


def _play_once(
    messages: Iterator[RawMessage],
    publishers: BagPublishers,
    start_ns: int,
    options: argparse.Namespace,
    stop: StopFlag,
) -> int:
    """Publish each message when its time has come; returns how many were late."""
    begin_s = time.monotonic()
    clock_period_ns = round(options.rate * 1e9 / options.clock) if options.clock else 0
    next_tick_ns = start_ns
    late = 0
    for message in messages:
        while clock_period_ns and next_tick_ns <= message.log_time_ns:
            _wait_until(begin_s + (next_tick_ns - start_ns) * 1e-9 / options.rate, stop)
            publishers.publish_clock(next_tick_ns)
            next_tick_ns += clock_period_ns
        behind_s = _wait_until(begin_s + (message.log_time_ns - start_ns) * 1e-9 / options.rate, stop)
        if stop.is_set():
            break
        publishers.publish(message)
        late += behind_s > _LATE_S
    return late


def _wait_until(due_s: float, stop: StopFlag) -> float:
    """Sleep until a monotonic time, or until asked to stop; returns by how much it had passed already."""
    behind_s = time.monotonic() - due_s
    stop.sleep_until(due_s)
    return max(behind_s, 0.0)


if __name__ == "__main__":
    sys.exit(main())
