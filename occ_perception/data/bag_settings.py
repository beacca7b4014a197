"""What a finished bag was made of and how, kept in its metadata, so that making it again can be left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from occ_perception.data.bag_reader import BagReader
from occ_perception.errors import DatasetError

SETTINGS_KEY = "settings"
"""Entry of a bag's custom data: JSON of everything that determines its content."""


def settings_text(settings: Mapping[str, object]) -> str:
    """Settings as they are kept in a bag."""
    return json.dumps(settings, sort_keys=True)


def is_finished(path: Path, settings: Mapping[str, object]) -> bool:
    """Whether a whole bag with exactly these settings is there; False if nothing is.

    Raises:
        DatasetError: what is there is damaged, or was made in another way (the message says what differs).
    """
    if not path.exists():
        return False
    with BagReader(path) as bag:
        if bag.damage:
            raise DatasetError(f"{path} is there but damaged ({bag.damage}): remove it or overwrite it")
        there = bag.custom_data.get(SETTINGS_KEY)
    if there is None:
        raise DatasetError(f"{path} exists already, and was not made by this: not overwriting it")
    check_same(path, json.loads(there), json.loads(settings_text(settings)))
    return True


def check_same(path: Path, there: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Pass if two settings are equal.

    Raises:
        DatasetError: they differ; the message says in what.
    """
    differences = [
        f"{key}: {there.get(key)!r} there, {wanted.get(key)!r} wanted"
        for key in sorted({*there, *wanted})
        if there.get(key) != wanted.get(key)
    ]
    if differences:
        raise DatasetError(
            f"{path} exists already with other settings ({'; '.join(differences)}): "
            "overwrite it, or choose another output"
        )
