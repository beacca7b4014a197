"""A short film of a drive: the camera images, and beside them the grid from above; an animated WebP."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from occ_perception.errors import InvalidInputError
from occ_perception.files import write_whole
from occ_perception.frame import CameraImage, Frame
from occ_perception.image_codec import decode_image
from occ_perception.occupancy import Occupancy
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.colors import BACKGROUND, TEXT, TEXT_DIM, WARNING
from occ_perception.viz.drawing import banner, stacked, text_block, to_image
from occ_perception.viz.picture import UNTRAINED, Origin, is_untrained, weights_statement

_LAYOUT = (("front_left", "front", "front_right"), ("back_left", "back", "back_right"))
_PREFIXES = ("", "cam_")
FILM_HEIGHT = 320
_LONGEST_MS = 500


def write_film(
    path: Path, grids: Sequence[Occupancy], frames: Mapping[int, Frame], origin: Origin, height: int = FILM_HEIGHT
) -> None:
    """Write grids in order, with the images of the frames at their stamps, as an endless animated WebP.

    Raises:
        InvalidInputError: no grids.
        OSError: it cannot be written; whatever was at ``path`` is still there.
    """
    if not grids:
        raise InvalidInputError("a film needs at least one grid")
    shots = [film_frame(grid, frames.get(grid.stamp_ns), origin, height) for grid in grids]
    size = (max(shot.width for shot in shots), max(shot.height for shot in shots))
    stamps = np.array([grid.stamp_ns for grid in grids])
    steps_ms = np.clip(np.diff(stamps) / 1e6, 1, _LONGEST_MS).round().astype(int).tolist()
    write_whole(path, animated([_padded(shot, size) for shot in shots], [*steps_ms, _LONGEST_MS]))


def film_frame(occupancy: Occupancy, frame: Frame | None, origin: Origin, height: int = FILM_HEIGHT) -> Image.Image:
    """One picture of the film: what made the grid, the images, the grid from above."""
    plan = birds_eye(occupancy, height)
    parts = [camera_tiles(_images(frame), height)] if frame is not None and frame.images else []
    view = side_by_side([*parts, plan])
    made_by = f"{occupancy.info.name}  ({weights_statement(occupancy.info)})"
    caption = text_block(view.width, [(made_by, 13, TEXT), (f"{origin.data} | {origin.way}", 12, TEXT_DIM)])
    rows = [caption, view]
    if is_untrained(occupancy.info):
        rows.insert(1, banner(view.width, UNTRAINED, WARNING))
    return stacked(rows)


def camera_tiles(images: Mapping[str, np.ndarray], height: int) -> Image.Image:
    """Images (uint8 RGB [H, W, 3] by camera name) as they lie around the vehicle; others in a row below each other.

    A camera of the usual six that is missing leaves its place dark.
    """
    by_place = {name.lower(): image for name, image in images.items()}
    placed = [[_find(by_place, place) for place in row] for row in _LAYOUT]
    if all(image is None for row in placed for image in row):
        placed = [[image] for image in images.values()]
    tile_height = height // len(placed)
    shape = next(image.shape for row in placed for image in row if image is not None)
    tile_width = round(tile_height * shape[1] / shape[0])
    sheet = Image.new("RGB", (tile_width * len(placed[0]), tile_height * len(placed)), BACKGROUND)
    for y, row in enumerate(placed):
        for x, image in enumerate(row):
            if image is not None:
                tile = to_image(image).resize((tile_width, tile_height), Image.Resampling.LANCZOS)
                sheet.paste(tile, (x * tile_width, y * tile_height))
    return sheet


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, top edges level."""
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), BACKGROUND)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def animated(pictures: Sequence[Image.Image], durations_ms: int | Sequence[int]) -> bytes:
    """An endless WebP of pictures of one size."""
    buffer = io.BytesIO()
    durations = durations_ms if isinstance(durations_ms, int) else list(durations_ms)
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70, method=2
    )
    return buffer.getvalue()


def _images(frame: Frame | None) -> dict[str, np.ndarray]:
    """The pixels of a frame's original images; those that cannot be decoded are left out."""
    decoded = {}
    for name, image in (frame.images if frame is not None else {}).items():
        if isinstance(image, CameraImage):
            try:
                decoded[name] = decode_image(image.data)
            except InvalidInputError:  # the session's notes have said so
                continue
    return decoded


def _find(images: Mapping[str, np.ndarray], place: str) -> np.ndarray | None:
    return next((images[prefix + place] for prefix in _PREFIXES if prefix + place in images), None)


def _padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    sheet = Image.new("RGB", size, BACKGROUND)
    sheet.paste(picture, (0, 0))
    return sheet
