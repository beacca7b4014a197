"""Pictures of a synthetic scene for people: a contact sheet of a keyframe with all its truth, and a short film."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from occ_perception.data.nuscenes_truth import GROUND_TRUTH
from occ_perception.data.synthetic.drive import CityDrive, CityKeyframe
from occ_perception.data.synthetic.labels import SceneTruth
from occ_perception.data.synthetic.renderer import RenderedImage
from occ_perception.files import write_whole
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.viz.birds_eye import birds_eye
from occ_perception.viz.colors import HEIGHT_RAMP
from occ_perception.viz.drawing import label, stacked
from occ_perception.viz.film import FILM_HEIGHT, animated, camera_tiles, side_by_side
from occ_perception.viz.picture import write_png

_IMAGE_SIZE, _BLOCK_HEIGHT = (400, 225), 450
_DEPTH_RANGE_M = (2.0, 80.0)
_SKY = (25, 30, 45)
_FILM_SECONDS, _FILM_FRAME_MS = 5.0, 83


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
    drive = CityDrive(seed, seconds, _IMAGE_SIZE)
    stamps = drive.keyframe_stamps()
    sheet = contact_sheet(drive.keyframe(stamps[len(stamps) // 2]))
    paths = [folder / f"{seed}.png", folder / f"{seed}.webp"]
    write_png(sheet, paths[0])
    shots = drive.set_stamps()[: int(_FILM_SECONDS * 1000 / _FILM_FRAME_MS)]
    write_whole(paths[1], animated([_film_frame(drive, stamp) for stamp in shots], _FILM_FRAME_MS))
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
        tiles = {camera: colors(image) for camera, image in keyframe.rendered.items()}
        blocks.append(_captioned(camera_tiles(tiles, _BLOCK_HEIGHT), name))
    truth = keyframe.truth
    seen = np.where(np.asarray(truth.label.mask_camera), truth.label.semantics, UNKNOWN).astype(np.uint8)
    plans = [
        _captioned(birds_eye(_occupancy(semantics, truth), len(blocks) * _BLOCK_HEIGHT // 2), name)
        for name, semantics in (("labels", truth.label.semantics), ("what the cameras saw", seen))
    ]
    return side_by_side([stacked(blocks), stacked(plans)])


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    label(picture, (10, 8), text)
    return picture


def _film_frame(drive: CityDrive, stamp_ns: int) -> Image.Image:
    """The six images, and beside them the labels from above."""
    images = {camera: image.rgb for camera, image in drive.rendered(stamp_ns).items()}
    truth = drive.truth(stamp_ns)
    plan = birds_eye(_occupancy(truth.label.semantics, truth), FILM_HEIGHT)
    return side_by_side([camera_tiles(images, FILM_HEIGHT), plan])


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
