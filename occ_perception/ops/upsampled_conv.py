"""A 3x3 convolution of a bilinearly upsampled map, without making the upsampled map.

Upsampling is separable, out = U_y x U_x^T, and mixes no channels, so it commutes with the channel mixing of each of the
nine taps.  Mixing channels at low resolution and then applying the nine shifted, zero-padded interpolation matrices is
exact and, for a map upsampled 4 or 8 times, 6 to 25 times fewer operations (256 -> 256 channels at 200x200).
Reference: ``conv2d(interpolate(x, size, mode="bilinear", align_corners=True), weight, padding=1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def conv3x3_of_upsampled(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """x [B, C, h, w], weight [O, C, 3, 3] -> [B, O, *size], channels-last memory, zero padding outside ``size``."""
    batch, _, height, width = x.shape
    out_channels = weight.shape[0]
    taps = weight.permute(1, 2, 3, 0).flatten(1)
    mixed = (x.movedim(1, -1).reshape(-1, x.shape[1]) @ taps).view(batch, height, width, 3, 3 * out_channels)
    by_row = mixed.permute(0, 3, 1, 2, 4).reshape(batch, 3 * height, -1)
    rows = _shifted_interpolation(height, size[0], x.device, mixed.dtype).flatten(1) @ by_row
    rows = rows.view(batch * size[0], width * 3, out_channels)
    columns = _shifted_interpolation(width, size[1], x.device, mixed.dtype).transpose(1, 2).flatten(1)
    return (columns @ rows).view(batch, *size, out_channels).movedim(-1, 1)


def _shifted_interpolation(length: int, out_length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """matrix[i, tap, j]: weight of input j in upsampled position i + tap - 1, zero outside; [out_length, 3, length]."""
    position = torch.arange(out_length, dtype=torch.float64) * ((length - 1) / max(out_length - 1, 1))
    lower = position.floor().clamp(max=max(length - 2, 0)).long()
    upsample = torch.zeros(out_length + 2, length, dtype=torch.float64)
    row = torch.arange(1, out_length + 1)
    upsample[row, lower] = 1 - (position - lower)
    upsample[row, (lower + 1).clamp(max=length - 1)] += position - lower
    return torch.stack([upsample[tap : tap + out_length] for tap in range(3)], dim=1).to(device, dtype)
