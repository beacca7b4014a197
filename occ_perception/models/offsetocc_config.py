"""OffsetOcc as published, and a small variant, as frozen records (specs/offsetocc.md section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import VoxelGrid
from occ_perception.models.panoptic_config import PanopticConfig


@dataclass(frozen=True)
class OffsetOccConfig:
    """What the baseline (stage 1) is made of, and the modules on top of it (stage 2).

    The paper prints images of 1600 x 1200, which no nuScenes camera delivers; we take 1600 x 900 less the uppermost
    four rows, so that 32 divides the sides.

    Attributes:
        name: registry name.
        label_set, classes: Occ3D's 17 classes and free.
        image_size: (height, width) of the network image.
        resize: factor from a 1600 pixel wide image.
        grid_origin, voxel_size, grid_size: the published grid; the voxel queries have half its resolution.
        backbone_blocks, backbone_width: of the ResNet.
        channels: of image features, voxel queries and object queries, D.
        encoder_layers, heads, points, hidden: of the encoder; ``points`` per head and level, ``hidden`` of the
            feed-forward part.
        panoptic: the modules on top; None: the baseline alone, which is what stage 1 trains.
    """

    name: str = "offsetocc-baseline"
    label_set: str = "occ3d"
    classes: int = 18
    image_size: tuple[int, int] = (896, 1600)
    resize: float = 1.0
    grid_origin: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_size: float = 0.4
    grid_size: tuple[int, int, int] = (200, 200, 16)
    backbone_blocks: tuple[int, int, int, int] = (3, 4, 23, 3)  # ResNet-101
    backbone_width: int = 64
    channels: int = 128
    encoder_layers: int = 4
    heads: int = 8
    points: int = 4
    hidden: int = 256
    panoptic: PanopticConfig | None = None

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.image_size) or any(cells % 2 for cells in self.grid_size):
            raise ConfigurationError(
                f"{self.name}: expected image sides that 32 divides and even grid sizes, "
                f"got {self.image_size} and {self.grid_size}"
            )

    @property
    def grid(self) -> VoxelGrid:
        """The grid of the class scores."""
        return VoxelGrid(self.grid_origin, self.voxel_size, self.grid_size)

    @property
    def query_grid(self) -> VoxelGrid:
        """The grid of the voxel queries: half the resolution."""
        x, y, z = self.grid_size
        return VoxelGrid(self.grid_origin, 2 * self.voxel_size, (x // 2, y // 2, z // 2))

    @property
    def free_class(self) -> int:
        """Index of free space among the class scores."""
        return self.classes - 1


_BASELINE = OffsetOccConfig()
_SMALL_BASELINE = OffsetOccConfig(
    name="offsetocc-small-baseline",
    image_size=(256, 704),
    resize=0.44,
    backbone_blocks=(3, 4, 6, 3),  # ResNet-50
    channels=64,
    encoder_layers=2,
    hidden=128,
)

VARIANTS: dict[str, OffsetOccConfig] = {
    config.name: config
    for config in (
        replace(_BASELINE, name="offsetocc", panoptic=PanopticConfig()),
        _BASELINE,
        replace(
            _SMALL_BASELINE,
            name="offsetocc-small",
            panoptic=PanopticConfig(channels=64, queries=300, layers=2, hidden=256),
        ),
        _SMALL_BASELINE,
    )
}


def offsetocc_config(name: str) -> OffsetOccConfig:
    """The variant called ``name`` (``-`` and ``_`` are the same); ConfigurationError lists the names."""
    canonical = name.lower().replace("_", "-")
    if canonical not in VARIANTS:
        raise ConfigurationError(f"unknown OffsetOcc variant {name!r}; available: {', '.join(VARIANTS)}")
    return VARIANTS[canonical]
