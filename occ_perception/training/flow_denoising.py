"""Ground-truth guidance of the flow head: the correlation of one-hot label maps (specs/alocc.md section 9)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.layers.flow_head import bev_summary, correlation_scores
from occ_perception.ops.interpolation import Taps
from occ_perception.training.mask_loss import IGNORE

_CHANNELS = 19


class FlowDenoiser:
    """Keeps the previous label map of B streams and scores the current one against it."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None

    @torch.no_grad()
    def scores(self, labels: Tensor, taps: Taps, starts: tuple[bool, ...]) -> Tensor:
        """Correlation scores [B, 121, Y / 2, X / 2] of labels (int [B, Y, X, Z], 255 ignored) with the last frame's.

        QUIRK: the labels are the ray-masked ones, so what was ignored in both frames matches.

        Args:
            taps: planar taps of the ego motion (``ALOcc.motion_taps``).
            starts: streams that begin with this frame; they are scored against themselves.
        """
        one_hot = F.one_hot(torch.where(labels == IGNORE, _CHANNELS - 1, labels), _CHANNELS).float()
        current = bev_summary(one_hot.movedim(-1, 1))
        previous = current if self._previous is None else self._previous
        begun = torch.tensor(starts, device=current.device).view(-1, 1, 1, 1)
        self._previous = current
        return correlation_scores(current, torch.where(begun, current, previous), taps)
