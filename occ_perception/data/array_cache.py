"""Arrays that are costly to derive from files, kept beside them or, where that is read-only, in the user's cache.

A cache file is an .npz without pickled objects (checksummed by its format), written whole or not at all, and used only
if the files it came from are still the same.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from occ_perception.data.array_files import load_npz
from occ_perception.errors import DatasetError
from occ_perception.files import write_whole

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

MIN_SOURCE_BYTES = 64 << 20
"""Smaller sources are read faster than anyone notices; nothing is written for them."""
_PROBES, _PROBE_BYTES = 16, 4096
_KEY = "made_from"


def cached_arrays(
    name: str, sources: Sequence[Path], build: Callable[[], Arrays], check: Callable[[Arrays], None]
) -> Arrays:
    """What ``build`` makes of the sources, from a cache file if one is there and still true.

    Args:
        name: of the content and of its layout; a new layout needs a new name.
        sources: files in one folder that the arrays depend on.
        build: makes the arrays.
        check: raises `DatasetError` if arrays of a cache file are not as those of ``build``.

    Raises:
        DatasetError: from ``build``, or a source cannot be read.
    """
    if _total_size(sources) < MIN_SOURCE_BYTES:
        return build()
    key, places = fingerprint(sources), cache_places(name, sources[0].parent)
    for path in places:
        if (arrays := _load(path, key, check)) is not None:
            return arrays
    logger.info("indexing %s, once; this takes a minute for the whole of nuScenes", sources[0].parent)
    arrays = build()
    _save(places, {**arrays, _KEY: np.array(key)})
    return arrays


def fingerprint(files: Sequence[Path]) -> str:
    """Changes when a file does: from names, sizes, modification times and 16 samples of each content.

    Raises:
        DatasetError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
                last = max(status.st_size - _PROBE_BYTES, 0)
                for i in range(_PROBES):
                    file.seek(last * i // (_PROBES - 1))
                    digest.update(file.read(_PROBE_BYTES))
        except FileNotFoundError:
            digest.update(f"{path.name} missing\n".encode())
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def cache_places(name: str, folder: Path) -> list[Path]:
    """Where the cache of a folder may lie: in it (shared by all who use it), or in the user's cache folder."""
    places = [folder / f".occ_perception_{name}.npz"]
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(user):  # a user without a home has no cache folder
        folder_id = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        places.append(Path(user) / "occ_perception" / f"{folder_id}_{name}.npz")
    return places


def _total_size(sources: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in sources if path.is_file())


def _load(path: Path, key: str, check: Callable[[Arrays], None]) -> Arrays | None:
    if not os.path.isfile(path):  # also where we may not even look
        return None
    try:
        arrays = load_npz(path)
        if str(arrays.pop(_KEY, None)) != key:
            logger.info("cache %s is of other files, it is made anew", path)
            return None
        check(arrays)
    except DatasetError as error:
        logger.warning("cache is damaged and made anew: %s", error)
        return None
    return arrays


def _save(places: Sequence[Path], arrays: Mapping[str, np.ndarray]) -> None:
    """Write to the first place that takes it; without a cache everything works, only slowly."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stubs take the names for options
    for path in places:
        try:
            write_whole(path, buffer.getvalue())
        except OSError as error:
            logger.info("cache cannot be written to %s: %s", path, error)
        else:
            logger.info("cache written to %s", path)
            return
    logger.warning("no cache could be written to %s; the next opening will be as slow", " or ".join(map(str, places)))
