"""Small models for tests of the replayer."""

import numpy as np
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, transform_points
from occ_perception.models.base import ImageSpec, ModelOutput
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D


class Hits:
    """Voxels with LiDAR points are occupied, all else is free.

    Args:
        images: it takes images too (and does not look at them).
        refuse: so many frames at the beginning.
        occ3d: it speaks of Occ3D's classes (class 3) on Occ3D's grid.
        weights: fingerprint that it claims.
    """

    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, images: bool = False, refuse: int = 0, occ3d: bool = False, weights: str = "none") -> None:
        grid = OCC3D_GRID if occ3d else VoxelGrid((-20, -20, -1), 0.5, (80, 80, 8))
        self.info = ModelInfo("hits", OCC3D if occ3d else GEOMETRY, grid, weights)
        self.image_spec = ImageSpec(32, 64, resize=0.04) if images else None
        self.refuse = refuse
        self.occupied = 3 if occ3d else 0

    def step(self, inputs, state, prev_ego_from_ego):
        if self.refuse:
            self.refuse -= 1
            raise InvalidInputError("not this one")
        semantics = np.full(self.info.grid.size, FREE, np.uint8)
        for sweep in inputs.frame.lidar:
            points = transform_points(sweep.ego_from_lidar, sweep.points[:, :3])
            cells, inside = self.info.grid.cells_of(points)
            semantics[tuple(cells[inside].T)] = self.occupied
        visibility = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN).astype(np.uint8)
        return ModelOutput(torch.from_numpy(semantics), torch.from_numpy(visibility), state=0, state_frames=0)
