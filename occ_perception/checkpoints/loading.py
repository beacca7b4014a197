"""Safetensors weights into a network, with the same strictness as the import."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from occ_perception.checkpoints.importer import card_path, file_sha256
from occ_perception.checkpoints.key_table import TIED, compare, fitting_models, key_table
from occ_perception.errors import WeightsError
from occ_perception.models import canonical_name


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded: the first 16 digits of the file's SHA-256, and what its model card says of the training."""

    fingerprint: str
    trained_on: str


def load_weights(network: nn.Module, model: str, path: str | Path) -> LoadedWeights:
    """Load a file written by ``import_checkpoint`` or by training into the network of the model of that name.

    Raises:
        WeightsError: unreadable file, or the weights of another model (the message lists the keys that differ by
            group and names the variant that fits).
    """
    path, name = Path(path), canonical_name(model)
    imported_as, tensors = _read(path)
    table = key_table(name)
    difference = compare(tensors, table, table.stored)
    if difference or imported_as not in ("", name):
        fits = [imported_as] if imported_as else fitting_models(tensors, stored=True)
        hint = f"; the file fits {' or '.join(fits)}" if fits else ""
        raise WeightsError(
            f"{path} does not hold weights of {name}: {difference or 'it was imported as another'}{hint}"
        )
    _assign(network, tensors)
    return LoadedWeights(file_sha256(path)[:16], _trained_on(path))


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as archive:
            imported_as = (archive.metadata() or {}).get("model", "")
            return imported_as, {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {path} cannot be read as safetensors: {error}") from error


def _assign(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy by name; the only names the file may lack are those the key table does not store."""
    for second, first in TIED.items():
        for key in [key for key in tensors if key.startswith(first)]:
            tensors[key.replace(first, second)] = tensors[key]
    network.load_state_dict(tensors, strict=False)


def _trained_on(path: Path) -> str:
    card = card_path(path)
    if not card.is_file():
        return ""
    try:
        content = json.loads(card.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"model card {card} is not JSON: {error}") from error
    return str(content.get("trained_on", "")) if isinstance(content, dict) else ""
