"""Write rosbag2 folders (MCAP or SQLite) without ROS: whole or not at all, with the QoS players need."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from occ_perception.data.message_definitions import message_store
from occ_perception.data.workspace import Workspace
from occ_perception.errors import ConfigurationError, DatasetError

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_Self = TypeVar("_Self", bound="BagWriter")
_REFUSALS = (OSError, sqlite3.Error, WriterError)
_FOREVER = QosTime(2147483647, 4294967295)


def reliable_qos(depth: int, latched: bool = False) -> Qos:
    """Reliable, keep-last QoS as recorded in a bag; ``latched`` = transient local (late joiners get the last ones)."""
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


class BagWriter:
    """A rosbag2 folder being written; it appears under its name only when it is complete.

    Everything goes to a `Workspace` beside the destination; the bag is moved to its name at the end of the ``with``
    block, or removed if the block raises.  Messages must be written in time order.

    Args:
        path: the bag folder to make; must not exist unless ``overwrite``.
        storage: "mcap" or "sqlite3".
        custom_data: kept in the bag's metadata (scene, licence notice, ...).
        overwrite: replace an existing bag, once the new one is complete.

    Raises:
        DatasetError: the path exists, or the disk refuses.
        ConfigurationError: unknown storage.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        storage: str = "mcap",
        custom_data: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        if storage not in STORAGES:
            raise ConfigurationError(f"unknown bag storage '{storage}'; known: {sorted(STORAGES)}")
        self.path = Path(path)
        self._overwrite = overwrite
        if self.path.exists() and not overwrite:
            raise DatasetError(f"{self.path} exists already, not overwriting it")
        self._store = message_store()
        self._connections: dict[str, Connection] = {}
        try:
            # The storage file is named after its folder, so the temporary folder is one level up.
            self._work = Workspace(self.path)
            self._writer = Writer(self._work.path / self.path.name, version=9, storage_plugin=STORAGES[storage])
            for key, value in (custom_data or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
        except _REFUSALS as error:
            if hasattr(self, "_work"):
                self._work.close()
            raise DatasetError(f"cannot write bag {self.path}: {error}") from error

    def add_topic(self, topic: str, message_type: str, qos: Qos) -> None:
        """Announce a topic before its first message; again with the same type is fine.

        Raises:
            DatasetError: the topic is there with another type.
        """
        known = self._connections.get(topic)
        if known is None:
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=self._store, offered_qos_profiles=[qos]
            )
        elif known.msgtype != message_type:
            raise DatasetError(f"bag {self.path}: topic {topic} is {known.msgtype}, not {message_type}")

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Write one message (a dataclass of the type store) with its log time.

        Raises:
            DatasetError: unknown topic, a field that does not fit its type, or the disk refuses.
        """
        if topic not in self._connections:
            raise DatasetError(f"bag {self.path}: topic {topic} was not added; there are {sorted(self._connections)}")
        connection = self._connections[topic]
        try:
            self._writer.write(connection, stamp_ns, self._store.serialize_cdr(message, connection.msgtype))
        except _REFUSALS as error:
            raise DatasetError(f"cannot write to bag {self.path}: {error}") from error

    def set_custom_data(self, key: str, value: str) -> None:
        """Add to the metadata what is known only now."""
        self._writer.set_custom_data(key, value)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._writer.abort()
        finally:
            self._work.close()

    def _finish(self) -> None:
        try:
            self._writer.close()
            if self._overwrite and self.path.exists():
                os.replace(self.path, self._work.path / "replaced")
            os.replace(self._work.path / self.path.name, self.path)
        except _REFUSALS as error:
            raise DatasetError(f"cannot write bag {self.path}: {error}") from error
