"""The image path: what the network sees is what Pillow's antialiased bicubic would have given it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage
from occ_perception.geometry import PinholeCamera
from occ_perception.image_codec import decode_image
from occ_perception.models.base import ImageSpec
from occ_perception.preprocessing import ImagePipeline, image_geometry, resize_and_crop

SPEC = ImageSpec(256, 704, bgr=True)
CAMERA = PinholeCamera(np.array([[1266.0, 0, 800], [0, 1266, 450], [0, 0, 1]]), np.eye(4), 1600, 900)


def picture(width: int = 1600, height: int = 900, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise and hard edges, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x / width, y / height, (x // 40 + y // 40) % 2], axis=-1) * 200
    return np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_equals_pillow_bicubic_within_one_level() -> None:
    rgb = picture()
    expected = np.asarray(Image.fromarray(rgb).resize((704, 396), Image.Resampling.BICUBIC).crop((0, 140, 704, 396)))
    got = resize_and_crop(rgb, SPEC).permute(1, 2, 0).numpy()
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_equals_pillow_on_the_real_images_and_on_the_reference_crops(keyframe, shared) -> None:
    reference = np.load(shared / "golden" / "alocc_inputs.npz")["raw_rgb"]
    order = ["FRONT_LEFT", "FRONT", "FRONT_RIGHT", "BACK_LEFT", "BACK", "BACK_RIGHT"]
    for expected, name in zip(reference, order, strict=True):
        (path,) = (keyframe / "samples" / f"CAM_{name}").glob("*.jpg")
        got = resize_and_crop(decode_image(path.read_bytes()), SPEC).permute(1, 2, 0).numpy()
        assert np.abs(got.astype(int) - expected).max() <= 1


def test_geometry_follows_the_image_size() -> None:
    (width, height), top, affine = image_geometry(1600, 900, SPEC)
    assert (width, height, top) == (704, 396, 140)
    np.testing.assert_allclose(affine.matrix(), [[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]])
    _, top, affine = image_geometry(800, 600, SPEC)
    assert affine.scale == (0.88, 0.88)
    assert top == 528 - 256
    with pytest.raises(InvalidInputError, match="1600x400"):
        image_geometry(1600, 400, SPEC)


def test_batch_normalises_swaps_channels_and_leaves_absent_cameras_zero() -> None:
    pipeline = ImagePipeline(SPEC, torch.device("cpu"))
    image = np.zeros((900, 1600, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 50  # red 200, blue 50
    prepared = pipeline.prepare("front", CameraImage(5, image), CAMERA)
    assert prepared.stamp_ns == 5
    for present in (("front",), ("left",), ("front",)):  # the reused tensor must not remember
        batch = pipeline.batch(("left", "front"), dict.fromkeys(present, prepared))
        row = 1 if "front" in present else 0
        expected = [(50 - 123.675) / 58.395, (0 - 116.28) / 57.12, (200 - 103.53) / 57.375]
        np.testing.assert_allclose(batch[row, :, 100, 300].numpy(), expected, rtol=1e-5)
        assert torch.count_nonzero(batch[1 - row]) == 0


def test_size_must_be_the_calibrated_one() -> None:
    pipeline = ImagePipeline(SPEC, torch.device("cpu"))
    with pytest.raises(InvalidInputError, match=r"800x450.*1600x900"):
        pipeline.prepare("front", CameraImage(0, jpeg(picture(800, 450))), CAMERA)
