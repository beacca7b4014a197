"""Remove the shared memory that killed processes left behind.

Fast DDS takes a segment of /dev/shm per process (64 MB with our profile) and gives it back in an orderly shutdown only;
after SIGKILL or a crash it stays for good, and a machine that restarts a failing node fills its memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_MINIMUM_AGE_S = 10.0  # a process that is just starting may not have locked its segment yet
# A segment fastdds_<id> or port fastdds_port<number>, with its lock files (_el, _sl) and its mutex (sem.<name>_mutex).
_NAME = re.compile(r"(?:sem\.)?(fastdds_(?:port\d+|[0-9a-f]{16}))(?:_el|_sl|_mutex)?")
_LOCKS = ("_el", "_sl")

_log = logging.getLogger(__name__)


def remove_stale_segments(folder: Path = SHARED_MEMORY) -> list[str]:
    """Delete this user's Fast DDS shared memory that no living process owns or maps.

    A segment goes only if nobody holds its lock file (which also tells of processes in other containers that share the
    folder), no visible process maps a file of it, and it is older than a few seconds.

    Returns:
        Names of the segments and ports that were removed.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            groups[match[1]].append(path)
    if not groups:
        return []
    mapped = _mapped_inodes(folder)
    removed = [name for name, paths in groups.items() if _remove_if_stale(paths, mapped)]
    if removed:
        _log.info("removed shared memory left by dead processes: %s", ", ".join(sorted(removed)))
    return sorted(removed)


def _remove_if_stale(paths: list[Path], mapped: set[int]) -> bool:
    locks = [path for path in paths if path.name.endswith(_LOCKS)]
    with ExitStack() as held:  # the locks are kept while deleting, so that nobody takes the segment meanwhile
        try:
            if not all(_is_ours_and_idle(path, mapped) for path in paths):
                return False
            for lock in locks:
                file = held.enter_context(lock.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in sorted(paths, key=lambda p: p in locks):  # locks last
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError, PermissionError):
            return False  # owned by a living process, already gone, or another user's
    return True


def _is_ours_and_idle(path: Path, mapped: set[int]) -> bool:
    status = path.stat()
    old = time.time() - max(status.st_mtime, status.st_ctime) > _MINIMUM_AGE_S
    return old and status.st_uid == os.getuid() and status.st_ino not in mapped


def _mapped_inodes(folder: Path) -> set[int]:
    """Inodes of the folder's files that visible processes map."""
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:  # it ended meanwhile, or is another user's, whose segments are not ours to delete either
            continue
        for line in lines:
            fields = line.split(maxsplit=5)  # address, permissions, offset, device, inode, path
            if fields[-1].startswith(f"{folder}/"):
                mapped.add(int(fields[4]))
    return mapped
