"""Surface depth to occupied depth: transfer within an object along the ray, and between neighbouring pixels.

Source: ALOcc, intra-object and inter-object transfer; specs/alocc.md sections 5.2 and 5.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

OUTSIDE = 10000.0
_NEIGHBOURS = 3
_CENTRE = 4  # index of (row 1, column 1) in the flattened 3x3 neighbourhood


def intra_object_transfer(depth: Tensor, weights: Tensor) -> Tensor:
    """Spread surface probability to the bins behind it.

    geometry[c] = depth[c] + sum_k weights[k - 1] * depth[c - k]; not renormalised, so it may exceed 1.

    Args:
        depth: surface probability [..., D, h, w].
        weights: per pixel, probability that the k-th bin behind a surface is occupied [..., K, h, w].
    """
    bins = depth.shape[-3]
    geometry = depth.clone()
    for k in range(1, min(weights.shape[-3], bins - 1) + 1):
        geometry[..., k:, :, :] += weights[..., k - 1 : k, :, :] * depth[..., : bins - k, :, :]
    return geometry


def mix_known_depth(depth: Tensor, known_bin: Tensor, share: float) -> Tensor:
    """Blend a LiDAR depth into the predicted distribution: share * one-hot + (1 - share) * depth on pixels with a hit.

    Args:
        depth: [B, N, D, h, w].
        known_bin: integer depth bin [B, N, h, w], -1 where there is no hit.
        share: weight of the LiDAR depth, 1 replaces the prediction (sections 5.1 and 5.5).
    """
    bins = torch.arange(depth.shape[2], device=depth.device).view(-1, 1, 1)
    known = known_bin.unsqueeze(2)
    mixed = share * (known == bins) + (1 - share) * depth
    return torch.where(known >= 0, mixed, depth)


class ExtraPoints(NamedTuple):
    """Additional frustum points per pixel, made from its neighbourhood; both indexed [M, 27, h, w]."""

    points: Tensor  # (u, v, d) [M, 27, h, w, 3]; discarded points lie at OUTSIDE
    scores: Tensor  # [M, 27, h, w]


def inter_object_transfer(
    geometry: Tensor, weight: Tensor, offset: Tensor, frustum: Tensor, depth_index_bins: int
) -> ExtraPoints:
    """27 points around each pixel: 3x3 offset pixels at three depths.

    Args:
        geometry: occupied probability per bin [M, D, h, w].
        weight: [M, 3, 3, 3, h, w], (row, column, depth neighbour).
        offset: [M, 3, 3, 2, h, w] pixels (u, v), shared by the depth neighbours.
        frustum: (u, v, d) [D, h, w, 3].
        depth_index_bins: QUIRK: the depth index is clamped to this many first bins, the number of cameras in the
            published training, not the number of depth bins.
    """
    steps = torch.arange(-1, 2, device=geometry.device).view(1, -1, 1, 1)
    index = geometry.argmax(dim=1, keepdim=True) + steps
    kept = index >= 0
    index = index.clamp(0, depth_index_bins - 1)
    score = geometry.gather(1, index)[:, None] * weight.flatten(1, 2)
    depth = frustum[:, 0, 0, 2][index][:, None].expand_as(score)
    pixels = frustum[0, ..., :2].movedim(-1, 0)[None, None] + offset.flatten(1, 2)
    pixels = pixels[:, :, None].expand(-1, -1, _NEIGHBOURS, -1, -1, -1).movedim(3, -1)
    points = torch.cat([pixels, depth.unsqueeze(-1)], dim=-1)
    centre = torch.arange(_NEIGHBOURS**2, device=geometry.device) == _CENTRE
    discarded = ~kept[:, None] | centre.view(1, -1, 1, 1, 1)
    points = points.masked_fill(discarded.unsqueeze(-1), OUTSIDE)
    return ExtraPoints(points.flatten(1, 2), score.masked_fill(discarded, 0.0).flatten(1, 2))
