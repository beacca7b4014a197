"""Numbers for objects: 1..65535, as they are voxel labels too, and not given away again too soon."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from occ_perception.errors import InvalidInputError
from occ_perception.instances import MAX_ID

RESTING = 4096
"""So many of the last numbers that were given back are not given away."""


class IdPool:
    """Gives ascending numbers; after 65535 it begins again at 1, leaving out those in use and those just given back."""

    def __init__(self) -> None:
        self._next = 1
        self._resting: deque[int] = deque(maxlen=RESTING)

    def draw(self, count: int, in_use: Collection[int]) -> list[int]:
        """New numbers.

        Args:
            count: how many.
            in_use: numbers of objects that live.

        Raises:
            InvalidInputError: more objects at once than there are numbers.
        """
        if len(in_use) + count > MAX_ID - RESTING:
            raise InvalidInputError(
                f"tracking: expected at most {MAX_ID - RESTING} objects at once, got {len(in_use) + count}"
            )
        if count == 0:
            return []
        taken = {*in_use, *self._resting}
        drawn: list[int] = []
        while len(drawn) < count:
            if self._next not in taken:
                drawn.append(self._next)
            self._next = self._next % MAX_ID + 1
        return drawn

    def give_back(self, ids: Iterable[int]) -> None:
        """These objects are gone for good."""
        self._resting.extend(ids)
