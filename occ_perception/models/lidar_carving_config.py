"""Settings of LiDAR carving; the defaults are complete."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid
from occ_perception.ops.ground import GroundSettings


@dataclass(frozen=True)
class OwnVehicle:
    """Box around the vehicle in its own frame (base_link on the ground below the rear axle), metres.

    Returns inside are taken for the vehicle itself, whatever their height below ``top``, and no voxel in it is ever
    free.  An obstacle inside is not seen, so make it fit your vehicle; ``half_width`` 0 means no box at all.

    The default fits nuScenes' Renault Zoe (4.1 m x 1.7 m, LiDAR on the roof at 1.84 m) with the shift that motion
    compensation gives to returns that in truth ride along: a quarter of its sweeps are returns on its own roof.
    """

    rear: float = -1.1
    front: float = 4.1
    half_width: float = 1.1
    top: float = 2.1

    def __post_init__(self) -> None:
        numbers = (self.rear, self.front, self.half_width, self.top)
        if not (np.isfinite(numbers).all() and self.rear <= self.front and self.half_width >= 0):
            raise ConfigurationError(
                f"own vehicle: expected finite numbers, rear <= front, half_width >= 0, got {self}"
            )

    def contains(self, points: np.ndarray) -> np.ndarray:
        """bool [N]: which points (float [N, 3], vehicle frame) are on the vehicle."""
        x, y, z = points.T
        return (x > self.rear) & (x < self.front) & (np.abs(y) < self.half_width) & (z < self.top)


@dataclass(frozen=True)
class LidarCarvingConfig:
    """Everything there is to set; the defaults are for nuScenes-like vehicles.

    Attributes:
        grid: geometry of the output, vehicle frame.
        own_vehicle: where returns are the vehicle itself.
        min_range, max_range: distance from the sensor outside which returns are not trusted, metres.
        past_sweeps: how many sweeps before this one take part, at most.
        max_age_s: how old their stamps may be, seconds.
        max_age_alone_s: the same in frames without a usable sweep: with no sensor watching, free space is soon not so.
        ground: what counts as ground.
        ground_height: of the ground the vehicle stands on, in its frame, metres (0: base_link is on the ground).
    """

    grid: VoxelGrid = OCC3D_GRID
    own_vehicle: OwnVehicle = field(default_factory=OwnVehicle)
    min_range: float = 1.0
    max_range: float = 300.0
    past_sweeps: int = 10
    max_age_s: float = 1.0
    max_age_alone_s: float = 0.5
    ground: GroundSettings = field(default_factory=GroundSettings)
    ground_height: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_range < self.max_range:
            raise ConfigurationError(f"expected 0 <= min_range < max_range, got {self.min_range}, {self.max_range}")
        if not 0 <= self.past_sweeps <= 1000 or not 0 <= self.max_age_alone_s <= self.max_age_s:
            raise ConfigurationError(
                "expected past_sweeps 0..1000 and 0 <= max_age_alone_s <= max_age_s, "
                f"got {self.past_sweeps}, {self.max_age_alone_s}, {self.max_age_s}"
            )
        if not np.isfinite(self.ground_height):
            raise ConfigurationError(f"expected a finite ground_height, got {self.ground_height}")
