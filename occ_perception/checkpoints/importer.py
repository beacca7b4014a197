"""Published ``.pth`` checkpoints to safetensors: strict, by name, with a model card, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from occ_perception.checkpoints.key_table import compare, fitting_models, key_table
from occ_perception.errors import WeightsError
from occ_perception.models.alocc_config import alocc_config

logger = logging.getLogger(__name__)

# Where published files keep the weights; averaged weights are preferred to the raw ones.
_CONTAINERS = ("ema_state_dict", "state_dict_ema", "ema", "state_dict", "model")
_WRAPPER_PREFIX = "module."


def import_checkpoint(
    model: str,
    source: str | Path,
    target: str | Path,
    trained_on: str = "",
    licence: str = "unknown",
) -> dict[str, Any]:
    """Convert a published checkpoint; returns the model card, which is also written beside ``target`` as ``.json``.

    Args:
        model: variant name.
        source: the authors' ``.pth``; read with ``weights_only=True``, so no code in it runs.
        target: safetensors file to write; replaced only when everything succeeded.
        trained_on: for the card, in words; defaults to the variant's label set.
        licence: licence of the weights, for the card.

    Raises:
        ConfigurationError: no such variant.
        WeightsError: unreadable file, or its tensors are not this variant's (missing, unexpected and wrong ones are
            listed by group, with the variant that fits, if one does).
    """
    config, source, target = alocc_config(model), Path(source), Path(target)
    container, tensors = read_checkpoint(source)
    table = key_table(config.name)
    difference = compare(tensors, table, table.required)
    if difference:
        fits = fitting_models(tensors)
        hint = f"; the file fits {' or '.join(fits)}" if fits else "; it fits no variant of this family"
        raise WeightsError(f"{source} is not {config.name}: {difference}{hint}")
    weights = {key: tensors[key].float().contiguous().clone() for key in table.stored}
    _check_finite(weights, source)
    card = {
        "model": config.name,
        "source_file": source.name,
        "source_sha256": file_sha256(source),
        "source_container": container,
        "label_set": config.label_set,
        "mask_training": config.mask_trained,
        "trained_on": trained_on or f"nuScenes with {config.label_set} labels (as published)",
        "licence": licence,
        "tensors": len(weights),
        "parameters": sum(value.numel() for value in weights.values()),
        "imported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    _write_both(weights, card, target)
    return card


def read_checkpoint(source: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Tensors of a ``.pth`` file and the name of the container they were in ("" for a bare ``state_dict``)."""
    if not source.is_file():
        raise WeightsError(f"checkpoint {source}: no such file")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"checkpoint {source} cannot be read as plain tensors (weights_only): {first_line}"
        ) from error
    container = next(
        (n for n in _CONTAINERS if isinstance(content, Mapping) and isinstance(content.get(n), Mapping)), ""
    )
    entries = content[container] if container else content
    if not isinstance(entries, Mapping):
        raise WeightsError(f"checkpoint {source}: expected a dictionary of tensors, got {type(entries).__name__}")
    foreign = [str(key) for key, value in entries.items() if not isinstance(value, torch.Tensor)]
    if foreign or not entries:
        raise WeightsError(
            f"checkpoint {source}: expected tensors (in one of {', '.join(_CONTAINERS)} or at the top), "
            f"got other entries {foreign[:5]}"
        )
    tensors = {str(key): value for key, value in entries.items()}
    if all(key.startswith(_WRAPPER_PREFIX) for key in tensors):
        tensors = {key[len(_WRAPPER_PREFIX) :]: value for key, value in tensors.items()}
    return container, tensors


def _check_finite(weights: Mapping[str, torch.Tensor], source: Path) -> None:
    broken = [key for key, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{source}: NaN or infinity in {len(broken)} tensors: {', '.join(broken[:5])}")


def _write_both(weights: dict[str, torch.Tensor], card: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=target.parent) as folder:
        partial_weights, partial_card = Path(folder) / "weights", Path(folder) / "card"
        save_file(
            weights, str(partial_weights), metadata={"model": card["model"], "source_sha256": card["source_sha256"]}
        )
        partial_card.write_text(json.dumps(card, indent=2) + "\n")
        os.replace(partial_card, card_path(target))
        os.replace(partial_weights, target)
    logger.info("wrote %s and %s", target, card_path(target))


def card_path(weights: Path) -> Path:
    """Where the model card of a weights file lies."""
    return weights.with_suffix(".json")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
