"""Camera-aware context, depth and transfer heads in one small network (ALOcc's depth net, scaled down)."""

from __future__ import annotations

from torch import Tensor, nn

from occ_perception.layers.depth_net import CAMERA_VECTOR_LENGTH, CameraMLP, DepthNetOutput, SqueezeExcite
from occ_perception.layers.light_backbone import ConvNormReLU


class LightDepthNet(nn.Module):
    """Features [M, C, h, w] and camera vectors [M, 27] -> context, depth logits and transfer logits."""

    def __init__(self, channels: int, context_channels: int, depth_bins: int, intra_object_bins: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(CAMERA_VECTOR_LENGTH)
        self.camera_code = CameraMLP(channels)
        self.gate = SqueezeExcite(channels)
        self.trunk = ConvNormReLU(channels, channels)
        self.context = nn.Conv2d(channels, context_channels, 1)
        self.depth = nn.Sequential(ConvNormReLU(channels, channels), nn.Conv2d(channels, depth_bins, 1))
        self.transfer = nn.Conv2d(channels, intra_object_bins, 1)
        # A surface is thin until the network has learned otherwise.
        nn.init.constant_(self.transfer.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor, vector: Tensor) -> DepthNetOutput:
        x = self.trunk(features)
        gated = self.gate(x, self.camera_code(self.norm(vector)))
        return DepthNetOutput(self.context(gated), self.depth(gated), self.transfer(gated), None, None)
