"""Plain mappings (YAML) over dataclass defaults: unknown names and wrong types are refused, with the place."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union

from occ_perception.errors import ConfigurationError

Settings = TypeVar("Settings")


def from_mapping(kind: type[Settings], values: Mapping[str, Any] | None, place: str = "") -> Settings:
    """A dataclass with complete defaults, and these values over them.

    Fields may be bool, int, float, str, tuples of those, ``Literal``, ``X | None``, ``Mapping[str, Any]`` and
    dataclasses; a dataclass may check more in its ``__post_init__``.

    Args:
        kind: the dataclass.
        values: by field name; nested mappings for nested dataclasses.
        place: dotted name of this mapping in the whole configuration, for messages.

    Raises:
        ConfigurationError: a name that does not exist (the message has the nearest one) or a value of another type.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{place or 'configuration'}: expected names with values, got {values!r}")
    hints = typing.get_type_hints(kind)
    fields = tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ConfigurationError(_unknown_name(str(unknown[0]), fields, place))
    checked = {name: _checked(hints[name], value, f"{place}.{name}".strip(".")) for name, value in values.items()}
    try:
        return kind(**checked)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}" if place else str(error)) from error


def to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain dictionaries and lists, as YAML and JSON write them."""
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted name."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{place}.{name}".strip(".")
        result |= flat(value, key) if isinstance(value, Mapping) else {key: value}
    return result


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _unknown_name(name: str, fields: tuple[str, ...], place: str) -> str:
    near = difflib.get_close_matches(name, fields, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    where = f" in {place}" if place else ""
    return f"unknown setting '{name}'{where}{hint}; the settings there are: {', '.join(fields)}"


def _checked(hint: Any, value: Any, place: str) -> Any:
    """The value as the hinted type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, place)
    if origin in (Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _checked(inner, value, place)
    if origin is typing.Literal:
        if value not in arguments or type(value) is not type(arguments[arguments.index(value)]):
            raise ConfigurationError(f"{place}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        return _checked_tuple(arguments, value, place)
    if origin in (Mapping, dict):
        if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
            return dict(value)
        raise ConfigurationError(f"{place}: expected names with values, got {value!r}")
    return _checked_scalar(hint, value, place)


def _checked_tuple(arguments: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigurationError(f"{place}: expected a list, got {value!r}")
    kinds = [arguments[0]] * len(value) if len(arguments) == 2 and arguments[1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise ConfigurationError(f"{place}: expected {len(kinds)} values, got {len(value)}: {value!r}")
    return tuple(_checked(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _checked_scalar(kind: type, value: Any, place: str) -> Any:
    fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value), True
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 (without a dot) as text
        try:
            value, fits = float(value), True
        except ValueError:
            fits = False
    if fits and kind is float and not math.isfinite(value):
        raise ConfigurationError(f"{place}: expected a finite number, got {value}")
    if not fits:
        raise ConfigurationError(f"{place}: expected {kind.__name__}, got {type(value).__name__} {value!r}")
    return value
