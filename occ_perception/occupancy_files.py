"""Grids as .npz files: all that is known of a frame, or the benchmarks' submission format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.files import write_whole
from occ_perception.occupancy import Occupancy
from occ_perception.ontology import FREE, UNKNOWN

_ARRAYS = ("semantics", "visibility", "confidence", "flow", "instances", "prediction", "predicted_instances")


def save_occupancy(path: Path, occupancy: Occupancy) -> None:
    """Write a grid as .npz, whole or not at all.

    Arrays ``semantics``, ``visibility``, and where the model gives them ``confidence``, ``flow``, ``instances``,
    ``prediction``, ``predicted_instances``, indexed [x, y, z]; with ``stamp_ns``, ``origin``, ``voxel_size``,
    ``ontology``, ``class_names``, ``model``, ``weights``.  No objects: read it with ``allow_pickle=False``.

    Raises:
        DatasetError: it cannot be written.
    """
    info, grid = occupancy.info, occupancy.grid
    arrays: dict[str, Any] = {
        name: getattr(occupancy, name) for name in _ARRAYS if getattr(occupancy, name) is not None
    }
    arrays |= {
        "stamp_ns": np.int64(occupancy.stamp_ns),
        "origin": np.array(grid.origin),
        "voxel_size": np.float64(grid.voxel_size),
        "ontology": np.array(info.ontology.name),
        "class_names": np.array(info.ontology.class_names),
        "model": np.array(info.name),
        "weights": np.array(info.weights),
    }
    _save(path, arrays)


def save_submission(path: Path, occupancy: Occupancy) -> None:
    """Write what a benchmark scores, whole or not at all: ``pred`` uint8 [X, Y, Z] in the dataset's own ids.

    It is what the model said everywhere, seen or not (`Occupancy.prediction`); benchmarks know no third state, so
    unknown counts as free.  Where the model gives them there are also ``flow`` float32 [X, Y, Z, 2], m/s, and
    ``instances`` uint16 [X, Y, Z] (`Occupancy.predicted_instances`).

    Raises:
        InvalidInputError: the occupancy has no prediction (it came from a message).
        ConfigurationError: the model's label set is no dataset's.
        DatasetError: it cannot be written.
    """
    if occupancy.prediction is None:
        raise InvalidInputError(f"{path.name}: expected an occupancy with a prediction, this one has none")
    said = np.where(occupancy.prediction == UNKNOWN, FREE, occupancy.prediction).astype(np.uint8)
    arrays = {"pred": occupancy.ontology.to_dataset(said)}
    for name, array in (("flow", occupancy.flow), ("instances", occupancy.predicted_instances)):
        if array is not None:
            arrays[name] = array
    _save(path, arrays)


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error}") from error
