"""Splitting work over workers: whole scenes (or bags), each exactly once, nothing padded, any number of workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from occ_perception.errors import ConfigurationError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One worker's part: every ``count``-th item from ``index`` on (0-based).

    Raises:
        ConfigurationError: not 0 <= index < count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigurationError(f"shard: expected 0 <= i < n, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard written as "i/n", 0-based: "0/3", "1/3", "2/3".

        Raises:
            ConfigurationError: anything else.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise ConfigurationError(f"shard: expected i/n such as 0/3, got '{text}'")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """What torchrun says (RANK, WORLD_SIZE); everything if it does not run this process."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        return cls.parse(f"{environment['RANK']}/{environment['WORLD_SIZE']}")

    def of(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """This worker's items, in order; all workers' together are all items, each once."""
        return tuple(items[self.index :: self.count])
