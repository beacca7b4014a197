"""The Object Module: learned queries that find objects in a voxel volume and describe their shapes by offsets.

OffsetOcc (arXiv 2505.09562) sections 3.2 and 3.3; specs/offsetocc.md section 3.  An object is a class, a centre and K
scored vectors from its centre to its voxels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.layers.deformable_attention import VolumeDeformableAttention
from occ_perception.layers.voxel_encoder import feedforward

_CLASS_PRIOR = 0.01  # scores at the start: few queries are objects, and few offsets are needed
_OFFSET_PRIOR = 0.05
_OFFSET_NOISE = 1e-3


class ObjectPredictions(NamedTuple):
    """What the queries say of B samples; the offsets follow from ``embeddings`` (`ObjectModule.shapes`)."""

    class_logits: Tensor  # [B, Q, classes], sigmoid scores; no class scores high: background
    centres: Tensor  # [B, Q, 3] metres, frame of the grid
    embeddings: Tensor  # [B, Q, C]


class ObjectShapes(NamedTuple):
    """Shapes of n objects."""

    offsets: Tensor  # [n, K, 3] metres from the object's centre
    score_logits: Tensor  # [n, K]


class ObjectLayer(nn.Module):
    """Self-attention among the queries, cross-attention into the volume, feed-forward; a norm after each sum."""

    def __init__(self, channels: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = VolumeDeformableAttention(channels, heads, points)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = feedforward(channels, hidden)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, references: Tensor, volume: Tensor) -> Tensor:
        """Queries [B, Q, C] with references [Q, 3] normalised, volume [B, X, Y, Z, C] -> queries."""
        update, _ = self.self_attention(queries, queries, queries, need_weights=False)
        queries = self.self_norm(queries + update)
        queries = self.cross_norm(queries + self.cross_attention(queries, references, volume))
        return self.output_norm(queries + self.feedforward(queries))


class ObjectModule(nn.Module):
    """Voxel embeddings -> object predictions.

    Args:
        grid: what the volume covers; its resolution does not matter, its voxel size is the pitch of the first offsets.
        classes: thing classes.
        channels: C of the volume and the queries.
        queries: Q.
        layers, heads, points, hidden: of the transformer.
        offsets_per_side: K is this cubed.
    """

    lower: Tensor
    extent: Tensor

    def __init__(
        self,
        grid: VoxelGrid,
        classes: int,
        channels: int,
        queries: int,
        layers: int,
        heads: int,
        points: int,
        hidden: int,
        offsets_per_side: int,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.reference = nn.Linear(channels, 3)
        self.layers = nn.ModuleList(ObjectLayer(channels, heads, points, hidden) for _ in range(layers))
        self.class_head = nn.Linear(channels, classes)
        self.centre_hidden = nn.Linear(channels, channels)
        self.centre_head = nn.Linear(channels, 3)
        self.offset_head = nn.Linear(channels, offsets_per_side**3 * 4)
        self.register_buffer("lower", torch.from_numpy(grid.lower).float(), persistent=False)
        self.register_buffer("extent", torch.from_numpy(grid.upper - grid.lower).float(), persistent=False)
        self._initialise(grid.voxel_size, offsets_per_side)

    @torch.no_grad()
    def _initialise(self, pitch: float, side: int) -> None:
        """References all over the grid, centres at them, and offsets that are a cube of cells around the centre."""
        # The sum of C weighted normal numbers has a spread of 1.6: its sigmoid is nearly uniform.
        nn.init.normal_(self.reference.weight, std=1.6 / math.sqrt(self.reference.in_features))
        nn.init.zeros_(self.reference.bias)
        nn.init.zeros_(self.centre_head.weight)
        nn.init.zeros_(self.centre_head.bias)
        nn.init.constant_(self.class_head.bias, _logit(_CLASS_PRIOR))
        nn.init.normal_(self.offset_head.weight, std=_OFFSET_NOISE)
        axis = (torch.arange(side) - (side - 1) / 2) * pitch
        lattice = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
        scores = torch.full((len(lattice), 1), _logit(_OFFSET_PRIOR))
        self.offset_head.bias.copy_(torch.cat([lattice, scores], dim=1).flatten())

    def forward(self, volume: Tensor) -> ObjectPredictions:
        """Volume [B, X, Y, Z, C] -> what each query found."""
        reference_logits = self.reference(self.queries)
        references = reference_logits.float().sigmoid()
        queries = self.queries.expand(len(volume), *self.queries.shape)
        for layer in self.layers:
            queries = layer(queries, references, volume)
        moved = self.centre_head(self.centre_hidden(queries).relu())
        centres = (reference_logits + moved).float().sigmoid()
        return ObjectPredictions(self.class_head(queries).float(), self.lower + self.extent * centres, queries)

    def shapes(self, embeddings: Tensor) -> ObjectShapes:
        """Offsets and scores of the objects of some queries, embeddings [n, C]; in float32.

        The largest product of the module by far, so it is only made for queries that matter.
        """
        decoded = self.offset_head(embeddings).float().unflatten(-1, (-1, 4))
        return ObjectShapes(decoded[..., :3], decoded[..., 3])


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
