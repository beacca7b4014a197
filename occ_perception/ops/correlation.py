"""Local correlation of two bird's-eye-view maps by cosine similarity (specs/alocc.md section 8b)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def local_cosine_similarity(current: Tensor, previous: Tensor, window: int, dilation: int) -> Tensor:
    """Cosine similarity of each cell with a dilated window of cells of ``previous``; outside counts as 0.

    Args:
        current, previous: maps [B, C, Y, X].
        window: cells per side of the window (odd).
        dilation: step between window cells.

    Returns:
        [B, window * window, Y, X], window index row * window + column.
    """
    batch, _, height, width = current.shape
    padding = window // 2 * dilation
    here = F.normalize(current, dim=1, eps=1e-12).permute(0, 2, 3, 1)
    there = F.pad(F.normalize(previous, dim=1, eps=1e-12), (padding,) * 4).permute(0, 2, 1, 3)
    here, there = here.contiguous(), there.contiguous()
    rows = []
    for shift in range(0, window * dilation, dilation):
        # One batched product gives all column pairs of a row; the window is its band.
        pairs = here @ there[:, shift : shift + height]
        rows.append(_band(pairs, window, dilation))
    return torch.stack(rows, dim=1).view(batch, window * window, height, width)


def _band(pairs: Tensor, window: int, dilation: int) -> Tensor:
    """pairs [B, Y, X, X + padding] -> band[b, k, y, x] = pairs[b, y, x, x + k * dilation]."""
    width = pairs.shape[2]
    x = torch.arange(width, device=pairs.device)[:, None]
    columns = x + torch.arange(window, device=pairs.device) * dilation
    band = pairs.gather(3, columns.expand(*pairs.shape[:2], -1, -1))
    return band.permute(0, 3, 1, 2)


def window_values(values: Tensor, window: int, dilation: int, fill: bool) -> Tensor:
    """A boolean map [B, Y, X] seen through the same window: [B, window * window, Y, X]; ``fill`` outside."""
    padding = window // 2 * dilation
    padded = F.pad(values, (padding,) * 4, value=fill)
    windows = padded.unfold(1, values.shape[1], dilation).unfold(2, values.shape[2], dilation)
    return windows.reshape(values.shape[0], window * window, *values.shape[1:])
