"""Finished pictures: a view of a grid, and on it what made it, from what, and how much of it is unknown."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from occ_perception.files import write_whole
from occ_perception.frame import Frame
from occ_perception.models import LIDAR_CARVING
from occ_perception.occupancy import ModelInfo, Occupancy
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.colors import FREE_FLOOR, TEXT, TEXT_DIM, WARNING, LegendEntry, legend_of
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
    if info.weights == "none":
        return info.trained_on or "no weights"
    return f"weights {info.weights}, trained on: {info.trained_on or 'not stated'}"


def _needs_no_weights(info: ModelInfo) -> bool:
    return info.weights == "none" and info.name.replace("_", "-") == LIDAR_CARVING


def overlay_picture(occupancy: Occupancy, frame: Frame, origin: Origin) -> Image.Image:
    """The six camera images with the voxels in them."""
    title = "Voxels in the camera images, each at its own stamp; where no voxel is drawn it is free or unknown"
    return framed(overlay_sheet(occupancy, frame), title, occupancy, origin)


def scene_picture(occupancy: Occupancy, origin: Origin) -> Image.Image:
    """The grid in three dimensions."""
    title = "Voxel grid from behind the vehicle"
    return framed(scene(occupancy), title, occupancy, origin, _FLOOR_LEGEND)


def birds_eye_picture(occupancy: Occupancy, origin: Origin) -> Image.Image:
    """The grid from above."""
    title = "Highest voxel of each column, forward is up"
    return framed(birds_eye(occupancy), title, occupancy, origin, _FLOOR_LEGEND)


_BAND = f"{FLOOR_BAND_M[0]:g} to {FLOOR_BAND_M[1]:g} m"
_FLOOR_LEGEND = (
    LegendEntry(f"floor: seen to be free ({_BAND})", (FREE_FLOOR,)),
    LegendEntry(f"floor: unknown ({_BAND}; the share of the column)", hatched=True),
)


def framed(
    view: Image.Image, title: str, occupancy: Occupancy, origin: Origin, legend: tuple[LegendEntry, ...] = ()
) -> Image.Image:
    """A view between its caption and its legend; with a banner across it if it is not perception."""
    width = view.width
    parts = [_caption(width, title, occupancy, origin), view, legend_block(width, [*legend_of(occupancy), *legend])]
    if is_untrained(occupancy.info):
        parts.insert(1, banner(width, UNTRAINED, WARNING))
    return stacked(parts)


def _caption(width: int, title: str, occupancy: Occupancy, origin: Origin) -> Image.Image:
    info, grid = occupancy.info, occupancy.grid
    sensors = [f"{len(occupancy.cameras_used)} of {len(occupancy.cameras)} cameras"] if occupancy.cameras else []
    sensors += ["LiDAR"] if occupancy.lidar_used else []
    made_by = f"{info.name}  ({weights_statement(info)}) from {' and '.join(sensors) or 'no sensor'}"
    when = f"stamp {occupancy.stamp_ns / 1e9:.3f} s   input: {origin.data}   {origin.way}".rstrip()
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


def write_pictures(folder: Path, prefix: str, occupancy: Occupancy, frame: Frame | None, origin: Origin) -> list[Path]:
    """Write ``<prefix>_overlay.png`` (if there is a frame with images), ``_scene.png`` and ``_birds_eye.png``.

    Raises:
        OSError: the folder cannot be written.
    """
    draw: dict[str, Callable[[], Image.Image]] = {
        "scene": lambda: scene_picture(occupancy, origin),
        "birds_eye": lambda: birds_eye_picture(occupancy, origin),
    }
    if frame is not None and frame.images:
        draw["overlay"] = lambda: overlay_picture(occupancy, frame, origin)
    # Rays walk in many small steps, which PyTorch's own threads slow down; whole pictures are the better share of work.
    with _one_torch_thread(), ThreadPoolExecutor(2, thread_name_prefix="pictures") as pool:
        pictures = {name: pool.submit(drawing) for name, drawing in draw.items()}
    paths = [folder / f"{prefix}_{name}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        write_png(picture.result(), path)
    return paths


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all (see `write_whole`).

    Raises:
        OSError: it cannot be written; whatever was at ``path`` is still there.
    """
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_whole(path, encoded.getvalue())
