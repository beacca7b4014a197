"""Image neck: two lateral 1x1 convolutions, top-down addition, a 3x3 output convolution (specs/alocc.md section 2)."""

from torch import Tensor, nn
from torch.nn import functional as F


class _PlainConv(nn.Module):
    """A biased convolution under the key ``conv``, as the published files name it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ImageNeck(nn.Module):
    """C4 [N, 1024, h, w] and C5 [N, 2048, h/2, w/2] -> one map [N, out_channels, h, w]."""

    def __init__(self, in_channels: tuple[int, int] = (1024, 2048), out_channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_PlainConv(channels, out_channels, 1) for channels in in_channels)
        self.fpn_convs = nn.ModuleList([_PlainConv(out_channels, out_channels, 3)])

    def forward(self, c4: Tensor, c5: Tensor) -> Tensor:
        fine, coarse = self.lateral_convs[0](c4), self.lateral_convs[1](c5)
        top_down = F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        return self.fpn_convs[0](fine + top_down)
