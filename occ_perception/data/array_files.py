"""NumPy files from strangers: no pickled objects, no surprises in size, every failure named with its path."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from occ_perception.errors import DatasetError, InvalidInputError

MAX_ARRAY_BYTES = 1 << 30
"""Larger arrays are refused before they are unpacked: the largest label grid has 84 MB."""


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        DatasetError: missing, damaged, too large, or with pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or archive.zip is None:
                raise DatasetError(f"{path}: expected an .npz archive, this is a single array")
            _check_members(path, archive.zip)
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def load_npy(path: Path) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        DatasetError: missing, damaged, or with pickled objects.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DatasetError(f"{path}: expected a single array, this is an .npz archive")
    return array


def take(path: Path, arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    """One array of a file, of the shape and kind (NumPy's letters: b, i, u, f) it must have.

    Raises:
        InvalidInputError: missing, or of another shape or kind.
    """
    if key not in arrays:
        raise InvalidInputError(f"{path}: expected an array '{key}', got {sorted(arrays)}")
    array = arrays[key]
    if array.shape != shape or array.dtype.kind not in kinds:
        names = "/".join({"b": "bool", "i": "int", "u": "uint", "f": "float"}[kind] for kind in kinds)
        raise InvalidInputError(f"{path}: {key}: expected {names} {shape}, got {array.dtype} {array.shape}")
    return array


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    for member in archive.infolist():
        if member.file_size > MAX_ARRAY_BYTES:
            raise DatasetError(f"{path}: {member.filename} claims {member.file_size} bytes; no label array is so large")


def _damaged(path: Path, error: Exception) -> DatasetError:
    if "allow_pickle" in str(error):
        return DatasetError(f"{path}: holds pickled objects, which could run code; only plain arrays are read")
    return DatasetError(f"{path}: damaged or no NumPy file: {error}")
