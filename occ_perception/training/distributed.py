"""One process of many (torchrun): who it is, its device, and what the processes agree on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from occ_perception.data.sharding import Shard
from occ_perception.models import resolve_device

# Ranks validate different scenes, so they may wait long for each other.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Attributes:
        shard: this process among all.
        device: where it computes.
        control: group of all processes for decisions, on the CPU; None if there is only this one.
    """

    shard: Shard
    device: torch.device
    control: distributed.ProcessGroup | None = None

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Join the group that torchrun describes in the environment; alone without it.

        Raises:
            ConfigurationError: no such device.
        """
        shard = Shard.from_environment()
        resolved = resolve_device(device)
        if resolved.type == "cuda":
            index = resolved.index if resolved.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
            resolved = torch.device("cuda", index)
            torch.cuda.set_device(resolved)
        if shard.count == 1:
            return cls(shard, resolved)
        backend = "nccl" if resolved.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        return cls(shard, resolved, distributed.new_group(backend="gloo", timeout=_PATIENCE))

    def leave(self) -> None:
        """Leave the group."""
        if self.control is not None:
            distributed.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.shard.index == 0

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag whether any process has it set."""
        if self.control is None:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self.control)
        return votes.bool().tolist()

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.shard.count
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes of a CPU tensor."""
        if self.control is None:
            return values
        values = values.clone()
        distributed.all_reduce(values, group=self.control)
        return values / self.shard.count

    def barrier(self) -> None:
        """Wait for all."""
        if self.control is not None:
            distributed.barrier(group=self.control)

    def wrapped(self, network: nn.Module, find_unused_parameters: bool) -> nn.Module:
        """The network whose gradients are averaged over all processes."""
        if self.control is None:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, find_unused_parameters=find_unused_parameters)


def without_sync(network: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay with this process until a later backward pass."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def with_synced_batch_norm(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Batch statistics over all GPUs, where there are several (PyTorch has no such layer for CPUs)."""
    if ranks.control is not None and ranks.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network
