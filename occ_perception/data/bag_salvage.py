"""What is whole of a bag file that was cut off: power lost, disk full, copied in part.

Such a file has no index (MCAP writes it last, SQLite's points beyond the end), so `rosbags` refuses it.  Here the
records are walked from the start up to the damage; format: https://mcap.dev/spec.
"""

from __future__ import annotations

import logging
import mmap
import sqlite3
import struct
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import lz4.frame
from rosbags.rosbag2.metadata import parse_qos

from occ_perception.data.bag_storage import RawMessage, Storage, Topic

logger = logging.getLogger(__name__)

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
_MESSAGE_HEADER = struct.Struct("<HIQQ")


@dataclass(frozen=True)
class _Entry:
    """Where a message is: position of its data in its chunk (or in the file, chunk -1)."""

    log_time_ns: int
    topic: str
    chunk: int
    position: int
    size: int


class _TruncatedError(ValueError):
    """The file ends within a record."""


class _Indexed(Storage):
    """Messages found by a scan of the file, given out in log-time order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._entries: list[_Entry] = []

    def _finish(self, lost: str) -> None:
        """Order what was found and tell what is lost."""
        self._entries.sort(key=lambda entry: entry.log_time_ns)
        counts: dict[str, int] = {}
        for entry in self._entries:
            counts[entry.topic] = counts.get(entry.topic, 0) + 1
        self.topics = {n: replace(t, count=counts.get(n, 0)) for n, t in self.topics.items()}
        if self._entries:
            self.start_ns, self.end_ns = self._entries[0].log_time_ns, self._entries[-1].log_time_ns
        self.damage = f"{self._path.name}: {lost}; {len(self._entries)} messages before that are read"
        logger.warning("damaged bag %s", self.damage)

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        for entry in self._entries:
            if stop_ns is not None and entry.log_time_ns >= stop_ns:
                return
            if entry.topic in topics and (start_ns is None or entry.log_time_ns >= start_ns):
                data = self._read(entry)
                if data is not None:
                    yield RawMessage(entry.topic, self.topics[entry.topic].message_type, entry.log_time_ns, data)

    @abstractmethod
    def _read(self, entry: _Entry) -> bytes | None:
        """The message's bytes; None, logged, if they are lost."""


