"""A light image backbone with a top-down neck: plain residual blocks, few channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.residual_blocks import ResidualBlock2d
from occ_perception.ops.fused_conv import conv_relu


def light_stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks; the identity path of the first is a 1x1 convolution where shapes change."""
    changes = stride != 1 or in_channels != channels
    identity = nn.Conv2d(in_channels, channels, 1, stride=stride) if changes else None
    first = ResidualBlock2d(in_channels, channels, stride, identity)
    return nn.Sequential(first, *(ResidualBlock2d(channels, channels) for _ in range(blocks - 1)))


class ConvNormReLU(nn.Module):
    """3x3 or 1x1 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return conv_relu(self.conv, self.norm, x)


class LightBackbone(nn.Module):
    """Images [M, 3, H, W] -> maps at strides 8, 16 and 32."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        quarter, eighth, sixteenth, last = channels
        self.stem = nn.Sequential(
            ConvNormReLU(3, quarter // 2, stride=2), ConvNormReLU(quarter // 2, quarter, stride=2)
        )
        self.stage4 = light_stage(quarter, quarter, 1, 1)
        self.stage8 = light_stage(quarter, eighth, 2, 2)
        self.stage16 = light_stage(eighth, sixteenth, 2, 2)
        self.stage32 = light_stage(sixteenth, last, 2, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c8 = self.stage8(self.stage4(self.stem(images)))
        c16 = self.stage16(c8)
        return c8, c16, self.stage32(c16)


class TopDownNeck(nn.Module):
    """Maps of falling resolution -> one map at the first's resolution: 1x1 laterals, upsampling sums, a 3x3."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = ConvNormReLU(out_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        merged = self.laterals[-1](maps[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            upsampled = F.interpolate(merged, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            merged = lateral(finer) + upsampled
        return self.output(merged)
