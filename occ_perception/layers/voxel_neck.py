"""Necks that merge the encoder's scales at full grid resolution, and the height expansion of BEV variants.

Source: specs/alocc.md section 7.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.residual_blocks import ConvNorm3d


class BevNeck(nn.Module):
    """Stages [B, C_k, Y / 2^k, X / 2^k] -> [B, out, Y, X]: upsample, concatenate, two 3x3 convolutions."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(sum(in_channels), out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        size = stages[0].shape[-2:]
        full = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in stages[1:]]
        return self.conv(torch.cat([stages[0], *full], dim=1))


class VolumeNeck(nn.Module):
    """Stages [B, C_k, Y / 2^k, X / 2^k, Z / 2^k] -> [B, out, Y, X, Z]: upsample, concatenate, 1x1x1 convolution."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm3d(sum(in_channels), out_channels, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        size = stages[0].shape[-3:]
        full = [F.interpolate(x, size=size, mode="trilinear", align_corners=True) for x in stages[1:]]
        return F.relu(self.conv(torch.cat([stages[0], *full], dim=1)))


class HeightExpansion(nn.Conv2d):
    """3x3 convolution [B, C, Y, X] -> [B, F * Z, Y, X] whose channels are a height column, read as [B, F, Y, X, Z].

    The published channel order is f * Z + z.  Convolving with the rows reordered to z * F + f yields the volume
    in channels-last memory at once, without a transposition of the result.
    """

    def __init__(self, in_channels: int, voxel_channels: int, heights: int) -> None:
        super().__init__(in_channels, voxel_channels * heights, 3, padding=1)
        self.heights = heights

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (-1, self.heights)).transpose(0, 1).flatten(0, 1)
        bias = self.bias.view(-1, self.heights).T.flatten() if self.bias is not None else None
        columns = self._conv_forward(x, weight, bias)
        return columns.unflatten(1, (self.heights, -1)).permute(0, 2, 3, 4, 1)
