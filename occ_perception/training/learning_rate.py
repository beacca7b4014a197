"""The learning rate over the iterations: linear warm-up, then constant, cosine or exponential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRateSettings:
    """Peak and shape.

    Attributes:
        peak: after the warm-up; a parameter group's ``lr_scale`` multiplies it.
        shape: after the warm-up: constant, cosine (half a wave down to ``final_ratio``), or exponential down to it.
        warmup_iterations: linear rise.
        warmup_ratio: share of the peak at iteration 0.
        final_ratio: share of the peak at the last iteration, unless constant.
        decay_iterations: when ``final_ratio`` is reached; 0 = at the end of the run.
    """

    peak: float = 2e-4
    shape: Literal["constant", "cosine", "exponential"] = "constant"
    warmup_iterations: int = 200
    warmup_ratio: float = 0.001
    final_ratio: float = 0.01
    decay_iterations: int = 0

    def at(self, iteration: int, iterations: int) -> float:
        """The rate of the step after ``iteration`` steps, in a run of ``iterations``."""
        if iteration < self.warmup_iterations:
            missing = 1 - iteration / self.warmup_iterations
            return self.peak * (1 - missing * (1 - self.warmup_ratio))
        span = max(1, (self.decay_iterations or iterations) - self.warmup_iterations)
        progress = min(1.0, (iteration - self.warmup_iterations) / span)
        if self.shape == "cosine":
            return self.peak * (self.final_ratio + (1 - self.final_ratio) * (1 + math.cos(math.pi * progress)) / 2)
        if self.shape == "exponential":
            return self.peak * self.final_ratio**progress
        return self.peak
