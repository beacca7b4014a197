"""Occupancy flow: BEV correlation with the previous frame, then velocity bins per voxel (specs/alocc.md section 8b)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.prototype_head import PrototypeHead
from occ_perception.layers.stage_monitor import StageObserver
from occ_perception.ops.correlation import local_cosine_similarity, window_values
from occ_perception.ops.grid_warp import warp
from occ_perception.ops.interpolation import Taps

FLOW_BINS = 88
FLOW_BIN_WIDTH = 0.5
FLOW_MINIMUM = -22.0
_WINDOW, _DILATION = 11, 2
_TEMPERATURE = 0.1
_OUTSIDE_PENALTY = 5.0
_ROWS_PER_CHUNK = 8
# Height cells whose mean describes moving things in the bird's-eye view.
_HEIGHTS = slice(3, 9)


def flow_bin_centres(device: torch.device | None = None) -> Tensor:
    """Velocity of each bin in m/s, [88] from -22 to 21.5 (the left edges of 0.5 m/s bins)."""
    return FLOW_MINIMUM + FLOW_BIN_WIDTH * torch.arange(FLOW_BINS, dtype=torch.float32, device=device)


def bev_summary(features: Tensor) -> Tensor:
    """Mean over the height cells 3..8: [B, F, Y, X, Z] -> channels-last [B, Y, X, F]; the state of the flow head."""
    return features[..., _HEIGHTS].mean(dim=-1).movedim(1, -1)


def correlation_scores(current: Tensor, previous: Tensor, taps: Taps) -> Tensor:
    """Dissimilarity of each BEV cell with its 11x11 dilated window in the warped previous map.

    Args:
        current, previous: ``bev_summary`` maps [B, Y, X, F]; ``previous`` still in its own frame.
        taps: planar taps of the ego motion.

    Returns:
        [B, 121, Y / 2, X / 2]: -cosine / 0.1, plus 5 where the window leaves the known map.
    """
    size = (current.shape[1] // 2, current.shape[2] // 2)
    maps = [current.movedim(-1, 1), warp(previous, taps).movedim(-1, 1)]
    here, there = (F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps)
    scores = local_cosine_similarity(here, there, _WINDOW, _DILATION) / -_TEMPERATURE
    # QUIRK: published as "the channels sum to exactly 0".  Testing for all channels 0 differs only where a known cell
    # cancels to the last bit, an accident of rounding that no other order of summation reproduces.
    unknown = window_values(~there.any(dim=1), _WINDOW, _DILATION, fill=True)
    return scores + _OUTSIDE_PENALTY * unknown


class FlowHead(PrototypeHead):
    """The prototype head of the Flow variants with the flow branch beside it (published names, misspellings kept)."""

    def __init__(self, queries: int, voxel_channels: int, context_channels: int) -> None:
        super().__init__(queries, voxel_channels, context_channels)
        cost_channels = voxel_channels // 2
        self.cost_volum_net = nn.Sequential(
            nn.Conv2d(_WINDOW**2, cost_channels, 3, padding=1), nn.BatchNorm2d(cost_channels)
        )
        self.flow_post_conv = nn.Sequential(
            nn.Conv3d(cost_channels + voxel_channels, voxel_channels, 3, padding=1), nn.ReLU()
        )
        self.flow_predicter = nn.Sequential(
            nn.Conv3d(voxel_channels, 2 * voxel_channels, 1),
            nn.ReLU(),
            nn.Conv3d(2 * voxel_channels, 2 * FLOW_BINS, 1),
        )

    def flow_features(self, features: Tensor, cost_volume: Tensor) -> Tensor:
        """Voxel features [B, F, Y, X, Z] and correlation softmax [B, 121, Y/2, X/2] -> [B, F, Y, X, Z]."""
        cost = self.cost_volum_net(cost_volume)
        cost = F.interpolate(cost, size=features.shape[2:4], mode="bilinear", align_corners=True)
        return F.relu(self._convolve_columns(cost, features), inplace=True)

    def _convolve_columns(self, cost: Tensor, features: Tensor) -> Tensor:
        """``flow_post_conv`` of [cost repeated over the height, features], before its ReLU.

        What is constant along the height needs a 2-D convolution per height tap only: inside the grid the three add
        up, at the bottom and the top one of them falls outside.
        """
        convolution = cast("nn.Conv3d", self.flow_post_conv[0])
        cost_weight, feature_weight = convolution.weight.split([cost.shape[1], features.shape[1]], dim=1)
        taps = F.conv2d(cost, cost_weight.movedim(-1, 0).flatten(0, 1), padding=1).chunk(3, dim=1)
        inside = taps[0] + taps[1] + taps[2]
        heights = features.shape[-1]
        columns = [inside - taps[0], *[inside] * (heights - 2), inside - taps[2]]
        return F.conv3d(features, feature_weight, convolution.bias, padding=1).add_(torch.stack(columns, dim=-1))

    def flow(self, features: Tensor, cost_volume: Tensor, observe: StageObserver) -> tuple[Tensor, Tensor | None]:
        """Velocity [B, Y, X, Z, 2] = (v_y, v_x) m/s and, in training mode, its bin logits [B, 176, Y, X, Z].

        Logit channel bin * 2 + axis, axis 0 = v_y.  In evaluation the logits exist for a few rows at a time only.
        """
        features = self.flow_features(features, cost_volume)
        observe("flow.post", features)
        if self.training:
            logits = self.flow_predicter(features)
            return expected_flow(logits), logits
        rows = features.movedim(1, -1).split(_ROWS_PER_CHUNK, dim=1)
        return torch.cat([self._flow_of_rows(part) for part in rows], dim=1), None

    def _flow_of_rows(self, features: Tensor) -> Tensor:
        """Channels-last features [..., F] -> expected velocity [..., 2]; the bins lie last for the softmax."""
        first, last = cast("nn.Conv3d", self.flow_predicter[0]), cast("nn.Conv3d", self.flow_predicter[2])
        weight = last.weight.flatten(1).unflatten(0, (FLOW_BINS, 2)).transpose(0, 1).flatten(0, 1)
        bias = cast("Tensor", last.bias).view(FLOW_BINS, 2).T.flatten()
        hidden = F.relu(F.linear(features, first.weight.flatten(1), first.bias), inplace=True)
        logits = F.linear(hidden, weight, bias).unflatten(-1, (2, FLOW_BINS))
        return torch.softmax(logits.float(), dim=-1) @ flow_bin_centres(logits.device)


def expected_flow(logits: Tensor) -> Tensor:
    """Bin logits [B, 176, ...] -> expected velocity [B, ..., 2] = (v_y, v_x) in m/s."""
    bins = torch.softmax(logits.unflatten(1, (FLOW_BINS, 2)).float(), dim=1)
    return torch.tensordot(bins, flow_bin_centres(logits.device), dims=([1], [0])).movedim(1, -1)
