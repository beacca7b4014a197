"""Sizes of the `nano` network: everything else derives from these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.geometry import VoxelGrid
from occ_perception.ops.voxel_pooling import GridSpec

FLOW_BIN_CENTRES = tuple(float(v) for v in range(-20, 21))
"""Velocities whose expectation is the flow, m/s, per axis."""


@dataclass(frozen=True)
class NanoConfig:
    """What `nano` is made of.  The grid is Occ3D's; coarse cells are 2 x 2 voxels (x, y), full height.

    Attributes:
        name: registry name.
        label_set, classes: Occ3D's 17 classes and free.
        image_size: (height, width) of the network image.
        resize: factor from a 1600 pixel wide image.
        depth_start, depth_step, depth_bins: centres of the depth bins, metres.
        intra_object_bins: bins behind a surface that may be occupied (ALOcc's intra-object transfer).
        adaptive_lifting: False for plain lift-splat: no transfer, every point to its nearest voxel.
        image_channels: of the stages at strides 4, 8, 16, 32.
        feature_channels: of the merged image features at stride 8.
        context_channels: lifted per height cell.
        lifting_heights: height cells of the lifting grid.
        bev_channels: of the bird's-eye-view stages at 0.8, 1.6 and 3.2 m.
        neck_channels: of the merged bird's-eye view.
        voxel_channels: feature of a voxel, compared with the class prototypes.
        matching_channels: of the map that is matched with the previous frame for flow.
        use_history: False for a network without temporal fusion.
        frame_interval: seconds between the frames it was trained with.
    """

    name: str = "nano"
    label_set: str = "occ3d"
    classes: int = 18
    image_size: tuple[int, int] = (128, 352)
    resize: float = 0.22
    depth_start: float = 1.0
    depth_step: float = 1.0
    depth_bins: int = 48
    intra_object_bins: int = 6
    adaptive_lifting: bool = True
    grid_origin: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_size: float = 0.4
    grid_size: tuple[int, int, int] = (200, 200, 16)
    image_channels: tuple[int, int, int, int] = (48, 80, 144, 192)
    feature_channels: int = 80
    context_channels: int = 16
    lifting_heights: int = 8
    bev_channels: tuple[int, int, int] = (64, 96, 128)
    neck_channels: int = 80
    voxel_channels: int = 12
    matching_channels: int = 24
    use_history: bool = True
    frame_interval: float = 0.5

    @property
    def depth_stop(self) -> float:
        """Where the last depth bin ends, metres."""
        return self.depth_start + self.depth_step * self.depth_bins

    @property
    def grid(self) -> VoxelGrid:
        """The published grid."""
        return VoxelGrid(self.grid_origin, self.voxel_size, self.grid_size)

    @property
    def coarse_cells(self) -> tuple[int, int]:
        """Coarse cells (x, y)."""
        return self.grid_size[0] // 2, self.grid_size[1] // 2

    @property
    def coarse_size(self) -> float:
        """Side of a coarse cell, metres."""
        return 2 * self.voxel_size

    @property
    def coarse_origin(self) -> tuple[float, float, float]:
        """Centre of the first coarse cell; its height is that of the first lifting cell."""
        x, y, z = self.grid_origin
        height = self.voxel_size * self.grid_size[2] / self.lifting_heights
        return x + self.voxel_size, y + self.voxel_size, z + height / 2

    @property
    def lifting_grid(self) -> GridSpec:
        """Where image features are lifted to."""
        height = self.voxel_size * self.grid_size[2] / self.lifting_heights
        return GridSpec(
            self.coarse_origin,
            (self.coarse_size, self.coarse_size, height),
            (*self.coarse_cells, self.lifting_heights),
        )

    @property
    def column_voxels(self) -> int:
        """Voxels of a coarse cell's column: 2 x 2 x heights."""
        return 4 * self.grid_size[2]

    @property
    def free_class(self) -> int:
        """Index of free space among the network's classes."""
        return self.classes - 1
