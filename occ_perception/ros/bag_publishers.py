"""Publishers for the topics of a bag: raw bytes out, with the quality of service that was recorded."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock

from occ_perception.data.bag_storage import RawMessage, Topic
from occ_perception.errors import DatasetError
from occ_perception.ros.geometry_messages import ns_to_stamp
from occ_perception.ros.process import StopFlag

logger = logging.getLogger(__name__)

_MIN_DEPTH, _MAX_DEPTH = 10, 100
_DRAIN_S = 0.5


class BagPublishers:
    """One publisher per topic.

    Args:
        node: that publishes.
        topics: of the bag; those whose message type is not installed are left out, with a warning.
        clock: whether /clock is published, too.

    Raises:
        DatasetError: no topic has an installed message type.
    """

    def __init__(self, node: Node, topics: Iterable[Topic], clock: bool) -> None:
        self._publishers: dict[str, Any] = {}
        for topic in topics:
            kind = message_class(topic.message_type)
            if kind is None:
                logger.warning("%s left out: message type %s is not installed", topic.name, topic.message_type)
            else:
                self._publishers[topic.name] = node.create_publisher(kind, topic.name, recorded_qos(topic))
        if not self._publishers:
            raise DatasetError("nothing to play: none of the message types is installed")
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if clock else None

    @property
    def topics(self) -> set[str]:
        """Names of the topics that are published."""
        return set(self._publishers)

    def publish(self, message: RawMessage) -> None:
        """Publish one message as it lies in the bag."""
        self._publishers[message.topic].publish(message.cdr)

    def publish_all(self, messages: Iterable[RawMessage]) -> None:
        """Publish messages one after the other, at once."""
        for message in messages:
            self.publish(message)

    def publish_clock(self, now_ns: int) -> None:
        """Publish /clock."""
        if self._clock is not None:
            self._clock.publish(Clock(clock=ns_to_stamp(now_ns)))

    def drain(self, stop: StopFlag) -> None:
        """Give reliable subscribers a moment to get the last messages."""
        end_s = time.monotonic() + _DRAIN_S
        for publisher in self._publishers.values():
            if not stop.is_set():
                publisher.wait_for_all_acked(Duration(seconds=max(end_s - time.monotonic(), 0.0)))


def message_class(message_type: str) -> type | None:
    """The class of ``package/msg/Name``; None if the package is not installed."""
    package, _, name = message_type.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


def recorded_qos(topic: Topic) -> QoSProfile:
    """The quality of service of the recorded publishers; what the bag does not say is as ROS has it by default."""
    depth = max((q.depth for q in topic.qos), default=_MIN_DEPTH)
    if topic.latched:
        depth = max(depth, topic.count)  # late joiners get all of it, from whichever publisher it was
    reliability = QoSReliabilityPolicy.BEST_EFFORT if topic.best_effort else QoSReliabilityPolicy.RELIABLE
    durability = QoSDurabilityPolicy.TRANSIENT_LOCAL if topic.latched else QoSDurabilityPolicy.VOLATILE
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=min(max(depth, _MIN_DEPTH), _MAX_DEPTH),
        reliability=reliability,
        durability=durability,
    )
