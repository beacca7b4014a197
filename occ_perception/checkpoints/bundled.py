"""Weights that come with the package: half precision, with their model card.

python -m occ_perception.checkpoints.bundled runs/nano/final.safetensors    puts a run's weights there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from occ_perception.checkpoints.importer import card_path
from occ_perception.errors import OccPerceptionError, WeightsError
from occ_perception.files import write_whole

FOLDER = Path(__file__).resolve().parents[1] / "weights"
"""Where they lie."""


def bundled_weights(model: str) -> Path | None:
    """The weights of a model that the package brings along; None if there are none."""
    path = FOLDER / f"{model}.safetensors"
    return path if path.is_file() else None


def bundle(source: Path, folder: Path = FOLDER, facts: Mapping[str, str] | None = None) -> Path:
    """Store trained weights in half precision under their model's name, with their card; returns the file.

    Vectors (biases, normalisation statistics) stay float32: they are few, and variances do not fit float16.

    Args:
        source: weights of a training run, with the card beside them.
        folder: where to.
        facts: entries of the card to set, in words a reader elsewhere understands (``trained_on``, ``licence``).

    Raises:
        WeightsError: unreadable, without a readable card, of a changed network, or a weight that float16 cannot hold.
    """
    tensors, metadata = _read(source)
    card_file = card_path(source)
    if not card_file.is_file():
        raise WeightsError(f"{source}: expected its model card {card_file}, there is none")
    try:
        card = json.loads(card_file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{card_file}: expected a model card in JSON: {error}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{card_file}: expected a model card, got {type(card).__name__}")
    if metadata.get("model", "").endswith("(changed)"):
        raise WeightsError(f"{source}: weights of '{metadata['model']}'; only those that load by name can come along")
    halved = {name: _halved(name, value, source) for name, value in tensors.items()}
    data = save(halved, metadata=metadata)
    card |= {
        **(facts or {}),
        "stored_as": "matrices float16, vectors float32",
        "made_from_sha256": card.get("weights_sha256", "unknown"),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{metadata.get('model', source.stem)}.safetensors"
    write_whole(target, data)
    write_whole(card_path(target), (json.dumps(card, indent=2) + "\n").encode())
    return target


def _read(source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(source), framework="pt", device="cpu") as archive:
            return {key: archive.get_tensor(key) for key in archive.keys()}, archive.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {source} cannot be read as safetensors: {error}") from error


def _halved(name: str, value: Tensor, source: Path) -> Tensor:
    if not value.is_floating_point() or value.ndim < 2:
        return value
    half = value.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise WeightsError(f"{source}: {name} has values that float16 cannot hold (largest {value.abs().max():.3g})")
    return half


def main(arguments: Sequence[str] | None = None) -> int:
    """Bundle the weights of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="final.safetensors or best.safetensors of a run")
    parser.add_argument("--trained-on", required=True, help="on what, in words")
    parser.add_argument("--licence", required=True, help="of the weights")
    given = parser.parse_args(arguments)
    try:
        target = bundle(given.source, facts={"trained_on": given.trained_on, "licence": given.licence})
    except OccPerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
