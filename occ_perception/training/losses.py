"""The losses of ALOcc and ALOcc-Flow and their sum (specs/alocc.md section 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.flow_head import FLOW_BIN_WIDTH, FLOW_BINS, FLOW_MINIMUM
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_types import ALOccOutput
from occ_perception.training.class_weights import class_counts, class_weights, sampling_weights
from occ_perception.training.mask_loss import IMAGE_LOSS_SCALE, IMAGE_POINTS, VOXEL_POINTS, mask_loss
from occ_perception.training.targets import ALOccTargets


def depth_loss(depth: Tensor, known_bin: Tensor) -> Tensor:
    """Mean over pixels with a LiDAR hit of -log P[bin]; 0 when there is none.

    QUIRK: the configured loss weights (1.0 and 0.05) are not applied; every variant uses weight 1.

    Args:
        depth: distribution [B, N, D, h, w].
        known_bin: [B, N, h, w], -1 without a hit.
    """
    hit = known_bin >= 0
    if not bool(hit.any()):
        return depth.sum() * 0
    probability = depth.movedim(2, -1)[hit].gather(1, known_bin[hit][:, None])
    return -torch.log(probability + 1e-8).mean()


def flow_losses(flow: Tensor, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Regression, direction and bin losses over voxels with a finite target.

    Args:
        flow: predicted velocity [B, Y, X, Z, 2] = (v_y, v_x), m/s.
        logits: bin logits [B, 176, Y, X, Z], channel bin * 2 + axis.
        target: [B, Y, X, Z, 2], infinite or NaN where it does not count.
    """
    counted = torch.isfinite(target).all(dim=-1)
    if not bool(counted.any()):
        nothing = flow.sum() * 0 + logits.sum() * 0
        return {"loss_flow": nothing, "loss_flow_cosine": nothing, "loss_flow_bins": nothing}
    predicted, truth = flow[counted], target[counted]
    bins = ((truth - FLOW_MINIMUM) / FLOW_BIN_WIDTH).round().clamp(0, FLOW_BINS - 1).long()
    scores = logits.movedim(1, -1)[counted].unflatten(1, (FLOW_BINS, 2))
    return {
        "loss_flow": F.mse_loss(predicted, truth),
        "loss_flow_cosine": -F.cosine_similarity(predicted, truth, dim=-1).mean(),
        "loss_flow_bins": F.cross_entropy(scores, bins),
    }


class ALOccLoss(nn.Module):
    """All losses of one training step; the total is their plain sum."""

    class_weight: Tensor
    sampling_weight: Tensor

    def __init__(self, network: ALOcc) -> None:
        super().__init__()
        self._head = [network.alocc_head]  # in a list, so that its parameters stay the network's
        counts = class_counts(network.config.label_set)
        self.register_buffer("class_weight", class_weights(counts))
        self.register_buffer("sampling_weight", sampling_weights(counts))

    def forward(
        self, output: ALOccOutput, targets: ALOccTargets, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named scalar losses of a network output in training mode."""
        weights = (self.class_weight, self.sampling_weight)
        voxel = mask_loss(output.logits, targets.voxel_labels, *weights, VOXEL_POINTS, generator)
        losses = {"loss_mask": voxel.bce, "loss_dice": voxel.dice}
        losses["loss_depth"] = depth_loss(output.depth, targets.depth_bins)
        if targets.image_labels is not None:
            image_logits = torch.einsum("qc,bnchw->bqnhw", self._head[0].image_prototypes(), output.context)
            # QUIRK: flow variants label points in lidarseg order but voxels in OpenOcc order.
            image = mask_loss(image_logits, targets.image_labels, *weights, IMAGE_POINTS, generator)
            losses["loss_mask_2d"] = IMAGE_LOSS_SCALE * image.bce
            losses["loss_dice_2d"] = IMAGE_LOSS_SCALE * image.dice
        if output.flow is not None and output.flow_logits is not None and targets.flow is not None:
            losses.update(flow_losses(output.flow, output.flow_logits, targets.flow))
        return losses