class SalvagedMcap(_Indexed):
    """The whole records of an MCAP file without its end; without any if it is no MCAP at all."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._schemas: dict[int, tuple[str, str]] = {}
        self._channels: dict[int, str] = {}
        with path.open("rb") as file:
            empty = file.seek(0, 2) == 0
            self._bytes: mmap.mmap | bytes = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._chunk = lru_cache(maxsize=4)(self._load_chunk)
        if self._bytes[: len(_MCAP_MAGIC)] != _MCAP_MAGIC:
            self.damage = f"{path.name}: not an MCAP file"
            return
        try:
            self._walk(self._bytes, len(_MCAP_MAGIC), len(self._bytes), -1)
            lost = "its end (footer and index) is damaged"
        except (ValueError, struct.error, KeyError) as error:
            lost = str(error) or type(error).__name__
        self._finish(lost)

    def _walk(self, data: mmap.mmap | bytes, position: int, end: int, chunk: int) -> None:
        """Note the messages of the records between two positions of the file, or of a chunk."""
        while position < end:
            if position + 9 > end:
                raise _TruncatedError(f"cut off at byte {position}")
            opcode, (size,) = data[position], struct.unpack_from("<Q", data, position + 1)
            position += 9
            if opcode == _FOOTER:
                return
            if opcode == _CHUNK and chunk < 0:
                self._walk_chunk(position)
            if position + size > end:
                raise _TruncatedError(f"cut off within a record at byte {position}")
            if opcode == _MESSAGE:
                channel, _, log_time, _ = _MESSAGE_HEADER.unpack_from(data, position)
                at = position + _MESSAGE_HEADER.size
                self._entries.append(_Entry(log_time, self._channels[channel], chunk, at, size - _MESSAGE_HEADER.size))
            elif opcode in (_SCHEMA, _CHANNEL):
                self._describe(opcode, _Fields(data[position : position + size]))
            position += size

    def _walk_chunk(self, position: int) -> None:
        """Messages of a chunk; of one that is cut off those in front, if it is not compressed."""
        compression, start, length = self._chunk_records(position)
        end = min(start + length, len(self._bytes))
        if compression == "":
            self._walk(self._bytes, start, end, -1)
        elif end == start + length:
            records = self._chunk(position)
            self._walk(records, 0, len(records), position)

    def _chunk_records(self, position: int) -> tuple[str, int, int]:
        """(compression, where the records begin, their compressed length) of a chunk record."""
        fields = _Fields(self._bytes[position : position + 80], skip=28)
        compression = fields.text()
        (length,) = struct.unpack("<Q", fields.take(8))
        return compression, position + fields.position, length

    def _load_chunk(self, position: int) -> bytes:
        compression, start, length = self._chunk_records(position)
        try:
            return _DECOMPRESS[compression](self._bytes[start : start + length])
        except Exception as error:  # each library has its own
            raise ValueError(f"chunk at byte {position} cannot be decompressed ({compression}): {error}") from error

    def _describe(self, opcode: int, fields: _Fields) -> None:
        (number,) = struct.unpack("<H", fields.take(2))
        if opcode == _SCHEMA:
            name, _, definition = fields.text(), fields.text(), fields.text()
            self._schemas[number] = (name, definition)
            return
        (schema,) = struct.unpack("<H", fields.take(2))
        topic, _ = fields.text(), fields.text()
        metadata = _Fields(fields.blob())
        entries = {}
        while metadata.left:
            key = metadata.text()
            entries[key] = metadata.text()
        message_type, definition = self._schemas.get(schema, ("", ""))
        qos = tuple(parse_qos(entries["offered_qos_profiles"])) if entries.get("offered_qos_profiles") else ()
        self._channels[number] = topic
        self.topics[topic] = Topic(topic, message_type, 0, definition, qos)

    def _read(self, entry: _Entry) -> bytes | None:
        data = self._bytes if entry.chunk < 0 else self._chunk(entry.chunk)
        return data[entry.position : entry.position + entry.size]

    def close(self) -> None:
        self._chunk.cache_clear()
        if isinstance(self._bytes, mmap.mmap):
            self._bytes.close()


class SalvagedSqlite(_Indexed):
    """The readable rows of an SQLite bag whose pages are missing or damaged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            # Makes SQLite open a file that is shorter than its header says.
            self._database.execute("PRAGMA writable_schema=ON")
            names: dict[int, str] = {}
            query = "SELECT id, name, type, offered_qos_profiles FROM topics"
            for number, name, message_type, qos in self._database.execute(query):
                names[number] = name
                self.topics[name] = Topic(name, message_type, 0, "", tuple(parse_qos(qos) if qos else ()))
            rows = "SELECT id, topic_id, timestamp, length(data) FROM messages NOT INDEXED ORDER BY id"
            for number, topic, stamp, size in self._database.execute(rows):
                self._entries.append(_Entry(stamp, names[topic], -1, number, size))
            lost = "its pages are damaged"
        except (sqlite3.DatabaseError, KeyError) as error:
            lost = str(error)
        while self._entries and self._fetch(self._entries[-1]) is None:  # their rows are there, their pages are not
            self._entries.pop()
        self._finish(lost)

    def _fetch(self, entry: _Entry) -> bytes | None:
        query = "SELECT data FROM messages NOT INDEXED WHERE id = ?"
        try:
            return self._database.execute(query, (entry.position,)).fetchone()[0]
        except sqlite3.DatabaseError:
            return None

    def _read(self, entry: _Entry) -> bytes | None:
        data = self._fetch(entry)
        if data is None:
            logger.warning("bag %s: a message of %s is lost, its pages are damaged", self._path, entry.topic)
        return data

    def close(self) -> None:
        self._database.close()


class _Fields:
    """Fields of a record one after the other."""

    def __init__(self, data: bytes, skip: int = 0) -> None:
        self._data = data
        self.position = skip

    @property
    def left(self) -> int:
        return len(self._data) - self.position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _TruncatedError("cut off within a field")
        self.position += size
        return self._data[self.position - size : self.position]

    def blob(self) -> bytes:
        (size,) = struct.unpack("<I", self.take(4))
        return self.take(size)

    def text(self) -> str:
        return self.blob().decode()


def _zstd(data: bytes) -> bytes:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd  # what rosbags itself uses before that
    return zstd.decompress(data)


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"lz4": lz4.frame.decompress, "zstd": _zstd}
