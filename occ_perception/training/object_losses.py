"""Losses of the Object Module: which query is which object, and which offset is which voxel (specs/offsetocc.md 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from occ_perception.geometry import VoxelGrid
from occ_perception.layers.object_module import ObjectModule, ObjectPredictions
from occ_perception.training.object_targets import ObjectTargets, object_voxels
from occ_perception.training.voxel_matching import MatchingMode, VoxelMatch, match_objects, match_voxels_of_objects

_ALPHA, _GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class ObjectLossSettings:
    """Weights and variants of the object loss; the weights are the paper's.

    Attributes:
        class_weight, centre_weight, score_weight, offset_weight: lambda 1 to 4.
        decoupled: offsets are added to the true centre, as in the paper; False: to the predicted one (its ablation).
        matching: how voxels are matched, see `voxel_matching`.
    """

    class_weight: float = 0.5
    centre_weight: float = 0.02
    score_weight: float = 0.125
    offset_weight: float = 0.0125
    decoupled: bool = True
    matching: MatchingMode = "pruned"


class ObjectLosses(NamedTuple):
    """Losses by name, one value per sample [B], and how much of the truth they did not see."""

    losses: dict[str, Tensor]
    left_out: int  # true voxels of objects with more than K
    without_query: int  # objects of frames with more than Q


def object_losses(
    module: ObjectModule,
    predictions: ObjectPredictions,
    targets: ObjectTargets,
    grid: VoxelGrid,
    settings: ObjectLossSettings,
    generator: torch.Generator | None = None,
) -> ObjectLosses:
    """L_det and L_occ of B samples (equations 2 to 6).

    Args:
        module: makes the offsets of the matched queries.
        predictions: of the module.
        targets: of B samples.
        grid: of the targets.
        settings: weights.
        generator: draws which voxels of an object with more than K are left out.
    """
    samples = [
        _losses_of_sample(module, predictions, targets, sample, grid, settings, generator)
        for sample in range(len(targets.classes))
    ]
    names = samples[0].losses
    return ObjectLosses(
        {name: torch.stack([sample.losses[name] for sample in samples]) for name in names},
        sum(sample.left_out for sample in samples),
        sum(sample.without_query for sample in samples),
    )


def _losses_of_sample(
    module: ObjectModule,
    predictions: ObjectPredictions,
    targets: ObjectTargets,
    sample: int,
    grid: VoxelGrid,
    settings: ObjectLossSettings,
    generator: torch.Generator | None,
) -> ObjectLosses:
    logits, centres = predictions.class_logits[sample], predictions.centres[sample]
    count = int((targets.classes[sample] >= 0).sum())
    classes, true_centres = targets.classes[sample, :count], targets.centres[sample, :count]
    queries, objects = match_objects(
        logits, centres, classes, true_centres, settings.class_weight, settings.centre_weight
    )
    detection = detection_losses(logits, centres[queries], queries, classes[objects], true_centres[objects], count)
    # At least one query is decoded, so that every parameter gets a gradient whatever the frame holds.
    decoded = queries if count else queries.new_zeros(1)
    shapes = module.shapes(predictions.embeddings[sample, decoded])
    if count:
        origins = true_centres[objects] if settings.decoupled else centres[queries]
        all_voxels = object_voxels(targets.instances[sample], count, grid)
        voxels = [all_voxels[row] for row in objects.tolist()]
        points = origins[:, None] + shapes.offsets
        matches = match_voxels_of_objects(
            points.detach(), shapes.score_logits.detach().sigmoid(), voxels, settings.matching, generator
        )
        occupancy = occupancy_losses(points, shapes.score_logits, voxels, matches)
    else:
        matches, occupancy = [], (shapes.score_logits.sum() * 0, shapes.offsets.sum() * 0)
    named = {
        "loss_class": settings.class_weight * detection[0],
        "loss_centre": settings.centre_weight * detection[1],
        "loss_score": settings.score_weight * occupancy[0],
        "loss_offset": settings.offset_weight * occupancy[1],
    }
    return ObjectLosses(named, sum(match.left_out for match in matches), count - len(objects))


def detection_losses(
    logits: Tensor, centres: Tensor, queries: Tensor, classes: Tensor, true_centres: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Focal loss of all queries per true object, and mean distance of the matched centres (equation 2).

    Args:
        logits: [Q, classes].
        centres: of the matched queries, [M, 3] metres.
        queries: the matched ones, [M].
        classes, true_centres: of their objects, [M] and [M, 3].
        count: true objects.
    """
    wanted = torch.zeros_like(logits)
    wanted[queries, classes] = 1
    focal = focal_loss(logits, wanted).sum() / max(count, 1)
    distance = torch.linalg.vector_norm(centres - true_centres, dim=-1)
    return focal, distance.sum() / max(len(queries), 1)


def occupancy_losses(
    predicted: Tensor, score_logits: Tensor, voxels: list[Tensor], matches: list[VoxelMatch]
) -> tuple[Tensor, Tensor]:
    """Focal loss of the scores per true voxel, and mean distance of the matched points, averaged over the objects.

    Equation 5.

    Args:
        predicted: points [M, K, 3], metres.
        score_logits: [M, K].
        voxels: centres of each object's voxels, M x [n, 3].
        matches: of each object.
    """
    objects = len(matches)
    rows = torch.cat([match.predictions.new_full((len(match.predictions),), i) for i, match in enumerate(matches)])
    columns = torch.cat([match.predictions for match in matches])
    truth = torch.cat([centres[match.truth] for centres, match in zip(voxels, matches, strict=True)])
    wanted = torch.zeros_like(score_logits)
    wanted[rows, columns] = 1
    served = wanted.sum(dim=1)
    focal = focal_loss(score_logits, wanted).sum(dim=1) / served
    distance = torch.linalg.vector_norm(predicted[rows, columns] - truth, dim=-1)
    return focal.mean(), (distance / served[rows]).sum() / objects


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sigmoid focal loss of every entry (Lin et al. 2017, alpha 0.25, gamma 2), shape of ``logits``."""
    crossentropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probability = logits.sigmoid()
    surprise = wanted * (1 - probability) + (1 - wanted) * probability
    balance = wanted * _ALPHA + (1 - wanted) * (1 - _ALPHA)
    return balance * surprise**_GAMMA * crossentropy
