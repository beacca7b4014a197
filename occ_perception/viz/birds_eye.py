"""The grid from above: what is on top in every column, and where nobody looked."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from occ_perception.occupancy import Instance, Occupancy
from occ_perception.viz.colors import ARROW, EGO, TEXT_DIM, voxel_colors
from occ_perception.viz.drawing import arrow, label, to_image
from occ_perception.viz.solids import VEHICLE, Box, floor_colors

RING_STEP_M = 10.0
_ARROW_SECONDS = 1.0
_RING = (120, 128, 140)


class _Plan:
    """Metres to pixels, x up and y to the left, as one looks along the road."""

    def __init__(self, occupancy: Occupancy, width: int) -> None:
        grid = occupancy.grid
        self.upper = grid.upper
        self.scale = width / float(grid.upper[1] - grid.lower[1])
        self.width, self.height = width, round(self.scale * float(grid.upper[0] - grid.lower[0]))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (u, v) of points [..., >= 2] in metres."""
        return (self.upper[[1, 0]] - np.asarray(points, np.float64)[..., [1, 0]]) * self.scale

    def pixel_centers(self) -> np.ndarray:
        """Metres (x, y) of the pixel centres in row order, float64 [H * W, 2]."""
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([self.upper[0] - v.ravel() / self.scale, self.upper[1] - u.ravel() / self.scale], axis=-1)


def birds_eye(occupancy: Occupancy, width: int = 800) -> Image.Image:
    """Draw the grid from above, forward is up.

    A column shows the colour of its highest occupied voxel. Columns without one are plain where they were seen to be
    free and hatched grey where they are unknown.
    """
    plan = _Plan(occupancy, width)
    image = to_image(_columns(occupancy, plan))
    _draw_rings(image, plan)
    _draw_box(image, plan, VEHICLE, EGO)
    for instance in occupancy.objects:
        _draw_instance(image, plan, instance, occupancy)
    return image


def _columns(occupancy: Occupancy, plan: _Plan) -> np.ndarray:
    """Top colours over the floor, float32 [H, W, 3]."""
    points = plan.pixel_centers()
    rgb = floor_colors(occupancy, points)
    cells = np.floor((points - occupancy.grid.lower[:2]) / occupancy.grid.voxel_size).astype(np.int64)
    cells = np.clip(cells, 0, np.asarray(occupancy.grid.size[:2]) - 1)
    top = top_heights(occupancy)
    covered = top >= 0
    colors = np.zeros((*top.shape, 3), np.float32)
    colors[covered] = voxel_colors(occupancy, np.column_stack([*np.nonzero(covered), top[covered]]))
    colors *= _relief(top)[..., None]
    drawn = covered[cells[:, 0], cells[:, 1]]
    rgb[drawn] = colors[cells[drawn, 0], cells[drawn, 1]]
    return rgb.reshape(plan.height, plan.width, 3)


def top_heights(occupancy: Occupancy) -> np.ndarray:
    """z index of the highest occupied voxel of each column, int64 [X, Y]; -1 where there is none."""
    occupied = occupancy.occupied()
    highest = occupied.shape[2] - 1 - occupied[:, :, ::-1].argmax(axis=2)
    return np.where(occupied.any(axis=2), highest, -1)


def _relief(top: np.ndarray) -> np.ndarray:
    """Brightness that makes steps in height visible, as if lit from ahead and left, float32 [X, Y]."""
    padded = np.pad(top, ((0, 1), (0, 1)), mode="edge")
    ahead, left = padded[1:, :-1], padded[:-1, 1:]
    rise = np.clip((top - ahead) + (top - left), -6, 6)
    return (0.95 + 0.03 * rise).astype(np.float32)


def _draw_rings(image: Image.Image, plan: _Plan) -> None:
    draw = ImageDraw.Draw(image)
    center = plan.pixels(np.zeros(2))
    for radius in np.arange(RING_STEP_M, np.abs(plan.upper[:2]).max() * 1.5, RING_STEP_M):
        reach = radius * plan.scale
        draw.ellipse([*(center - reach), *(center + reach)], outline=_RING)
        u, v = plan.pixels(np.array([radius, 0.0]))
        if v > 0:
            label(image, (round(u) + 7, round(v) + 6), f"{radius:g} m", 12, TEXT_DIM)


def _draw_box(image: Image.Image, plan: _Plan, box: Box, color: tuple[int, int, int]) -> None:
    outline = plan.pixels(box.corners()[[0, 1, 3, 2]])
    draw = ImageDraw.Draw(image)
    draw.polygon([tuple(corner) for corner in outline], outline=color, width=2)
    nose = 0.5 * (outline[1] + outline[2])
    draw.line([tuple(outline.mean(axis=0)), tuple(nose)], fill=color, width=2)


def _draw_instance(image: Image.Image, plan: _Plan, instance: Instance, occupancy: Occupancy) -> None:
    red, green, blue = (int(c) for c in occupancy.ontology.palette()[instance.class_id])
    _draw_box(image, plan, Box.of_instance(instance, (red, green, blue)), (red, green, blue))
    start, ahead = np.asarray(instance.center), _ARROW_SECONDS * np.asarray(instance.velocity)
    arrow(image, plan.pixels(start), plan.pixels(start + ahead), ARROW)
