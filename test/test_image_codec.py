"""Compressed images: what is read back is what was written, and damage is a named error."""

import io

import numpy as np
import pytest
from PIL import Image

from occ_perception import image_codec
from occ_perception.errors import InvalidInputError
from occ_perception.image_codec import decode_image, encode_jpeg

NO_RGB = (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8))


@pytest.fixture(params=["simplejpeg", "pillow"])
def codec(request, monkeypatch):
    """Each of the two, where both are."""
    if request.param == "pillow":
        monkeypatch.setattr(image_codec, "simplejpeg", None)
    elif image_codec.simplejpeg is None:
        pytest.skip("needs simplejpeg")


def picture(width, height):
    """Smooth colours, uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    return (np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 255).astype(np.uint8)


@pytest.mark.usefixtures("codec")
def test_jpeg_keeps_the_picture_and_less_of_it_at_low_quality():
    rgb = picture(320, 240)
    good, poor = encode_jpeg(rgb), encode_jpeg(rgb, 10)
    assert good.startswith(b"\xff\xd8")
    assert len(poor) < len(good)
    fine, coarse = (np.abs(decode_image(data).astype(int) - rgb).mean() for data in (good, poor))
    assert fine < 1.5 < coarse
    turned = rgb.transpose(1, 0, 2)  # not contiguous
    assert np.abs(decode_image(encode_jpeg(turned)).astype(int) - turned).mean() < 1.5


@pytest.mark.usefixtures("codec")
def test_damaged_images_are_named_errors():
    whole = encode_jpeg(picture(320, 240))
    assert decode_image(whole).shape == (240, 320, 3)
    for damaged in (whole[: len(whole) // 2], whole[:20], b"", b"\xff\xd8garbage", b"no image at all"):
        with pytest.raises(InvalidInputError, match="image"):
            decode_image(damaged)


@pytest.mark.parametrize("wrong", NO_RGB, ids=lambda array: f"{array.dtype} {array.shape}")
def test_arrays_must_be_rgb(wrong):
    with pytest.raises(InvalidInputError, match="uint8"):
        decode_image(wrong)
    with pytest.raises(InvalidInputError, match="uint8"):
        encode_jpeg(wrong)


@pytest.mark.usefixtures("codec")
def test_a_damaged_header_takes_no_memory():
    data = bytearray(encode_jpeg(picture(320, 240)))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = b"\xfd\xe8\xfd\xe8"  # 65000 x 65000
    for expected_size in (None, (320, 240)):
        with pytest.raises(InvalidInputError, match=r"65000x65000|decompression bomb"):
            decode_image(bytes(data), expected_size)


def test_png_decodes_too():
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 48)).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), picture(64, 48))
