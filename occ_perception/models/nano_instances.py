"""Objects from a centre heatmap and per-column offsets: peaks are objects, columns go to the peak they point at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_OBJECTS = 200
_PEAK_WINDOW = 5  # cells: no two centres nearer than 1 m
_MIN_SCORE = 0.1
_REACH = 4.0  # metres: a column whose offset ends farther than this from every centre belongs to none
_OUT_OF_REACH = 1e4  # metres: where what is no centre is put


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
    has_thing = things.any(dim=2)
    ranked, index = torch.where(is_peak & has_thing, scores, 0.0).flatten().topk(MAX_OBJECTS)
    if scores.device.type == "cpu":  # fewer distances; on a GPU the number of peaks would have to be waited for
        index = index[: int((ranked >= _MIN_SCORE).sum())]
    columns = has_thing.nonzero()
    ids = torch.zeros(scores.shape, dtype=torch.int32, device=scores.device)
    if len(index) and len(columns):
        width = scores.shape[1]
        centres = torch.stack([index // width, index % width], dim=-1).to(offsets.dtype) * voxel_size
        centres = torch.where((ranked[: len(index)] >= _MIN_SCORE)[:, None], centres, _OUT_OF_REACH)
        target = columns.to(offsets.dtype) * voxel_size + offsets[columns[:, 0], columns[:, 1]]
        nearest, owner = torch.cdist(target, centres).min(dim=1)
        ids[columns[:, 0], columns[:, 1]] = torch.where(nearest <= _REACH, owner + 1, 0).to(torch.int32)
    return ids[..., None] * things


__all__ = ["MAX_OBJECTS", "instance_grid"]
