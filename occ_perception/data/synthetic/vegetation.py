"""Trees, bushes and hedges; origin where they leave the ground."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.primitives import beam, blob, cylinder, paint
from occ_perception.data.synthetic.scene import TriangleMesh

_SUNK_M = 0.05
_LARGEST_BUMP = 1.25  # of a blob, as a share of its radius


def tree(rng: np.random.Generator, palette: Palette, small: bool = False) -> TriangleMesh:
    """A broad-leaved tree, a conifer, a poplar or a palm, 3-11 m high; its trunk is vegetation too, as in nuScenes."""
    height = float(rng.uniform(3.0, 5.5) if small else rng.uniform(4.5, 11.0))
    kind = str(rng.choice(["broad", "conifer", "poplar", "palm"], p=[0.66, 0.18, 0.1, 0.06]))
    makers = {"broad": _broad, "conifer": _conifer, "poplar": _poplar, "palm": _palm}
    return TriangleMesh.merged(makers[kind](rng, palette, height))


def street_tree(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """A tree whose crown is out of the way of vehicles that pass under it."""
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    crown = float(rng.uniform(0.8, 1.6))
    clear = float(rng.uniform(2.3, 3.0))
    parts = [_trunk(palette, clear + crown, float(rng.uniform(0.09, 0.18)))]
    for _ in range(int(rng.integers(2, 5))):
        radii = crown * rng.uniform(0.65, 0.9, 3)
        rise = clear + _LARGEST_BUMP * radii[2] + rng.uniform(0.0, 1.2 * crown)
        parts.append(blob(rng, (*(rng.uniform(-0.5, 0.5, 2) * crown), rise), radii, leaves))
    return TriangleMesh.merged(parts)


def _trunk(palette: Palette, height: float, radius: float) -> TriangleMesh:
    length = height + _SUNK_M
    bark = paint("vegetation", palette.bark)
    return cylinder((0, 0, length / 2 - _SUNK_M), radius, length, bark, 6, top_radius=radius * 0.65)


def _broad(rng: np.random.Generator, palette: Palette, height: float) -> list[TriangleMesh]:
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    crown = height * rng.uniform(0.22, 0.34)
    clear = min(height * rng.uniform(0.3, 0.45), 3.2)
    parts = [_trunk(palette, clear + crown * 0.6, 0.08 + height * 0.015)]
    middle = (clear + height) / 2
    for _ in range(int(rng.integers(3, 6))):
        shift = rng.uniform(-0.5, 0.5, 3) * (crown, crown, (height - clear) * 0.55)
        radii = crown * rng.uniform(0.6, 0.85, 3) * (1, 1, 0.9)
        parts.append(blob(rng, shift + np.array([0, 0, middle]), radii, leaves))
    return parts


def _conifer(rng: np.random.Generator, palette: Palette, height: float) -> list[TriangleMesh]:
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    radius, levels = height * rng.uniform(0.16, 0.26), int(rng.integers(2, 4))
    parts = [_trunk(palette, height * 0.4, 0.07 + height * 0.012)]
    cuts = np.linspace(height * 0.12, height, levels + 1)
    for index in range(levels):
        low, top = cuts[index], min(cuts[index + 1] + height * 0.08, height)
        share = 1 - 0.75 * index / levels
        parts.append(
            cylinder((0, 0, (low + top) / 2), radius * share, top - low, leaves, 8, top_radius=radius * 0.12 * share)
        )
    return parts


def _poplar(rng: np.random.Generator, palette: Palette, height: float) -> list[TriangleMesh]:
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    radius = height * rng.uniform(0.1, 0.15)
    center = (0, 0, height * 0.57)
    return [_trunk(palette, height * 0.3, 0.12), blob(rng, center, (radius, radius, height * 0.43), leaves)]


def _palm(rng: np.random.Generator, palette: Palette, height: float) -> list[TriangleMesh]:
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    parts, reach = [_trunk(palette, height, 0.14)], float(rng.uniform(1.4, 2.2))
    for angle in np.arange(8) * (np.pi / 4) + rng.uniform(0, 1):
        tip = (reach * np.cos(angle), reach * np.sin(angle), height - rng.uniform(0.2, 1.0))
        parts.append(beam((0, 0, height), tip, 0.3, leaves, 3))
    return parts


def bush(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """One to three blobs, 0.5-1.8 m high."""
    leaves = paint("vegetation", int(rng.choice(palette.foliage)))
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        radii = rng.uniform((0.35, 0.35, 0.3), (0.9, 0.9, 0.9))
        parts.append(blob(rng, (*rng.uniform(-0.6, 0.6, 2), radii[2] * 0.8), radii, leaves))
    return TriangleMesh.merged(parts)
