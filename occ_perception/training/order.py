"""In which order frames are trained on: a function of the seed and the step, so that a resumed run goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import NamedTuple, Protocol

from occ_perception.data.sharding import Shard
from occ_perception.training.scene_sampler import SceneHalvesSampler


class SampleRequest(NamedTuple):
    """One frame for one batch slot."""

    scene: int
    frame: int
    starts: bool  # first of its stream
    stream: tuple[int, ...]  # names the stream; frames of equal streams share `Draw.stream`
    counts: bool = True  # False: only fills a slot that has nothing left to do


class FrameOrder(Protocol):
    """Which frames fill the slots of one process, step after step."""

    def steps(self, first: int, count: int) -> Iterator[tuple[SampleRequest, ...]]:
        """The requests of ``count`` steps from step ``first`` on, one per slot."""
        ...


@dataclass(frozen=True)
class TrainingOrder:
    """Halves of scenes in time order, shuffled (`SceneHalvesSampler`), without end.

    Attributes:
        scene_lengths: frames of every scene.
        slots: of this process.
        shard: this process among all.
        seed: of the shuffles.
    """

    scene_lengths: tuple[int, ...]
    slots: int
    shard: Shard
    seed: int = 0

    def __post_init__(self) -> None:
        SceneHalvesSampler(self.scene_lengths, self.slots, self.shard, self.seed)  # refuses too few scenes

    def steps(self, first: int, count: int) -> Iterator[tuple[SampleRequest, ...]]:
        """See `FrameOrder.steps`."""
        names = self.shard.of(range(self.slots * self.shard.count))
        begun = [0] * self.slots
        sampler = SceneHalvesSampler(self.scene_lengths, self.slots, self.shard, self.seed)
        for step, frames in enumerate(islice(sampler, first + count)):
            for slot, frame in enumerate(frames):
                if frame.starts:
                    begun[slot] = step
            if step >= first:
                yield tuple(
                    SampleRequest(*frame, (name, start))
                    for frame, name, start in zip(frames, names, begun, strict=True)
                )


@dataclass(frozen=True)
class SubsetOrder:
    """Chosen frames once, in runs of consecutive frames, dealt to the slots of all processes in a shuffled order.

    Attributes:
        runs: (scene, frames) in time order within; already shuffled, the same for all processes.
        slots, shard: as in `TrainingOrder`.
        name: distinguishes this pass from others, for the random draws.
    """

    runs: tuple[tuple[int, range], ...]
    slots: int
    shard: Shard
    name: int = 0

    @property
    def length(self) -> int:
        """Steps until every slot has played its runs."""
        return max(sum(len(frames) for _, frames in runs) for runs in self._dealt())

    def steps(self, first: int, count: int) -> Iterator[tuple[SampleRequest, ...]]:
        """See `FrameOrder.steps`; a slot without runs left plays the first of all."""
        names = self.shard.of(range(self.slots * self.shard.count))
        dealt = self._dealt()
        streams = [_played(dealt[name], self.runs[0], (self.name, name)) for name in names]
        for step in range(first + count):
            requests = tuple(next(stream) for stream in streams)
            if step >= first:
                yield requests

    def _dealt(self) -> list[tuple[tuple[int, range], ...]]:
        """Runs of every slot of all processes: each run goes to the slot with the fewest frames so far."""
        total = self.slots * self.shard.count
        dealt: list[list[tuple[int, range]]] = [[] for _ in range(total)]
        frames = [0] * total
        for run in self.runs:
            slot = frames.index(min(frames))
            dealt[slot].append(run)
            frames[slot] += len(run[1])
        return [tuple(runs) for runs in dealt]


def _played(
    runs: Sequence[tuple[int, range]], filling: tuple[int, range], name: tuple[int, ...]
) -> Iterator[SampleRequest]:
    """All frames of the runs; then the filling again and again, not counted."""
    counted = len(runs)
    for index, (scene, frames) in enumerate(chain(runs, repeat(filling))):
        for frame in frames:
            yield SampleRequest(scene, frame, frame == frames.start, (*name, index), index < counted)


def validation_order(scene_lengths: Sequence[int], scenes: Sequence[int], slots: int, shard: Shard) -> SubsetOrder:
    """Whole scenes once, each as one stream, longest first."""
    runs = sorted(((scene, range(scene_lengths[scene])) for scene in scenes), key=lambda run: -len(run[1]))
    return SubsetOrder(tuple(run for run in runs if run[1]), slots, shard)
