"""Street furniture (manmade): lamps, traffic lights, signs, shelters, benches, bollards, cabinets; x to the road."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.primitives import beam, box, cylinder, paint
from occ_perception.data.synthetic.scene import TriangleMesh

_CLASS = "manmade"
_RED, _AMBER, _GREEN = (1.0, 0.05, 0.03), (1.0, 0.5, 0.02), (0.05, 0.9, 0.3)


def street_lamp(palette: Palette, height: float, arm: float) -> TriangleMesh:
    """A mast with an arm over the road."""
    metal, lamp = paint(_CLASS, palette.metal), paint(_CLASS, palette.street_lamp)
    return TriangleMesh.merged(
        [
            cylinder((0, 0, height / 2), 0.1, height, metal, 6, top_radius=0.06),
            beam((0, 0, height - 0.1), (arm, 0, height), 0.09, metal),
            box((arm + 0.2, 0, height - 0.02), (0.7, 0.25, 0.12), metal),
            box((arm + 0.2, 0, height - 0.1), (0.55, 0.2, 0.06), lamp),
        ]
    )


def traffic_light(palette: Palette, reach: float, state: str) -> TriangleMesh:
    """A mast with a head at its side, and with `reach` > 0 another above the road; it shows against -y traffic."""
    metal = paint(_CLASS, palette.metal)
    parts = [cylinder((0, 0, 1.8), 0.08, 3.6, metal, 6), *_signal_head(palette, (0.0, -0.15, 2.9), state)]
    if reach > 0:
        parts += [
            cylinder((0, 0, 4.2), 0.07, 1.6, metal, 6),
            beam((0, 0, 4.9), (reach, 0, 5.0), 0.1, metal),
            *_signal_head(palette, (reach, -0.1, 4.9), state),
        ]
    return TriangleMesh.merged(parts)


def _signal_head(palette: Palette, center: tuple[float, float, float], state: str) -> list[TriangleMesh]:
    x, y, z = center
    parts = [box(center, (0.32, 0.24, 0.95), paint(_CLASS, palette.dark_metal))]
    for name, color, rise in (("red", _RED, 0.3), ("amber", _AMBER, 0.0), ("green", _GREEN, -0.3)):
        lens = palette.glow(color, 1.5) if name == state else palette.table.add(np.array(color) * 0.15)
        parts.append(box((x, y - 0.14, z + rise), (0.2, 0.06, 0.2), paint(_CLASS, lens)))
    return parts


def sign(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """A pole with one or two plates."""
    metal, height = paint(_CLASS, palette.metal), float(rng.uniform(2.2, 3.0))
    parts = [cylinder((0, 0, height / 2), 0.04, height, metal, 5)]
    for index in range(int(rng.integers(1, 3))):
        face = paint(_CLASS, palette.any_color(rng))
        wide, tall = float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.35, 0.7))
        parts.append(box((0, -0.06, height - 0.3 - 0.65 * index), (wide, 0.03, tall), face))
    return TriangleMesh.merged(parts)


def bus_shelter(palette: Palette) -> TriangleMesh:
    """Roof, glass back and bench; open towards +x."""
    metal, glass = paint(_CLASS, palette.metal), paint(_CLASS, palette.glass)
    posts = [box((x, y, 1.2), (0.08, 0.08, 2.4), metal) for x in (-0.55, 0.55) for y in (-1.7, 1.7)]
    return TriangleMesh.merged(
        [
            *posts,
            box((0, 0, 2.45), (1.5, 3.8, 0.12), metal),
            box((-0.58, 0, 1.3), (0.04, 3.4, 1.8), glass),
            box((-0.3, 0, 0.48), (0.4, 2.4, 0.08), paint(_CLASS, palette.wood)),
            box((-0.3, 0, 0.23), (0.1, 2.0, 0.44), metal),
        ]
    )


def bench(palette: Palette) -> TriangleMesh:
    """A bench that looks to +x."""
    wood, metal = paint(_CLASS, palette.wood), paint(_CLASS, palette.dark_metal)
    return TriangleMesh.merged(
        [
            box((0, 0, 0.45), (0.45, 1.7, 0.07), wood),
            box((-0.24, 0, 0.72), (0.06, 1.7, 0.4), wood),
            *(box((0, y, 0.21), (0.4, 0.08, 0.42), metal) for y in (-0.7, 0.7)),
        ]
    )


def bollard(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """A low post."""
    height = float(rng.uniform(0.6, 1.0))
    return cylinder((0, 0, height / 2), float(rng.uniform(0.07, 0.14)), height, paint(_CLASS, palette.dark_metal), 6)


def cabinet(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """A switch cabinet or advertising pillar."""
    coat = paint(_CLASS, palette.any_color(rng))
    if rng.random() < 0.4:
        height = float(rng.uniform(2.2, 3.2))
        return cylinder((0, 0, height / 2), float(rng.uniform(0.5, 0.7)), height, coat, 10)
    length, width, height = rng.uniform((0.4, 0.7, 1.0), (0.6, 1.4, 1.6))
    return box((0, 0, height / 2), (length, width, height), coat)


def mast(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """A wooden or steel pole for wires, with cross-arms."""
    height, wood = float(rng.uniform(7, 10)), paint(_CLASS, palette.wood if rng.random() < 0.6 else palette.metal)
    pole = cylinder((0, 0, height / 2), 0.14, height, wood, 6, top_radius=0.09)
    return TriangleMesh.merged([pole, box((0, 0, height - 0.6), (0.12, 2.0, 0.12), wood)])
