"""Which frames the next steps train on; active training trains the hardest again (OccFusion, specs/occfusion.md 10).

A cycle is one or more passes over all frames, a measurement of the loss of every frame (`FrameRanking`), and one pass
over the share of them with the highest loss.  Without active training there is one pass without end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.training.distributed import Ranks
from occ_perception.training.order import FrameOrder, SubsetOrder, TrainingOrder
from occ_perception.training.scene_sampler import scene_halves


@dataclass(frozen=True)
class ActiveTrainingSettings:
    """Training the hardest frames again; before, the loss of every frame is measured, one frame at a time.

    Attributes:
        enabled: whether to.
        passes: over all frames before the hardest are chosen.
        share: of the frames (or halves) that are trained again, 0..1.
        unit: what is chosen: single frames, which breaks streams where a neighbour is not chosen (models without
            history), or halves of scenes by their mean loss (models with history).
    """

    enabled: bool = False
    passes: int = 1
    share: float = 0.7
    unit: Literal["frame", "half"] = "frame"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.passes < 1:
            raise ConfigurationError(
                f"active_training: expected 0 < share <= 1 and 1 or more passes, got {self.share} and {self.passes}"
            )


class Phase(NamedTuple):
    """Steps that are taken in one order."""

    order: FrameOrder
    first: int  # step of the order that comes next
    steps: int  # steps left; a very large number without active training


_ENDLESS = 1 << 60


class Curriculum:
    """Phase after phase; the same on all processes."""

    def __init__(
        self, settings: ActiveTrainingSettings, scene_lengths: Sequence[int], slots: int, ranks: Ranks, seed: int
    ) -> None:
        self._settings, self._lengths, self._slots, self._seed = settings, tuple(scene_lengths), slots, seed
        self._ranks = ranks
        self._everything = TrainingOrder(self._lengths, slots, ranks.shard, seed)
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        self._cycle, self._done = 0, 0  # done: steps of the current phase
        self._hard: tuple[tuple[int, range], ...] = ()  # empty: in the passes over all frames

    @property
    def _pass_steps(self) -> int:
        streams = self._slots * self._ranks.shard.count
        return self._settings.passes * math.ceil(int(self._offsets[-1]) / streams)

    def phase(self) -> Phase:
        """What comes next."""
        if not self._settings.enabled:
            return Phase(self._everything, self._done, _ENDLESS)
        if not self._hard:
            return Phase(self._everything, self._cycle * self._pass_steps + self._done, self._pass_steps - self._done)
        order = SubsetOrder(self._hard, self._slots, self._ranks.shard, self._cycle)
        return Phase(order, self._done, order.length - self._done)

    def step(self) -> None:
        """One step was taken."""
        self._done += 1

    @property
    def wants_losses(self) -> bool:
        """Whether the next phase is chosen by the losses of all frames."""
        return self._settings.enabled and not self._hard

    def advance(self, losses: np.ndarray | None) -> None:
        """Begin the next phase.

        Args:
            losses: if it `wants_losses`: float [frames of all scenes], the same on all processes.
        """
        if losses is None:
            self._cycle, self._hard = self._cycle + 1, ()
        else:
            self._hard = self._hardest(losses)
        self._done = 0

    def _hardest(self, losses: np.ndarray) -> tuple[tuple[int, range], ...]:
        """Runs of the hardest frames, shuffled; a frame whose loss is not a number counts as hardest."""
        losses = np.where(np.isnan(losses), math.inf, losses)
        chosen = np.zeros(len(losses), bool)
        units = [range(i, i + 1) for i in range(len(losses))]
        if self._settings.unit == "half":
            units = [_shifted(frames, int(self._offsets[s])) for s, frames in scene_halves(self._lengths)]
        means = np.array([losses[unit.start : unit.stop].mean() for unit in units])
        for index in np.argsort(-means, kind="stable")[: math.ceil(self._settings.share * len(units))]:
            chosen[units[index].start : units[index].stop] = True
        runs = [run for scene, frames in scene_halves(self._lengths) for run in self._runs(scene, frames, chosen)]
        order = np.random.default_rng((self._seed, 3, self._cycle)).permutation(len(runs))
        return tuple(runs[index] for index in order)

    def _runs(self, scene: int, frames: range, chosen: np.ndarray) -> list[tuple[int, range]]:
        """Stretches of chosen frames of one half."""
        flags = chosen[_shifted(frames, int(self._offsets[scene]))]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
        pairs = edges.reshape(-1, 2) + frames.start
        return [(scene, range(int(start), int(stop))) for start, stop in pairs]

    def state(self) -> dict[str, Any]:
        """For a checkpoint of this process."""
        runs = [[scene, frames.start, frames.stop] for scene, frames in self._hard]
        return {"cycle": self._cycle, "done": self._done, "hard": runs}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._cycle, self._done = state["cycle"], state["done"]
        self._hard = tuple((scene, range(start, stop)) for scene, start, stop in state["hard"])


def _shifted(frames: range, offset: int) -> range:
    return range(frames.start + offset, frames.stop + offset)
