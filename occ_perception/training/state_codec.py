"""Temporal state as plain containers, which a checkpoint can hold without pickled classes, and back."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from occ_perception.errors import WeightsError

_PACKAGE = "occ_perception."


def encode(state: Any) -> Any:
    """Nested tuples and NamedTuples to nested dictionaries and lists; tensors and plain values as they are.

    Raises:
        TypeError: something else is in it, or a NamedTuple of another package.
    """
    if state is None or isinstance(state, Tensor | bool | int | float | str):
        return state
    if not isinstance(state, tuple):
        raise TypeError(f"temporal state: expected tuples of tensors and plain values, got {type(state).__name__}")
    items = [encode(item) for item in state]
    if type(state) is tuple:
        return {"tuple": items}
    kind = type(state)
    if not kind.__module__.startswith(_PACKAGE):
        raise TypeError(f"temporal state: {kind.__module__}.{kind.__qualname__} is not of this package")
    return {"tuple": items, "kind": f"{kind.__module__}:{kind.__qualname__}"}


def decode(stored: Any) -> Any:
    """The inverse of `encode`.

    Raises:
        WeightsError: a kind that is no NamedTuple of this package.
    """
    if not isinstance(stored, dict):
        return stored
    items = tuple(decode(item) for item in stored["tuple"])
    return _named(stored["kind"], items) if "kind" in stored else items


def _named(name: str, items: tuple[Any, ...]) -> Any:
    module, _, kind = name.partition(":")
    if module.startswith(_PACKAGE):
        try:
            found = getattr(importlib.import_module(module), kind, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, tuple) and len(getattr(found, "_fields", ())) == len(items):
            return found(*items)
    raise WeightsError(f"checkpoint: temporal state of a kind that is not here: {name!r} with {len(items)} entries")
