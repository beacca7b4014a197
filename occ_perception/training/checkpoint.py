"""The state of a run on disk: written whole, read without running code, enough to go on bit for bit."""

from __future__ import annotations

import errno
import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from occ_perception.errors import ConfigurationError, OutOfResourcesError, WeightsError
from occ_perception.files import write_whole
from occ_perception.training.active_training import Curriculum
from occ_perception.training.configuration import refused_changes
from occ_perception.training.distributed import Ranks
from occ_perception.training.learner import Learner
from occ_perception.training.state_codec import decode, encode

_FORMAT = 1
NAME = "checkpoint.pt"


def save_checkpoint(
    folder: Path, learner: Learner, curriculum: Curriculum, ranks: Ranks, run: dict[str, Any], config: dict[str, Any]
) -> Path:
    """Write ``checkpoint.pt``; of several processes each writes its own part before the main one commits.

    Args:
        run: plain values of the loop: ``iteration`` and what it counts.
        config: effective configuration.

    Raises:
        OutOfResourcesError: the disk is full; the checkpoint before is still there.
        OSError: it cannot be written for another reason; likewise.
    """
    part = {
        "random": _random_state(learner.ranks.device),
        "states": [encode(state) for state in learner.states],
        "curriculum": curriculum.state(),
    }
    path, iteration = folder / NAME, run["iteration"]
    if not ranks.is_main:
        _write(_part_path(folder, ranks.shard.index, iteration), part)
    ranks.barrier()
    if ranks.is_main:
        shared = _shared(learner)
        content = {"format": _FORMAT, "processes": ranks.shard.count, "run": run, "config": json.dumps(config)}
        _write(path, {**content, "shared": shared, "part": part})
    ranks.barrier()
    _remove_older_parts(folder, ranks.shard.index, iteration)
    return path


def _shared(learner: Learner) -> dict[str, Any]:
    """What is equal on all processes."""
    average = learner.average
    return {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "skipped": learner.skipped,
        "average": None if average is None else {"entries": average.average, "updates": average.updates},
    }


def load_checkpoint(
    folder: Path, learner: Learner, curriculum: Curriculum, ranks: Ranks, config: dict[str, Any]
) -> dict[str, Any]:
    """Put everything back where `save_checkpoint` took it from; returns ``run``.

    Raises:
        WeightsError: no checkpoint, an unreadable one, or one of another network.
        ConfigurationError: it was made with settings that must not change, or by another number of processes.
    """
    content = read(folder / NAME)
    if content.get("format") != _FORMAT:
        raise WeightsError(f"{folder / NAME}: expected checkpoint format {_FORMAT}, got {content.get('format')!r}")
    absent = [name for name in ("config", "processes", "part", "run", "shared") if name not in content]
    if absent:
        raise WeightsError(f"{folder / NAME}: no checkpoint of a training run, it lacks {', '.join(absent)}")
    changes = refused_changes(json.loads(content["config"]), config)
    if changes:
        raise ConfigurationError(
            f"{folder} was trained with other settings, and going on would be another run: {'; '.join(changes)}"
        )
    if content["processes"] != ranks.shard.count:
        raise ConfigurationError(
            f"{folder} was trained by {content['processes']} processes, these are {ranks.shard.count}"
        )
    part = content["part"]
    if not ranks.is_main:
        part = read(_part_path(folder, ranks.shard.index, content["run"]["iteration"]))
    try:
        _restore_shared(learner, content["shared"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder / NAME} does not fit this network: {str(error).splitlines()[0]}") from error
    learner.states = [_on_device(decode(state), ranks.device) for state in part["states"]]
    curriculum.restore(part["curriculum"])
    _restore_random_state(part["random"], ranks.device)
    return dict(content["run"])


def _restore_shared(learner: Learner, shared: dict[str, Any]) -> None:
    learner.network.load_state_dict(shared["network"])
    learner.optimizer.load_state_dict(shared["optimizer"])
    learner.scaler.load_state_dict(shared["scaler"])
    learner.skipped = shared["skipped"]
    if learner.average is not None:
        for name, value in shared["average"]["entries"].items():
            learner.average.average[name].copy_(value)
        learner.average.updates = shared["average"]["updates"]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; only plain containers and tensors are unpickled.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f"checkpoint {path} cannot be read: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"checkpoint {path}: expected a dictionary, got {type(content).__name__}")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = len(buffer.getbuffer()) / 1e6
        raise OutOfResourcesError(
            f"the disk is full: no {size:.0f} MB left for {path}; the checkpoint before is untouched"
        ) from error


def _part_path(folder: Path, rank: int, iteration: int) -> Path:
    return folder / f"checkpoint_rank{rank}_{iteration:08d}.pt"


def _remove_older_parts(folder: Path, rank: int, iteration: int) -> None:
    for path in folder.glob(f"checkpoint_rank{rank}_*.pt"):
        if path != _part_path(folder, rank, iteration):
            path.unlink(missing_ok=True)


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - others may use it
    version, internal, cached = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), cached],
    }


def _restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, cached = state["python"]
    random.setstate((version, tuple(internal), cached))


def _on_device(state: Any, device: torch.device) -> Any:
    """Temporal state with its tensors on a device."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, tuple):
        items = [_on_device(item, device) for item in state]
        return tuple(items) if type(state) is tuple else type(state)(*items)
    return state
