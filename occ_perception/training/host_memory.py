"""Main memory of a long run: what is free goes back to the system now and then."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from resource import getpagesize


def release_free_memory() -> None:
    """Give back what glibc's allocator keeps of tensors that are gone; elsewhere nothing happens.

    Batches differ in how many cells and points take part, so freed tensors leave gaps of all sizes between those that
    live on, and a process grows for thousands of steps though it holds no more than at the first.  It costs some
    milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def resident_memory() -> int:
    """Bytes of this process in memory; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
    except OSError:
        return 0
