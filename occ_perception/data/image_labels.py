"""What every pixel of a camera image shows: depth and class, as only a made-up world knows them.

Files: root/image_labels/<scene>/<sample>.npz with ``<CHANNEL>_depth`` (uint16 centimetres) and ``<CHANNEL>_classes``
(uint8) for every camera; 65535 and 255 where the image shows the sky.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occ_perception.data.array_files import load_npz
from occ_perception.errors import DatasetError

FOLDER = "image_labels"
STRIDE = 4
"""One label for so many pixels of the image in each direction: that of the middle of such a block."""
SKY = 255
_SKY_CM = 65535


@dataclass(frozen=True)
class ImageLabels:
    """Truth behind one image; label (column, row) is that of image point ``STRIDE * (column + 0.5, row + 0.5)``.

    Attributes:
        depth: float32 [h, w], metres along the optical axis; inf = sky.
        classes: uint8 [h, w], class of the grid labels' ontology; `SKY` = sky.
    """

    depth: np.ndarray
    classes: np.ndarray


def reduced(depth: np.ndarray, classes: np.ndarray) -> ImageLabels:
    """Labels from the truth of every pixel [H, W]; depth is rounded to centimetres, as files hold it."""
    middle = (slice(STRIDE // 2, None, STRIDE),) * 2
    centimetres = np.minimum(np.round(depth[middle] * np.float32(100)), _SKY_CM)
    return ImageLabels(_metres(centimetres.astype(np.uint16)), classes[middle].copy())


def arrays(labels: Mapping[str, ImageLabels]) -> dict[str, np.ndarray]:
    """The arrays of a file from the labels by channel."""
    out = {}
    for channel, label in labels.items():
        centimetres = np.where(np.isfinite(label.depth), np.round(label.depth * np.float32(100)), _SKY_CM)
        out[f"{channel}_depth"] = centimetres.astype(np.uint16)
        out[f"{channel}_classes"] = label.classes
    return out


def read(path: Path) -> dict[str, ImageLabels]:
    """Labels by channel.

    Raises:
        DatasetError: the file is missing, damaged, or holds something else.
    """
    content = load_npz(path)
    channels = [name.removesuffix("_depth") for name in content if name.endswith("_depth")]
    return {channel: _read_channel(path, content, channel) for channel in channels}


def _read_channel(path: Path, content: Mapping[str, np.ndarray], channel: str) -> ImageLabels:
    depth, classes = content[f"{channel}_depth"], content.get(f"{channel}_classes")
    if depth.ndim != 2 or depth.size == 0 or depth.dtype != np.uint16:
        raise DatasetError(f"{path}: {channel}_depth: expected uint16 [h, w], got {depth.dtype} {depth.shape}")
    if classes is None or classes.shape != depth.shape or classes.dtype != np.uint8:
        got = "none" if classes is None else f"{classes.dtype} {classes.shape}"
        raise DatasetError(f"{path}: {channel}_classes: expected uint8 {depth.shape}, got {got}")
    return ImageLabels(_metres(depth), classes)


def shape_of(width: int, height: int) -> tuple[int, int]:
    """(h, w) of the labels of an image."""
    return len(range(STRIDE // 2, height, STRIDE)), len(range(STRIDE // 2, width, STRIDE))


def _metres(centimetres: np.ndarray) -> np.ndarray:
    return np.where(centimetres == _SKY_CM, np.inf, centimetres * 0.01).astype(np.float32)
