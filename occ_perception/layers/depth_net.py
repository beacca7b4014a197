"""Camera-aware depth net: context features, depth distribution and surface-to-occupancy transfer weights.

Source: ALOcc section "adaptive lifting"; specs/alocc.md sections 3 and 4.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.aspp import ASPP
from occ_perception.layers.residual_blocks import ResidualBlock2d

CAMERA_VECTOR_LENGTH = 27


def camera_vector(
    intrins: Tensor, post_rots: Tensor, post_trans: Tensor, bda: Tensor, rots: Tensor, trans: Tensor
) -> Tensor:
    """The 27 numbers per camera of section 3, [B, N, 27]; matrices are [B, N, 3, 3], bda [B, 3, 3]."""
    flips = bda[:, None].expand(-1, intrins.shape[1], -1, -1)
    numbers = [
        *(intrins[..., 0, 0], intrins[..., 1, 1], intrins[..., 0, 2], intrins[..., 1, 2]),
        *(post_rots[..., 0, 0], post_rots[..., 0, 1], post_trans[..., 0]),
        *(post_rots[..., 1, 0], post_rots[..., 1, 1], post_trans[..., 1]),
        *(flips[..., 0, 0], flips[..., 0, 1], flips[..., 1, 0], flips[..., 1, 1], flips[..., 2, 2]),
    ]
    pose = torch.cat([rots, trans.unsqueeze(-1)], dim=-1).flatten(-2)
    return torch.cat([torch.stack(numbers, dim=-1), pose], dim=-1)


class CameraMLP(nn.Module):
    """Normalised camera vector [M, 27] -> per-channel code [M, C, 1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(CAMERA_VECTOR_LENGTH, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, vector: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(vector)))[..., None, None]


class SqueezeExcite(nn.Module):
    """Scale the channels of x [M, C, h, w] by a gate computed from the camera code [M, C, 1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, channels, 1)
        self.conv_expand = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv_expand(F.relu(self.conv_reduce(code))))


class DepthNetOutput(NamedTuple):
    """Per-camera maps at stride 16; M = batch x cameras."""

    context: Tensor  # [M, C, h, w]
    depth_logits: Tensor  # [M, D, h, w]
    occupancy_logits: Tensor  # [M, 22, h, w], before the sigmoid
    inter_weight: Tensor | None  # [M, 3, 3, 3, h, w] after the sigmoid; (row, column, depth neighbour)
    inter_offset: Tensor | None  # [M, 3, 3, 2, h, w] image pixels (u, v), within +-8


class DepthNet(nn.Module):
    """Camera-aware heads over the neck features."""

    def __init__(
        self,
        context_channels: int,
        depth_bins: int,
        intra_object_bins: int,
        stereo: bool,
        inter_object: bool,
        channels: int = 256,
    ) -> None:
        super().__init__()
        self.reduce_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.bn = nn.BatchNorm1d(CAMERA_VECTOR_LENGTH)
        self.depth_mlp = CameraMLP(channels)
        self.depth_se = SqueezeExcite(channels)
        self.context_mlp = CameraMLP(channels)
        self.context_se = SqueezeExcite(channels)
        self.context_conv = nn.Conv2d(channels, context_channels, 1)
        self.depth2occ_inter_weight_net = nn.Conv2d(channels, 27, 1) if inter_object else None
        self.depth2occ_inter_bias_net = nn.Conv2d(channels, 18, 1) if inter_object else None
        self.cost_volumn_net = _cost_volume_net(depth_bins) if stereo else None
        in_channels = channels + depth_bins if stereo else channels
        # QUIRK (4): one identity convolution serves both branches; its two published keys are one tensor.
        shared = nn.Conv2d(in_channels, channels, 1) if stereo else None
        self.depth_conv = nn.Sequential(
            ResidualBlock2d(in_channels, channels, downsample=shared),
            ResidualBlock2d(channels, channels),
            ResidualBlock2d(channels, channels),
            ASPP(channels, 96),
            nn.Conv2d(channels, depth_bins, 1),
        )
        self.occ_conv = nn.Sequential(
            ResidualBlock2d(in_channels, channels, downsample=shared),
            ResidualBlock2d(channels, channels),
            ResidualBlock2d(channels, channels),
            nn.Conv2d(channels, intra_object_bins, 1),
        )
        self._initialise_inter_object()

    def _initialise_inter_object(self) -> None:
        if self.depth2occ_inter_weight_net is None or self.depth2occ_inter_bias_net is None:
            return
        steps = torch.tensor([-1.0, 0.0, 1.0])
        pattern = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten()
        for net in (self.depth2occ_inter_weight_net, self.depth2occ_inter_bias_net):
            nn.init.kaiming_normal_(net.weight)
        self.depth2occ_inter_weight_net.bias = nn.Parameter(torch.zeros(27))
        self.depth2occ_inter_bias_net.bias = nn.Parameter(pattern)

    def forward(self, features: Tensor, vector: Tensor, cost_volume: Tensor | None) -> DepthNetOutput:
        """Neck features [M, 256, h, w], camera vector [M, 27], cost volume [M, D, 4h, 4w] (stereo variants)."""
        x = self.reduce_conv(features)
        code = self.bn(vector)
        context = self.context_conv(self.context_se(x, self.context_mlp(code)))
        x = self.depth_se(x, self.depth_mlp(code))
        weight, offset = self._inter_object(x)
        if self.cost_volumn_net is not None:
            x = torch.cat([x, self.cost_volumn_net(cost_volume)], dim=1)
        return DepthNetOutput(context, self.depth_conv(x), self.occ_conv(x), weight, offset)

    def _inter_object(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.depth2occ_inter_weight_net is None or self.depth2occ_inter_bias_net is None:
            return None, None
        size = x.shape[-2:]
        weight = torch.sigmoid(self.depth2occ_inter_weight_net(x)).view(-1, 3, 3, 3, *size)
        offset = (self.depth2occ_inter_bias_net(x) * 4).clamp(-8, 8).view(-1, 3, 3, 2, *size)
        return weight, offset


def _cost_volume_net(depth_bins: int) -> nn.Sequential:
    # QUIRK (4.1): two strided convolutions with normalisation and no activation between or after them.
    return nn.Sequential(
        nn.Conv2d(depth_bins, depth_bins, 3, stride=2, padding=1),
        nn.BatchNorm2d(depth_bins),
        nn.Conv2d(depth_bins, depth_bins, 3, stride=2, padding=1),
        nn.BatchNorm2d(depth_bins),
    )
