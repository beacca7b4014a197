"""Deformable attention layers: voxel queries that look into camera images, and into a voxel volume.

Specs: offsetocc.md 2.1, 2.2; panoocc.md 4.3; gdocc_sparseocc.md.  No layer adds a residual or a norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.ops.camera_hits import CameraHits, mean_over_hits
from occ_perception.ops.deformable_attention import (
    MapShapes,
    deformable_attention_2d,
    deformable_attention_3d,
    sizes_tensor,
)
from occ_perception.ops.precision import full_precision


class ImageTokens(NamedTuple):
    """Multi-scale image features as one list: tokens [B * N, S, C] and the (height, width) of the levels."""

    tokens: Tensor
    shapes: MapShapes


def image_tokens(features: Sequence[Tensor]) -> ImageTokens:
    """Levels [B * N, C, h, w] of a feature pyramid, flattened row-major and concatenated."""
    shapes = tuple((level.shape[2], level.shape[3]) for level in features)
    return ImageTokens(torch.cat([level.flatten(2).mT for level in features], dim=1), shapes)


class CameraDeformableAttention(nn.Module):
    """Every query looks at learned locations around its projections into the cameras that see it.

    Args:
        channels: C of queries, image features and output.
        levels: levels of the feature pyramid.
        heads: attention heads; must divide ``channels``.
        points: sampling points per head and level.
        anchors: reference points per query; sampling point p belongs to reference point p % anchors (BEVFormer), so
            ``anchors`` must divide ``points``.
        silent_without_hit: a query that no camera sees gets exactly zero; otherwise the bias of the output
            projection (PanoOcc).
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        heads: int = 8,
        points: int = 4,
        anchors: int = 1,
        silent_without_hit: bool = True,
    ) -> None:
        super().__init__()
        if channels % heads or points % anchors:
            raise ConfigurationError(
                f"{heads} heads must divide {channels} channels, {anchors} anchors {points} points"
            )
        self.heads, self.levels, self.points, self.anchors = heads, levels, points, anchors
        self.silent_without_hit = silent_without_hit
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_projection = nn.Linear(channels, channels)
        self.output_projection = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        bias = directions[:, None, None] * _reach(self.points)[:, None]
        _initialise(self, bias.expand(-1, self.levels, -1, -1))

    def forward(self, query: Tensor, image: ImageTokens, hits: CameraHits, hit_weights: Tensor | None = None) -> Tensor:
        """Attend from queries [B, Q, C]; returns the update [B, Q, C].

        Args:
            query: [B, Q, C].
            image: features of B * N images.
            hits: of ``camera_hits`` with ``anchors`` reference points, or ``hits_per_anchor``.
            hit_weights: positive weights of the hits [H] in the mean over a query's hits.
        """
        if len(image.shapes) != self.levels or hits.references.shape[1] != self.anchors:
            raise InvalidInputError(
                f"camera attention: expected {self.levels} levels and {self.anchors} reference points, got "
                f"{len(image.shapes)} and {hits.references.shape[1]}"
            )
        if len(hits.counts) != query.shape[0] * query.shape[1]:
            raise InvalidInputError(f"camera attention: hits of {len(hits.counts)} queries, got {tuple(query.shape)}")
        values = self.value_projection(image.tokens).unflatten(-1, (self.heads, -1))
        offsets, weights = self._offsets_and_weights(query.flatten(0, 1))
        locations = self._locations(offsets[hits.queries], hits.references, image.shapes)
        seen = deformable_attention_2d(values, image.shapes, hits.maps, locations, weights[hits.queries])
        update = self.output_projection(mean_over_hits(seen, hits, hit_weights))
        if self.silent_without_hit:
            update = torch.where((hits.counts > 0)[:, None], update, 0.0)
        return update.view(query.shape)

    def _offsets_and_weights(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [Q, heads, L, P, 2] and softmax weights [Q, heads, L, P], both in float32 at least."""
        with full_precision(query):
            query = query.to(self.sampling_offsets.weight.dtype)
            offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
            scores = self.attention_weights(query).unflatten(-1, (self.heads, self.levels * self.points))
        return offsets, scores.softmax(dim=-1).unflatten(-1, (self.levels, self.points))

    def _locations(self, offsets: Tensor, references: Tensor, shapes: MapShapes) -> Tensor:
        """Normalised locations [H, heads, L, P, 2]: reference point plus offset in pixels of the level."""
        size = sizes_tensor(tuple((width, height) for height, width in shapes), offsets.device, offsets.dtype)
        references = references.to(offsets.dtype).repeat(1, self.points // self.anchors, 1)
        return references[:, None, None] + offsets / size[:, None]


class VolumeDeformableAttention(nn.Module):
    """Every query looks at learned locations around its reference point in a voxel volume.

    Args:
        channels: C of queries, volume and output.
        heads: attention heads; must divide ``channels``.
        points: sampling points per head.
    """

    def __init__(self, channels: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigurationError(f"{heads} heads must divide {channels} channels")
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(channels, heads * points * 3)
        self.attention_weights = nn.Linear(channels, heads * points)
        self.value_projection = nn.Linear(channels, channels)
        self.output_projection = nn.Linear(channels, channels)
        # The eight diagonals of a cube, over and over.
        octant = torch.arange(heads)[:, None] % 8
        diagonals = 1.0 - 2.0 * ((octant >> torch.arange(3)) & 1)
        _initialise(self, diagonals[:, None] * _reach(points)[:, None])

    def forward(self, query: Tensor, references: Tensor, volume: Tensor) -> Tensor:
        """Attend from queries [B, Q, C]; returns the update [B, Q, C].

        Args:
            query: [B, Q, C].
            references: normalised (x, y, z) [B, Q, 3] or, the same for all samples, [Q, 3]; 0 and 1 are the faces
                of the volume.
            volume: channels-last features [B, X, Y, Z, C].
        """
        values = self.value_projection(volume).unflatten(-1, (self.heads, -1))
        with full_precision(query):
            wide = query.to(self.sampling_offsets.weight.dtype)
            offsets = self.sampling_offsets(wide).unflatten(-1, (self.heads, self.points, 3))
            weights = self.attention_weights(wide).unflatten(-1, (self.heads, self.points)).softmax(dim=-1)
            size = sizes_tensor((tuple(volume.shape[1:4]),), offsets.device, offsets.dtype)
            locations = references.to(offsets.dtype)[..., None, None, :] + offsets / size
        return self.output_projection(deformable_attention_3d(values, locations, weights))


def _reach(points: int) -> Tensor:
    """Initial distance of the sampling points in cells: 1, 2, 3, ..."""
    return torch.arange(1, points + 1, dtype=torch.float32)


def _initialise(layer: CameraDeformableAttention | VolumeDeformableAttention, offsets: Tensor) -> None:
    """Constant offsets, even weights, Xavier projections (Deformable DETR, appendix A.4)."""
    nn.init.zeros_(layer.sampling_offsets.weight)
    with torch.no_grad():
        layer.sampling_offsets.bias.copy_(offsets.flatten())
    nn.init.zeros_(layer.attention_weights.weight)
    nn.init.zeros_(layer.attention_weights.bias)
    for projection in (layer.value_projection, layer.output_projection):
        nn.init.xavier_uniform_(projection.weight)
        nn.init.zeros_(projection.bias)
