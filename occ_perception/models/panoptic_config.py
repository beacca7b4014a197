"""Sizes and thresholds of the Object Module and the Panoptic Module (OffsetOcc, arXiv 2505.09562)."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.errors import ConfigurationError


@dataclass(frozen=True)
class PanopticConfig:
    """What the modules on top of a base model are made of, and how their answer is read.

    Attributes:
        channels: of the object queries, and of the voxel features they look into.
        feature_stride: the base's voxel features are averaged over cubes of this many cells first.
        queries: object queries, Q.
        layers, heads, points, hidden: of the transformer; ``points`` per head, ``hidden`` of its feed-forward part.
        offsets_per_side: an object is at most this many cubed voxels, K; the offsets start as a cube of this side.
        score_threshold: a query is an object if a class scores at least this.
        offset_threshold: an offset belongs to its object if it scores at least this.
        voting_radius: Manhattan distance in voxels within which objects vote for a voxel.
        same_class: whether an object only votes for voxels of its own class.
        covered_share: an object is dropped if more than this share of its voxels belong to a better object of its class
            too; None: never.
    """

    channels: int = 128
    feature_stride: int = 1
    queries: int = 900
    layers: int = 4
    heads: int = 8
    points: int = 4
    hidden: int = 512
    offsets_per_side: int = 13
    score_threshold: float = 0.3
    offset_threshold: float = 0.5
    voting_radius: int = 9
    same_class: bool = False
    covered_share: float | None = None

    def __post_init__(self) -> None:
        counts = (self.feature_stride, self.queries, self.layers, self.heads, self.points, self.offsets_per_side)
        if min(counts) < 1 or self.queries > 32767 or self.voting_radius < 0:
            raise ConfigurationError(f"panoptic modules: sizes must be positive, queries at most 32767, got {self}")

    @property
    def offsets(self) -> int:
        """K."""
        return self.offsets_per_side**3
