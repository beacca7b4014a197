"""Keeping geometry in float32 when the convolutions run in a shorter type."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]
"""Arithmetic of the convolutions and matrix products of a network."""


def arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """A context in which networks on ``device`` compute in ``precision``; geometry stays float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def full_precision(like: Tensor, instead_of: torch.dtype | None = None) -> AbstractContextManager[Any]:
    """Suspends autocasting on the device of ``like``: coordinates of tens of metres do not fit bfloat16.

    With ``instead_of`` only autocasting to that type is suspended.
    """
    device = like.device.type
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    suspend = instead_of is None or torch.get_autocast_dtype(device) == instead_of
    return torch.autocast(device, enabled=False) if suspend else nullcontext()
