"""Pictures of a synthetic scene for people: a contact sheet of a keyframe with all its truth, and a short film."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from occ_perception.data.nuscenes_truth import GROUND_TRUTH
from occ_perception.data.synthetic.drive import CityDrive, CityKeyframe
from occ_perception.data.synthetic.labels import SceneTruth
from occ_perception.data.synthetic.renderer import RenderedImage
from occ_perception.data.synthetic.rig import NATIVE_HEIGHT, NATIVE_WIDTH
from occ_perception.files import write_whole
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.colors import HEIGHT_RAMP
from occ_perception.viz.drawing import label as caption
from occ_perception.viz.drawing import to_image

_LAYOUT = (("cam_front_left", "cam_front", "cam_front_right"), ("cam_back_left", "cam_back", "cam_back_right"))
_TILE_WIDTH = 400
_DEPTH_RANGE_M = (2.0, 80.0)
_SKY = (25, 30, 45)
_FILM_SECONDS, _FILM_FRAME_MS, _FILM_HEIGHT = 5.0, 83, 288


def write_preview(folder: Path, seed: int, seconds: float) -> list[Path]:
    """Write pictures of the scene of a seed: ``<seed>.png`` and ``<seed>.webp`` (5 s at 12 Hz, at most).

    Args:
        folder: where to.
        seed: of the scene.
        seconds: its length; equal seeds of other lengths can be other scenes.

    Returns:
        What was written.

    Raises:
        OSError: the disk refuses.
    """
    drive = CityDrive(seed, seconds, (_TILE_WIDTH, _TILE_WIDTH * NATIVE_HEIGHT // NATIVE_WIDTH))
    stamps = drive.keyframe_stamps()
    sheet = contact_sheet(drive.keyframe(stamps[len(stamps) // 2]))
    paths = [folder / f"{seed}.png", folder / f"{seed}.webp"]
    write_whole(paths[0], _png(sheet))
    shots = drive.set_stamps()[: int(_FILM_SECONDS * 1000 / _FILM_FRAME_MS)]
    write_whole(paths[1], _webp([_film_frame(drive, stamp) for stamp in shots]))
    return paths


def contact_sheet(keyframe: CityKeyframe) -> Image.Image:
    """Images, depth and classes of six cameras; beside them the labels from above, all and those the cameras saw."""
    kinds: tuple[tuple[str, Callable[[RenderedImage], np.ndarray]], ...] = (
        ("images", lambda image: image.rgb),
        ("depth, blue 80 m to red 2 m", _depth_colors),
        ("classes", _class_colors),
    )
    blocks = []
    for name, colors in kinds:
        block = _tiles({camera: colors(image) for camera, image in keyframe.rendered.items()})
        caption(block, (10, 8), name)
        blocks.append(block)
    left = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)))
    for i, block in enumerate(blocks):
        left.paste(block, (0, i * block.height))
    label = keyframe.truth.label
    seen = np.where(np.asarray(label.mask_camera), label.semantics, UNKNOWN).astype(np.uint8)
    plans = []
    for name, semantics in (("labels", label.semantics), ("what the cameras saw", seen)):
        plan = birds_eye(_occupancy(semantics, keyframe.truth), left.height // 2)
        caption(plan, (10, 8), name)
        plans.append(plan)
    sheet = Image.new("RGB", (left.width + plans[0].width, left.height))
    sheet.paste(left, (0, 0))
    for i, plan in enumerate(plans):
        sheet.paste(plan, (left.width, i * plans[0].height))
    return sheet


def _film_frame(drive: CityDrive, stamp_ns: int) -> Image.Image:
    """The six images, and beside them the labels from above."""
    images = _tiles({camera: image.rgb for camera, image in drive.rendered(stamp_ns).items()})
    images = images.resize((images.width * _FILM_HEIGHT // images.height, _FILM_HEIGHT), Image.Resampling.LANCZOS)
    truth = drive.truth(stamp_ns)
    plan = birds_eye(_occupancy(truth.label.semantics, truth), images.height)
    frame = Image.new("RGB", (images.width + plan.width, images.height))
    frame.paste(images, (0, 0))
    frame.paste(plan, (images.width, 0))
    return frame


def _occupancy(semantics: np.ndarray, truth: SceneTruth) -> Occupancy:
    """Labels as a grid in which everything that is not UNKNOWN was seen, with the boxes as objects."""
    kinds = np.full(256, Visibility.OCCUPIED_SEEN, np.uint8)
    kinds[FREE], kinds[UNKNOWN] = Visibility.FREE_SEEN, Visibility.UNKNOWN
    objects = [
        Instance(int(i), int(c), 1.0, tuple(box[:3]), tuple(box[3:6]), float(box[6]), (box[7], box[8], 0.0))
        for box, c, i in zip(truth.boxes, truth.box_classes, truth.box_ids, strict=True)
    ]
    info = ModelInfo(GROUND_TRUTH, OCC3D, truth.label.grid)
    return Occupancy(truth.label.stamp_ns or 0, info, semantics, kinds[semantics], objects=tuple(objects))


def _tiles(images: Mapping[str, np.ndarray]) -> Image.Image:
    """Six pictures of one size as they lie around the vehicle."""
    height, width = next(iter(images.values())).shape[:2]
    sheet = Image.new("RGB", (width * len(_LAYOUT[0]), height * len(_LAYOUT)))
    for row, names in enumerate(_LAYOUT):
        for column, name in enumerate(names):
            sheet.paste(to_image(images[name]), (column * width, row * height))
    return sheet


def _depth_colors(image: RenderedImage) -> np.ndarray:
    """Near is red, far is blue, on a logarithmic scale; float32 [H, W, 3] in 0..255."""
    low, high = np.log(_DEPTH_RANGE_M)
    sky = ~np.isfinite(image.depth)
    share = np.clip((np.log(np.where(sky, 1.0, image.depth)) - low) / (high - low), 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(HEIGHT_RAMP))
    colors = np.stack([np.interp(1.0 - share, steps, channel) for channel in HEIGHT_RAMP.T], axis=-1)
    return np.where(sky[..., None], _SKY, colors).astype(np.float32)


def _class_colors(image: RenderedImage) -> np.ndarray:
    """Colours of the classes, dark where there is sky; uint8 [H, W, 3]."""
    return np.where((image.class_ids == UNKNOWN)[..., None], _SKY, OCC3D.palette()[image.class_ids]).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _webp(frames: list[Image.Image]) -> bytes:
    """An endless film."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=_FILM_FRAME_MS, loop=0, quality=70, method=2
    )
    return buffer.getvalue()
