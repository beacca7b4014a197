"""Ground-truth guidance of the flow head: the correlation of one-hot label maps (specs/alocc.md section 9)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.layers.flow_head import bev_summary, correlation_scores
from occ_perception.ops.interpolation import Taps
from occ_perception.training.mask_loss import IGNORE

_CHANNELS = 19


@torch.no_grad()
def label_map(labels: Tensor) -> Tensor:
    """One-hot labels (int [B, Y, X, Z], 255 ignored) as the flow head sees its features, float32 [B, Y/2, X/2, 19].

    QUIRK: the labels are the ray-masked ones, so what was ignored in both frames matches.
    """
    one_hot = F.one_hot(torch.where(labels == IGNORE, _CHANNELS - 1, labels), _CHANNELS).float()
    return bev_summary(one_hot.movedim(-1, 1))


@torch.no_grad()
def label_scores(current: Tensor, previous: Tensor | None, taps: Taps, starts: tuple[bool, ...]) -> Tensor:
    """Correlation scores [B, 121, Y / 2, X / 2] of label maps with those of the frame before.

    Args:
        current, previous: of `label_map`; None before the first frame.
        taps: planar taps of the ego motion (``ALOcc.motion_taps``).
        starts: streams that begin with this frame; they are scored against themselves.
    """
    begun = torch.tensor(starts, device=current.device).view(-1, 1, 1, 1)
    before = current if previous is None else torch.where(begun, current, previous)
    return correlation_scores(current, before, taps)
