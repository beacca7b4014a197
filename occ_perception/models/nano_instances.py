"""Objects from a centre heatmap and per-column offsets: peaks are objects, columns go to the peak they point at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_OBJECTS = 200
_PEAK_WINDOW = 5  # cells: no two centres nearer than 1 m
_MIN_SCORE = 0.1
_REACH = 4.0  # metres: a column whose offset ends farther than this from every centre belongs to none


def instance_grid(things: Tensor, heatmap: Tensor, offsets: Tensor, voxel_size: float) -> Tensor:
    """Instance id of every voxel, int32 [X, Y, Z], 0 for none; ids 1.. by falling score.

    Args:
        things: bool [X, Y, Z] voxels of thing classes.
        heatmap: centre logits [X, Y].
        offsets: [X, Y, 2] (x, y) metres from a column to its object's centre.
        voxel_size: metres.
    """
    scores = torch.sigmoid(heatmap)
    is_peak = scores == F.max_pool2d(scores[None], _PEAK_WINDOW, 1, _PEAK_WINDOW // 2)[0]
    ranked, index = torch.where(is_peak & things.any(dim=2), scores, 0.0).flatten().topk(MAX_OBJECTS)
    width = scores.shape[1]
    centres = torch.stack([index // width, index % width], dim=-1).to(offsets.dtype) * voxel_size
    x, y = (torch.arange(n, device=offsets.device, dtype=offsets.dtype) * voxel_size for n in scores.shape)
    target = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1) + offsets
    columns = things.any(dim=2).nonzero()
    distance = torch.cdist(target[columns[:, 0], columns[:, 1]], centres)
    distance = distance.masked_fill((ranked < _MIN_SCORE)[None], torch.inf)
    nearest, owner = distance.min(dim=1)
    ids = torch.zeros(scores.shape, dtype=torch.int32, device=scores.device)
    ids[columns[:, 0], columns[:, 1]] = torch.where(nearest <= _REACH, owner + 1, 0).to(torch.int32)
    return ids[..., None] * things


__all__ = ["MAX_OBJECTS", "instance_grid"]
