"""The geometry of a voxel grid: where its cells are, nothing about what is in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.errors import InvalidInputError


@dataclass(frozen=True)
class VoxelGrid:
    """An axis-aligned grid of cubic cells, arrays over it are indexed ``[x, y, z]``.

    Attributes:
        origin: minimum corner in the grid's frame, metres.
        voxel_size: edge of a cell, metres.
        size: number of cells along x, y, z.
    """

    origin: tuple[float, float, float]
    voxel_size: float
    size: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.origin) != 3 or len(self.size) != 3 or not np.all(np.isfinite(self.origin)):
            raise InvalidInputError(f"grid: expected 3 finite origin values and 3 sizes, got {self}")
        if not (np.isfinite(self.voxel_size) and self.voxel_size > 0) or min(self.size) < 1:
            raise InvalidInputError(f"grid: voxel_size and sizes must be positive, got {self}")

    @property
    def num_voxels(self) -> int:
        """Number of cells."""
        return self.size[0] * self.size[1] * self.size[2]

    @property
    def lower(self) -> np.ndarray:
        """Minimum corner, float64 [3], metres."""
        return np.asarray(self.origin, np.float64)

    @property
    def upper(self) -> np.ndarray:
        """Maximum corner, float64 [3], metres."""
        return self.lower + self.voxel_size * np.asarray(self.size, np.float64)

    def centers(self) -> np.ndarray:
        """Cell centres ``origin + (i + 0.5) * voxel_size``, float32 [X, Y, Z, 3], metres."""
        axes = [o + (np.arange(n) + 0.5) * self.voxel_size for o, n in zip(self.origin, self.size, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)

    def center_of(self, linear_index: np.ndarray) -> np.ndarray:
        """Centres of cells given by C-order linear index, float64 [N, 3], metres."""
        cells = np.stack(np.unravel_index(linear_index, self.size), axis=-1)
        return self.lower + (cells + 0.5) * self.voxel_size

    def cells_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells that points fall into.

        Args:
            points: [N, 3] metres in the grid's frame; NaN and infinity count as outside.

        Returns:
            (cells int32 [N, 3], inside bool [N]); cells of points outside are meaningless.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.floor((points[:, :3] - self.lower) / self.voxel_size)
            inside = np.all((scaled >= 0) & (scaled < np.asarray(self.size)), axis=1)
        return np.where(inside[:, None], scaled, 0).astype(np.int32), inside

    def linear_index(self, cells: np.ndarray) -> np.ndarray:
        """C-order index ``(x * Y + y) * Z + z`` of cells [N, 3], int64 [N]."""
        cells = np.asarray(cells, np.int64)
        return (cells[..., 0] * self.size[1] + cells[..., 1]) * self.size[2] + cells[..., 2]


OCC3D_GRID = VoxelGrid(origin=(-40.0, -40.0, -1.0), voxel_size=0.4, size=(200, 200, 16))
"""Grid of Occ3D-nuScenes and OpenOcc: ego frame, x and y in [-40, 40), z in [-1, 5.4)."""
