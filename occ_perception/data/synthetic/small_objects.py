"""Cones and barriers (actors), and what nuScenes calls nothing in particular: bins, boxes, racks, animals (static)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from occ_perception.data.synthetic.materials import Palette, hsv
from occ_perception.data.synthetic.models import ActorModel, actor_model
from occ_perception.data.synthetic.primitives import beam, box, cylinder, ellipsoid, extruded, paint, wheel
from occ_perception.data.synthetic.scene import TriangleMesh


def traffic_cone(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """A cone or a slim delineator, 0.45-1.1 m high."""
    name = "traffic_cone"
    orange, white = paint(name, palette.cone_stripes), paint(name, palette.reflective_white)
    base = paint(name, palette.tyre if rng.random() < 0.5 else palette.cone_stripes)
    if rng.random() < 0.2:
        height, radius = float(rng.uniform(0.8, 1.1)), 0.1
        parts = [
            box((0, 0, 0.04), (0.45, 0.45, 0.08), base),
            cylinder((0, 0, 0.08 + height / 2), radius, height, orange, 7, top_radius=radius * 0.8),
            cylinder((0, 0, height * 0.75), radius * 1.05, 0.15, white, 7),
        ]
        return actor_model(name, "movable_object.trafficcone", parts)
    height = float(rng.uniform(0.45, 0.9))
    radius = height * rng.uniform(0.18, 0.24)

    def radius_at(z: float) -> float:
        return radius * (1 - 0.85 * z / height)

    cuts = [0.04, height * 0.45, height * 0.7, height]
    parts = [box((0, 0, 0.02), (radius * 2.6, radius * 2.6, 0.04), base)]
    for index, (low, high) in enumerate(pairwise(cuts)):
        surface = white if index == 1 else orange
        middle = (0, 0, (low + high) / 2)
        parts.append(cylinder(middle, radius_at(low), high - low, surface, 7, top_radius=radius_at(high)))
    return actor_model(name, "movable_object.trafficcone", parts)


def barrier(rng: np.random.Generator, palette: Palette) -> ActorModel:
    """A concrete or water-filled element, a board on feet, or a fence panel; it stands across x (its length is x)."""
    name = "barrier"
    stripes = paint(name, palette.warning_stripes(rng))
    kind = str(rng.choice(["jersey", "water", "board", "panel"], p=[0.35, 0.2, 0.3, 0.15]))
    if kind in ("jersey", "water"):
        color = palette.concrete if kind == "jersey" else stripes.material
        length, height = float(rng.uniform(1.6, 3.0)), float(rng.uniform(0.8, 1.05))
        foot = extruded(np.array([[-0.3, 0], [0.3, 0], [0.24, 0.16], [-0.24, 0.16]]), length, paint(name, color))
        wall = np.array([[-0.2, 0.16], [0.2, 0.16], [0.1, height], [-0.1, height]])
        parts = [_along_x(part) for part in (foot, extruded(wall, length, paint(name, color)))]
    elif kind == "board":
        length, dark = float(rng.uniform(1.2, 2.2)), paint(name, palette.dark_metal)
        parts = [box((0, 0, z), (length, 0.06, 0.22), stripes) for z in (0.55, 0.92)]
        parts += [box((s * length * 0.4, 0, 0.5), (0.07, 0.07, 1.0), dark) for s in (-1, 1)]
        parts += [box((s * length * 0.4, 0, 0.05), (0.12, 0.6, 0.1), dark) for s in (-1, 1)]
    else:
        length, metal = float(rng.uniform(2.0, 2.6)), paint(name, palette.metal)
        parts = [box((0, 0, z), (length, 0.05, 0.05), metal) for z in (0.2, 1.05)]
        parts += [box((x, 0, 0.6), (0.03, 0.03, 0.9), metal) for x in np.linspace(-length / 2, length / 2, 9)]
        parts += [box((s * length * 0.42, 0, 0.04), (0.08, 0.6, 0.08), metal) for s in (-1, 1)]
    return actor_model(name, "movable_object.barrier", parts)


def _along_x(mesh: TriangleMesh) -> TriangleMesh:
    """Turn a part that extends along y by 90 degrees."""
    x, y, z = mesh.vertices.T
    return TriangleMesh(np.stack([y, -x, z], -1), mesh.faces, mesh.class_ids, mesh.materials)


def other_object(rng: np.random.Generator, palette: Palette) -> TriangleMesh:
    """Class "others": a bin, pile of boxes, bicycle rack, hand cart, push chair, dog, or rubbish bags."""
    makers = (_bin, _boxes, _rack, _cart, _dog, _bags)
    return TriangleMesh.merged(makers[int(rng.choice(len(makers), p=[0.3, 0.2, 0.12, 0.16, 0.08, 0.14]))](rng, palette))


def _bin(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    coat, dark = paint("others", palette.any_color(rng)), paint("others", palette.dark_metal)
    length, width, height = rng.uniform((0.5, 0.5, 0.9), (1.3, 0.9, 1.35))
    return [
        box((0, 0, height * 0.45 + 0.06), (length * 0.85, width * 0.85, height * 0.9), coat, taper=(1.15, 1.15)),
        box((0, 0, height + 0.04), (length * 1.04, width * 1.04, 0.1), coat, taper=(0.9, 0.8)),
        *(wheel((-length * 0.35, s * width * 0.4, 0.1), 0.1, 0.06, dark, 6) for s in (-1, 1)),
    ]


def _boxes(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    cardboard = palette.table.add(hsv(0.09, rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.75)))
    parts, bottom = [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        size = rng.uniform(0.4, 1.0, 3) * (1, 1, 0.8)
        shift = rng.uniform(-0.12, 0.12, 2)
        parts.append(box((shift[0], shift[1], bottom + size[2] / 2), size, paint("others", cardboard)))
        bottom += float(size[2])
    return parts


def _rack(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    metal, parts = paint("others", palette.metal), []
    for index in range(int(rng.integers(3, 6))):
        y = (index - 2) * 0.7
        parts += [
            beam((-0.35, y, 0), (-0.35, y, 0.8), 0.07, metal),
            beam((0.35, y, 0), (0.35, y, 0.8), 0.07, metal),
            beam((-0.36, y, 0.8), (0.36, y, 0.8), 0.07, metal),
        ]
    return parts


def _cart(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    coat, dark = paint("others", palette.any_color(rng)), paint("others", palette.dark_metal)
    length, width = rng.uniform((0.7, 0.45), (1.4, 0.8))
    parts = [
        box((0, 0, 0.6), (length, width, 0.5), coat, taper=(1.15, 1.1)),
        beam((-length / 2, 0, 0.7), (-length / 2 - 0.35, 0, 1.05), 0.06, dark),
    ]
    return parts + [wheel((x, s * width / 2, 0.2), 0.2, 0.07, dark) for x in (-length / 3, length / 3) for s in (-1, 1)]


def _dog(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    fur = paint("others", palette.table.add(hsv(0.08, rng.uniform(0, 0.6), rng.uniform(0.1, 0.8))))
    tall = float(rng.uniform(0.4, 0.7))
    parts = [
        ellipsoid((0, 0, tall * 0.75), (tall * 0.65, tall * 0.22, tall * 0.25), fur),
        ellipsoid((tall * 0.75, 0, tall * 1.05), (tall * 0.26, tall * 0.16, tall * 0.18), fur),
        beam((-tall * 0.6, 0, tall * 0.85), (-tall * 0.95, 0, tall * 1.1), 0.05, fur),
    ]
    return parts + [
        beam((x * tall * 0.45, y * tall * 0.12, 0), (x * tall * 0.4, y * tall * 0.12, tall * 0.7), 0.08, fur)
        for x in (-1, 1)
        for y in (-1, 1)
    ]


def _bags(rng: np.random.Generator, palette: Palette) -> list[TriangleMesh]:
    sack = paint("others", palette.table.add(hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.1, 0.5)), gloss=0.3))
    return [
        ellipsoid((*rng.uniform(-0.5, 0.5, 2), 0.25), rng.uniform((0.25, 0.25, 0.26), (0.45, 0.45, 0.5)), sack)
        for _ in range(int(rng.integers(2, 5)))
    ]
