"""What is drawn beside the voxels: the vehicle and other boxes, and the floor that shows what is unknown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from occ_perception.geometry import PinholeCamera, inverse, rigid
from occ_perception.occupancy import Instance, Occupancy
from occ_perception.ontology import UNKNOWN
from occ_perception.viz.colors import BACKGROUND, EGO, FREE_FLOOR, UNKNOWN_FLOOR, UNKNOWN_STRIPE
from occ_perception.viz.render import Rendering
from occ_perception.viz.views import pixel_rays

HATCH_PERIOD_M = 1.6
FLOOR_BAND_M = (0.0, 2.0)
"""Heights (base_link) between which the floor tells what is known of a column: where a vehicle drives."""
_BOX_LIGHT = np.array([0.82, 0.66, 1.0], np.float32)  # by axis of the face
_FREE, _UNKNOWN, _STRIPE = (np.array(c, np.float32) for c in (FREE_FLOOR, UNKNOWN_FLOOR, UNKNOWN_STRIPE))


@dataclass(frozen=True)
class Box:
    """A solid box.

    Attributes:
        grid_from_box: pose of its centre in the grid's frame, float64 [4, 4].
        size: length, width, height, metres.
        color: RGB.
    """

    grid_from_box: np.ndarray
    size: tuple[float, float, float]
    color: tuple[int, int, int]

    def corners(self) -> np.ndarray:
        """The eight corners in the grid's frame, float64 [8, 3]; bit 0 of a row is set on the +x side, 1: +y, 2: +z."""
        signs = np.array([[(k >> axis & 1) - 0.5 for axis in range(3)] for k in range(8)])
        return (signs * self.size) @ self.grid_from_box[:3, :3].T + self.grid_from_box[:3, 3]

    @classmethod
    def of_instance(cls, instance: Instance, color: tuple[int, int, int]) -> Box:
        """The box around an instance."""
        turn = np.array([0.0, 0.0, np.sin(instance.yaw / 2), np.cos(instance.yaw / 2)])
        return cls(rigid(instance.center, turn), instance.size, color)


VEHICLE = Box(rigid([1.4, 0.0, 0.78], np.array([0.0, 0.0, 0.0, 1.0])), (4.1, 1.75, 1.56), EGO)
"""A passenger car about base_link on its rear axle: for the eye only, nothing is computed from it."""


def unknown_share(occupancy: Occupancy) -> np.ndarray:
    """Share of each column that is unknown within `FLOOR_BAND_M` (all heights if the grid lies outside), [X, Y]."""
    grid = occupancy.grid
    centers = grid.origin[2] + (np.arange(grid.size[2]) + 0.5) * grid.voxel_size
    band = (centers >= FLOOR_BAND_M[0]) & (centers < FLOOR_BAND_M[1])
    if not band.any():
        band[:] = True
    return (occupancy.semantics[:, :, band] == UNKNOWN).mean(axis=2, dtype=np.float32)


def floor_colors(occupancy: Occupancy, points: np.ndarray, footprint_m: np.ndarray | float = 0.0) -> np.ndarray:
    """Colours of the floor: plain where the column is free, hatched grey where it is unknown, by share in between.

    Args:
        occupancy: the grid.
        points: [N, 2], x and y in metres, over the grid.
        footprint_m: [N] or one, what a pixel covers there; stripes finer than a few pixels melt into their mean.

    Returns:
        float32 [N, 3] in 0..255.
    """
    grid = occupancy.grid
    cells = np.floor((points - grid.lower[:2]) / grid.voxel_size).astype(np.int64)
    cells = np.clip(cells, 0, np.asarray(grid.size[:2]) - 1)
    unknown = unknown_share(occupancy)[cells[:, 0], cells[:, 1]][:, None]
    phase = points.sum(axis=1) / HATCH_PERIOD_M % 1.0
    softness = np.maximum(np.asarray(footprint_m) * 2.0 / HATCH_PERIOD_M, 1e-3)
    stripe = 0.5 + np.clip((0.25 - np.abs(phase - 0.5)) / softness, -0.5, 0.5)
    stripe = (0.5 + (stripe - 0.5) * np.clip(1.6 - 1.2 * softness, 0.0, 1.0))[:, None].astype(np.float32)
    hatched = stripe * _STRIPE + (1.0 - stripe) * _UNKNOWN
    return unknown * hatched + (1.0 - unknown) * _FREE


def paint_floor(
    rendering: Rendering,
    occupancy: Occupancy,
    camera: PinholeCamera,
    background: tuple[int, int, int] = BACKGROUND,
    height_m: float = 0.0,
) -> Rendering:
    """Paint `floor_colors` at a height, over the extent of the grid, in place of the background of a rendering."""
    directions, eye = pixel_rays(camera), camera.ego_from_camera[:3, 3]
    grid = occupancy.grid
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = (height_m - eye[2]) / directions[:, 2]
        points = eye[:2] + directions[:, :2] * reach[:, None]
        over_grid = ((points >= grid.lower[:2]) & (points < grid.upper[:2])).all(axis=1)
    painted = over_grid & (reach > 0) & (rendering.coverage.ravel() < 1.0)
    rgb = rendering.rgb.reshape(-1, 3).copy()
    # A pixel's footprint on the floor grows with the distance, and again with the slant of the line of sight.
    footprint = reach[painted] / camera.intrinsics[0, 0] / np.maximum(np.abs(directions[painted, 2]), 1e-3)
    floor, share = floor_colors(occupancy, points[painted], footprint), rendering.coverage.reshape(-1, 1)[painted]
    rgb[painted] += (1.0 - share) * (floor - np.asarray(background, np.float32))
    return replace(rendering, rgb=rgb.reshape(rendering.rgb.shape))


def paint_box(rendering: Rendering, box: Box, camera: PinholeCamera) -> Rendering:
    """Paint a solid box into the picture, behind the voxels that hide it."""
    box_from_camera = inverse(box.grid_from_box) @ camera.ego_from_camera
    directions = pixel_rays(replace(camera, ego_from_camera=box_from_camera))
    eye, half = box_from_camera[:3, 3], 0.5 * np.asarray(box.size)
    with np.errstate(divide="ignore"):
        first, second = (-half - eye) / directions, (half - eye) / directions
    entries, exits = np.minimum(first, second), np.maximum(first, second)
    entry, axis = entries.max(axis=1), entries.argmax(axis=1)
    seen = (entry < exits.min(axis=1)) & (entry > 0) & (entry < rendering.distance.ravel())
    rgb, distance = rendering.rgb.reshape(-1, 3).copy(), rendering.distance.reshape(-1).copy()
    rgb[seen] = np.asarray(box.color, np.float32) * _BOX_LIGHT[axis[seen], None]
    distance[seen] = entry[seen]
    return replace(rendering, rgb=rgb.reshape(rendering.rgb.shape), distance=distance.reshape(rendering.distance.shape))
