"""When a run cannot go on: numbers that are not finite, memory that runs out; said with what to do about it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from occ_perception.errors import DatasetError, NumericsError, OutOfResourcesError
from occ_perception.files import write_whole
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.learner import Learner, StepReport
from occ_perception.training.loader import Batch, is_worker_death
from occ_perception.training.settings import flat


def stop_for_numbers(
    folder: Path, learner: Learner, batch: Batch, report: StepReport, iteration: int, config: TrainingConfig
) -> NoReturn:
    """Save what is needed to look into it, and stop.

    Raises:
        NumericsError: always; names the losses, the samples and the file.
    """
    losses = {name: float(value) for name, value in report.losses.items()}
    path = folder / f"failure_{iteration:08d}_rank{learner.ranks.shard.index}.pt"
    content = {
        "iteration": iteration,
        "samples": [list(sample) for sample in batch.samples],
        "losses": losses,
        "gradient_norm": float(report.gradient_norm),
        "batch": {name: value.cpu() for name, value in batch.tensors.items()},
        "network": {name: value.cpu() for name, value in learner.network.state_dict().items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())
    every = config.guards.check_every
    when = "from before the step" if every == 1 else f"as they are now (looked at every {every} iterations only)"
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    raise NumericsError(
        f"iteration {iteration}: loss or gradient is not finite ({shown}; norm {content['gradient_norm']:.4g}) "
        f"on samples (scene, frame) {list(batch.samples)}; batch and weights {when} are in {path}"
    )


def check_skipped_steps(learner: Learner, config: TrainingConfig) -> None:
    """Raise NumericsError when float16 fails step after step."""
    if learner.skipped > config.guards.max_skipped_steps:
        raise NumericsError(
            f"float16: {learner.skipped} steps in a row had gradients too large, down to a loss scale of "
            f"{learner.scaler.get_scale():g}; use compute.precision=bfloat16 or float32, or lower learning_rate.peak"
        )


@contextmanager
def explained_failures(effective: Mapping[str, Any]) -> Iterator[None]:
    """Memory that runs out and loader processes that die end the run with advice instead of a traceback.

    Args:
        effective: the configuration as plain values, those of the task included.

    Raises:
        OutOfResourcesError: no memory.
        DatasetError: a loader process died.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if _is_out_of_memory(error):
            raise OutOfResourcesError(memory_advice(flat(effective), error)) from error
        if is_worker_death(error):
            raise DatasetError(f"a loader process died: {str(error).splitlines()[0]}") from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def memory_advice(values: Mapping[str, Any], error: BaseException) -> str:
    """What to lower, with the present values (by dotted name)."""
    batch_size, accumulate = values["batch_size"], values["accumulate"]
    advice = [f"batch_size (now {batch_size}), with accumulate (now {accumulate}) raised in turn"]
    if values["compute.precision"] == "float32":
        advice.append("compute.precision (now float32) to bfloat16")
    for name, value in values.items():
        if name.startswith("task.settings.") and name.endswith(".activation_checkpointing") and not value:
            advice.append(f"{name} (now false) to true")
        if name.startswith("task.settings.") and name.endswith(".image_size") and value:
            advice.append(f"{name} (now {value})")
    if values["device"] == "cpu":
        workers, prefetch = values["loader.workers"], values["loader.prefetch"]
        advice.append(f"loader.workers (now {workers}) and loader.prefetch (now {prefetch})")
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"out of memory ({first}); lower one of: {'; '.join(advice)}"
