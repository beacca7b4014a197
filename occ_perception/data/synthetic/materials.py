"""The materials of a scene: a growing table, and a palette of what streets, plants and vehicles are made of."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from occ_perception.data.synthetic.scene import Materials, Pattern

Color = Sequence[float] | np.ndarray
BLACK = (0.0, 0.0, 0.0)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Linear RGB of a colour given as people pick them (hue 0..1; saturation and value as displayed)."""
    displayed = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(displayed) ** 2.2


class MaterialTable:
    """Collects materials row by row."""

    def __init__(self) -> None:
        self._rows: list[tuple] = []

    def add(
        self,
        color: Color,
        second_color: Color | None = None,
        pattern: Pattern = Pattern.PLAIN,
        scale: float = 1.0,
        *,
        emission: Color = BLACK,
        gloss: float = 0.0,
        reflectivity: float | None = None,
    ) -> int:
        """Index of a new row; see `Materials` for the meanings. Reflectivity by default follows the brightness."""
        if reflectivity is None:
            reflectivity = 5.0 + 60.0 * float(np.mean(color))
        second = color if second_color is None else second_color
        self._rows.append((color, second, int(pattern), scale, emission, gloss, reflectivity))
        return len(self._rows) - 1

    def build(self) -> Materials:
        """The table as arrays."""
        color, second, pattern, scale, emission, gloss, reflectivity = zip(*self._rows, strict=True)
        return Materials(
            np.array(color, np.float32),
            np.array(second, np.float32),
            np.array(pattern, np.uint8),
            np.array(scale, np.float32),
            np.array(emission, np.float32),
            np.array(gloss, np.float32),
            np.array(reflectivity, np.float32),
        )


