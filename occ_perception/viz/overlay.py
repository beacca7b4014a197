"""The grid drawn into the camera images, each from its camera's pose at the stamp of its own image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import PinholeCamera, inverse
from occ_perception.image_codec import decode_image
from occ_perception.occupancy import Occupancy
from occ_perception.viz.colors import BACKGROUND, PANEL, TEXT, WARNING
from occ_perception.viz.drawing import label, to_image
from occ_perception.viz.render import Style, render
from occ_perception.viz.views import resized

_OPACITY = 0.5
_STYLE = Style(edge=0.85, fade_to_m=0.0)
_GAP = 6


def camera_in_grid(frame: Frame, name: str) -> tuple[PinholeCamera, bool]:
    """A camera of the frame, mounted in the grid's frame (the vehicle at the anchor stamp).

    Between the anchor stamp and the image's own the vehicle moved; without both poses that is not known.

    Returns:
        (camera, whether the motion was accounted for).
    """
    camera = frame.rig[name]
    odom_from_image_ego = frame.images[name].odom_from_ego
    if frame.odom_from_ego is None or odom_from_image_ego is None:
        return camera, False
    grid_from_image_ego = inverse(frame.odom_from_ego) @ odom_from_image_ego
    return replace(camera, ego_from_camera=grid_from_image_ego @ camera.ego_from_camera), True


def overlay(occupancy: Occupancy, camera: PinholeCamera, rgb: np.ndarray, width: int) -> Image.Image:
    """Blend the voxels a camera sees into its image.

    Args:
        occupancy: the grid.
        camera: mounted in the grid's frame; its size is that of the image.
        rgb: uint8 [H, W, 3].
        width: of the result, pixels.

    Raises:
        InvalidInputError: image and calibration differ in size.
    """
    if rgb.shape != (camera.height, camera.width, 3):
        raise InvalidInputError(f"image is {rgb.shape}, its calibration is for {camera.height}x{camera.width}")
    small = resized(camera, width)
    image = Image.fromarray(rgb).resize((small.width, small.height), Image.Resampling.BOX)
    rendering = render(occupancy, small, _STYLE)
    share = _OPACITY * rendering.coverage[..., None]
    return to_image((1.0 - share) * np.asarray(image, np.float32) + share * rendering.rgb)


def overlay_sheet(occupancy: Occupancy, frame: Frame, panel_width: int = 560) -> Image.Image:
    """All cameras of the frame as they are on the vehicle: front ones above, rear ones below, left ones left."""
    rows = [row for row in layout_of(frame.rig) if row]
    panels = [[_panel(occupancy, frame, name, panel_width) for name in row] for row in rows]
    heights = [max(panel.height for panel in row) for row in panels]
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", (columns * (panel_width + _GAP) - _GAP, sum(heights) + _GAP * len(rows)), BACKGROUND)
    y = 0
    for row, height in zip(panels, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * (panel_width + _GAP), y))
        y += height + _GAP
    return sheet


def layout_of(cameras: Mapping[str, PinholeCamera]) -> list[list[str]]:
    """Names of the cameras that look forward, and of those that look back, each from the vehicle's left to right."""
    axes = {name: camera.ego_from_camera[:3, 2] for name, camera in cameras.items()}
    from_left = sorted(axes, key=lambda name: -axes[name][1])
    return [[n for n in from_left if axes[n][0] >= 0], [n for n in from_left if axes[n][0] < 0]]


def _panel(occupancy: Occupancy, frame: Frame, name: str, width: int) -> Image.Image:
    image = frame.images.get(name)
    if not isinstance(image, CameraImage):
        return _empty_panel(frame.rig[name], width, f"{name}: no image")
    camera, at_own_stamp = camera_in_grid(frame, name)
    try:
        panel = overlay(occupancy, camera, decode_image(image.data), width)
    except InvalidInputError as error:
        return _empty_panel(camera, width, f"{name}: {error}")
    offset_ms = (image.stamp_ns - occupancy.stamp_ns) * 1e-6
    label(panel, (10, 8), f"{name}   {offset_ms:+.0f} ms", 15, TEXT)
    if not at_own_stamp:
        label(panel, (10, panel.height - 26), "no pose at this image's stamp: motion not accounted for", 13, WARNING)
    return panel


def _empty_panel(camera: PinholeCamera, width: int, text: str) -> Image.Image:
    panel = Image.new("RGB", (width, resized(camera, width).height), PANEL)
    label(panel, (10, 8), text, 15, WARNING)
    return panel
