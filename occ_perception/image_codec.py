"""Compressed images to pixels and back: JPEG by simplejpeg, everything else by Pillow."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image, UnidentifiedImageError

from occ_perception.errors import InvalidInputError

try:
    import simplejpeg
except ImportError:  # declared fallback for platforms without a wheel: Pillow, about half as fast
    simplejpeg = None
    logging.getLogger(__name__).warning("simplejpeg is not installed; decoding JPEG with Pillow, which is slower")


_MAX_PIXELS = 64_000_000


def decode_image(data: bytes | np.ndarray, expected_size: tuple[int, int] | None = None) -> np.ndarray:
    """Encoded bytes (JPEG, else whatever Pillow reads) or an RGB array to uint8 RGB [H, W, 3].

    Args:
        data: the image.
        expected_size: (width, height); compared with the header before memory is taken for the pixels.

    Raises:
        InvalidInputError: empty, truncated or corrupt data, another size, or an array of another type or shape.
    """
    if isinstance(data, np.ndarray):
        _check_rgb(data)
        _check_size((data.shape[1], data.shape[0]), expected_size)
        return data
    if not data:
        raise InvalidInputError("image: expected encoded bytes, got none")
    try:
        if simplejpeg is not None and data[:2] == b"\xff\xd8":
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            _check_size((width, height), expected_size)
            return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image.size, expected_size)
            return np.asarray(image.convert("RGB"))
    except InvalidInputError:
        raise
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidInputError(f"image: {len(data)} bytes cannot be decoded: {error}") from error


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """uint8 RGB [H, W, 3] to JPEG bytes of a quality of 1..100.

    Raises:
        InvalidInputError: an array of another type or shape.
    """
    _check_rgb(rgb)
    if simplejpeg is not None:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, colorspace="RGB")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _check_rgb(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InvalidInputError(f"image: expected uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")


def _check_size(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """A damaged header can claim gigabytes, so this comes before decoding."""
    width, height = size
    if expected is not None and size != expected:
        raise InvalidInputError(f"image is {width}x{height} but its calibration is for {expected[0]}x{expected[1]}")
    if width * height > _MAX_PIXELS:
        raise InvalidInputError(f"image: {width}x{height} is more than {_MAX_PIXELS // 1_000_000} megapixels")
