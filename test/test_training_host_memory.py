"""Memory that nobody uses goes back to the system."""

import platform

import pytest

from occ_perception.training.host_memory import release_free_memory, resident_memory

MEGABYTE = 1 << 20


def test_gaps_between_living_objects_are_given_back():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc can be asked to")
    blocks = [b"x" * 64_000 for _ in range(2000)]  # below what the allocator asks the system for one by one
    held = resident_memory()
    last = blocks.pop()  # it lies above the gap, so that the heap cannot shrink from its end
    blocks.clear()
    release_free_memory()
    assert held - resident_memory() > 90 * MEGABYTE
    assert last == b"x" * 64_000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("asked a library that is not there"))
    release_free_memory()
