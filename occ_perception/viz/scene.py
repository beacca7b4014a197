"""The grid in three dimensions, from behind and above the vehicle."""

from __future__ import annotations

import numpy as np
from PIL import Image

from occ_perception.geometry import PinholeCamera
from occ_perception.occupancy import Instance, Occupancy
from occ_perception.viz.colors import ARROW
from occ_perception.viz.drawing import arrow, to_image
from occ_perception.viz.render import render
from occ_perception.viz.solids import VEHICLE, paint_box, paint_floor
from occ_perception.viz.views import look_at, project_points

_ARROW_SECONDS = 1.0


def chase_view(width: int = 1024, height: int = 576) -> PinholeCamera:
    """Behind and above the vehicle, looking ahead."""
    return look_at(eye=(-17.0, 0.0, 13.0), target=(11.0, 0.0, 0.0), width=width, height=height, horizontal_fov_deg=66.0)


def scene(occupancy: Occupancy, camera: PinholeCamera | None = None) -> Image.Image:
    """Render the grid with the vehicle as a box, the unknown hatched on the ground, and velocities as arrows."""
    camera = camera or chase_view()
    rendering = paint_floor(render(occupancy, camera), occupancy, camera)
    image = to_image(paint_box(rendering, VEHICLE, camera).rgb)
    for instance in occupancy.objects:
        _draw_velocity(image, camera, instance)
    return image


def _draw_velocity(image: Image.Image, camera: PinholeCamera, instance: Instance) -> None:
    roof = np.asarray(instance.center)
    roof[2] += 0.5 * instance.size[2]
    ahead = roof + _ARROW_SECONDS * np.asarray(instance.velocity)
    if not np.isfinite(ahead).all():
        return
    pixels, in_front = project_points(camera, np.stack([roof, ahead]))
    if in_front.all():
        arrow(image, pixels[0], pixels[1], ARROW)
