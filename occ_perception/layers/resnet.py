"""ResNet image backbones (He et al. 2016), stride in the 3x3 convolution, torchvision parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from occ_perception.ops.fused_conv import conv_relu, runs_on_cpu_inference

RESNET_50 = (3, 4, 6, 3)
RESNET_101 = (3, 4, 23, 3)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 (strided), 1x1 expand, plus the identity path."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1, self.bn1, x)
        x = conv_relu(self.conv2, self.bn2, x)
        return conv_relu(self.conv3, self.bn3, x, identity)


class ResNet(nn.Module):
    """Images [N, 3, H, W] -> C2 (stride 4, 256 channels), C3 (8, 512), C4 (16, 1024), C5 (32, 2048).

    Args:
        blocks: bottlenecks per stage, `RESNET_50` or `RESNET_101`.
        width: channels of the stem; the stages have 4, 8, 16 and 32 times as many.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = RESNET_50, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(4 * width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(16 * width, 8 * width, blocks[3], stride=2)
        self._is_pretrained = False

    def freeze_beginning(self) -> None:
        """Keep pretrained weights of the stem and the first stage, and all normalisation statistics, as they are."""
        self._is_pretrained = True
        for module in (self.conv1, self.layer1, *self._norms()):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> ResNet:
        """Training mode; after `freeze_beginning` without new statistics."""
        super().train(mode)
        if self._is_pretrained:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def stereo_features(self, images: Tensor) -> Tensor:
        """C2 alone, [N, 256, H/4, W/4]: the matching features of the stereo cost volume."""
        x = conv_relu(self.conv1, self.bn1, images)
        return self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))

    def forward(self, images: Tensor, keep_c2: bool = True) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """C2 is None unless ``keep_c2``."""
        c2, c3 = self._fine_features(images, keep_c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)

    def _fine_features(self, images: Tensor, keep_c2: bool) -> tuple[Tensor | None, Tensor]:
        """C2 and C3; on a CPU image by image: the large maps of one stay in the cache and reuse one piece of memory."""
        if not runs_on_cpu_inference(images):
            c2 = self.stereo_features(images)
            return c2 if keep_c2 else None, self.layer2(c2)
        c2s, c3s = [], []
        for image in images.split(1):
            c2 = self.stereo_features(image)
            c3s.append(self.layer2(c2))
            if keep_c2:
                c2s.append(c2)
        return torch.cat(c2s) if keep_c2 else None, torch.cat(c3s)


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    out_channels = width * Bottleneck.expansion
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(out_channels, width, 1) for _ in range(blocks - 1)))
