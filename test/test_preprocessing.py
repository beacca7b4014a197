"""The image path: what the network sees is what Pillow's antialiased bicubic would have given it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from occ_perception import preprocessing
from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage
from occ_perception.geometry import PinholeCamera
from occ_perception.models.base import ImageSpec
from occ_perception.preprocessing import ImagePipeline, decode_image, image_geometry, resize_and_crop

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


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_damaged_images_are_named_errors(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if decoder == "pillow":
        monkeypatch.setattr(preprocessing, "simplejpeg", None)
    whole = jpeg(picture(320, 240))
    assert decode_image(whole).shape == (240, 320, 3)
    for damaged in (whole[: len(whole) // 2], whole[:20], b"", b"\xff\xd8garbage", b"no image at all"):
        with pytest.raises(InvalidInputError, match="image"):
            decode_image(damaged)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(InvalidInputError, match="uint8"):
            decode_image(wrong)


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_a_damaged_header_takes_no_memory(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if decoder == "pillow":
        monkeypatch.setattr(preprocessing, "simplejpeg", None)
    data = bytearray(jpeg(picture(320, 240)))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = b"\xfd\xe8\xfd\xe8"  # 65000 x 65000
    with pytest.raises(InvalidInputError, match=r"65000x65000|decompression bomb"):
        decode_image(bytes(data))
    with pytest.raises(InvalidInputError, match=r"65000x65000|decompression bomb"):
        decode_image(bytes(data), (320, 240))


def test_png_decodes_too() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 48)).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), picture(64, 48))


def test_size_must_be_the_calibrated_one() -> None:
    pipeline = ImagePipeline(SPEC, torch.device("cpu"))
    with pytest.raises(InvalidInputError, match=r"800x450.*1600x900"):
        pipeline.prepare("front", CameraImage(0, jpeg(picture(800, 450))), CAMERA)
