"""Read a rosbag2 without ROS: raw messages for a player, decoded ones for everything else, in log-time order.

    with BagReader("drive") as bag:
        for message in bag.messages(["/tf"]):
            transforms = bag.decode(message)

A recording that was cut off is read up to the damage, and `BagReader.damage` says so.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from occ_perception.data.bag_salvage import SalvagedMcap, SalvagedSqlite
from occ_perception.data.bag_storage import IntactStorage, JoinedStorage, RawMessage, Storage, Topic
from occ_perception.data.message_definitions import message_store
from occ_perception.errors import DatasetError, InvalidInputError

_SALVAGE: dict[str, type[SalvagedMcap] | type[SalvagedSqlite]] = {".mcap": SalvagedMcap, ".db3": SalvagedSqlite}


class BagReader:
    """An open bag; a context manager.

    Args:
        path: bag folder, or a single .mcap or .db3 file.

    Raises:
        DatasetError: there is no bag, or nothing of it can be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._storage = _open_storage(self.path)
        self._store = message_store()
        self._foreign = get_typestore(Stores.EMPTY)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics, by name."""
        return tuple(sorted(self._storage.topics.values(), key=lambda topic: topic.name))

    @property
    def topic_types(self) -> list[tuple[str, str]]:
        """(name, type) of all topics, as `topics.detect_topics` wants them."""
        return [(topic.name, topic.message_type) for topic in self.topics]

    @property
    def damage(self) -> str:
        """What is wrong with the bag, as far as it has been read; "" if nothing."""
        return self._storage.damage

    @property
    def custom_data(self) -> dict[str, str]:
        """The metadata's own entries (scene, licence notice, ...)."""
        return self._storage.custom_data

    @property
    def start_ns(self) -> int:
        """Log time of the first message; 0 in an empty bag."""
        return self._storage.start_ns

    @property
    def end_ns(self) -> int:
        """Log time of the last message; 0 in an empty bag."""
        return self._storage.end_ns

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Raw messages in log-time order.

        Args:
            topics: names; None = all.  Names the bag does not have yield nothing.
            start_ns: log time of the first wanted; stop_ns: of the first not wanted.
        """
        wanted = self._storage.topics.keys() if topics is None else topics
        return self._storage.messages(set(wanted), start_ns, stop_ns)

    def decode(self, message: RawMessage) -> Any:
        """The message's fields as a dataclass with the names of the ROS message; arrays are read-only numpy.

        Raises:
            InvalidInputError: the bytes are no such message, or its type is not known and the bag does not define it.
        """
        known = message.message_type in self._store.fielddefs
        try:
            store = self._store if known else self._foreign_store(message.message_type)
            return store.deserialize_cdr(message.cdr, message.message_type)
        except Exception as error:  # arbitrary bytes and definitions lead the generated code into any error
            raise InvalidInputError(
                f"{message.topic}: {len(message.cdr)} bytes are no {message.message_type}: {error}"
            ) from error

    def _foreign_store(self, message_type: str) -> Typestore:
        """The bag's own types, which stay its own: another bag may define the same name differently."""
        if message_type not in self._foreign.fielddefs:
            definitions = [t.definition for t in self.topics if t.message_type == message_type and t.definition]
            if not definitions:
                raise InvalidInputError("a type that is not known, and the bag does not define it")
            types = get_types_from_msg(definitions[0], message_type)
            self._foreign.register({name: t for name, t in types.items() if name not in self._foreign.fielddefs})
        return self._foreign

    def close(self) -> None:
        """Close files."""
        self._storage.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_storage(path: Path) -> Storage:
    if not path.exists():
        raise DatasetError(f"bag {path} does not exist")
    files = sorted(f for f in path.iterdir() if f.suffix in _SALVAGE) if path.is_dir() else [path]
    if not files or any(file.suffix not in _SALVAGE for file in files):
        raise DatasetError(f"{path} is no bag: expected a folder with, or a file of, {' or '.join(_SALVAGE)}")
    try:
        return IntactStorage(path)
    except Exception as error:  # whatever a damaged bag leads rosbags into; what can be read follows
        reason = f"{type(error).__name__}: {error}"
    parts = [_open_part(file) for file in files]
    readable = [part for part in parts if part.topics]
    damage = "; ".join(part.damage for part in parts if part.damage) or reason
    if not readable:
        raise DatasetError(f"bag {path} cannot be read: {damage}")
    return JoinedStorage(readable, damage)


def _open_part(file: Path) -> Storage:
    try:
        return IntactStorage(file)
    except Exception:  # the salvage says what is wrong with it
        return _SALVAGE[file.suffix](file)
