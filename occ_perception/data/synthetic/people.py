"""Pedestrians, and the bicycles and motorcycles with or without their riders; x forward, on z = 0."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel, actor_model
from occ_perception.data.synthetic.primitives import Paint, beam, box, cylinder, ellipsoid, paint, wheel
from occ_perception.data.synthetic.scene import TriangleMesh


def _clothes(rng: np.random.Generator, palette: Palette, class_name: str) -> tuple[Paint, Paint, Paint]:
    """Of the upper body, the legs, and skin."""
    skin = int(rng.choice(palette.skin))
    return tuple(paint(class_name, row) for row in (palette.any_color(rng), palette.any_color(rng), skin))  # type: ignore[return-value]


def pedestrian(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """An adult or child, striding or standing, sometimes with a bag, an umbrella or a high-visibility vest."""
    name = "pedestrian"
    shirt, trousers, skin = _clothes(rng, palette, name)
    child = rng.random() < 0.15
    tall = float(rng.uniform(1.05, 1.45) if child else rng.normal(1.72, 0.09))
    hip, shoulder = tall * 0.5, tall * 0.82
    stride, half = float(rng.uniform(0.0, 0.32)) * tall, tall * 0.055
    swing = stride * 0.7
    parts = [
        beam((stride * 0.6, half, 0.0), (0, half, hip), tall * 0.085, trousers),
        beam((-stride * 0.6, -half, 0.0), (0, -half, hip), tall * 0.085, trousers),
        box((0, 0, (hip + shoulder) / 2), (tall * 0.125, tall * 0.2, shoulder - hip), shirt, taper=(1.15, 1.2)),
        beam((0, tall * 0.135, shoulder * 0.98), (-swing * 0.6, tall * 0.15, hip * 0.98), tall * 0.055, shirt),
        beam((0, -tall * 0.135, shoulder * 0.98), (swing * 0.6, -tall * 0.15, hip * 0.98), tall * 0.055, shirt),
        ellipsoid((0.01, 0, tall * 0.925), (tall * 0.06, tall * 0.052, tall * 0.075), skin),
    ]
    if rng.random() < 0.25:
        parts.append(box((-tall * 0.11, 0, tall * 0.68), (0.16, 0.28, 0.4), paint(name, palette.any_color(rng))))
    if rng.random() < 0.06:
        parts.append(cylinder((0, 0, tall + 0.3), 0.55, 0.25, paint(name, palette.any_color(rng)), 8, top_radius=0.05))
        parts.append(beam((0, 0, tall * 0.7), (0, 0, tall + 0.3), 0.03, paint(name, palette.dark_metal)))
    return actor_model(name, "human.pedestrian.child" if child else "human.pedestrian.adult", parts)


def _rider(
    rng: np.random.Generator, palette: Palette, class_name: str, seat: tuple[float, float], grip: tuple[float, float]
) -> list[TriangleMesh]:
    """Someone who sits at `seat` (x, z), holds on at `grip` (x, z), and wears a helmet."""
    shirt, trousers, skin = _clothes(rng, palette, class_name)
    (seat_x, seat_z), (grip_x, grip_z) = seat, grip
    shoulder = (seat_x + 0.28, seat_z + 0.5)
    knee, foot = (seat_x + 0.42, seat_z - 0.25), (seat_x + 0.25, max(seat_z - 0.65, 0.12))
    parts = [beam((seat_x, 0, seat_z), (shoulder[0], 0, shoulder[1]), 0.3, shirt)]
    for side in (-1, 1):
        parts += [
            beam((seat_x, side * 0.1, seat_z), (knee[0], side * 0.16, knee[1]), 0.14, trousers),
            beam((knee[0], side * 0.16, knee[1]), (foot[0], side * 0.14, foot[1]), 0.11, trousers),
            beam((shoulder[0], side * 0.18, shoulder[1]), (grip_x, side * 0.25, grip_z), 0.09, shirt),
        ]
    head = (shoulder[0] + 0.1, 0, shoulder[1] + 0.22)
    helmet = paint(class_name, palette.any_color(rng)) if rng.random() < 0.6 else skin
    return [*parts, ellipsoid(head, (0.12, 0.1, 0.14), helmet)]


def bicycle(rng: np.random.Generator, palette: Palette, ridden: bool) -> ActorModel:
    """A bicycle; what rides it belongs to it."""
    name = "bicycle"
    frame, tyre = paint(name, palette.paint(rng)), paint(name, palette.tyre)
    radius, base = float(rng.uniform(0.3, 0.36)), 0.52
    seat, grip, crank = (-0.22, 0.9), (0.42, 1.0), (-0.05, 0.3)
    parts = [wheel((x, 0, radius), radius, 0.06, tyre, 10) for x in (-base, base)]
    bars = [
        ((-base, radius), crank), (crank, (seat[0], seat[1] - 0.05)), (crank, (0.36, 0.72)),
        ((0.36, 0.72), (seat[0] + 0.06, 0.74)), ((base, radius), (0.38, 1.0)),
    ]  # fmt: skip
    parts += [beam((a[0], 0, a[1]), (b[0], 0, b[1]), 0.06, frame) for a, b in bars]
    parts += [
        beam((0.4, -0.28, 1.0), (0.4, 0.28, 1.0), 0.05, frame),
        box((seat[0], 0, seat[1]), (0.26, 0.14, 0.07), tyre),
    ]
    if rng.random() < 0.25:
        parts.append(box((base, 0, 0.85), (0.3, 0.36, 0.25), frame))
    if ridden:
        parts += _rider(rng, palette, name, (seat[0], seat[1] + 0.05), grip)
    return actor_model(name, "vehicle.bicycle", parts)


def motorcycle(rng: np.random.Generator, palette: Palette, ridden: bool) -> ActorModel:
    """A motorcycle or scooter; what rides it belongs to it."""
    name = "motorcycle"
    coat, tyre, dark = (paint(name, row) for row in (palette.paint(rng), palette.tyre, palette.dark_metal))
    scooter = rng.random() < 0.4
    radius, base = (0.25, 0.6) if scooter else (float(rng.uniform(0.3, 0.34)), float(rng.uniform(0.68, 0.78)))
    parts = [wheel((x, 0, radius), radius, 0.14, tyre, 10) for x in (-base, base)]
    if scooter:
        parts += [
            box((-0.35, 0, 0.5), (0.8, 0.36, 0.45), coat, taper=(0.9, 0.8)),
            box((0.1, 0, 0.28), (0.6, 0.36, 0.1), dark),
            box((0.46, 0, 0.6), (0.1, 0.42, 0.65), coat),
        ]
    else:
        parts += [
            box((0, 0, 0.45), (0.65, 0.32, 0.4), dark),
            ellipsoid((0.12, 0, 0.8), (0.34, 0.17, 0.17), coat),
            box((-0.5, 0, 0.72), (0.45, 0.22, 0.14), coat, taper=(0.8, 0.7)),
        ]
    parts += [
        box((-0.28, 0, 0.8), (0.6, 0.26, 0.09), dark),
        beam((base, 0, radius), (base - 0.25, 0, 1.0), 0.1, dark),
        beam((base - 0.25, -0.36, 1.02), (base - 0.25, 0.36, 1.02), 0.05, dark),
        ellipsoid((base - 0.12, 0, 0.88), (0.09, 0.1, 0.1), paint(name, palette.head_lamp), 0),
        box((-base - 0.12, 0, 0.68), (0.05, 0.14, 0.08), paint(name, palette.tail_lamp)),
    ]
    if ridden:
        parts += _rider(rng, palette, name, (-0.25, 0.86), (base - 0.3, 1.02))
    return actor_model(name, "vehicle.motorcycle", parts)
