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
    padding, uneven = window // 2 * dilation, -width % dilation
    here = F.pad(F.normalize(current, dim=1, eps=1e-12), (0, uneven, 0, 0)).permute(0, 2, 3, 1)
    there = F.pad(F.normalize(previous, dim=1, eps=1e-12), (padding, padding + uneven, padding, padding))
    there = there.permute(0, 2, 1, 3)
    phases = []
    for phase in range(dilation):  # a column meets only those of its own phase
        columns, partners = here[:, :, phase::dilation].contiguous(), there[..., phase::dilation].contiguous()
        similarity = columns.new_empty(*columns.shape[:3], window, window)
        for row in range(window):
            # One batched product gives all column pairs of a row; the window is its band.
            pairs = columns @ partners[:, row * dilation : row * dilation + height]
            similarity[..., row, :] = _band(pairs, window)
        phases.append(similarity)
    # In the memory order of a channels-last map, which is what convolutions want.
    channels = torch.stack(phases, dim=3).view(batch, height, width + uneven, window * window)
    return channels[:, :, :width].permute(0, 3, 1, 2)


def _band(pairs: Tensor, window: int) -> Tensor:
    """pairs [B, Y, X, X + window - 1] -> band[b, y, x, k] = pairs[b, y, x, x + k], a view."""
    batch, row, column, _ = pairs.stride()
    return pairs.as_strided((*pairs.shape[:3], window), (batch, row, column + 1, 1))


def window_values(values: Tensor, window: int, dilation: int, fill: bool) -> Tensor:
    """A boolean map [B, Y, X] seen through the same window: [B, window * window, Y, X]; ``fill`` outside."""
    padding = window // 2 * dilation
    padded = F.pad(values, (padding,) * 4, value=fill)
    windows = padded.unfold(1, values.shape[1], dilation).unfold(2, values.shape[2], dilation)
    return windows.reshape(values.shape[0], window * window, *values.shape[1:])
