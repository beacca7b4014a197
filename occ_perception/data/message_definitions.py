"""The ROS message types of our bags, without ROS: rosbags' type store plus our own `msg/*.msg` texts."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from occ_perception.errors import DatasetError

PACKAGE = "occ_perception"


def message_folder() -> Path:
    """Folder with our `.msg` files: in the checkout, or in the share folder of an installation.

    Raises:
        DatasetError: none of the places has them (the message lists the places).
    """
    package = Path(__file__).resolve().parent.parent
    sourced = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    installed = package.parents[3:4]  # <prefix>/lib/pythonX.Y/site-packages/occ_perception
    prefixes = [*installed, Path(sys.prefix), *sourced]
    places = [package.parent / "msg", *(p / "share" / PACKAGE / "msg" for p in prefixes)]
    for place in places:
        if any(place.glob("*.msg")):
            return place
    raise DatasetError(f"the message definitions (*.msg) of {PACKAGE} are in none of {[str(p) for p in places]}")


@lru_cache(maxsize=1)
def message_store() -> Typestore:
    """Type store of ROS 2 Kilted with this package's own messages registered."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for path in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store
