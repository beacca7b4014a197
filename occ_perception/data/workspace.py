"""A folder to build something in before it is moved to its place; those of killed processes are cleared away."""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

_LOCK = ".lock"


class Workspace:
    """A hidden temporary folder beside a destination, so that moving to it is a rename.

    While its process lives the folder is locked; making a workspace for a destination removes the folders that
    processes left behind which were killed while they made the same thing.

    Args:
        destination: what is being made; its parent folders are made.

    Attributes:
        path: the folder.

    Raises:
        OSError: the disk refuses.
    """

    def __init__(self, destination: Path) -> None:
        prefix = f".{destination.name}."
        destination.parent.mkdir(parents=True, exist_ok=True)
        for leftover in destination.parent.glob(f"{prefix}*/{_LOCK}"):
            _remove_if_abandoned(leftover)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
        self._lock = (self.path / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:  # then nobody else can take it either, and the folder is not cleared away
            logger.debug("no file locks on this disk: %s", error)

    def close(self) -> None:
        """Remove it with what is still in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_if_abandoned(lock: Path) -> None:
    """A lock that can be taken belongs to nobody any more."""
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            logger.info("clearing away %s, which an interrupted run left", lock.parent)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:  # somebody is at work in it, or has just removed it
        logger.debug("%s is in use", lock.parent)
