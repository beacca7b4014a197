"""Houses, office blocks, sheds and their details; frames have the street front towards -y, the origin in the middle."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.primitives import Paint, box, extruded, paint
from occ_perception.data.synthetic.scene import TriangleMesh

SUNK_M = 0.1
"""Buildings start this far below the ground at their lowest corner, so that uneven ground leaves no gap."""
_STOREY_M = 3.1


def building(rng: np.random.Generator, palette: Palette, length: float, depth: float, detailed: bool) -> TriangleMesh:
    """A building on a rectangle `length` (x) by `depth` (y), 4-20 m high."""
    storeys = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.15, 0.28, 0.22, 0.15, 0.12, 0.08]))
    height = storeys * _STOREY_M + float(rng.uniform(0.8, 1.6))
    facade = paint("manmade", palette.facade(rng) if rng.random() < 0.85 else palette.wall(rng))
    parts = [box((0, 0, height / 2), (length, depth, height), facade)]
    pitched = storeys <= 3 and rng.random() < 0.6
    parts += (
        _pitched_roof(rng, palette, length, depth, height)
        if pitched
        else _flat_roof(rng, palette, length, depth, height)
    )
    if detailed:
        parts += _front(rng, palette, length, depth, height)
        if rng.random() < 0.35 and storeys > 1:
            parts += _balconies(rng, palette, length, depth, storeys)
    return TriangleMesh.merged(parts)


def _pitched_roof(
    rng: np.random.Generator, palette: Palette, length: float, depth: float, height: float
) -> list[TriangleMesh]:
    roof, eaves = paint("manmade", palette.roof(rng)), float(rng.uniform(0.1, 0.5))
    rise = float(rng.uniform(0.25, 0.5)) * min(depth, length) / 2 + 0.5
    along_x = length >= depth
    span, run = (depth, length) if along_x else (length, depth)
    profile = np.array([[-span / 2 - eaves, height], [span / 2 + eaves, height], [0.0, height + rise]])
    mesh = extruded(profile, run + 2 * eaves, roof)
    if along_x:
        x, y, z = mesh.vertices.T
        mesh = TriangleMesh(np.stack([-y, x, z], -1), mesh.faces, mesh.class_ids, mesh.materials)
    chimney = box(
        (run * 0.2 if along_x else 0, 0 if along_x else run * 0.2, height + rise),
        (0.6, 0.6, 1.2),
        paint("manmade", palette.wall(rng)),
    )
    return [mesh, chimney] if rng.random() < 0.5 else [mesh]


def _flat_roof(
    rng: np.random.Generator, palette: Palette, length: float, depth: float, height: float
) -> list[TriangleMesh]:
    rim = paint("manmade", palette.wall(rng))
    parts = [box((0, 0, height + 0.2), (length + 0.3, depth + 0.3, 0.4), rim)]
    if rng.random() < 0.4:
        shift = rng.uniform(-0.2, 0.2, 2) * (length, depth)
        parts.append(box((*shift, height + 1.2), (length * 0.3, depth * 0.3, 1.8), rim))
    return parts


def _front(
    rng: np.random.Generator, palette: Palette, length: float, depth: float, height: float
) -> list[TriangleMesh]:
    """Base, door and sometimes an awning or a shop window on the street side."""
    y, dark = -depth / 2, paint("manmade", palette.dark_metal)
    base = paint("manmade", palette.wall(rng))
    door_x = float(rng.uniform(-0.35, 0.35)) * length
    parts = [
        box((0, 0, 0.3), (length + 0.12, depth + 0.12, 0.6), base),
        box((door_x, y - 0.08, 1.2), (1.2, 0.16, 2.2), paint("manmade", palette.any_color(rng))),
    ]
    if rng.random() < 0.4:
        awning = paint("manmade", palette.any_color(rng))
        parts.append(box((0, y - 0.5, 2.9), (length * rng.uniform(0.4, 0.9), 1.0, 0.14), awning))
        lit = palette.glow((1.0, 0.85, 0.6), 1.2) if palette.night and rng.random() < 0.7 else palette.glass
        parts.append(box((-door_x * 0.7, y - 0.05, 1.5), (length * 0.35, 0.1, 1.8), paint("manmade", lit)))
    if rng.random() < 0.3:
        sign = paint("manmade", palette.any_color(rng))
        parts.append(box((length * 0.3, y - 0.35, min(3.6, height - 0.4)), (0.1, 0.7, 0.7), sign))
    if rng.random() < 0.5:
        parts.append(box((door_x, y - 0.6, 0.12), (1.8, 1.0, 0.24), base))
    corner = (length / 2 - 0.15, y - 0.06, height / 2)
    return [*parts, box(corner, (0.12, 0.12, height), dark)]


def _balconies(
    rng: np.random.Generator, palette: Palette, length: float, depth: float, storeys: int
) -> list[TriangleMesh]:
    rail = paint("manmade", palette.wall(rng) if rng.random() < 0.5 else palette.metal)
    columns = np.linspace(-0.3, 0.3, int(rng.integers(1, 4))) * length
    return [
        box((x, -depth / 2 - 0.55, storey * _STOREY_M + 0.55), (2.4, 1.1, 1.1), rail)
        for x in columns
        for storey in range(1, min(storeys, 4))
    ]


def wall(start: np.ndarray, end: np.ndarray, height: float, thickness: float, surface: Paint) -> TriangleMesh:
    """A free-standing wall, fence or hedge between two world points [3], from a little below the lower one."""
    along = end - start
    length, yaw = float(np.hypot(along[0], along[1])), np.arctan2(along[1], along[0])
    low = min(start[2], end[2]) - 0.05
    top = max(start[2], end[2]) + height
    cosine, sine = np.cos(yaw), np.sin(yaw)
    mesh = box((0, 0, (low + top) / 2), (length, thickness, top - low), surface)
    turned = mesh.vertices @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], np.float32)
    middle = (start + end) / 2
    turned[:, :2] += middle[:2].astype(np.float32)
    return TriangleMesh(turned.astype(np.float32), mesh.faces, mesh.class_ids, mesh.materials)
