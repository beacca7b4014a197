"""Image augmentation with the geometry that belongs to it (specs/alocc.md sections 1 and 10.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from occ_perception.training.targets import BevFlip


@dataclass(frozen=True)
class ImageAugmentation:
    """Resize, crop, flip, rotate, in this order.

    Attributes:
        resize: factor.
        size: (width, height) of the network image.
        crop: upper-left corner (x, y) of the crop in the resized image.
        flip: mirror left and right.
        rotate: degrees, counter-clockwise as Pillow rotates.
    """

    resize: float
    size: tuple[int, int]
    crop: tuple[int, int]
    flip: bool = False
    rotate: float = 0.0

    def affine(self) -> np.ndarray:
        """Original pixel -> network pixel, float64 [3, 3]; its parts are post_rot and post_tran."""
        rotation, translation = np.eye(2) * self.resize, -np.array(self.crop, np.float64)
        if self.flip:
            mirror = np.diag([-1.0, 1.0])
            rotation, translation = mirror @ rotation, mirror @ translation + [self.size[0], 0]
        angle = np.deg2rad(self.rotate)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = np.array(self.size) / 2
        matrix = np.eye(3)
        matrix[:2, :2] = turn @ rotation
        matrix[:2, 2] = turn @ translation + centre - turn @ centre
        return matrix

    def apply(self, image: Image.Image) -> Image.Image:
        """The augmented image of ``size``; what lies outside the original is black."""
        width, height = (int(side * self.resize) for side in image.size)
        x, y = self.crop
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((x, y, x + self.size[0], y + self.size[1]))
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.rotate(self.rotate)


def sample_image_augmentation(
    random: np.random.Generator,
    source: tuple[int, int] = (1600, 900),
    size: tuple[int, int] = (704, 256),
    resize_jitter: tuple[float, float] = (-0.06, 0.11),
    max_rotation: float = 5.4,
) -> ImageAugmentation:
    """Draw one augmentation; every camera and frame has its own, a stereo partner shares that of its image."""
    resize = size[0] / source[0] + random.uniform(*resize_jitter)
    width, height = int(source[0] * resize), int(source[1] * resize)
    left = int(random.uniform(0, max(0, width - size[0])))
    flip = bool(random.random() < 0.5)
    return ImageAugmentation(
        resize, size, (left, height - size[1]), flip, float(random.uniform(-max_rotation, max_rotation))
    )


def sample_bev_flip(random: np.random.Generator) -> BevFlip:
    """Flip x and y with probability one half each."""
    return BevFlip(bool(random.random() < 0.5), bool(random.random() < 0.5))
