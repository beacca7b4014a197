"""Feature pyramid (Lin et al. 2017): lateral 1x1 convolutions, top-down addition, 3x3 output convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class _PlainConv(nn.Module):
    """A biased convolution under the key ``conv``, as the published files name it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    """Maps [N, C_i, h / 2^i, w / 2^i], finest first -> as many maps [N, out_channels, h / 2^i, w / 2^i].

    Args:
        in_channels: of the maps.
        out_channels: of every output.
        outputs: how many outputs, the finest ones; None: all.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, outputs: int | None = None) -> None:
        super().__init__()
        count = len(in_channels) if outputs is None else outputs
        self.lateral_convs = nn.ModuleList(_PlainConv(channels, out_channels, 1) for channels in in_channels)
        self.fpn_convs = nn.ModuleList(_PlainConv(out_channels, out_channels, 3) for _ in range(count))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            top_down = F.interpolate(merged[fine + 1], size=merged[fine].shape[-2:], mode="nearest")
            merged[fine] = merged[fine] + top_down
        return [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=False)]
