"""Watching the stages of a network from outside: one hook, used for numeric checks, goldens and timing."""

import time
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from occ_perception.errors import NumericsError, WeightsError


class StageObserver(Protocol):
    """Called by a network with the name and output of every stage, in order."""

    def __call__(self, stage: str, value: Tensor) -> None:
        """``value`` must not be modified."""


def ignore_stages(stage: str, value: Tensor) -> None:
    """The observer that does nothing."""


def all_of(*observers: StageObserver) -> StageObserver:
    """One observer that tells several, in their order."""

    def observe(stage: str, value: Tensor) -> None:
        for observer in observers:
            observer(stage, value)

    return observe


class StageTimer:
    """Milliseconds between successive stages, measured on the device that computes them."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def __call__(self, stage: str, value: Tensor) -> None:
        self._marks.append((stage, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stages_ms(self) -> dict[str, float]:
        """Time per stage in order; waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {name: self._elapsed(before, after) for (_, before), (name, after) in pairs}

    def _elapsed(self, before: Any, after: Any) -> float:
        return before.elapsed_time(after) if self._on_gpu else (after - before) * 1e3


class FiniteMonitor:
    """Finds the first stage with NaN or infinity; the device is read once, when ``raise_if_not_finite`` is called."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: list[Tensor] = []

    def __call__(self, stage: str, value: Tensor) -> None:
        self._names.append(stage)
        # A sum is finite only if every term is (float32 sums of network features do not overflow otherwise).
        self._sums.append(value.sum(dtype=torch.float32))

    def raise_if_not_finite(self) -> None:
        """Raise NumericsError naming the first stage whose output is not finite, and forget the stages."""
        if not self._sums:
            return
        finite = torch.isfinite(torch.stack(self._sums)).tolist()
        names, self._names, self._sums = self._names, [], []
        if not all(finite):
            raise NumericsError(
                f"stage {names[finite.index(False)]!r} produced NaN or infinity; expected finite values"
            )


def check_finite_weights(network: nn.Module, name: str) -> None:
    """Raise WeightsError if a weight or buffer of the network called ``name`` is NaN or infinite."""
    broken = [key for key, value in network.state_dict().items() if not bool(torch.isfinite(value.sum()))]
    if broken:
        raise WeightsError(f"{name}: NaN or infinity in {len(broken)} weights, first {broken[0]}")
