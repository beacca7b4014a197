"""The semantic scene completion loss of MonoScene: cross-entropy and scene-class affinities (specs/offsetocc.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.training.mask_loss import IGNORE

_EPSILON = 1e-6


def scene_losses(logits: Tensor, labels: Tensor, class_weight: Tensor, free_class: int) -> dict[str, Tensor]:
    """Cross-entropy and both affinities, one value per sample, [B] each.

    Args:
        logits: [B, classes, X, Y, Z].
        labels: integer [B, X, Y, Z]; network classes, 255 ignored.
        class_weight: of the cross-entropy, [classes].
        free_class: index of free space.
    """
    scores, labels = logits.float().flatten(2), labels.long().flatten(1)
    known = labels != IGNORE
    log_probabilities = torch.log_softmax(scores, dim=1)
    classes = torch.where(known, labels, 0)
    weight = class_weight[classes] * known
    log_of_label = log_probabilities.gather(1, classes[:, None])[:, 0]
    return {
        "loss_ce": -(weight * log_of_label).sum(dim=1) / weight.sum(dim=1).clamp(min=_EPSILON),
        "loss_semantic": semantic_affinity(log_probabilities.exp(), classes, known),
        "loss_geometric": geometric_affinity(log_probabilities[:, free_class].exp(), classes == free_class, known),
    }


def semantic_affinity(probabilities: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """Mean over the classes present in a sample of -(ln precision + ln recall + ln specificity), [B].

    Args:
        probabilities: [B, classes, N].
        classes: int64 [B, N].
        known: bool [B, N], what counts.
    """
    counted = known.to(probabilities.dtype)
    of_label = probabilities.gather(1, classes[:, None])[:, 0] * counted
    empty = probabilities.new_zeros(probabilities.shape[:2])
    hits, truth = empty.scatter_add(1, classes, of_label), empty.scatter_add(1, classes, counted)
    claimed = (probabilities * counted[:, None]).sum(dim=2)
    losses = _affinity(hits, claimed, truth, counted.sum(dim=1, keepdim=True))
    present = truth > 0
    return torch.where(present, losses, 0.0).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def geometric_affinity(free: Tensor, is_free: Tensor, known: Tensor) -> Tensor:
    """The same for occupied against free, [B]; 0 for a sample without an occupied voxel.

    Args:
        free: probability of free space, [B, N].
        is_free, known: bool [B, N].
    """
    counted = known.to(free.dtype)
    occupied, truth = (1 - free) * counted, ~is_free * counted
    voxels = truth.sum(dim=1)
    losses = _affinity((occupied * truth).sum(dim=1), occupied.sum(dim=1), voxels, counted.sum(dim=1))
    return torch.where(voxels > 0, losses, 0.0)


def _affinity(hits: Tensor, claimed: Tensor, truth: Tensor, total: Tensor) -> Tensor:
    """-(ln P + ln R + ln S) from sums of p y, of p, of y, and of 1."""
    others = total - truth
    rejected = (others - claimed + hits).clamp(min=0)  # sum of (1 - p)(1 - y)
    ratios = ((hits, claimed), (hits, truth), (rejected, others))
    terms = [
        torch.where(whole > 0, torch.log(part / whole.clamp(min=_EPSILON) + _EPSILON), 0.0) for part, whole in ratios
    ]
    return -sum(terms[1:], terms[0])


__all__ = ["geometric_affinity", "scene_losses", "semantic_affinity"]
