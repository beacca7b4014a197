"""Point-sampled binary cross-entropy and Dice on class masks (Mask2Former style; specs/alocc.md section 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

IGNORE = 255
VOXEL_POINTS = 25088
IMAGE_POINTS = 1056
_OVERSAMPLE = 3
_UNCERTAIN_SHARE = 0.75
_LOSS_WEIGHT = 5.0
IMAGE_LOSS_SCALE = 0.1


class MaskLoss(NamedTuple):
    """Scalar losses."""

    bce: Tensor
    dice: Tensor


def mask_loss(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    sampling_weight: Tensor,
    points: int,
    generator: torch.Generator | None = None,
) -> MaskLoss:
    """Every class present in a sample is a binary mask ("row"), compared at sampled cells.

    Args:
        logits: [B, queries, *space].
        labels: [B, *space] integer, class + 1 (0 is void), 255 ignored.
        class_weight, sampling_weight: [queries], see ``class_weights``.
        points: cells per row, K.
        generator: for repeatable sampling.
    """
    weighted_bce, weighted_dice, weights = [], [], []
    for scores, label in zip(logits.flatten(2), labels.flatten(1), strict=True):
        present = label.unique()
        present = present[(present > 0) & (present < logits.shape[1])]
        if present.numel() == 0:
            continue
        rows = scores[present].float()
        count = min(points, label.numel() // _OVERSAMPLE)  # smaller grids than the published ones
        cells = sample_cells(rows, label, sampling_weight, count, generator)
        prediction = rows.gather(1, cells)
        target = (label[cells] == present[:, None]).float()
        weight = class_weight[present]
        weighted_bce.append(weight * _bce(prediction, target))
        weighted_dice.append(weight * _dice(prediction, target))
        weights.append(weight)
    # All ranks exchange their totals, also one whose samples have no label at all.
    total = torch.cat(weights).sum() if weights else logits.new_zeros((), dtype=torch.float32)
    mean_total = _mean_over_ranks(total)
    if not weights:
        nothing = logits.sum() * 0
        return MaskLoss(nothing, nothing)
    bce = torch.cat(weighted_bce).sum() / mean_total
    dice = torch.cat(weighted_dice).sum() / total
    return MaskLoss(_LOSS_WEIGHT * bce, _LOSS_WEIGHT * dice)


def _bce(prediction: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(prediction, target, reduction="none").mean(dim=1)


def _dice(prediction: Tensor, target: Tensor) -> Tensor:
    probability = prediction.sigmoid()
    overlap = 2 * (probability * target).sum(dim=1) + 1
    return 1 - overlap / (probability.sum(dim=1) + target.sum(dim=1) + 1)


@torch.no_grad()
def sample_cells(
    rows: Tensor, label: Tensor, sampling_weight: Tensor, points: int, generator: torch.Generator | None = None
) -> Tensor:
    """Cells at which each row is compared, int64 [rows, points].

    Three times as many cells as needed are drawn, rare classes preferred; the most uncertain (smallest |logit|) make
    three quarters of the result, the rest is drawn uniformly over the valid cells.

    QUIRK: when fewer cells are valid than drawn, ignored ones fill up and count as negatives.

    Args:
        rows: logits of each row [rows, cells].
        label: [cells].
    """
    valid = label != IGNORE
    weight = torch.where(valid, sampling_weight[torch.where(valid, label, 0)], 0.0)
    drawn = _draw(weight, len(rows), _OVERSAMPLE * points, generator)
    uncertain = int(_UNCERTAIN_SHARE * points)
    nearest = rows.gather(1, drawn).abs().topk(uncertain, dim=1, largest=False).indices
    uniform = _draw(valid.float(), len(rows), points - uncertain, generator)
    return torch.cat([drawn.gather(1, nearest), uniform], dim=1)


def _draw(weight: Tensor, rows: int, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` distinct cells per row, [rows, count], with probability proportional to ``weight`` [cells].

    The exponential race: the smallest of independent exponentials with these rates; cells of weight 0 come last.
    """
    race = torch.empty(rows, weight.numel(), device=weight.device).exponential_(generator=generator)
    return (weight / race).topk(count, dim=1).indices


def _mean_over_ranks(value: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()
