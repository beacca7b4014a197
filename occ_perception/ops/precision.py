"""Keeping geometry in float32 when the convolutions run in a shorter type."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Suspends autocasting on the device of ``like``: coordinates of tens of metres do not fit bfloat16."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
