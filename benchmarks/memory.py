"""How much memory a call needs beyond what the process has already."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_extra_mb(run: Callable[[], object]) -> float | None:
    """Highest resident memory during one call minus that before it, MB (10^6 bytes); None where Linux is not.

    The kernel's own high-water mark, so nothing between two samples is missed.
    """
    if not _STATUS.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept from earlier calls would not count again
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to the present value
    before = _kilobytes("VmRSS")
    run()
    return round((_kilobytes("VmHWM") - before) * 1.024e-3, 1)


def _kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.M)
    if found is None:
        raise RuntimeError(f"{_STATUS} has no {field}")
    return int(found[1])
