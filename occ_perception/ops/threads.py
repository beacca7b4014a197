"""How many threads PyTorch uses for one operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run operations of this thread on one core; the former number of threads comes back afterwards.

    For work that is thousands of short operations: with several threads each ends by waiting for the slowest, and on
    a machine with other work that wait is many times the work (ray casting on 2 busy cores: 24 times slower).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
