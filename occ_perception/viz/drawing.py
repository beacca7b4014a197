"""Text, legends and arrows on pictures, with Pillow's built-in font: no files are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from occ_perception.viz.colors import BACKGROUND, TEXT, TEXT_DIM, UNKNOWN_FLOOR, UNKNOWN_STRIPE, LegendEntry

MARGIN = 14
_SWATCH = (26, 14)


@lru_cache(maxsize=16)
def font(size: int) -> Any:
    """The built-in font at a size in pixels."""
    return ImageFont.load_default(size=size)


def to_image(rgb: np.ndarray) -> Image.Image:
    """A float or uint8 array [H, W, 3] in 0..255 as a picture."""
    return Image.fromarray(np.clip(np.asarray(rgb) + 0.5, 0, 255).astype(np.uint8))


def label(
    image: Image.Image, at: tuple[int, int], text: str, size: int = 14, color: tuple[int, int, int] = TEXT
) -> None:
    """Write text on a dark plate, so that it can be read on any picture; ``at`` is its upper-left corner."""
    draw = ImageDraw.Draw(image, "RGBA")
    left, top, right, bottom = draw.textbbox(at, text, font=font(size))
    draw.rectangle((left - 5, top - 4, right + 5, bottom + 4), fill=(*BACKGROUND, 190))
    draw.text(at, text, fill=color, font=font(size))


def wrap(text: str, width: int, size: int) -> list[str]:
    """Break text into lines at most ``width`` pixels wide, between words (a longer word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def text_block(width: int, paragraphs: Sequence[tuple[str, int, tuple[int, int, int]]]) -> Image.Image:
    """Paragraphs of (text, size, colour) under one another, wrapped to ``width`` pixels."""
    rows = [
        (line, size, color) for text, size, color in paragraphs for line in wrap(text, width - 2 * MARGIN, size) if line
    ]
    height = sum(round(1.45 * size) for _, size, _ in rows) + MARGIN
    block = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(block)
    y = MARGIN // 2
    for line, size, color in rows:
        draw.text((MARGIN, y), line, fill=color, font=font(size))
        y += round(1.45 * size)
    return block


def banner(width: int, text: str, color: tuple[int, int, int]) -> Image.Image:
    """A strip across the picture that cannot be overlooked."""
    strip = Image.new("RGB", (width, 52), color)
    ImageDraw.Draw(strip).text((width // 2, 26), text, fill=(255, 255, 255), font=font(28), anchor="mm")
    return strip


def legend_block(width: int, entries: Sequence[LegendEntry]) -> Image.Image:
    """Swatches with names, flowing over as many rows as they need."""
    size, row_height, gap = 14, 24, 22
    places: list[tuple[int, int]] = []
    x, y = MARGIN, 8
    for entry in entries:
        length = _SWATCH[0] + 8 + int(font(size).getlength(entry.name))
        if x > MARGIN and x + length > width - MARGIN:
            x, y = MARGIN, y + row_height
        places.append((x, y))
        x += length + gap
    block = Image.new("RGB", (width, y + row_height + 4), BACKGROUND)
    draw = ImageDraw.Draw(block)
    for entry, (left, top) in zip(entries, places, strict=True):
        block.paste(_swatch(entry), (left, top + 2))
        draw.text((left + _SWATCH[0] + 8, top), entry.name, fill=TEXT_DIM, font=font(size))
    return block


def _swatch(entry: LegendEntry) -> Image.Image:
    if entry.hatched:
        x, y = np.meshgrid(np.arange(_SWATCH[0]), np.arange(_SWATCH[1]))
        stripes = ((x + y) % 8 < 4)[..., None]
        return to_image(np.where(stripes, np.array(UNKNOWN_STRIPE), np.array(UNKNOWN_FLOOR)))
    if len(entry.colors) == 1:
        return Image.new("RGB", _SWATCH, entry.colors[0])
    ramp = np.array(entry.colors, np.uint8)[None]
    return Image.fromarray(ramp).resize(_SWATCH, Image.Resampling.BILINEAR)


def arrow(image: Image.Image, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int], width: int = 3) -> None:
    """An arrow between two pixels, if it is long enough to have a direction."""
    length = float(np.linalg.norm(end - start))
    if not np.isfinite(length) or length < 4:
        return
    along = (end - start) / length
    across = np.array([-along[1], along[0]])
    head = min(11.0, 0.6 * length)
    neck = end - head * along
    draw = ImageDraw.Draw(image)
    draw.line([tuple(start), tuple(neck)], fill=color, width=width)
    draw.polygon([tuple(end), tuple(neck + 0.5 * head * across), tuple(neck - 0.5 * head * across)], fill=color)


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width under one another."""
    out = Image.new("RGB", (images[0].width, sum(image.height for image in images)), BACKGROUND)
    y = 0
    for image in images:
        out.paste(image, (0, y))
        y += image.height
    return out
