"""Reading pickles of plain data without running their code.

A pickle is a program: it may name any importable function and call it.  Here only a handful of names is known, all of
them replaced by functions of this file that build plain NumPy arrays from checked parts; anything else is refused.
NumPy's own ``__setstate__`` methods never see what the file says.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from occ_perception.errors import DatasetError

_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc?]\d{0,2}|[SU]\d{0,6}|O8?)")


def load_plain_pickle(path: Path) -> Any:
    """Dicts, lists, tuples, strings, numbers, None and NumPy arrays of these.

    Raises:
        DatasetError: missing, damaged, or anything else is in the file (the message names it).
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except _RefusedError as error:
        raise DatasetError(f"{path}: refused: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way a program can
        raise DatasetError(f"{path}: damaged or no pickle: {type(error).__name__}: {error}") from error


class _RefusedError(Exception):
    """The pickle asks for something that is not plain data."""


class _Name:
    """What a known global name stands for: callable, and nothing about it can be changed by the pickle."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _RefusedError(f"it tries to set attribute '{name}' of a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise _RefusedError("it tries to change a function")


class _Dtype:
    """A plain dtype on its way to an array."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise _RefusedError(f"dtype {code!r} is not plain")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, subarray, names, fields, *_ = state
        if byte_order not in ("<", ">", "=", "|") or not (subarray is names is fields is None):
            raise _RefusedError("structured dtypes are not plain")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PlainArray(np.ndarray):
    """An array that checks what it is filled with; otherwise an ordinary one."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        _check_contents(shape, dtype, data)
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), data))  # type: ignore[arg-type]  # plain bool works


def _check_contents(shape: Any, dtype: Any, data: Any) -> None:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise _RefusedError("an array has no plain shape and dtype")
    if any(n < 0 for n in shape):
        raise _RefusedError(f"an array has shape {shape}")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise _RefusedError("an object array is not filled from a list of its size")
    elif not isinstance(data, bytes | bytearray) or len(data) != count * max(dtype.dtype.itemsize, 1):
        raise _RefusedError(f"an array {shape} of {dtype.dtype} is not filled with as many bytes")


def _new_array(*_: Any) -> _PlainArray:
    """``numpy.core.multiarray._reconstruct``: an empty array, filled by its ``__setstate__``."""
    return np.empty(0, np.uint8).view(_PlainArray)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    """``numpy._core.numeric._frombuffer`` of protocol 5."""
    _check_contents(shape, dtype, data)
    if dtype.dtype.hasobject or order not in ("C", "F"):
        raise _RefusedError("a buffer of objects")
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    """``numpy.core.multiarray.scalar``: one number."""
    _check_contents((), dtype, data)
    if dtype.dtype.hasobject:
        raise _RefusedError("an object scalar")
    return np.frombuffer(bytes(data), dtype.dtype)[0]


def _latin1(text: Any, encoding: Any) -> bytes:
    """``_codecs.encode``: how pickles of protocol 2 spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """``__builtin__.bytes``: how pickles of protocol 2 spell empty bytes."""
    if arguments:
        raise _RefusedError("bytes with arguments")
    return b""


def _known_names() -> dict[tuple[str, str], _Name]:
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _new_array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _latin1,
        ("__builtin__", "bytes"): _empty_bytes,
        ("builtins", "bytes"): _empty_bytes,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        names[f"{core}.multiarray", "_reconstruct"] = _new_array
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _array_from_buffer
    return {name: _Name(build) for name, build in names.items()}


_KNOWN = _known_names()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Name:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"it asks for {module}.{name}; only plain data and NumPy arrays are read")
        return _KNOWN[module, name]
