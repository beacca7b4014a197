"""Training targets from labels and LiDAR, in the network's internal axes (specs/alocc.md section 10)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from occ_perception.ops.lidar_depth import LidarDepth, depth_bins
from occ_perception.training.mask_loss import IGNORE


class ALOccTargets(NamedTuple):
    """Targets of B samples, after augmentation."""

    voxel_labels: Tensor  # int64 [B, Y, X, Z], class + 1, 255 ignored
    depth_bins: Tensor  # int64 [B, N, h, w], -1 without a hit
    image_labels: Tensor | None = None  # int64 [B, N, h, w], lidarseg class + 1, 255 without a hit
    flow: Tensor | None = None  # [B, Y, X, Z, 2] = (v_y, v_x), infinite where it does not count


class BevFlip(NamedTuple):
    """Bird's-eye-view augmentation: whether x and y change sign."""

    x: bool = False
    y: bool = False

    def matrix(self) -> Tensor:
        """bda, float32 [3, 3]."""
        return torch.diag(torch.tensor([-1.0 if self.x else 1.0, -1.0 if self.y else 1.0, 1.0]))


NO_FLIP = BevFlip()


def voxel_labels(semantics: Tensor, mask: Tensor | None, flip: BevFlip = NO_FLIP) -> Tensor:
    """Dataset labels [X, Y, Z] (255 ignored) to int64 [Y, X, Z], class + 1.

    Args:
        semantics: class ids.
        mask: True where the label counts (camera mask, or OpenOcc's ray mask); None when trained without a mask.
        flip: applied to the axes.
    """
    labels = semantics.long()
    ignored = labels == IGNORE
    if mask is not None:
        ignored = ignored | ~mask.bool()
    return _flip(torch.where(ignored, IGNORE, labels + 1).transpose(0, 1), flip)


def flow_target(
    flow: Tensor, semantics: Tensor, mask: Tensor | None, moving_classes: int = 8, flip: BevFlip = NO_FLIP
) -> Tensor:
    """Dataset flow [X, Y, Z, 2] = (v_x, v_y) to [Y, X, Z, 2] = (v_y, v_x), infinite where it does not count.

    Only labelled voxels of the first ``moving_classes`` classes count.
    """
    counts = semantics < moving_classes
    if mask is not None:
        counts = counts & mask.bool()
    target = torch.where(counts.unsqueeze(-1), flow.float(), torch.inf)
    signs = torch.tensor([-1.0 if flip.y else 1.0, -1.0 if flip.x else 1.0])
    return _flip(target.transpose(0, 1).flip(-1), flip) * signs


def _flip(grid: Tensor, flip: BevFlip) -> Tensor:
    """Flip a [Y, X, ...] grid."""
    axes = [axis for axis, wanted in ((0, flip.y), (1, flip.x)) if wanted]
    return grid.flip(axes) if axes else grid


def lidar_depth_target(depth: LidarDepth, start: float, step: float, bins: int) -> Tensor:
    """Depth bin per feature cell, int64 [h, w], -1 without a hit."""
    return depth_bins(depth.depth, start, step, bins)


def lidar_image_labels(depth: LidarDepth, point_classes: Tensor) -> Tensor:
    """nuScenes-lidarseg class (0 others .. 16) + 1 of the nearest return per cell, int64 [h, w]; 255 without a hit."""
    labels = point_classes.long()[depth.point.clamp(min=0)] + 1
    return torch.where(depth.point >= 0, labels, IGNORE)
