"""Semantic prototype head: one learned prototype per class, no decoder (specs/alocc.md section 8)."""

import torch
from torch import Tensor, nn


class PrototypeHead(nn.Module):
    """Scores of every voxel against class prototypes.  Prototype 0 is void; prototype c + 1 is class c."""

    def __init__(self, queries: int, voxel_channels: int, context_channels: int) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(queries, voxel_channels)
        self.post_norm = nn.LayerNorm(voxel_channels)
        self.mask_embed = _perceptron(voxel_channels, voxel_channels)
        # The 2-D twin scores context features; only the training loss uses it.
        self.mask_embed2 = _perceptron(voxel_channels, context_channels)

    def prototypes(self) -> Tensor:
        """Prototype vectors [queries, F] in voxel feature space."""
        return self.mask_embed(self.post_norm(self.query_feat.weight))

    def image_prototypes(self) -> Tensor:
        """Prototype vectors [queries, C] in context feature space."""
        return self.mask_embed2(self.post_norm(self.query_feat.weight))

    def forward(self, features: Tensor) -> Tensor:
        """Voxel features [B, F, Y, X, Z] -> logits [B, queries, Y, X, Z] (a view of channels-last memory)."""
        return torch.matmul(features.movedim(1, -1), self.prototypes().T).movedim(-1, 1)


def _perceptron(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(),
        nn.Linear(channels, channels),
        nn.ReLU(),
        nn.Linear(channels, out_channels),
    )
