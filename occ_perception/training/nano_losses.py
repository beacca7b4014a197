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

_WEIGHTS = {"depth": 1.0, "image_classes": 0.5, "flow": 0.1, "flow_bins": 0.1, "centres": 0.2, "offsets": 0.2}
_DICE_SMOOTHING = 1.0
_CELL_SHARE = 0.2
_RARE = 4.0  # times the weight of free: the things and "others"


def nano_losses(
    output: NanoOutput, targets: NanoTargets, depth_bins: Tensor, image_classes: Tensor, class_weight: Tensor
) -> dict[str, Tensor]:
    """Weighted scalar losses by name; their sum is minimised.

    Args:
        output: of the network in training mode.
        targets: of the batch.
        depth_bins: int64 [B, N, h, w] bin of the nearest LiDAR return, -1 without.
        image_classes: uint8 [B, N, h, w] class of what a feature cell shows, 255 where not known.
        class_weight: float32 [classes].
    """
    losses = voxel_losses(output, targets.classes, class_weight)
    if output.depth is not None and output.image_logits is not None:
        losses["depth"] = depth_loss(output.depth, depth_bins)
        losses["image_classes"] = F.cross_entropy(
            output.image_logits.flatten(0, 1).float(),
            image_classes.flatten(0, 1).long(),
            class_weight[:-1].sqrt(),
            ignore_index=IGNORE,
        ).nan_to_num()  # the mean over no cell at all is NaN
    losses.update(velocity_losses(output.flow_logits, targets.velocity))
    losses.update(centre_losses(output.heatmap.float(), output.offsets.float(), targets))
    return {f"loss_{name}": value * _WEIGHTS.get(name, 1.0) for name, value in losses.items()}


def voxel_losses(output: NanoOutput, classes: Tensor, class_weight: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and Dice over the labelled voxels; scores are made only for the coarse cells that take part.

    All cells with a class that is rare take part; of the others a random part stands for all, with as much more weight.
    """
    if output.voxel_features is None:
        raise InvalidInputError("losses need the voxel features: a network prepared for inference cannot be trained")
    labels = classes.flatten(3).flatten(0, 2)  # [cells, 4 Z]
    taken, stands_for = _sampled_cells(labels, class_weight)
    # The view undoes the last step of ``Nano.voxel_features``: [cells, F, 4 Z], as the head wrote it.
    features = output.voxel_features.movedim(-1, 3).flatten(4).flatten(0, 2).index_select(0, taken)
    logits = torch.matmul(output.prototypes.to(features.dtype), features).float()  # [n, classes, 4 Z]
    truth = labels.index_select(0, taken).long()
    labelled = (truth != IGNORE) * stands_for[:, None]
    truth = truth.clamp(max=len(class_weight) - 1)
    log_probability = torch.log_softmax(logits, dim=1)
    of_truth = log_probability.gather(1, truth[:, None]).squeeze(1)
    weight = class_weight[truth] * labelled
    cross_entropy = -(weight * of_truth).sum() / weight.sum().clamp(min=1.0)
    return {"classes": cross_entropy, "dice": _dice_loss(log_probability.exp(), of_truth.exp(), truth, labelled)}


def _sampled_cells(labels: Tensor, class_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [n] of the cells that take part, and how many cells each stands for."""
    is_rare = torch.cat([class_weight > _RARE * class_weight[-1], class_weight.new_zeros(256 - len(class_weight)) > 0])
    wanted = is_rare[labels.long()].any(dim=1)
    drawn = torch.rand(len(labels), device=labels.device) < _CELL_SHARE
    taken = ((wanted | drawn) & (labels != IGNORE).any(dim=1)).nonzero().squeeze(1)
    return taken, torch.where(wanted[taken], 1.0, 1 / _CELL_SHARE)


def _dice_loss(probability: Tensor, of_truth: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """1 - Dice, averaged over the classes that occur.

    Args:
        probability: [n, classes, V].
        of_truth: probability of each voxel's true class [n, V].
        truth: int64 [n, V].
        counted: how many voxels each stands for [n, V]; 0 for those without a label.
    """
    zeros = torch.zeros(probability.shape[1], device=truth.device)
    overlap = zeros.index_add(0, truth.flatten(), (of_truth * counted).flatten())
    count = zeros.index_add(0, truth.flatten(), counted.flatten())
    predicted = (probability * counted[:, None]).sum(dim=(0, 2))
    dice = (2 * overlap + _DICE_SMOOTHING) / (predicted + count + _DICE_SMOOTHING)
    present = count > 0
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


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
