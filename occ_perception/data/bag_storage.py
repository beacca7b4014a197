"""Raw messages of a rosbag2 by the `rosbags` library: a folder, or a single .mcap or .db3 file."""

from __future__ import annotations

import heapq
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import ConnectionExtRosbag2, Qos, QosDurability, QosReliability
from rosbags.rosbag2 import Reader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name, message_type: as in ROS, e.g. "/tf", "tf2_msgs/msg/TFMessage".
        count: messages in the bag.
        definition: text of the message definition, "" if the bag has none.
        qos: the publishers' QoS as recorded; empty if it was not.
    """

    name: str
    message_type: str
    count: int
    definition: str = ""
    qos: tuple[Qos, ...] = ()

    @property
    def latched(self) -> bool:
        """Late joiners must get it: recorded as transient local; /tf_static always."""
        return any(q.durability == QosDurability.TRANSIENT_LOCAL for q in self.qos) or self.name == "/tf_static"

    @property
    def best_effort(self) -> bool:
        """All its publishers were best effort."""
        return bool(self.qos) and all(q.reliability == QosReliability.BEST_EFFORT for q in self.qos)


@dataclass(frozen=True)
class RawMessage:
    """One message as it lies in the bag."""

    topic: str
    message_type: str
    log_time_ns: int
    cdr: bytes


class Storage(ABC):
    """Where raw messages come from.

    Attributes:
        topics: by name.
        damage: what is wrong with the bag, as far as it is known yet; "" if nothing.
        custom_data: the metadata's own entries.
        start_ns, end_ns: log time of the first and the last message; both 0 if there is none.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.damage = ""
        self.custom_data: dict[str, str] = {}
        self.start_ns = self.end_ns = 0

    @abstractmethod
    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of the topics in log-time order, from start (inclusive) to stop (exclusive)."""

    @abstractmethod
    def close(self) -> None:
        """Close files."""


class IntactStorage(Storage):
    """A bag that `rosbags` opens.  Damage met later ends the messages, is logged, and is told by `damage`.

    Raises:
        Exception: whatever `rosbags` meets in a bag that it cannot open.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._reader = Reader(path)
        self._reader.open()
        for connection in self._reader.connections:
            qos = connection.ext.offered_qos_profiles if isinstance(connection.ext, ConnectionExtRosbag2) else []
            known = self.topics.get(connection.topic)  # several publishers of one topic may be several connections
            self.topics[connection.topic] = Topic(
                connection.topic,
                connection.msgtype,
                connection.msgcount + (known.count if known else 0),
                connection.msgdef.data,
                (*(known.qos if known else ()), *qos),
            )
        if self._reader.message_count:
            self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1
        self.custom_data = dict(getattr(self._reader.storage.metadata, "custom", None) or {})

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        source = self._reader.messages(connections, start_ns, stop_ns)
        last_ns = self.start_ns
        while True:
            try:
                connection, last_ns, cdr = next(source)
            except StopIteration:
                return
            except Exception as error:  # a damaged file raises whatever it leads rosbags into; what came is good
                self.damage = f"damaged after {(last_ns - self.start_ns) * 1e-9:.3f} s: {error}"
                logger.warning("bag %s: %s", self._path, self.damage)
                return
            yield RawMessage(connection.topic, connection.msgtype, last_ns, bytes(cdr))

    def close(self) -> None:
        self._reader.close()


class JoinedStorage(Storage):
    """The parts of a split bag as one.

    Args:
        parts: at least one.
        damage: what is wrong with the whole.
    """

    def __init__(self, parts: Sequence[Storage], damage: str) -> None:
        super().__init__()
        self._parts = parts
        self.damage = damage
        for topic in (topic for part in parts for topic in part.topics.values()):
            known = self.topics.get(topic.name)
            count = topic.count + (known.count if known else 0)
            self.topics[topic.name] = Topic(topic.name, topic.message_type, count, topic.definition, topic.qos)
        spans = [(part.start_ns, part.end_ns) for part in parts if part.end_ns]
        if spans:
            self.start_ns, self.end_ns = min(s for s, _ in spans), max(e for _, e in spans)

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        sources = [part.messages(topics, start_ns, stop_ns) for part in self._parts]
        return heapq.merge(*sources, key=lambda message: message.log_time_ns)

    def close(self) -> None:
        for part in self._parts:
            part.close()
