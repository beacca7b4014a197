"""Cars, trucks, buses and trailers; x forward, y left, wheels on z = 0."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel, actor_model
from occ_perception.data.synthetic.primitives import Paint, box, cylinder, loft, moved, paint, rectangle, wheel
from occ_perception.data.synthetic.scene import TriangleMesh


def _wheels(
    class_name: str, palette: Palette, axles: list[float], width: float, radius: float, thickness: float = 0.24
) -> list[TriangleMesh]:
    tyre = paint(class_name, palette.tyre)
    y = width / 2 - thickness / 2 + 0.02  # beyond the body, so that neither shimmers through the other
    return [wheel((x, side * y, radius), radius, thickness, tyre) for x in axles for side in (-1, 1)]


def _lamps(
    class_name: str, palette: Palette, front: float, back: float, width: float, height: float
) -> list[TriangleMesh]:
    head, tail = paint(class_name, palette.head_lamp), paint(class_name, palette.tail_lamp)
    y = width / 2 - 0.22
    lamps = [box((front, side * y, height), (0.06, 0.3, 0.14), head) for side in (-1, 1)]
    return lamps + [box((back, side * y, height + 0.1), (0.06, 0.26, 0.16), tail) for side in (-1, 1)]


def _plate(x: float, length: float, width: float, z: float) -> np.ndarray:
    return rectangle((x, 0.0, z), length, width)


def car(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """Sedan, hatchback, estate, off-roader, van or pickup."""
    style = str(rng.choice(["sedan", "hatch", "estate", "suv", "van", "pickup"], p=[0.3, 0.25, 0.1, 0.2, 0.1, 0.05]))
    low, high = {
        "sedan": ((4.3, 1.72, 1.38), (5.0, 1.92, 1.52)),
        "hatch": ((3.5, 1.6, 1.42), (4.3, 1.8, 1.6)),
        "estate": ((4.4, 1.75, 1.42), (4.9, 1.9, 1.58)),
        "suv": ((4.2, 1.8, 1.6), (5.0, 2.02, 1.9)),
        "van": ((4.5, 1.85, 1.8), (5.4, 2.05, 2.3)),
        "pickup": ((5.0, 1.85, 1.7), (5.6, 2.05, 1.95)),
    }[style]
    length, width, height = rng.uniform(low, high)
    body, glass = paint("car", palette.paint(rng)), paint("car", palette.glass)
    clearance = 0.2 if style in ("sedan", "hatch", "estate") else 0.28
    belt = height * rng.uniform(0.56, 0.64)
    hood = belt * rng.uniform(0.93, 1.0) if style != "van" else belt
    rings = np.stack(
        [
            _plate(0, length * 0.95, width * 0.92, clearance),
            _plate(0, length, width, clearance + 0.25),
            _plate(0, length * 0.985, width * 0.98, (clearance + hood) / 2 + 0.1),
            _plate(0, length * 0.95, width * 0.9, hood),
        ]
    )
    parts = [loft(rings, body), *_cabin(style, length, width, height, hood, body, glass)]
    radius = rng.uniform(0.29, 0.34) + (0.05 if style in ("suv", "pickup", "van") else 0)
    parts += _wheels("car", palette, [length * 0.31, -length * 0.3], width, radius)
    parts += _lamps("car", palette, length / 2 - 0.02, -length / 2 + 0.02, width, hood * 0.78)
    if style == "pickup":
        parts.append(box((-length * 0.32, 0, belt + 0.1), (length * 0.32, width * 0.9, 0.25), body))
    return actor_model("car", "vehicle.car", parts)


def _cabin(
    style: str, length: float, width: float, height: float, hood: float, body: Paint, glass: Paint
) -> list[TriangleMesh]:
    """Tapered windows and a roof: (rear, front) of the cabin as shares of the length, at the belt and at the roof."""
    (rear, front), (roof_rear, roof_front) = {
        "sedan": ((-0.40, 0.26), (-0.22, 0.08)),
        "hatch": ((-0.47, 0.26), (-0.38, 0.08)),
        "estate": ((-0.47, 0.24), (-0.42, 0.07)),
        "suv": ((-0.47, 0.25), (-0.42, 0.10)),
        "van": ((-0.48, 0.40), (-0.47, 0.22)),
        "pickup": ((-0.12, 0.26), (-0.10, 0.10)),
    }[style]
    bottom = _plate(length * (rear + front) / 2, length * (front - rear), width * 0.9, hood - 0.02)
    roof_length = length * (roof_front - roof_rear)
    roof_middle, roof_width = length * (roof_rear + roof_front) / 2, width * (0.86 if style == "van" else 0.74)
    top = _plate(roof_middle, roof_length, roof_width, height - 0.06)
    windows = loft(np.stack([bottom, top]), glass)
    return [windows, box((roof_middle, 0, height - 0.03), (roof_length * 1.02, roof_width * 1.02, 0.06), body)]


def truck(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """A lorry with a box, a flat bed with load, a tank, or a tipper."""
    length, width, height = rng.uniform((6.0, 2.2, 2.7), (9.5, 2.55, 3.8))
    cab_length, cab_height = rng.uniform(1.6, 2.2), min(height, rng.uniform(2.4, 3.0))
    cab, dark = paint("truck", palette.paint(rng)), paint("truck", palette.dark_metal)
    front = length / 2
    parts = [box((0, 0, 0.75), (length * 0.98, width * 0.45, 0.3), dark)]
    parts += _truck_cab(palette, cab, front, cab_length, width, cab_height)
    bed = length - cab_length - 0.2
    middle = -length / 2 + bed / 2
    parts += _cargo(rng, palette, middle, bed, width, height)
    axles = [front - cab_length * 0.6, middle - bed * 0.3] + ([middle - bed * 0.05] if length > 8 else [])
    parts += _wheels("truck", palette, axles, width * 0.98, rng.uniform(0.42, 0.52), 0.32)
    return actor_model("truck", "vehicle.truck", parts)


def _truck_cab(
    palette: Palette, cab: Paint, front: float, length: float, width: float, height: float
) -> list[TriangleMesh]:
    glass = paint("truck", palette.glass)
    x = front - length / 2
    parts = [
        box((x, 0, (0.5 + height) / 2), (length, width * 0.96, height - 0.5), cab, taper=(0.92, 0.95)),
        box((front - 0.06, 0, height * 0.74), (0.1, width * 0.84, height * 0.26), glass),
    ]
    parts += [
        box((x + 0.15, s * width * 0.465, height * 0.74), (length * 0.5, 0.06, height * 0.22), glass) for s in (-1, 1)
    ]
    head = paint("truck", palette.head_lamp)
    return parts + [box((front, s * width * 0.36, 0.75), (0.06, 0.3, 0.18), head) for s in (-1, 1)]


def _cargo(
    rng: np.random.Generator, palette: Palette, middle: float, length: float, width: float, height: float
) -> list[TriangleMesh]:
    kind = str(rng.choice(["box", "flat", "tank", "tipper"], p=[0.5, 0.2, 0.12, 0.18]))
    coat, floor = paint("truck", palette.paint(rng)), 0.95
    bed = box((middle, 0, floor), (length, width * 0.98, 0.18), paint("truck", palette.dark_metal))
    tail = [
        box((middle - length / 2, s * width * 0.4, floor - 0.05), (0.06, 0.25, 0.15), paint("truck", palette.tail_lamp))
        for s in (-1, 1)
    ]
    if kind == "box":
        return [box((middle, 0, (floor + height) / 2 + 0.04), (length, width, height - floor - 0.1), coat), *tail]
    if kind == "tank":
        radius = min(width / 2, (height - floor) / 2) * 0.96
        return [bed, moved(_lying_tank(radius, length, coat), (middle, 0, floor + 0.1 + radius)), *tail]
    if kind == "tipper":
        size = (length * 0.8, width * 0.8, (height - floor) * 0.6)
        return [bed, box((middle, 0, floor + size[2] / 2), size, coat, taper=(1.22, 1.2)), *tail]
    load = rng.uniform(0.3, 0.9) * (height - floor)
    share = rng.uniform(0.4, 0.9)
    return [bed, box((middle, 0, floor + 0.09 + load / 2), (length * share, width * 0.8, load), coat), *tail]


def _lying_tank(radius: float, length: float, surface: Paint) -> TriangleMesh:
    upright = cylinder((0, 0, 0), radius, length, surface, 10)
    x, y, z = upright.vertices.T
    return TriangleMesh(np.stack([z, y, -x], -1), upright.faces, upright.class_ids, upright.materials)


def bus(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """A city or school bus."""
    length, width, height = rng.uniform((9.0, 2.45, 2.9), (12.5, 2.6, 3.4))
    body, glass = paint("bus", palette.paint(rng)), paint("bus", palette.glass)
    low, high = height * rng.uniform(0.38, 0.45), height * rng.uniform(0.72, 0.82)
    parts = [
        box((0, 0, (0.32 + low) / 2), (length, width, low - 0.32), body),
        box((0, 0, (low + high) / 2), (length * 0.995, width * 0.985, high - low), glass),
        box((0, 0, (high + height) / 2), (length, width, height - high), body, taper=(0.97, 0.92)),
    ]
    posts = np.linspace(-length * 0.42, length * 0.42, int(rng.integers(4, 7)))
    parts += [box((x, 0, (low + high) / 2), (0.14, width, high - low), body) for x in posts]
    parts += _wheels("bus", palette, [length * 0.3, -length * 0.24], width, 0.48, 0.3)
    parts += _lamps("bus", palette, length / 2, -length / 2, width, 0.8)
    if rng.random() < 0.3:
        parts.append(box((-length * 0.15, 0, height + 0.12), (length * 0.3, width * 0.6, 0.24), body))
    return actor_model("bus", "vehicle.bus.rigid", parts)


def trailer(rng: np.random.Generator, palette: Palette, heavy: bool | None = None) -> ActorModel:
    """A semi-trailer without its tractor, or one that a car pulls: box, flat, caravan."""
    is_heavy = bool(rng.random() < 0.5) if heavy is None else heavy
    low, high = ((8.0, 2.4, 3.2), (12.0, 2.6, 4.0)) if is_heavy else ((2.6, 1.6, 1.2), (5.5, 2.3, 2.6))
    length, width, height = rng.uniform(low, high)
    coat, dark = paint("trailer", palette.paint(rng)), paint("trailer", palette.dark_metal)
    radius, floor = (0.48, 1.05) if is_heavy else (0.3, 0.55)
    parts = [box((0, 0, floor - 0.1), (length, width * 0.9, 0.2), dark)]
    if rng.random() < 0.65:
        parts.append(box((0, 0, (floor + height) / 2), (length, width, height - floor), coat))
    else:
        wall = min(0.6, height - floor)
        parts.append(box((0, 0, floor + wall / 2), (length, width, wall), coat))
        stowed = paint("trailer", palette.any_color(rng))
        parts.append(box((0, 0, floor + wall + 0.25), (length * rng.uniform(0.3, 0.8), width * 0.7, 0.5), stowed))
    axles = [-length * 0.25, -length * 0.36] if is_heavy else [-length * 0.08]
    parts += _wheels("trailer", palette, axles, width * 0.99, radius, 0.3 if is_heavy else 0.2)
    if is_heavy:  # landing legs
        parts += [
            box((length * 0.25, s * width * 0.3, floor / 2 - 0.1), (0.15, 0.15, floor - 0.2), dark) for s in (-1, 1)
        ]
    else:
        parts.append(box((length / 2 + 0.5, 0, floor - 0.1), (1.1, 0.12, 0.1), dark))
    tail = paint("trailer", palette.tail_lamp)
    parts += [box((-length / 2, s * width * 0.4, floor), (0.06, 0.25, 0.14), tail) for s in (-1, 1)]
    return actor_model("trailer", "vehicle.trailer", parts)
