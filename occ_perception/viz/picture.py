"""Finished pictures: a view of a grid, and on it what made it, from what, and how much of it is unknown."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from occ_perception.files import write_whole
from occ_perception.frame import Frame
from occ_perception.models import LIDAR_CARVING
from occ_perception.occupancy import ModelInfo, Occupancy
from occ_perception.ops.threads import one_torch_thread
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.colors import BACKGROUND, FREE_FLOOR, TEXT, TEXT_DIM, WARNING, LegendEntry, legend_of
from occ_perception.viz.drawing import banner, legend_block, stacked, text_block
from occ_perception.viz.overlay import overlay_sheet
from occ_perception.viz.scene import scene
from occ_perception.viz.solids import FLOOR_BAND_M

UNTRAINED = "UNTRAINED WEIGHTS - NOT PERCEPTION"
_NOTE = (240, 180, 80)


@dataclass(frozen=True)
class Origin:
    """Where a grid in a picture comes from.

    Attributes:
        data: the recording, in words.
        way: how the grid came from it to the picture: live over ROS 2, or replayed offline.
    """

    data: str
    way: str = ""


def is_untrained(info: ModelInfo) -> bool:
    """Whether a grid is no perception: its model needs weights and has none, or has random ones."""
    training = info.trained_on.lower()
    if "untrained" in training or "random" in training:
        return True
    return info.weights == "none" and not training and not _needs_no_weights(info)


def weights_statement(info: ModelInfo) -> str:
    """What a reader must know of the weights, in words."""
    if _needs_no_weights(info):
        return "no weights needed"
    if is_untrained(info):
        return "no weights" if info.weights == "none" and not info.trained_on else "untrained random weights"
    if info.weights == "none":
        return info.trained_on
    return f"weights {info.weights}, trained on: {info.trained_on or 'not stated'}"


def _needs_no_weights(info: ModelInfo) -> bool:
    return info.weights == "none" and info.name.replace("_", "-") == LIDAR_CARVING


_BAND = f"{FLOOR_BAND_M[0]:g} to {FLOOR_BAND_M[1]:g} m"
_FLOOR_LEGEND = (
    LegendEntry(f"floor: seen to be free ({_BAND})", (FREE_FLOOR,)),
    LegendEntry(f"floor: unknown ({_BAND}; the share of the column)", hatched=True),
)
_TITLES = {
    "overlay": "Voxels in the camera images, each at its own stamp; where no voxel is drawn it is free or unknown",
    "scene": "Voxel grid from behind the vehicle",
    "birds_eye": "Highest voxel of each column, forward is up",
    "summary": "Voxels in the images, each at its own stamp (not drawn: free or unknown), from behind, and from above",
}


def write_pictures(folder: Path, prefix: str, occupancy: Occupancy, frame: Frame | None, origin: Origin) -> list[Path]:
    """Write ``<prefix>_scene.png``, ``_birds_eye.png`` and, given images, ``_overlay.png`` and ``_summary.png``.

    Raises:
        OSError: the folder cannot be written.
    """
    views = draw_views(occupancy, frame)
    paths = [folder / f"{prefix}_{name}.png" for name in views]
    for path, (name, view) in zip(paths, views.items(), strict=True):
        write_png(finished(name, view, occupancy, origin), path)
    return paths


def draw_views(occupancy: Occupancy, frame: Frame | None) -> dict[str, Image.Image]:
    """The pictures before anything is written on them, by name."""
    draw: dict[str, Callable[[], Image.Image]] = {"scene": partial(scene, occupancy)}
    if frame is not None and frame.images:
        draw["overlay"] = partial(overlay_sheet, occupancy, frame)
    draw["birds_eye"] = partial(birds_eye, occupancy)
    # Rays walk in many small steps, which PyTorch's own threads slow down; whole pictures are the better share of work.
    with one_torch_thread(), ThreadPoolExecutor(2, thread_name_prefix="pictures") as pool:
        drawn = {name: pool.submit(drawing) for name, drawing in draw.items()}
    views = {name: picture.result() for name, picture in drawn.items()}
    if "overlay" in views:
        views["summary"] = _side_by_side(views["overlay"], views["scene"], views["birds_eye"])
    return views


def _side_by_side(above: Image.Image, left: Image.Image, right: Image.Image) -> Image.Image:
    """One picture over two, scaled to fit."""
    gap = 6
    right = right.resize((round(right.width * left.height / right.height), left.height), Image.Resampling.LANCZOS)
    width = left.width + gap + right.width
    above = above.resize((width, round(above.height * width / above.width)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (width, above.height + left.height), BACKGROUND)
    for image, at in ((above, (0, 0)), (left, (0, above.height)), (right, (left.width + gap, above.height))):
        sheet.paste(image, at)
    return sheet


def finished(name: str, view: Image.Image, occupancy: Occupancy, origin: Origin) -> Image.Image:
    """A view between its caption and its legend; with a banner across it if it is not perception."""
    width = view.width
    legend = [*legend_of(occupancy), *(() if name == "overlay" else _FLOOR_LEGEND)]
    parts = [_caption(width, _TITLES[name], occupancy, origin), view, legend_block(width, legend)]
    if is_untrained(occupancy.info):
        parts.insert(1, banner(width, UNTRAINED, WARNING))
    return stacked(parts)


def _caption(width: int, title: str, occupancy: Occupancy, origin: Origin) -> Image.Image:
    info, grid = occupancy.info, occupancy.grid
    sensors = [f"{len(occupancy.cameras_used)} of {len(occupancy.cameras)} cameras"] if occupancy.cameras else []
    sensors += ["LiDAR"] if occupancy.lidar_used else []
    made_by = f"{info.name}  ({weights_statement(info)}) from {' and '.join(sensors) or 'no sensor'}"
    when = " | ".join(part for part in (f"stamp {occupancy.stamp_ns / 1e9:.3f} s", origin.data, origin.way) if part)
    counts = f"{count_text(occupancy)} of {' x '.join(map(str, grid.size))} at {grid.voxel_size:g} m"
    paragraphs = [(made_by, 20, TEXT), (title, 14, TEXT), (when, 13, TEXT_DIM), (counts, 13, TEXT_DIM)]
    paragraphs += [(f"note: {note}", 13, _NOTE) for note in occupancy.notes]
    return text_block(width, paragraphs)


def count_text(occupancy: Occupancy) -> str:
    """How many voxels hold a class, are free, and are unknown, in words."""
    counts = occupancy.counts()
    free, unknown, total = counts["free"], counts["unknown"], occupancy.grid.num_voxels
    return (
        f"voxels: {total - free - unknown:,} filled, {free:,} free ({free / total:.1%}), "
        f"{unknown:,} unknown ({unknown / total:.1%})"
    )


def write_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all (see `write_whole`).

    Raises:
        OSError: it cannot be written; whatever was at ``path`` is still there.
    """
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_whole(path, encoded.getvalue())