class Palette:
    """What one scene's surfaces are made of: shared rows as attributes, new random ones by method.

    Args:
        rng: decides this scene's colours.
        night: lamps and some windows give light.
    """

    def __init__(self, rng: np.random.Generator, night: bool) -> None:
        self.table = MaterialTable()
        self.night = night
        self._add_ground(rng)
        self._add_nature(rng)
        self._add_things(rng)

    def _add_ground(self, rng: np.random.Generator) -> None:
        grey, tint = rng.uniform(0.22, 0.55), rng.uniform(-0.02, 0.04)
        self.asphalt = [self._asphalt(rng, grey, tint) for _ in range(3)]
        self.patch = self._asphalt(rng, grey + rng.uniform(-0.12, 0.1), tint)
        faded = rng.uniform(0.6, 0.95)
        self.white_marking = self.table.add(hsv(0.1, 0.03, faded), gloss=0.1, reflectivity=70)
        self.yellow_marking = self.table.add(hsv(0.12, 0.8, faded), gloss=0.1, reflectivity=60)
        self.sidewalk = [self._pavement(rng) for _ in range(2)]
        self.curb = self.table.add(hsv(0.1, 0.05, rng.uniform(0.45, 0.8)), reflectivity=25)
        self.plaza = [self._pavement(rng) for _ in range(2)]

    def _asphalt(self, rng: np.random.Generator, grey: float, tint: float) -> int:
        value = np.clip(grey + rng.normal(0, 0.03), 0.12, 0.7)
        first, second = (
            hsv(0.09 if tint > 0 else 0.6, abs(tint), value),
            hsv(0.1, 0.03, value * rng.uniform(0.75, 0.95)),
        )
        scale = rng.uniform(0.2, 2.0)
        return self.table.add(first, second, Pattern.NOISE, scale, gloss=rng.uniform(0, 0.15), reflectivity=10)

    def _pavement(self, rng: np.random.Generator) -> int:
        value = rng.uniform(0.45, 0.85)
        if rng.random() < 0.3:  # brick red or brown instead of concrete
            first = hsv(rng.uniform(0.0, 0.09), rng.uniform(0.2, 0.5), value * 0.9)
        else:
            first = hsv(rng.uniform(0.05, 0.15), rng.uniform(0.0, 0.12), value)
        pattern = Pattern.BRICKS if rng.random() < 0.6 else Pattern.NOISE
        return self.table.add(first, first * rng.uniform(0.5, 0.85), pattern, rng.uniform(0.3, 1.5), reflectivity=22)

    def _add_nature(self, rng: np.random.Generator) -> None:
        dry = rng.random() < 0.25
        self.grass = [self._grass(rng, dry) for _ in range(3)]
        soil = hsv(rng.uniform(0.06, 0.11), rng.uniform(0.25, 0.5), rng.uniform(0.3, 0.6))
        self.soil = self.table.add(soil, soil * 0.7, Pattern.NOISE, rng.uniform(0.3, 1.5), reflectivity=18)
        bark = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.1, 0.45), rng.uniform(0.2, 0.5))
        self.bark = self.table.add(bark, bark * 0.6, Pattern.NOISE, 0.15, reflectivity=18)
        autumn = rng.random() < 0.15
        self.foliage = [self._foliage(rng, autumn) for _ in range(5)]

    def _grass(self, rng: np.random.Generator, dry: bool) -> int:
        hue = rng.uniform(0.11, 0.17) if dry else rng.uniform(0.2, 0.32)
        first = hsv(hue, rng.uniform(0.3, 0.65), rng.uniform(0.3, 0.6))
        pattern = Pattern.LEAVES if rng.random() < 0.7 else Pattern.NOISE
        return self.table.add(first, first * rng.uniform(0.5, 0.8), pattern, rng.uniform(0.1, 0.6), reflectivity=30)

    def _foliage(self, rng: np.random.Generator, autumn: bool) -> int:
        hue = rng.uniform(0.02, 0.15) if autumn and rng.random() < 0.7 else rng.uniform(0.18, 0.38)
        first = hsv(hue, rng.uniform(0.35, 0.8), rng.uniform(0.25, 0.6))
        return self.table.add(first, first * 0.45, Pattern.LEAVES, rng.uniform(0.08, 0.35), reflectivity=28)

    def _add_things(self, rng: np.random.Generator) -> None:
        add = self.table.add
        self.tyre = add(hsv(0, 0, rng.uniform(0.08, 0.18)), reflectivity=5)
        self.glass = add(hsv(0.58, 0.25, rng.uniform(0.12, 0.3)), gloss=0.9, reflectivity=4)
        self.metal = add(hsv(0.6, 0.04, rng.uniform(0.45, 0.75)), gloss=0.5, reflectivity=45)
        self.dark_metal = add(hsv(0.6, 0.05, rng.uniform(0.12, 0.3)), gloss=0.3, reflectivity=15)
        self.concrete = add(hsv(0.1, 0.05, rng.uniform(0.5, 0.8)), hsv(0.1, 0.06, 0.45), Pattern.NOISE, 0.5)
        self.wood = add(hsv(0.08, 0.5, 0.5), hsv(0.08, 0.5, 0.35), Pattern.NOISE, 0.3)
        light = 1.0 if self.night else 0.0
        self.head_lamp = add(hsv(0.12, 0.1, 0.95), emission=np.array([6.0, 5.6, 4.8]) * light, reflectivity=60)
        self.tail_lamp = add(hsv(0.0, 0.9, 0.6), emission=np.array([1.6, 0.05, 0.03]) * light, reflectivity=80)
        warm = np.array([5.0, 3.6, 1.8]) if rng.random() < 0.6 else np.array([4.0, 4.4, 4.8])
        self.street_lamp = add(hsv(0.13, 0.2, 0.9), emission=warm * light)
        self.cone_stripes = add(hsv(0.04, 0.95, 0.95), hsv(0, 0, 0.9), Pattern.PLAIN, 0.25, reflectivity=90)
        self.reflective_white = add(hsv(0, 0, 0.93), reflectivity=160)
        self.skin = [add(hsv(0.06, rng.uniform(0.3, 0.6), value)) for value in (0.35, 0.6, 0.85)]

    def glow(self, color: Color, strength: float) -> int:
        """A lamp that shines by day too, such as a traffic light."""
        return self.table.add(color, emission=np.asarray(color) * strength)

    def any_color(self, rng: np.random.Generator, gloss: float = 0.0) -> int:
        """Clothes, signs, bins: a plain colour from the whole circle."""
        color = hsv(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.1, 0.95))
        return self.table.add(color, gloss=gloss)

    def paint(self, rng: np.random.Generator) -> int:
        """Vehicle paint: mostly white, grey and black, as on real roads."""
        if rng.random() < 0.55:
            color = hsv(0.6, rng.uniform(0, 0.06), rng.choice([0.12, 0.3, 0.55, 0.75, 0.93]))
        else:
            color = hsv(
                rng.choice([0.0, 0.02, 0.1, 0.35, 0.55, 0.62, 0.66]), rng.uniform(0.5, 0.95), rng.uniform(0.25, 0.9)
            )
        return self.table.add(color, gloss=rng.uniform(0.4, 0.8), reflectivity=rng.uniform(8, 60))

    def machine(self, rng: np.random.Generator) -> int:
        """Paint of construction machines: yellow, orange, sometimes another."""
        hue = rng.choice([0.11, 0.13, 0.07, 0.04, 0.33, 0.0])
        return self.table.add(hsv(hue, rng.uniform(0.7, 0.95), rng.uniform(0.65, 0.95)), gloss=0.3, reflectivity=35)

    def warning_stripes(self, rng: np.random.Generator) -> int:
        """Bands of barriers."""
        first = hsv(rng.choice([0.0, 0.04, 0.12]), 0.9, 0.9)
        return self.table.add(first, hsv(0, 0, 0.92), Pattern.STRIPES, rng.uniform(0.15, 0.4), reflectivity=110)

    def facade(self, rng: np.random.Generator) -> int:
        """A wall with windows."""
        wall = hsv(rng.uniform(0.0, 0.16), rng.uniform(0, 0.45), rng.uniform(0.35, 0.95))
        if rng.random() < 0.15:  # steel and glass
            wall = hsv(0.58, rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.7))
        pane = hsv(0.58, rng.uniform(0.1, 0.4), rng.uniform(0.08, 0.35))
        scale, gloss = rng.uniform(2.0, 4.5), rng.uniform(0, 0.3)
        lit = np.array([1.0, rng.uniform(0.7, 0.9), rng.uniform(0.4, 0.75)]) * rng.uniform(0.2, 1.0)
        shines = self.night and rng.random() < 0.7
        return self.table.add(wall, pane, Pattern.WINDOWS, scale, gloss=gloss, emission=lit if shines else BLACK)

    def wall(self, rng: np.random.Generator) -> int:
        """A wall without windows."""
        color = hsv(rng.uniform(0.0, 0.12), rng.uniform(0, 0.5), rng.uniform(0.3, 0.95))
        pattern = rng.choice([Pattern.BRICKS, Pattern.NOISE, Pattern.PLAIN])
        return self.table.add(color, color * rng.uniform(0.5, 0.9), Pattern(int(pattern)), rng.uniform(0.2, 1.0))

    def roof(self, rng: np.random.Generator) -> int:
        """Tiles or bitumen."""
        color = hsv(rng.choice([0.02, 0.06, 0.6]), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.55))
        return self.table.add(color, color * 0.7, Pattern.BRICKS, rng.uniform(0.2, 0.5))
