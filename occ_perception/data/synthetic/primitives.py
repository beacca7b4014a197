"""Closed solids from few triangles, all counter-clockwise seen from outside; the city is made of these."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from occ_perception.data.synthetic.scene import TriangleMesh
from occ_perception.ontology import OCC3D

Vector = Sequence[float] | np.ndarray

_SIGNS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])


class Paint(NamedTuple):
    """What a surface is (Occ3D class) and what it looks like (row of `Materials`)."""

    class_id: int
    material: int


def paint(class_name: str, material: int) -> Paint:
    """The paint of a class given by name."""
    return Paint(OCC3D.id_of(class_name), material)


def mesh_of(vertices: np.ndarray, faces: np.ndarray, surface: Paint) -> TriangleMesh:
    """Triangles [F, 3] over vertices [V, 3], all with one paint."""
    return TriangleMesh(
        np.asarray(vertices, np.float32),
        np.asarray(faces, np.int32),
        np.full(len(faces), surface.class_id, np.uint8),
        np.full(len(faces), surface.material, np.int32),
    )


def quad_faces(count: int) -> np.ndarray:
    """Two triangles for each of `count` quadrilaterals whose corners follow one another, int [2 count, 3]."""
    first = np.arange(count)[:, None] * 4
    return np.concatenate([first + np.array(half) for half in ((0, 1, 2), (0, 2, 3))])


def loft(rings: np.ndarray, surface: Paint) -> TriangleMesh:
    """A skin over R rings of N points, [R, N, 3], with flat caps.

    The rings are convex and counter-clockwise seen from the last one looking back at the first.
    """
    return mesh_of(rings.reshape(-1, 3), _loft_faces(*rings.shape[:2]), surface)


@cache
def _loft_faces(levels: int, count: int) -> np.ndarray:
    here = np.arange(count)
    following = (here + 1) % count
    below = np.arange(levels - 1)[:, None] * count
    a, b = (below + here).ravel(), (below + following).ravel()
    sides = np.concatenate([np.stack([a, b, b + count], -1), np.stack([a, b + count, a + count], -1)])
    fan = np.stack([np.zeros(count - 2, np.int64), here[1:-1], here[2:]], -1)
    return np.concatenate([sides, fan[:, ::-1], fan + (levels - 1) * count]).astype(np.int32)


def rectangle(center: Vector, length: float, width: float) -> np.ndarray:
    """Corners of a level rectangle around a centre (x, y, z), counter-clockwise seen from above, [4, 3]."""
    return np.asarray(center, np.float64) + _SIGNS * (length / 2, width / 2, 0.0)


def box(center: Vector, size: Vector, surface: Paint, taper: Vector = (1, 1)) -> TriangleMesh:
    """A box around a centre; `taper` scales the length and width of its top."""
    x, y, z = center
    length, width, height = size
    bottom = rectangle((x, y, z - height / 2), length, width)
    top = rectangle((x, y, z + height / 2), length * taper[0], width * taper[1])
    return loft(np.stack([bottom, top]), surface)


def extruded(profile: np.ndarray, width: float, surface: Paint) -> TriangleMesh:
    """A convex side view [N, 2] of (x, z), counter-clockwise with x to the right and z up, `width` wide about y = 0."""
    rings = [np.column_stack([profile[:, 0], np.full(len(profile), y), profile[:, 1]]) for y in (width / 2, -width / 2)]
    return loft(np.stack(rings), surface)


def cylinder(
    center: Vector,
    radius: float,
    height: float,
    surface: Paint,
    sides: int = 8,
    top_radius: float | None = None,
) -> TriangleMesh:
    """An upright cylinder around a centre; with `top_radius` a (truncated) cone."""
    angles = np.arange(sides) * (2 * np.pi / sides)
    circle = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(sides)])
    up = np.array([0, 0, height / 2])
    top = radius if top_radius is None else max(top_radius, 0.02 * radius)
    return loft(np.stack([circle * radius - up, circle * top + up]) + np.asarray(center, np.float64), surface)


def wheel(center: Vector, radius: float, width: float, surface: Paint, sides: int = 8) -> TriangleMesh:
    """A cylinder whose axis is y."""
    upright = cylinder((0, 0, 0), radius, width, surface, sides)
    x, y, z = upright.vertices.T
    lying = np.column_stack([x, -z, y]) + np.asarray(center)
    return TriangleMesh(lying.astype(np.float32), upright.faces, upright.class_ids, upright.materials)


def beam(start: Vector, end: Vector, thickness: float, surface: Paint, sides: int = 4) -> TriangleMesh:
    """A bar between two points."""
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (last - first) / np.linalg.norm(last - first)
    helper = np.array([0.0, 1.0, 0.0]) if abs(along[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(helper, along)
    right /= np.linalg.norm(right)
    angles = (np.arange(sides) + 0.5) * (2 * np.pi / sides)
    radius = thickness / 2 / np.cos(np.pi / sides)
    circle = radius * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * np.cross(along, right))
    return loft(np.stack([circle + first, circle + last]), surface)


def _sphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere from an octahedron, each face cut in four `subdivisions` times: 8, 32, 128 faces."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float64)
    quarter = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    corners = vertices[np.array(quarter)]
    for _ in range(subdivisions):
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = a + b, b + c, c + a
        corners = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
        corners /= np.linalg.norm(corners, axis=-1, keepdims=True)
    unique, inverse = np.unique(corners.reshape(-1, 3).round(6), axis=0, return_inverse=True)
    return unique, inverse.reshape(-1, 3)


_SPHERES = tuple(_sphere(subdivisions) for subdivisions in range(3))


def ellipsoid(center: Vector, radii: Vector, surface: Paint, subdivisions: int = 1) -> TriangleMesh:
    """An ellipsoid of 8, 32 or 128 triangles."""
    vertices, faces = _SPHERES[subdivisions]
    return mesh_of(vertices * np.asarray(radii) + np.asarray(center), faces, surface)


def blob(
    rng: np.random.Generator, center: Vector, radii: Vector, surface: Paint, subdivisions: int = 1
) -> TriangleMesh:
    """An ellipsoid with dents and bumps, as a crown of leaves has."""
    vertices, faces = _SPHERES[subdivisions]
    bumps = np.clip(1.0 + 0.14 * rng.standard_normal((len(vertices), 1)), 0.75, 1.25)
    return mesh_of(vertices * bumps * np.asarray(radii) + np.asarray(center), faces, surface)


def moved(mesh: TriangleMesh, offset: Vector, yaw: float = 0.0) -> TriangleMesh:
    """The mesh turned by `yaw` about z, then shifted."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    vertices = mesh.vertices.astype(np.float64) @ rotation.T + np.asarray(offset, np.float64)
    return TriangleMesh(vertices.astype(np.float32), mesh.faces, mesh.class_ids, mesh.materials)
