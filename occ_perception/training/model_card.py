"""Trained weights as safetensors that `create_model` loads, and a card that says how they came to be."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from occ_perception import __version__
from occ_perception.checkpoints.importer import card_path
from occ_perception.checkpoints.key_table import key_table, skeleton
from occ_perception.files import write_whole
from occ_perception.models import network_names
from occ_perception.training.distributed import Ranks
from occ_perception.training.task import TaskDescription


def export_weights(
    path: Path,
    description: TaskDescription,
    entries: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    commit: str = "unknown",
    changed: bool = False,
) -> dict[str, Any]:
    """Write the weights and, beside them, the card; returns the card.

    Weights of a network that is not the model's (a changed size or setting) are written whole and the card says so.

    Args:
        path: ``.safetensors``.
        entries: of the network's ``state_dict``.
        facts: what the run adds to the card.
        commit: of the code that trained, see `git_commit`.
        changed: the network computes something else than the model of that name, see `has_other_settings`.

    Raises:
        OSError: they cannot be written.
    """
    weights, loadable = _stored(description.model, entries, changed)
    data = save(weights, metadata={"model": description.model if loadable else f"{description.model} (changed)"})
    card = {
        "model": description.model,
        "loadable_by_name": loadable,
        "label_set": description.label_set,
        "mask_training": description.mask_training,
        **facts,
        "tensors": len(weights),
        "parameters": sum(value.numel() for value in weights.values()),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "software": {"occ_perception": __version__, "git_commit": commit, "torch": torch.__version__},
    }
    write_whole(path, data)
    write_whole(card_path(path), (json.dumps(card, indent=2) + "\n").encode())
    return card


def has_other_settings(model: str, network: nn.Module) -> bool:
    """Whether a part of the network has another ``config`` than in the model of that name.

    Not every setting shows in a tensor's shape; False for names that are no network's.
    """
    if model not in network_names():
        return False
    own = {name: getattr(module, "config", None) for name, module in network.named_modules()}
    expected = {name: getattr(module, "config", None) for name, module in skeleton(model).named_modules()}
    return any(own.get(name) != config for name, config in expected.items() if is_dataclass(config))


def _stored(model: str, entries: Mapping[str, Tensor], changed: bool) -> tuple[dict[str, Tensor], bool]:
    """The tensors that a weights file of the model holds, float32; everything if this is no network of that name."""
    plain = {name: value.detach().cpu() for name, value in entries.items()}
    if model in network_names() and not changed:
        table = key_table(model)
        if all(name in plain and tuple(plain[name].shape) == shape for name, shape in table.stored.items()):
            return {name: plain[name].float().contiguous().clone() for name in table.stored}, True
    return {name: value.contiguous().clone() for name, value in plain.items()}, False


def hardware(ranks: Ranks) -> str:
    """The machine, in words."""
    if ranks.device.type == "cuda":
        return f"{ranks.shard.count} x {torch.cuda.get_device_name(ranks.device)}"
    return f"{ranks.shard.count} x CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_commit() -> str:
    """The checkout this package runs from, with "+changes" if files in it are changed; "unknown" outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ("git", "rev-parse", "HEAD"), cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ("git", "status", "--porcelain", "-uno"), cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changed else "")
