"""Lifting by attention: voxel queries look at each other and into the cameras (OffsetOcc, arXiv 2505.09562, 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.layers.deformable_attention import (
    CameraDeformableAttention,
    ImageTokens,
    VolumeDeformableAttention,
)
from occ_perception.layers.voxel_queries import cell_references, sinusoidal_queries
from occ_perception.ops.camera_hits import CameraHits


def feedforward(channels: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))


class VoxelEncoderLayer(nn.Module):
    """Self-attention in the volume, cross-attention into the images, feed-forward; a norm after each sum."""

    def __init__(self, channels: int, levels: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attention = VolumeDeformableAttention(channels, heads, points)
        self.self_norm = nn.LayerNorm(channels)
        self.camera_attention = CameraDeformableAttention(channels, levels, heads, points)
        self.camera_norm = nn.LayerNorm(channels)
        self.feedforward = feedforward(channels, hidden)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, volume: Tensor, references: Tensor, image: ImageTokens, hits: CameraHits) -> Tensor:
        """Volume [B, X, Y, Z, C] -> the same; references [X * Y * Z, 3] normalised."""
        queries = volume.flatten(1, 3)
        queries = self.self_norm(queries + self.self_attention(queries, references, volume))
        queries = self.camera_norm(queries + self.camera_attention(queries, image, hits))
        queries = self.output_norm(queries + self.feedforward(queries))
        return queries.view_as(volume)


class VoxelEncoder(nn.Module):
    """A stack of layers over fixed voxel queries.

    Args:
        cells: cells (x, y, z) of the volume.
        channels: C.
        layers, levels, heads, points, hidden: of the layers; ``levels`` of the image pyramid, ``hidden`` of the
            feed-forward part.
    """

    queries: Tensor
    references: Tensor

    def __init__(
        self, cells: tuple[int, int, int], channels: int, layers: int, levels: int, heads: int, points: int, hidden: int
    ) -> None:
        super().__init__()
        self.register_buffer("queries", sinusoidal_queries(cells, channels), persistent=False)
        self.register_buffer("references", cell_references(cells), persistent=False)
        self.layers = nn.ModuleList(VoxelEncoderLayer(channels, levels, heads, points, hidden) for _ in range(layers))

    def forward(self, image: ImageTokens, hits: CameraHits, batch: int) -> Tensor:
        """Image features of ``batch`` samples, and which voxels they show -> volume [B, X, Y, Z, C]."""
        volume = self.queries.expand(batch, *self.queries.shape).to(image.tokens.dtype)
        for layer in self.layers:
            volume = layer(volume, self.references, image, hits)
        return volume


class VoxelDecoder(nn.Linear):
    """Class scores at twice the volume's resolution.

    The paper upsamples the features and then applies a linear layer.  Both are linear and interpolation weights sum to
    one, so the scores may be upsampled instead: the same numbers from a seventh of the memory.
    """

    def forward(self, volume: Tensor) -> Tensor:
        """Volume [B, X, Y, Z, C] -> logits [B, classes, 2X, 2Y, 2Z], float32."""
        scores = super().forward(volume).float().movedim(-1, 1)
        return F.interpolate(scores, scale_factor=2, mode="trilinear", align_corners=False)
