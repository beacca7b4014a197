"""Necks that merge the encoder's scales at full grid resolution, and the height expansion of BEV variants.

Source: specs/alocc.md section 7.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.prototype_head import PrototypeHead
from occ_perception.layers.residual_blocks import ConvNorm3d
from occ_perception.ops.upsampled_conv import conv3x3_of_upsampled

# Maps at least this many times smaller than the grid are convolved before they are upsampled.
_COARSE = 4


class BevNeck(nn.Module):
    """Stages [B, C_k, Y / 2^k, X / 2^k] -> [B, out, Y, X]: upsample, concatenate, two 3x3 convolutions."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(sum(in_channels), out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        # A convolution of concatenated maps is the sum of their convolutions; coarse maps are not upsampled first.
        first = cast("nn.Conv2d", self.conv[0])
        size = (stages[0].shape[-2], stages[0].shape[-1])
        fine = [x for x in stages if x.shape[-2] * _COARSE > size[0]]
        maps = [fine[0], *(F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in fine[1:])]
        weights = first.weight.split([x.shape[1] for x in stages], dim=1)
        merged = F.conv2d(torch.cat(maps, dim=1), torch.cat(weights[: len(fine)], dim=1), first.bias, padding=1)
        for x, weight in zip(stages[len(fine) :], weights[len(fine) :], strict=True):
            merged.add_(conv3x3_of_upsampled(x, weight, size))
        return self.conv[1:](merged)


class VolumeNeck(nn.Module):
    """Stages [B, C_k, Y / 2^k, X / 2^k, Z / 2^k] -> [B, out, Y, X, Z]: upsample, concatenate, 1x1x1 convolution."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm3d(sum(in_channels), out_channels, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        # A 1x1x1 convolution commutes with upsampling: mix channels at each stage's own resolution, then add.
        convolution = self.conv.conv
        weights = convolution.weight.split([x.shape[1] for x in stages], dim=1)
        merged = F.conv3d(stages[0], weights[0], convolution.bias)
        for x, weight in zip(stages[1:], weights[1:], strict=True):
            mixed = F.conv3d(x, weight)
            merged.add_(F.interpolate(mixed, size=merged.shape[-3:], mode="trilinear", align_corners=True))
        return F.relu(self.conv.bn(merged), inplace=True)


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


@torch.no_grad()
def scores_from_columns(expansion: HeightExpansion, head: PrototypeHead) -> HeightExpansion:
    """One convolution that does the height expansion and the prototype products, for inference.

    Both are linear, so the prototypes move into the weights: F * Z output channels become queries * Z, and the voxel
    features, which only the flow head needs, are never made.
    """
    prototypes = head.prototypes()
    fused = HeightExpansion(expansion.in_channels, len(prototypes), expansion.heights)
    weight = expansion.weight.unflatten(0, (-1, expansion.heights))
    fused.weight.copy_(torch.einsum("qf,fzcij->qzcij", prototypes, weight).flatten(0, 1))
    bias = prototypes @ cast("Tensor", expansion.bias).view(-1, expansion.heights)
    fused.bias = nn.Parameter(bias.flatten())
    return fused.to(expansion.weight.device).requires_grad_(False).eval()
