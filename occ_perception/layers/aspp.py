"""Atrous spatial pyramid pooling (Chen et al., DeepLab v3), with the parameter names of the published ALOcc files."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _AtrousBranch(nn.Module):
    def __init__(self, in_channels: int, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        padding = 0 if kernel_size == 1 else dilation
        self.atrous_conv = nn.Conv2d(in_channels, channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class ASPP(nn.Module):
    """[N, C, h, w] -> [N, C, h, w]: 1x1, three dilated 3x3 (6, 12, 18) and a global branch, merged by a 1x1."""

    def __init__(self, channels: int, branch_channels: int) -> None:
        super().__init__()
        self.aspp1 = _AtrousBranch(channels, branch_channels, 1, 1)
        self.aspp2 = _AtrousBranch(channels, branch_channels, 3, 6)
        self.aspp3 = _AtrousBranch(channels, branch_channels, 3, 12)
        self.aspp4 = _AtrousBranch(channels, branch_channels, 3, 18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, branch_channels, 1, bias=False),
            nn.BatchNorm2d(branch_channels),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(5 * branch_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        # A one-pixel map upsampled bilinearly is constant.
        everywhere = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), everywhere]
        return self.dropout(F.relu(self.bn1(self.conv1(torch.cat(branches, dim=1)))))
