"""The ROS message types of our bags, without ROS: rosbags' type store plus our own `msg/*.msg` texts."""

from __future__ import annotations

from functools import lru_cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from occ_perception.installation import share_path

PACKAGE = "occ_perception"


@lru_cache(maxsize=1)
def message_store() -> Typestore:
    """Type store of ROS 2 Kilted with this package's own messages registered."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for path in sorted(share_path("msg").glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store
