"""Augmentation of an image that leaves its geometry alone: colours, and squares cut out (GridMask)."""

from __future__ import annotations

import numpy as np

_MEAN_COLOR = (124, 116, 104)  # normalised, this is zero
_YIQ_FROM_RGB = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def photometric_distortion(
    pixels: np.ndarray,
    random: np.random.Generator,
    brightness: float = 32.0,
    contrast: tuple[float, float] = (0.5, 1.5),
    saturation: tuple[float, float] = (0.5, 1.5),
    hue_degrees: float = 18.0,
) -> np.ndarray:
    """Brightness, contrast, saturation and hue of uint8 RGB [H, W, 3], each changed with probability one half.

    Saturation and hue scale and rotate the two colour axes of YIQ, so that all four make one affine map of colours.

    Args:
        pixels: the image.
        random: where the draws come from.
        brightness: largest change, grey levels.
        contrast, saturation: range of the factors.
        hue_degrees: largest turn.
    """
    wanted = random.random(4) < 0.5
    drawn = random.uniform(
        (-brightness, contrast[0], saturation[0], -hue_degrees), (brightness, contrast[1], saturation[1], hue_degrees)
    )
    shift, gain, color, turn = np.where(wanted, drawn, (0.0, 1.0, 1.0, 0.0))
    turn = np.deg2rad(turn)
    rotated = color * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    in_yiq = np.eye(3)
    in_yiq[1:, 1:] = rotated
    matrix = gain * (np.linalg.inv(_YIQ_FROM_RGB) @ in_yiq @ _YIQ_FROM_RGB)
    values = pixels.astype(np.float32) @ matrix.T.astype(np.float32) + np.float32(shift)
    return np.clip(values, 0, 255).astype(np.uint8)


def grid_mask(height: int, width: int, random: np.random.Generator, ratio: float = 0.5) -> np.ndarray:
    """Which pixels are kept, bool [H, W]: squares on a regular grid are cut out (Chen et al. 2020, GridMask).

    Args:
        height, width: of the image.
        random: draws the period of the grid, from 2 pixels to the shorter side, and where it begins.
        ratio: share of the period that is kept between two squares.
    """
    period = int(random.integers(2, min(height, width)))
    band = min(max(round(period * ratio), 1), period - 1)
    first_row, first_column = random.integers(0, period, 2)
    rows = (np.arange(height) + first_row) % period < band
    columns = (np.arange(width) + first_column) % period < band
    return rows[:, None] | columns


def cut_out(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] with the mean colour where ``kept`` [H, W] is False."""
    return np.where(kept[..., None], pixels, np.array(_MEAN_COLOR, np.uint8))
