"""Two-convolution residual blocks in 2-D and 3-D, and the stages built from them (specs/alocc.md sections 4, 6, 7)."""

from collections.abc import Sequence

from torch import Tensor, nn

from occ_perception.ops.fused_conv import conv_relu


class ResidualBlock2d(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN + identity, ReLU; ``downsample`` is the identity path when shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    @classmethod
    def first_of_stage(cls, in_channels: int, channels: int, stride: int) -> "ResidualBlock2d":
        """A block whose identity path is a biased 3x3 convolution without normalisation."""
        identity = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
        return cls(in_channels, channels, stride, identity)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1, self.bn1, x)
        return conv_relu(self.conv2, self.bn2, x, identity)


class ConvNorm3d(nn.Module):
    """3-D convolution without bias followed by batch normalisation (keys ``conv``, ``bn``)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ResidualBlock3d(nn.Module):
    """The 3-D twin of ResidualBlock2d; the identity path of a stage's first block is conv3x3x3-BN."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = ConvNorm3d(in_channels, channels, 3, stride)
        self.conv2 = ConvNorm3d(channels, channels, 3)
        self.downsample = downsample

    @classmethod
    def first_of_stage(cls, in_channels: int, channels: int, stride: int) -> "ResidualBlock3d":
        """A block with a convolved identity path."""
        return cls(in_channels, channels, stride, ConvNorm3d(in_channels, channels, 3, stride))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1.conv, self.conv1.bn, x)
        return conv_relu(self.conv2.conv, self.conv2.bn, x, identity)


class ResidualStages(nn.Module):
    """Stages of residual blocks over a BEV map [B, C, Y, X] or a volume [B, C, Y, X, Z]; every stage is an output."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        strides: Sequence[int],
        volumetric: bool,
    ) -> None:
        super().__init__()
        block: type[ResidualBlock2d] | type[ResidualBlock3d] = ResidualBlock3d if volumetric else ResidualBlock2d
        self.layers = nn.ModuleList()
        for width, count, stride in zip(channels, blocks, strides, strict=True):
            first = block.first_of_stage(in_channels, width, stride)
            self.layers.append(nn.Sequential(first, *(block(width, width) for _ in range(count - 1))))
            in_channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.layers:
            x = stage(x)
            outputs.append(x)
        return outputs
