"""Which boxes on the ground touch: separating axes of many rectangles over many instants at once."""

from __future__ import annotations

import numpy as np


def rectangles_overlap(
    centers: np.ndarray, yaws: np.ndarray, halves: np.ndarray, other: np.ndarray, other_yaws: np.ndarray,
    other_halves: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Whether pairs of rectangles overlap; all arguments broadcast.

    Args:
        centers, other: [..., 2] middles, metres.
        yaws, other_yaws: [...] headings, radians.
        halves, other_halves: [..., 2] half lengths and half widths, metres.

    Returns:
        bool [...].
    """
    gap = other - centers
    apart = np.zeros(np.broadcast_shapes(yaws.shape, other_yaws.shape), bool)
    relative = other_yaws - yaws
    cosine, sine = np.abs(np.cos(relative)), np.abs(np.sin(relative))
    for heading, own, foreign in ((yaws, halves, other_halves), (other_yaws, other_halves, halves)):
        ahead = np.abs(gap[..., 0] * np.cos(heading) + gap[..., 1] * np.sin(heading))
        aside = np.abs(-gap[..., 0] * np.sin(heading) + gap[..., 1] * np.cos(heading))
        apart |= ahead > own[..., 0] + foreign[..., 0] * cosine + foreign[..., 1] * sine
        apart |= aside > own[..., 1] + foreign[..., 0] * sine + foreign[..., 1] * cosine
    return ~apart


def without_collisions(centers: np.ndarray, yaws: np.ndarray, halves: np.ndarray, keep_first: int = 1) -> np.ndarray:
    """Leave out boxes until none touch: of two that do at some instant, the later one in the order goes.

    Args:
        centers: float64 [N, T, 2]; yaws: float64 [N, T].
        halves: float64 [N, 2], half lengths and half widths with any margin.
        keep_first: the first so many stay in any case.

    Returns:
        bool [N], which stay.
    """
    touch = np.zeros((len(yaws), len(yaws)), bool)
    reach = np.linalg.norm(halves, axis=-1)
    for index in range(1, len(yaws)):
        distance = np.linalg.norm(centers[:index] - centers[index], axis=-1)
        close = np.nonzero((distance < (reach[:index] + reach[index])[:, None]).any(1))[0]
        if len(close):
            hits = rectangles_overlap(
                centers[close], yaws[close], halves[close][:, None], centers[index], yaws[index], halves[index]
            )
            touch[index, close] = hits.any(1)
    stays = np.ones(len(yaws), bool)
    for index in range(keep_first, len(yaws)):
        stays[index] = not (touch[index] & stays).any()
    return stays
