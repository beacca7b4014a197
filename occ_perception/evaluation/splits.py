"""Which scenes belong to a split; the official lists are not in nuScenes' tables but Occ3D ships them."""

from __future__ import annotations

import json
from pathlib import Path

from occ_perception.errors import ConfigurationError, DatasetError

_MINI = {"mini_val": ("scene-0103", "scene-0916")}
_SHIPPED = {"train": "train_split", "val": "val_split"}
SPLITS = (*_SHIPPED, *_MINI)


def split_scenes(split: str, labels_folder: Path) -> tuple[str, ...]:
    """Scene names of a split: "mini_val", or "train" and "val" from Occ3D's ``annotations.json`` beside the labels.

    Raises:
        ConfigurationError: unknown split (the message lists them).
        DatasetError: ``annotations.json`` is missing, or holds no such list or an empty one: callers take no names for
            "every scene", which would be another split's.
    """
    if split in _MINI:
        return _MINI[split]
    if split not in _SHIPPED:
        raise ConfigurationError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
    candidates = [folder / "annotations.json" for folder in (labels_folder, labels_folder.parent)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DatasetError(
            f"split '{split}': Occ3D's annotations.json, which lists its scenes, is neither {candidates[0]} nor "
            f"{candidates[1]}; put it there or name the scenes"
        )
    try:
        names = json.loads(path.read_bytes())[_SHIPPED[split]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no list '{_SHIPPED[split]}': {error!r}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{path}: {_SHIPPED[split]}: expected a list of scene names")
    if not names:
        raise DatasetError(f"{path}: {_SHIPPED[split]}: expected scenes, it lists none; is '{split}' another dataset?")
    return tuple(names)
