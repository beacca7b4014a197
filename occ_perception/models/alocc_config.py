"""The published ALOcc / ALOcc-Flow variants as small frozen records (specs/alocc.md sections 0 and 12)."""

from dataclasses import dataclass, replace

from occ_perception.errors import ConfigurationError

NUSCENES_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)


@dataclass(frozen=True)
class PublishedFigures:
    """Scores the authors report for a variant; the source is named with them."""

    scores: tuple[tuple[str, float], ...] = ()
    source: str = "ALOcc (ICCV 2025), authors' README; specs/alocc.md section 0"


@dataclass(frozen=True)
class ALOccConfig:
    """Everything that distinguishes one ALOcc variant from another.

    Lengths are metres, in the ego axes of the anchor camera's stamp unless ``lidar_axes``.  ``volumetric``
    selects 3-D convolutions on a grid with 16 height cells instead of a bird's-eye-view map.
    """

    name: str = "alocc-2d-mini"
    label_set: str = "occ3d"
    classes: int = 18
    mask_trained: bool = True
    image_size: tuple[int, int] = (256, 704)
    source_image_size: tuple[int, int] = (900, 1600)
    resize: float = 0.44
    depth_start: float = 1.0
    depth_stop: float = 45.0
    depth_step: float = 1.0
    grid_origin: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_size: float = 0.4
    grid_size: tuple[int, int, int] = (200, 200, 16)
    volumetric: bool = False
    lifted_channels: int = 40
    stereo: bool = False
    inter_object: bool = False
    intra_object_bins: int = 22
    encoder_channels: tuple[int, ...] = (32, 64, 128)
    encoder_blocks: tuple[int, ...] = (1, 2, 4)
    encoder_strides: tuple[int, ...] = (1, 2, 2)
    neck_channels: int = 128
    voxel_channels: int = 32
    flow: bool = False
    history_frames: int = 16
    frame_interval: float = 0.5
    uses_lidar_depth: bool = False
    lidar_axes: bool = False  # the grid lies in the LiDAR's frame, not the vehicle's
    # QUIRK (5.3): published weights saw the inter-object depth index clamped to the number of cameras minus one.
    inter_object_depth_bins: int = 6
    published: PublishedFigures = PublishedFigures()

    @property
    def depth_bins(self) -> int:
        """Number of depth bins D."""
        return round((self.depth_stop - self.depth_start) / self.depth_step)

    @property
    def queries(self) -> int:
        """Prototypes of the head: one void prototype, then the classes."""
        return self.classes + 1

    @property
    def lifting_cells(self) -> tuple[int, int, int]:
        """Cells (x, y, z) of the grid that the image features are lifted into."""
        x, y, z = self.grid_size
        return (x, y, z if self.volumetric else 1)

    @property
    def lifting_interval(self) -> tuple[float, float, float]:
        """Cell size (x, y, z) in metres of the lifting grid; a BEV cell spans the whole height."""
        size = self.voxel_size
        return (size, size, size if self.volumetric else size * self.grid_size[2])

    @property
    def free_class(self) -> int:
        """Index of the class that means free space in the published class grid."""
        return self.classes - 1


_MINI = ALOccConfig(published=PublishedFigures((("mIoU", 41.43),)))
_BEV = replace(
    _MINI,
    name="alocc-2d",
    depth_step=0.5,
    lifted_channels=80,
    stereo=True,
    inter_object=True,
    encoder_channels=(64, 128, 256, 512),
    encoder_blocks=(1, 2, 4, 4),
    encoder_strides=(1, 2, 2, 2),
    neck_channels=256,
    voxel_channels=48,
    published=PublishedFigures((("mIoU", 44.84),)),
)
_VOLUME = replace(
    _BEV,
    name="alocc-3d",
    volumetric=True,
    lifted_channels=32,
    encoder_channels=(32, 64, 128, 256),
    neck_channels=48,
    published=PublishedFigures((("mIoU", 45.45),)),
)


def _without_mask(base: ALOccConfig, miou: float, ray_iou: float) -> ALOccConfig:
    figures = PublishedFigures((("mIoU", miou), ("RayIoU", ray_iou)))
    return replace(base, name=f"{base.name}-wo-mask", mask_trained=False, published=figures)


def _with_flow(base: ALOccConfig, name: str, occ_score: float, mave: float) -> ALOccConfig:
    figures = PublishedFigures((("Occ score", occ_score), ("mAVE", mave)))
    return replace(base, name=name, label_set="openocc", classes=17, flow=True, published=figures)


_SURROUNDOCC = replace(
    _VOLUME,
    name="alocc-3d-surroundocc",
    label_set="surroundocc",
    image_size=(896, 1600),
    resize=1.0,
    depth_stop=60.0,
    grid_origin=(-50.0, -50.0, -5.0),
    voxel_size=0.5,
    history_frames=0,
    mask_trained=False,
    lidar_axes=True,
    published=PublishedFigures(),
)

VARIANTS: dict[str, ALOccConfig] = {
    config.name: config
    for config in (
        _MINI,
        _BEV,
        _VOLUME,
        _without_mask(_MINI, 33.38, 39.3),
        _without_mask(_BEV, 37.36, 43.0),
        _without_mask(_VOLUME, 38.29, 43.7),
        _with_flow(_BEV, "alocc-flow-2d", 41.9, 0.530),
        _with_flow(_VOLUME, "alocc-flow-3d", 43.1, 0.549),
        replace(
            _VOLUME,
            name="alocc-3d-gt-depth",
            uses_lidar_depth=True,
            published=PublishedFigures((("mIoU", 54.46),)),
        ),
        _SURROUNDOCC,
    )
}

PANOPTIC_BASES = {"alocc-2d-mini-panoptic": "alocc-2d-mini"}
"""Registry names of variants with OffsetOcc's modules on them (see `models.alocc_panoptic`), and the variants."""


def alocc_config(name: str) -> ALOccConfig:
    """The variant called ``name`` (``alocc_3d`` and ``alocc-3d`` are the same); ConfigurationError lists the names."""
    canonical = name.lower().replace("_", "-")
    if canonical not in VARIANTS:
        raise ConfigurationError(f"unknown ALOcc variant {name!r}; available: {', '.join(VARIANTS)}")
    return VARIANTS[canonical]
