"""One optimiser step: losses of every part of the batch, gradients, clipping, update, weight average."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks, with_synced_batch_norm, without_sync
from occ_perception.training.loader import Batch
from occ_perception.training.schedules import WeightAverage
from occ_perception.training.task import TrainingTask


class StepReport(NamedTuple):
    """What one step measured; tensors stay on the device."""

    losses: dict[str, Tensor]  # scalars, by name, and "loss", their sum
    gradient_norm: Tensor  # before clipping


class NonFiniteStepError(ArithmeticError):
    """Loss or gradient is NaN or infinite; nothing was updated."""

    def __init__(self, report: StepReport) -> None:
        super().__init__("loss or gradient is not finite")
        self.report = report


class Learner:
    """A task's network with everything that changes it.

    Attributes:
        states: temporal state of every part of the batch.
        skipped: steps in a row that the float16 loss scale made impossible.
    """

    def __init__(self, task: TrainingTask, config: TrainingConfig, ranks: Ranks) -> None:
        self.task, self.config, self.ranks = task, config, ranks
        if config.compute.sync_batch_norm:
            task.network = with_synced_batch_norm(task.network, ranks)
        self.network = task.network.to(ranks.device).train()
        if config.compute.channels_last:
            _lay_out_channels_last(self.network)
        wrapped = ranks.wrapped(self.network, config.compute.find_unused_parameters)
        self._wrapped: nn.Module = cast(nn.Module, torch.compile(wrapped)) if config.compute.compile else wrapped
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.compute.precision == "float16")
        self.average = self._average() if config.average.enabled else None
        self.states: list[Any] = [None] * config.accumulate
        self.skipped = 0

    def _optimizer(self) -> torch.optim.AdamW:
        settings = self.config.optimizer
        groups = [{"lr_scale": 1.0, **group} for group in self.task.parameter_groups()]
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)

    def _average(self) -> WeightAverage:
        settings = self.config.average
        return WeightAverage(self.network, settings.decay, settings.updates, settings.ramp)

    def step(self, batch: Batch, iteration: int, check: bool = True) -> StepReport:
        """One optimiser step on a batch that lies on the device.

        Args:
            batch: all slots of this process.
            iteration: steps done before.
            check: look whether loss and gradient are finite before updating (waits for the device).

        Raises:
            NonFiniteStepError: they are not.
        """
        parts = [self._backward(batch, index, iteration) for index in range(self.config.accumulate)]
        losses = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        self.scaler.unscale_(self.optimizer)
        norm = self._clipped()
        report = StepReport(losses, norm)
        if check:
            self._check(report)
        self._update(iteration)
        return report

    def _backward(self, batch: Batch, index: int, iteration: int) -> dict[str, Tensor]:
        """Gradients of one part; its named losses and "loss", their sum, detached."""
        parts = self.config.accumulate
        part = batch.part(index, parts) if parts > 1 else batch
        state = self.states[index]
        starts = part.starts if state is not None else (True,) * len(part.starts)
        is_last = index == parts - 1
        with nullcontext() if is_last else without_sync(self._wrapped):
            with self.arithmetic():
                named, self.states[index] = self.task.losses(self._wrapped, part.tensors, state, starts, iteration)
                means = {name: loss.float().mean() for name, loss in named.items()}
                total = torch.stack(list(means.values())).sum()
            self.scaler.scale(total / parts).backward()
        return {**{n: v.detach() for n, v in means.items()}, "loss": total.detach()}

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The autocast region of a forward pass."""
        if self.config.compute.precision == "float32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, getattr(torch, self.config.compute.precision))

    def _clipped(self) -> Tensor:
        """The gradient's norm before clipping."""
        most = self.config.optimizer.gradient_norm or float("inf")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, most)

    def _check(self, report: StepReport) -> None:
        loss, norm = torch.isfinite(torch.stack([report.losses["loss"], report.gradient_norm])).tolist()
        scaled_too_high = loss and self.scaler.is_enabled()
        if not (loss and norm) and not scaled_too_high:
            raise NonFiniteStepError(report)

    def _update(self, iteration: int) -> None:
        rate = self.config.learning_rate.at(iteration, self.config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        lowered = self.scaler.is_enabled() and self.scaler.get_scale() < scale
        self.skipped = self.skipped + 1 if lowered else 0
        if self.average is not None and not lowered:
            self.average.update()

    def forget_streams(self) -> None:
        """Drop the temporal state: the next batch starts anew."""
        self.states = [None] * self.config.accumulate


def _lay_out_channels_last(network: nn.Module) -> None:
    """Weights of 2-D and 3-D convolutions."""
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            parameter.data = parameter.data.contiguous(memory_format=layout)
