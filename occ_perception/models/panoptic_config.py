"""Sizes and thresholds of the Object Module and the Panoptic Module (OffsetOcc, arXiv 2505.09562)."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.errors import ConfigurationError

MAXIMUM_QUERIES = 32767


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

    Raises:
        ConfigurationError: a size that is not positive, channels that the heads do not divide, or a threshold or share
            outside 0..1.
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
        transformer = (self.channels, self.layers, self.heads, self.points, self.hidden)
        if min(*transformer, self.feature_stride, self.queries, self.offsets_per_side) < 1 or self.voting_radius < 0:
            raise ConfigurationError(f"panoptic modules: sizes must be positive, got {self}")
        if self.queries > MAXIMUM_QUERIES:
            raise ConfigurationError(f"panoptic modules: queries must be at most {MAXIMUM_QUERIES}, got {self.queries}")
        if self.channels % self.heads:
            raise ConfigurationError(
                f"panoptic modules: heads must divide channels, got {self.heads} heads, {self.channels} channels"
            )
        for name in ("score_threshold", "offset_threshold", "covered_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:  # a NaN would delete every thing without a word
                raise ConfigurationError(f"panoptic modules: {name} must be in 0..1, got {value}")

    @property
    def offsets(self) -> int:
        """K."""
        return self.offsets_per_side**3
