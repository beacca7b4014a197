"""Losses of `nano`: classes by cross-entropy and Dice, depth, velocity bins, object centres and offsets."""

from __future__ import annotations

from typing import NamedTuple

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
_FREE_SHARE = 0.3
_CELLS_AT_ONCE, _VOXELS_AT_ONCE = 512, 8192
_RARE = 4.0  # times the weight of free: the things and "others"


class CellSample(NamedTuple):
    """Coarse cells of a batch."""

    rows: Tensor  # int64 [n], of B * Y * X
    stands_for: Tensor  # float32 [n], how many cells each stands for


def nano_losses(
    output: NanoOutput,
    targets: NanoTargets,
    cells: CellSample,
    depth_bins: Tensor,
    image_classes: Tensor,
    class_weight: Tensor,
) -> dict[str, Tensor]:
    """Weighted scalar losses by name; their sum is minimised.

    Args:
        output: of the network in training mode, with the features of ``cells``.
        targets: of the batch.
        cells: of the batch, see `sampled_cells`.
        depth_bins: int64 [B, N, h, w] bin of the nearest LiDAR return, -1 without.
        image_classes: uint8 [B, N, h, w] class of what a feature cell shows, 255 where not known.
        class_weight: float32 [classes].
    """
    losses = voxel_losses(output, targets.classes, cells, class_weight)
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


def voxel_losses(output: NanoOutput, classes: Tensor, cells: CellSample, class_weight: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and Dice over the labelled voxels of the coarse cells that take part."""
    features = output.cell_features
    if features is None or len(features) != len(cells.rows):
        raise InvalidInputError("losses need the features of the sampled cells: ask the network for them")
    truth = _columns(classes).index_select(0, cells.rows).flatten()
    voxels, counted = _sampled_voxels(truth, cells.stands_for, len(class_weight) - 1)
    # Padding may point at an unlabelled voxel; its class does not matter, it counts for nothing.
    truth = truth.index_select(0, voxels).long().clamp(max=len(class_weight) - 1)
    of_voxels = features.transpose(1, 2).flatten(0, 1).index_select(0, voxels)
    log_probability = torch.log_softmax((of_voxels @ output.prototypes.to(features.dtype).T).float(), dim=1)
    of_truth = log_probability.gather(1, truth[:, None]).squeeze(1)
    weight = class_weight[truth] * counted
    cross_entropy = -(weight * of_truth).sum() / weight.sum().clamp(min=1.0)
    return {"classes": cross_entropy, "dice": _dice_loss(log_probability.exp(), of_truth.exp(), truth, counted)}


def sampled_cells(classes: Tensor, class_weight: Tensor) -> CellSample:
    """Which coarse cells take part in the voxel losses, so that features and scores are made for these only.

    All with a class that is rare do; of the others a random part stands for all, with as much more weight.

    Args:
        classes: ``NanoTargets.classes`` of the batch.
        class_weight: float32 [classes].
    """
    labels = _columns(classes)
    is_rare = torch.cat([class_weight > _RARE * class_weight[-1], class_weight.new_zeros(256 - len(class_weight)) > 0])
    wanted = is_rare[labels.long()].any(dim=1)
    drawn = torch.rand(len(labels), device=labels.device) < _CELL_SHARE
    taken = ((wanted | drawn) & (labels != IGNORE).any(dim=1)).nonzero().squeeze(1)
    return CellSample(*_padded(taken, torch.where(wanted[taken], 1.0, 1 / _CELL_SHARE), _CELLS_AT_ONCE))


def _sampled_voxels(truth: Tensor, cells_stand_for: Tensor, free_class: int) -> tuple[Tensor, Tensor]:
    """Indices [m] of the labelled voxels of the cells that take part (all but a part of the free ones), and how many
    voxels each stands for."""
    free = truth == free_class
    drawn = torch.rand(len(truth), device=truth.device) < _FREE_SHARE
    voxels = ((truth != IGNORE) & (drawn | ~free)).nonzero().squeeze(1)
    in_cell = truth.numel() // max(len(cells_stand_for), 1)
    of_cell = cells_stand_for.index_select(0, voxels // max(in_cell, 1))
    return _padded(voxels, torch.where(free[voxels], of_cell / _FREE_SHARE, of_cell), _VOXELS_AT_ONCE)


def _padded(index: Tensor, stands_for: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Up to the next multiple of so many entries; what is added stands for nothing.

    oneDNN compiles and keeps a matrix product for every size that it meets (about 1 MB each): sizes must be few.
    """
    missing = -len(index) % multiple
    return F.pad(index, (0, missing)), F.pad(stands_for, (0, missing))


def _columns(classes: Tensor) -> Tensor:
    """Classes [B, Y, X, 2, 2, Z] by coarse cell, [cells, 4 Z]."""
    return classes.flatten(3).flatten(0, 2)


def _dice_loss(probability: Tensor, of_truth: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """1 - Dice, averaged over the classes that occur.

    Args:
        probability: [m, classes].
        of_truth: probability of each voxel's true class [m].
        truth: int64 [m].
        counted: how many voxels each stands for [m].
    """
    zeros = torch.zeros(probability.shape[1], device=truth.device)
    overlap = zeros.index_add(0, truth, of_truth * counted)
    count = zeros.index_add(0, truth, counted)
    predicted = (probability * counted[:, None]).sum(dim=0)  # no product of matrices: autocast would round the counts
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
