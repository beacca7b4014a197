"""Construction vehicles: excavator, wheel loader, roller, crane lorry; x forward, on z = 0."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.models import ActorModel, actor_model
from occ_perception.data.synthetic.primitives import Paint, beam, box, moved, paint, wheel
from occ_perception.data.synthetic.scene import TriangleMesh

_CLASS = "construction_vehicle"


def construction_vehicle(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """One of the kinds, in a machine's colour."""
    coat = paint(_CLASS, palette.machine(rng))
    makers = (_excavator, _loader, _roller, _telehandler)
    parts = makers[int(rng.choice(len(makers), p=[0.45, 0.3, 0.12, 0.13]))](rng, palette, coat)
    return actor_model(_CLASS, "vehicle.construction", parts)


def _cab(x: float, y: float, bottom: float, palette: Palette, coat: Paint) -> list[TriangleMesh]:
    glass = paint(_CLASS, palette.glass)
    return [
        box((x, y, bottom + 0.65), (1.2, 0.95, 1.3), glass, taper=(0.9, 0.95)),
        box((x, y, bottom + 1.34), (1.2, 0.98, 0.1), coat),
    ]


def _excavator(rng: np.random.Generator, palette: Palette, coat: Paint) -> list[TriangleMesh]:
    scale, dark = rng.uniform(0.75, 1.1), paint(_CLASS, palette.dark_metal)
    tracks = [box((0, s * 1.0, 0.42), (3.4, 0.55, 0.84), dark, taper=(0.8, 1)) for s in (-1, 1)]
    upper = [
        box((-0.6, 0, 1.35), (2.4, 2.2, 1.0), coat),
        box((-1.7, 0, 1.3), (0.6, 2.1, 0.8), dark),
        *_cab(0.55, 0.6, 1.0, palette, coat),
    ]
    lift, reach = rng.uniform(2.6, 3.8), rng.uniform(1.6, 2.6)
    elbow, wrist = (0.6 + reach, -0.2, lift), (1.0 + reach + rng.uniform(0.3, 1.2), -0.2, rng.uniform(0.9, 1.8))
    arm = [
        beam((0.4, -0.2, 1.3), elbow, 0.38, coat),
        beam(elbow, wrist, 0.3, coat),
        box((wrist[0] - 0.2, -0.2, wrist[2] - 0.3), (0.7, 1.0, 0.6), dark, taper=(0.6, 1)),
    ]
    swing = float(rng.uniform(-0.5, 0.5))
    turned = [moved(part, (0, 0, 0), swing) for part in (*upper, *arm)]
    return [_scaled(part, scale) for part in (*tracks, *turned)]


def _scaled(mesh: TriangleMesh, scale: float) -> TriangleMesh:
    return TriangleMesh((mesh.vertices * scale).astype(np.float32), mesh.faces, mesh.class_ids, mesh.materials)


def _loader(rng: np.random.Generator, palette: Palette, coat: Paint) -> list[TriangleMesh]:
    dark, tyre = paint(_CLASS, palette.dark_metal), paint(_CLASS, palette.tyre)
    radius, raised = rng.uniform(0.6, 0.8), rng.uniform(0.5, 1.6)
    parts = [wheel((x, s * 0.95, radius), radius, 0.5, tyre, 10) for x in (-1.4, 1.2) for s in (-1, 1)]
    parts += [
        box((-1.5, 0, radius + 0.6), (2.4, 1.6, 1.1), coat, taper=(0.9, 0.9)),
        box((0.8, 0, radius + 0.25), (1.8, 1.2, 0.6), coat),
        *_cab(-0.1, 0, radius + 0.7, palette, coat),
        *(beam((0.8, s * 0.6, radius + 0.5), (2.7, s * 0.6, raised), 0.22, coat) for s in (-1, 1)),
        box((3.1, 0, raised), (0.9, 2.4, 0.8), dark, taper=(0.55, 1)),
    ]
    return parts


def _roller(rng: np.random.Generator, palette: Palette, coat: Paint) -> list[TriangleMesh]:
    dark, radius = paint(_CLASS, palette.dark_metal), rng.uniform(0.5, 0.7)
    return [
        wheel((1.5, 0, radius), radius, 1.7, dark, 12),
        wheel((-1.3, 0, radius), radius, 1.6, paint(_CLASS, palette.tyre), 12),
        box((-0.9, 0, radius + 0.55), (2.0, 1.5, 0.8), coat, taper=(0.9, 0.95)),
        box((0.8, 0, radius + 0.35), (1.6, 1.2, 0.35), coat),
        *_cab(0.1, 0, radius + 0.6, palette, coat),
    ]


def _telehandler(rng: np.random.Generator, palette: Palette, coat: Paint) -> list[TriangleMesh]:
    dark, tyre = paint(_CLASS, palette.dark_metal), paint(_CLASS, palette.tyre)
    parts = [wheel((x, s * 0.95, 0.55), 0.55, 0.4, tyre, 10) for x in (-1.5, 1.5) for s in (-1, 1)]
    tip = (rng.uniform(3.0, 4.2), -0.2, rng.uniform(1.2, 4.0))
    return [
        *parts,
        box((0, 0, 0.95), (4.4, 1.5, 0.7), coat),
        *_cab(0.2, 0.5, 1.2, palette, coat),
        beam((-1.9, -0.2, 1.6), tip, 0.36, coat),
        box((tip[0] + 0.4, -0.2, tip[2] - 0.4), (1.1, 1.1, 0.12), dark),
        box((tip[0] - 0.1, -0.2, tip[2] - 0.2), (0.1, 1.2, 0.7), dark),
    ]
