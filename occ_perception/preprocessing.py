"""From camera images to network input: decode, resize, crop, normalise into one preallocated tensor.

Resizing equals Pillow's antialiased bicubic within one grey level (PyTorch's uint8 antialias path does), because
that is what the published weights were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage, PreparedImage
from occ_perception.geometry import ImageAffine, PinholeCamera
from occ_perception.image_codec import decode_image
from occ_perception.models.base import ImageSpec


@lru_cache(maxsize=64)
def image_geometry(width: int, height: int, spec: ImageSpec) -> tuple[tuple[int, int], int, ImageAffine]:
    """How an image of a given size becomes network input: resize to the trained width, keep the bottom rows.

    Returns:
        (resized (width, height), first row kept, affine from original to network pixels).

    Raises:
        InvalidInputError: the image is too flat to fill the network input.
    """
    resized_width = round(spec.resize_from[0] * spec.resize)
    resized_height = round(height * resized_width / width)
    top = resized_height - spec.height
    if top < 0 or resized_width < spec.width:
        raise InvalidInputError(
            f"image: {width}x{height} resized to {resized_width}x{resized_height} does not fill "
            f"the network input {spec.width}x{spec.height}"
        )
    affine = ImageAffine((resized_width / width, resized_height / height), (0.0, float(top)))
    return (resized_width, resized_height), top, affine


def resize_and_crop(rgb: np.ndarray, spec: ImageSpec) -> torch.Tensor:
    """uint8 RGB [H, W, 3] to uint8 RGB [3, h, w] of the network's input size."""
    height, width = rgb.shape[:2]
    (resized_width, resized_height), top, _ = image_geometry(width, height, spec)
    # A permuted view of [H, W, 3] is channels-last, the layout of PyTorch's vectorised uint8 resize.
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).unsqueeze(0)
    if (resized_height, resized_width) != (height, width):
        image = F.interpolate(
            image, size=(resized_height, resized_width), mode="bicubic", antialias=True, align_corners=False
        )
    return image[0, :, top : top + spec.height, : spec.width]


class ImagePipeline:
    """Prepares images for one model; `prepare` is thread safe, `batch` reuses its output tensor.

    Args:
        spec: what the model wants.
        device: where the batch goes.
    """

    def __init__(self, spec: ImageSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self._batch: torch.Tensor | None = None
        order = [2, 1, 0] if spec.bgr else [0, 1, 2]
        self._order = None if order == [0, 1, 2] else torch.tensor(order, device=device)
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._inverse_std = 1.0 / torch.tensor(spec.std, device=device).view(1, 3, 1, 1)

    def prepare(self, name: str, image: CameraImage, camera: PinholeCamera) -> PreparedImage:
        """Decode, resize and crop one image.

        Raises:
            InvalidInputError: it cannot be decoded, or its size is not the one its calibration is for.
        """
        try:
            rgb = decode_image(image.data, (camera.width, camera.height))
        except InvalidInputError as error:
            raise InvalidInputError(f"camera {name}: {error}") from error
        return PreparedImage(image.stamp_ns, resize_and_crop(rgb, self.spec), image.odom_from_ego)

    def batch(self, names: tuple[str, ...], images: Mapping[str, PreparedImage]) -> torch.Tensor:
        """Normalise into float32 [N, 3, h, w]; absent cameras stay zero. The tensor is reused by the next call."""
        shape = (len(names), 3, self.spec.height, self.spec.width)
        if self._batch is None or self._batch.shape != shape:
            self._batch = torch.zeros(shape, device=self.device)
        for row, name in enumerate(names):
            if name in images:
                pixels = images[name].pixels.to(self.device, non_blocking=True)
                self._batch[row].copy_(pixels if self._order is None else pixels[self._order])
        self._batch.sub_(self._mean).mul_(self._inverse_std)
        for row, name in enumerate(names):
            if name not in images:
                self._batch[row].zero_()
        return self._batch

    def affines(self, cameras: Mapping[str, PinholeCamera]) -> torch.Tensor:
        """Original pixels to network pixels, float64 [N, 3, 3], for cameras in their order."""
        matrices = [image_geometry(c.width, c.height, self.spec)[2].matrix() for c in cameras.values()]
        return torch.from_numpy(np.stack(matrices))
