"""Which tensors a published checkpoint of each model must hold, and how a file is compared with that table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from occ_perception.models import canonical_name, create_network, network_names
from occ_perception.models.alocc import ALOcc

# Counters of batch normalisation have no effect on inference; a file may have them or not.
OPTIONAL_SUFFIX = "num_batches_tracked"
# The frozen description of the lifting grid: compared with the variant, never loaded.
GRID_PREFIX = "view_transformer."
# QUIRK (spec 15): one identity convolution is stored under two names.
TIED = {"depth_net.occ_conv.0.downsample.": "depth_net.depth_conv.0.downsample."}


@dataclass(frozen=True)
class KeyTable:
    """Names and shapes of one model's published ``state_dict``."""

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, tuple[float, ...]]

    @property
    def required(self) -> dict[str, tuple[int, ...]]:
        """The tensors that must be in a published file."""
        return {key: shape for key, shape in self.shapes.items() if not key.endswith(OPTIONAL_SUFFIX)}

    @property
    def stored(self) -> dict[str, tuple[int, ...]]:
        """The tensors we keep: required, without the grid constants and the second names of tied tensors."""
        return {key: shape for key, shape in self.required.items() if not key.startswith((GRID_PREFIX, *TIED))}


@dataclass(frozen=True)
class KeyDifference:
    """How a set of tensors differs from a table; each entry is one line about one key."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        parts = {"missing": self.missing, "unexpected": self.unexpected, "wrong": self.wrong}
        return "; ".join(f"{len(keys)} {kind}: {_by_group(keys)}" for kind, keys in parts.items() if keys)


def _by_group(keys: Iterable[str], examples: int = 2) -> str:
    """ "group (count: first, second, ...)" for keys grouped by their first name component."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.split(".", 1)[0], []).append(key)
    texts = []
    for group, members in sorted(groups.items()):
        shown = ", ".join(members[:examples]) + (", ..." if len(members) > examples else "")
        texts.append(f"{group} ({len(members)}: {shown})")
    return "; ".join(texts)


@cache
def key_table(model: str) -> KeyTable:
    """The table of one network; ConfigurationError lists the names when there is no such network."""
    network = skeleton(model)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    return KeyTable(canonical_name(model), shapes, _grid_constants(network))


def _grid_constants(network: nn.Module) -> dict[str, tuple[float, ...]]:
    if not isinstance(network, ALOcc):
        return {}
    origin, interval, cells = network.grid
    return {
        f"{GRID_PREFIX}dx": tuple(interval),
        f"{GRID_PREFIX}bx": tuple(o + i / 2 for o, i in zip(origin, interval, strict=True)),
        f"{GRID_PREFIX}nx": tuple(float(n) for n in cells),
    }


def skeleton(model: str) -> nn.Module:
    """A model's network without memory behind its tensors: names and shapes only."""
    with torch.device("meta"):
        return create_network(model)


def compare(
    tensors: Mapping[str, torch.Tensor], table: KeyTable, required: Mapping[str, tuple[int, ...]]
) -> KeyDifference:
    """Missing, unexpected and wrong (shape, grid constant, tie) tensors of a file against a table."""
    missing = tuple(key for key in required if key not in tensors)
    unexpected = tuple(key for key in tensors if key not in table.shapes)
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, expected {shape}"
        for key, shape in table.shapes.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if not wrong:
        wrong = [*_wrong_constants(tensors, table), *_broken_ties(tensors)]
    return KeyDifference(missing, unexpected, tuple(wrong))


def _wrong_constants(tensors: Mapping[str, torch.Tensor], table: KeyTable) -> list[str]:
    return [
        f"{key} is {tensors[key].tolist()}, expected {values} (another grid)"
        for key, values in table.constants.items()
        if key in tensors and not torch.allclose(tensors[key].float(), torch.tensor(values), atol=1e-4)
    ]


def _broken_ties(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    broken = []
    for second, first in TIED.items():
        for key in tensors:
            twin = key.replace(second, first)
            if key.startswith(second) and twin in tensors and not torch.equal(tensors[key], tensors[twin]):
                broken.append(f"{key} differs from {twin}, but they are one tensor")
    return broken


def fitting_models(tensors: Mapping[str, torch.Tensor], stored: bool = False) -> list[str]:
    """Models whose table these tensors satisfy (twins trained without the mask share one table)."""
    fits = []
    for model in network_names():
        table = key_table(model)
        if not compare(tensors, table, table.stored if stored else table.required):
            fits.append(model)
    return fits
