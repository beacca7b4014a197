"""Which frame every batch slot trains on: scenes in halves, each half in time order (specs/alocc.md section 10.1).

A temporal network needs consecutive frames, and the optimiser needs variety.  Scenes are split in two, the halves are
shuffled, and every slot of the batch plays one half after the other, so a slot's stream breaks only between halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError


class SampledFrame(NamedTuple):
    """One frame for one batch slot."""

    scene: int  # index into the scenes
    frame: int  # index into the scene's frames
    starts: bool  # first of its stream: the temporal state starts anew


class SceneHalvesSampler:
    """An endless, seeded sequence of batches over scenes cut in two.

    Every half is played once per round by one of the slots of all workers; then the halves are shuffled again.

    Args:
        scene_lengths: frames of every scene, in time order within it.
        slots: batch slots of this worker.
        shard: this worker among all; the slots of different workers play different halves.
        seed: of the shuffles; the same for all workers.

    Raises:
        ConfigurationError: no frames, no slots, or fewer halves than slots of all workers together.
    """

    def __init__(self, scene_lengths: Sequence[int], slots: int, shard: Shard | None = None, seed: int = 0) -> None:
        self._halves = scene_halves(scene_lengths)
        self._shard = shard or Shard()
        self._slots = slots
        self._seed = seed
        streams = slots * self._shard.count
        if slots < 1 or len(self._halves) < streams:
            raise ConfigurationError(
                f"sampler: expected 1 or more slots and as many half scenes as slots of all workers, "
                f"got {streams} slots for {len(self._halves)} half scenes"
            )

    def __iter__(self) -> Iterator[tuple[SampledFrame, ...]]:
        """Batches of ``slots`` frames, without end."""
        streams = range(self._slots * self._shard.count)
        mine = [self._stream(stream, len(streams)) for stream in self._shard.of(streams)]
        while True:
            yield tuple(next(stream) for stream in mine)

    def _stream(self, index: int, count: int) -> Iterator[SampledFrame]:
        """The frames of one slot: every ``count``-th half of the endless sequence of shuffled rounds."""
        share = Shard(index, count)
        round_index, leftover = 0, 0
        while True:
            order = np.random.default_rng((self._seed, round_index)).permutation(len(self._halves))
            # The deal goes on where the round before ended, so that no half is left out.
            padded = [None] * leftover + [int(half) for half in order]
            for half in share.of(padded):
                if half is not None:
                    yield from self._frames(half)
            leftover = len(padded) % count
            round_index += 1

    def _frames(self, half: int) -> Iterator[SampledFrame]:
        scene, frames = self._halves[half]
        for frame in frames:
            yield SampledFrame(scene, frame, frame == frames.start)


def scene_halves(scene_lengths: Sequence[int]) -> list[tuple[int, range]]:
    """(scene, its frames) of every non-empty half; the first half of an odd scene is the shorter one."""
    halves = []
    for scene, length in enumerate(scene_lengths):
        parts = (range(0, length // 2), range(length // 2, length))
        halves += [(scene, part) for part in parts if part]
    return halves
