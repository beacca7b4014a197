"""Keeping geometry in float32 when the convolutions run in a shorter type."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor, instead_of: torch.dtype | None = None) -> AbstractContextManager[Any]:
    """Suspends autocasting on the device of ``like``: coordinates of tens of metres do not fit bfloat16.

    With ``instead_of`` only autocasting to that type is suspended.
    """
    device = like.device.type
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    suspend = instead_of is None or torch.get_autocast_dtype(device) == instead_of
    return torch.autocast(device, enabled=False) if suspend else nullcontext()
