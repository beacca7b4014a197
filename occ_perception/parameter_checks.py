"""Checks of settings by name: what is wrong is refused with what was expected and what came."""

from __future__ import annotations

import difflib
import math
from typing import Any

from occ_perception.errors import ConfigurationError

MOST = 1e6
"""Of anything: days, or hundreds of kilometres; clocks and timers can still count it."""


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` if a value is none of the choices."""
    if value not in choices:
        raise ConfigurationError(f"{name}: expected one of {', '.join(choices)}, got '{value}'")


def check_reasonable(name: str, value: float) -> None:
    """Raise `ConfigurationError` if a number is not finite, or larger than anything here can be."""
    if not math.isfinite(value) or abs(value) > MOST:
        raise ConfigurationError(f"{name}: expected a finite number, at most {MOST:g}, got {value}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise `ConfigurationError` if a number is too small, or none."""
    if not value >= least:
        raise ConfigurationError(f"{name}: expected at least {least:g}, got {value}")


def checked(name: str, value: Any, default: Any) -> Any:
    """The value as the type of its default; raises `ConfigurationError` if it is of another."""
    if isinstance(default, tuple):
        items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (None,)
        if all(isinstance(item, str) for item in items):
            return tuple(item for item in items if item)  # ROS has no typed empty list: [""] stands for it
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(default, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(default, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, type(default)):
        return value
    kind = "list of strings" if isinstance(default, tuple) else type(default).__name__
    raise ConfigurationError(f"parameter {name}: expected {kind}, got {type(value).__name__} {value!r}")


def unknown_name(name: str, valid: tuple[str, ...]) -> str:
    """What to say of a name that does not exist."""
    near = difflib.get_close_matches(name, valid, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown parameter '{name}'{hint}; the parameters are: {', '.join(valid)}"
