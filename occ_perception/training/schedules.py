"""What changes over the iterations of ALOcc: denoising, history; and the weight average (sections 5.1, 9, 11)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ALOccSchedule:
    """What ALOcc's losses and inputs do over the iterations; an epoch is a number of them, not a pass over the data.

    Attributes:
        iterations_per_epoch: of the published training with 8 GPUs x 2 samples.
        depth_mix_epochs: until when the lifting is helped with LiDAR depth.
        flow_mix_epochs: from when to when the flow head is weaned off the true correlation.
        history_from_epoch: when the temporal fusion begins to remember.
    """

    iterations_per_epoch: int = 8005
    depth_mix_epochs: float = 6.0
    flow_mix_epochs: tuple[float, float] = (2.0, 4.0)
    history_from_epoch: int = 2

    def depth_mix(self, iteration: int) -> float:
        """Share of the LiDAR depth in the lifting: cosine from 1 to 0."""
        return _cosine(iteration / (self.depth_mix_epochs * self.iterations_per_epoch))

    def flow_mix(self, iteration: int) -> float:
        """Share of the ground-truth correlation in the flow head: 1, then cosine to 0."""
        begin, end = self.flow_mix_epochs
        return _cosine((iteration / self.iterations_per_epoch - begin) / (end - begin))

    def keeps_history(self, iteration: int) -> bool:
        """Whether the fusion state is kept between steps; the flow head's history always is."""
        return iteration >= self.history_from_epoch * self.iterations_per_epoch


def _cosine(progress: float) -> float:
    """1 before 0, 0 after 1, half a cosine between."""
    return (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


class WeightAverage:
    """Exponential moving average of every floating-point entry of a network's ``state_dict``; the rest is copied.

    Args:
        network: what is averaged, on its device; it must keep its tensors (``load_state_dict`` does).
        decay, ramp: the n-th update keeps ``decay * (1 - exp(-n / ramp))`` of the average.
        updates: n at the start.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, updates: int = 10560, ramp: float = 2000.0) -> None:
        entries = {key: value.detach() for key, value in network.state_dict().items()}
        self.average = {key: value.clone() for key, value in entries.items()}
        self.updates = updates
        self._decay, self._ramp = decay, ramp
        floating = [key for key, value in entries.items() if value.is_floating_point()]
        self._averaged = [self.average[key] for key in floating], [entries[key] for key in floating]
        self._copied = [(self.average[key], entries[key]) for key in entries if key not in set(floating)]

    def decay(self) -> float:
        """Decay of the latest update."""
        return self._decay * (1 - math.exp(-self.updates / self._ramp))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's current weights."""
        self.updates += 1
        torch._foreach_lerp_(*self._averaged, 1 - self.decay())
        for mine, current in self._copied:
            mine.copy_(current)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, and afterwards with its own again."""
        own = {key: value.detach().clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.average)
        try:
            yield
        finally:
            network.load_state_dict(own)
