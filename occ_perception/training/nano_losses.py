"""Losses of `nano`: classes by cross-entropy and Dice, depth, velocity bins, object centres and offsets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError
from occ_perception.models.nano import expected_velocity
from occ_perception.models.nano_config import FLOW_BIN_CENTRES
from occ_perception.models.nano_types import NanoOutput
from occ_perception.training.losses import depth_loss
from occ_perception.training.nano_targets import IGNORE, NanoTargets

_WEIGHTS = {"depth": 0.5, "flow": 0.1, "flow_bins": 0.1, "centres": 0.5, "offsets": 0.2, "dice": 1.0}
_DICE_SMOOTHING = 1.0


def nano_losses(
    output: NanoOutput, targets: NanoTargets, depth_bins: Tensor, class_weight: Tensor
) -> dict[str, Tensor]:
    """Weighted scalar losses by name; their sum is minimised.

    Args:
        output: of the network in training mode.
        targets: of the batch.
        depth_bins: int64 [B, N, h, w] bin of the nearest LiDAR return, -1 without.
        class_weight: float32 [classes].
    """
    losses = voxel_losses(output, targets.classes, class_weight)
    if output.depth is not None:
        losses["depth"] = depth_loss(output.depth, depth_bins)
    losses.update(velocity_losses(output.flow_logits, targets.velocity))
    losses.update(centre_losses(output.heatmap.float(), output.offsets.float(), targets))
    return {f"loss_{name}": value * _WEIGHTS.get(name, 1.0) for name, value in losses.items()}


def voxel_losses(output: NanoOutput, classes: Tensor, class_weight: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and Dice over the labelled voxels; scores are made for those only."""
    if output.voxel_features is None:
        raise InvalidInputError("losses need the voxel features: a network prepared for inference cannot be trained")
    labelled = (classes.flatten() != IGNORE).nonzero().squeeze(1)
    if labelled.numel() == 0:
        nothing = output.voxel_features.sum() * 0 + output.prototypes.sum() * 0
        return {"classes": nothing, "dice": nothing}
    features = output.voxel_features.flatten(0, 5).index_select(0, labelled)
    logits = (features @ output.prototypes.to(features.dtype).T).float()
    truth = classes.flatten().index_select(0, labelled).long()
    cross_entropy = F.cross_entropy(logits, truth, class_weight)
    return {"classes": cross_entropy, "dice": dice_loss(torch.softmax(logits, dim=1), truth)}


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice, averaged over the classes that occur; probability [P, classes], truth int64 [P]."""
    classes = probability.shape[1]
    of_truth = probability.gather(1, truth[:, None]).squeeze(1)
    overlap = torch.zeros(classes, device=truth.device).index_add(0, truth, of_truth)
    count = torch.bincount(truth, minlength=classes).float()
    dice = (2 * overlap + _DICE_SMOOTHING) / (probability.sum(dim=0) + count + _DICE_SMOOTHING)
    present = count > 0
    return ((1 - dice) * present).sum() / present.sum()


def velocity_losses(logits: Tensor, velocity: Tensor) -> dict[str, Tensor]:
    """Bins (two-hot) and expectation, over cells with a finite velocity [B, Y, X, 2]."""
    moving = torch.isfinite(velocity).all(dim=-1)
    if not bool(moving.any()):
        return {"flow": logits.sum() * 0, "flow_bins": logits.sum() * 0}
    centres = torch.tensor(FLOW_BIN_CENTRES, device=velocity.device)
    truth = velocity[moving].clamp(float(centres[0]), float(centres[-1]))  # [P, 2]
    scores = logits.permute(0, 3, 4, 1, 2)[moving].float()  # [P, 2, bins]
    # A velocity between two bins belongs to both, by its distance from each.
    share = (1 - (truth[..., None] - centres).abs()).clamp(min=0)
    bins = -(share * torch.log_softmax(scores, dim=-1)).sum(dim=-1).mean()
    expected = expected_velocity(logits).permute(0, 2, 3, 1)[moving]
    return {"flow": F.smooth_l1_loss(expected, truth), "flow_bins": bins}


def centre_losses(heatmap: Tensor, offsets: Tensor, targets: NanoTargets) -> dict[str, Tensor]:
    """Penalty-reduced focal loss of the centre heatmap (CornerNet), L1 of the offsets on object columns."""
    known = targets.heatmap >= 0
    truth = targets.heatmap[known]
    log_here, log_not = F.logsigmoid(heatmap[known]), F.logsigmoid(-heatmap[known])
    is_centre = truth > 0.99
    positive = is_centre * torch.exp(log_not) ** 2 * log_here
    negative = ~is_centre * (1 - truth) ** 4 * torch.exp(log_here) ** 2 * log_not
    centres = -(positive + negative).sum() / is_centre.sum().clamp(min=1)
    on_object = torch.isfinite(targets.offsets).all(dim=-1)
    if not bool(on_object.any()):
        return {"centres": centres, "offsets": offsets.sum() * 0}
    return {"centres": centres, "offsets": F.l1_loss(offsets[on_object], targets.offsets[on_object])}
