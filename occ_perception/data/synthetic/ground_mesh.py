"""Triangles of the ground raster: tiles, curb faces between tiles of different height, rounded corners."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.ground import Ground
from occ_perception.data.synthetic.plan import Warp
from occ_perception.data.synthetic.primitives import quad_faces
from occ_perception.data.synthetic.scene import TriangleMesh
from occ_perception.ontology import OCC3D

_ROAD, _SIDEWALK = OCC3D.id_of("driveable_surface"), OCC3D.id_of("sidewalk")
_ARC_STEPS = 5


def ground_mesh(ground: Ground, warp: Warp, curb_material: int) -> TriangleMesh:
    """The whole ground as one open surface seen from above."""
    rounded = np.zeros(ground.class_ids.shape, bool)
    for i, j, *_ in ground.corners:
        rounded[i, j] = True
    parts = [_tiles(ground, ~rounded), *_curbs(ground, curb_material)]
    parts += [_rounded_corner(ground, corner, curb_material) for corner in ground.corners]
    mesh = TriangleMesh.merged(parts)
    vertices = mesh.vertices.astype(np.float64)
    vertices[:, :2] = warp.points(vertices[:, :2])
    return TriangleMesh(vertices.astype(np.float32), mesh.faces, mesh.class_ids, mesh.materials)


def _quads(corners: np.ndarray, class_ids: np.ndarray, materials: np.ndarray) -> TriangleMesh:
    """Two triangles for each row of corners, [Q, 4, 3], counter-clockwise."""
    return TriangleMesh(
        corners.reshape(-1, 3).astype(np.float32),
        quad_faces(len(corners)).astype(np.int32),
        np.tile(class_ids, 2).astype(np.uint8),
        np.tile(materials, 2).astype(np.int32),
    )


def _tiles(ground: Ground, kept: np.ndarray) -> TriangleMesh:
    i, j = np.nonzero(kept)
    around = ((0, 0), (1, 0), (1, 1), (0, 1))
    corners = np.stack(
        [
            np.stack([ground.u_lines[i + a], ground.v_lines[j + b], ground.corner_heights[i, j, a, b]], -1)
            for a, b in around
        ],
        1,
    )
    return _quads(corners, ground.class_ids[i, j], ground.materials[i, j])


def _edge_heights(ground: Ground) -> dict[tuple[int, int], np.ndarray]:
    """Heights along the four edges of every cell, keyed by (axis across which the edge lies, side), [U, V, 2]."""
    heights = ground.corner_heights
    edges = {(0, side): heights[:, :, side, :].copy() for side in (0, 1)}
    edges.update({(1, side): heights[:, :, :, side].copy() for side in (0, 1)})
    for i, j, pivot_u, pivot_v, height in ground.corners:
        edges[0, pivot_u][i, j] = edges[1, pivot_v][i, j] = height
        edges[0, 1 - pivot_u][i, j] = edges[1, 1 - pivot_v][i, j] = 0.0
    return edges


def _curbs(ground: Ground, curb_material: int) -> list[TriangleMesh]:
    """Upright faces between neighbours of different height; they belong to the higher one."""
    edges, meshes = _edge_heights(ground), []
    for axis in (0, 1):
        count = ground.class_ids.shape[axis]
        before = edges[axis, 1].take(np.arange(count - 1), axis)
        behind = edges[axis, 0].take(np.arange(1, count), axis)
        i, j = np.nonzero(np.abs(before - behind).max(-1) > 1e-6)
        line = np.stack([np.stack(_edge_point(ground, axis, i, j, end), -1) for end in (0, 1)], 1)
        rows, line, before, behind = _cut_where_equal(line, before[i, j], behind[i, j])
        i, j = i[rows], j[rows]
        down = before.sum(-1) > behind.sum(-1)  # the face looks along +axis
        other = (i, j + 1) if axis == 1 else (i + 1, j)
        class_ids = np.where(down, ground.class_ids[i, j], ground.class_ids[other])
        materials = np.where(down, ground.materials[i, j], ground.materials[other])
        materials = np.where(class_ids == _SIDEWALK, curb_material, materials)
        # Corners low-start, low-end, high-end, high-start of the face, wound to look along +u, or +v when mirrored.
        low, high = np.minimum(before, behind), np.maximum(before, behind)
        corners = np.stack(
            [_lifted(line, low, 0), _lifted(line, low, 1), _lifted(line, high, 1), _lifted(line, high, 0)], 1
        )
        flip = down == (axis == 1)
        corners = np.where(flip[:, None, None], corners[:, ::-1], corners)
        meshes.append(_without_empty(_quads(corners, class_ids, materials)))
    return meshes


def _cut_where_equal(
    line: np.ndarray, before: np.ndarray, behind: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut edges in two whose higher side changes along them.

    Args:
        line: float64 [E, 2, 2], both ends in the plan.
        before, behind: float64 [E, 2], heights of the two sides at both ends.

    Returns:
        (row of the edge that each came from, line, before, behind).
    """
    gap = before - behind
    cut = np.flatnonzero(gap[:, 0] * gap[:, 1] < 0)
    share = gap[cut, :1] / (gap[cut, :1] - gap[cut, 1:])
    point = line[cut, 0] + share * (line[cut, 1] - line[cut, 0])
    height = before[cut, 0] + share[:, 0] * (before[cut, 1] - before[cut, 0])
    rows = np.concatenate([np.arange(len(line)), cut])
    line, before, behind = line[rows], before[rows], behind[rows]
    second = np.arange(len(gap), len(rows))
    for half, end in ((cut, 1), (second, 0)):
        line[half, end], before[half, end], behind[half, end] = point, height, height
    return rows, line, before, behind


def _without_empty(mesh: TriangleMesh) -> TriangleMesh:
    """Leave out triangles without area: steps that end in nothing."""
    a, b, c = np.moveaxis(mesh.corners().astype(np.float64), 1, 0)
    kept = np.linalg.norm(np.cross(b - a, c - a), axis=-1) > 1e-6
    return TriangleMesh(mesh.vertices, mesh.faces[kept], mesh.class_ids[kept], mesh.materials[kept])


def _edge_point(ground: Ground, axis: int, i: np.ndarray, j: np.ndarray, end: int) -> list[np.ndarray]:
    """Plan coordinates of one end of the edge on the far side (along `axis`) of cells (i, j)."""
    if axis == 0:
        return [ground.u_lines[i + 1], ground.v_lines[j + end]]
    return [ground.u_lines[i + end], ground.v_lines[j + 1]]


def _lifted(line: np.ndarray, heights: np.ndarray, end: int) -> np.ndarray:
    return np.concatenate([line[:, end], heights[:, end, None]], -1)


def _rounded_corner(ground: Ground, corner: tuple[int, int, int, int, float], curb_material: int) -> TriangleMesh:
    i, j, pivot_u, pivot_v, height = corner
    us, vs = ground.u_lines[i : i + 2], ground.v_lines[j : j + 2]
    pivot, opposite = np.array([us[pivot_u], vs[pivot_v]]), np.array([us[1 - pivot_u], vs[1 - pivot_v]])
    angles = np.linspace(0, np.pi / 2, _ARC_STEPS + 1)
    arc = pivot + (opposite - pivot) * np.stack([np.cos(angles), np.sin(angles)], -1)
    if pivot_u != pivot_v:  # keep the arc counter-clockwise about the pivot
        arc = arc[::-1]
    up, down = np.full((_ARC_STEPS + 1, 1), height), np.zeros((_ARC_STEPS + 1, 1))
    vertices = np.concatenate([np.hstack([arc, up]), np.hstack([arc, down]), [[*pivot, height], [*opposite, 0.0]]])
    k, count = np.arange(_ARC_STEPS), _ARC_STEPS + 1
    low = k + count
    top = np.stack([np.full(_ARC_STEPS, 2 * count), k, k + 1], -1)
    road = np.stack([np.full(_ARC_STEPS, 2 * count + 1), low + 1, low], -1)
    face = np.concatenate([np.stack([low, low + 1, k + 1], -1), np.stack([low, k + 1, k], -1)])
    sidewalk_row = ground.materials[i, j]
    diagonal = ground.materials[i + 1 - 2 * pivot_u, j + 1 - 2 * pivot_v]  # the road cell it opens to
    repeats = [_ARC_STEPS, _ARC_STEPS, 2 * _ARC_STEPS]
    return TriangleMesh(
        vertices.astype(np.float32),
        np.concatenate([top, road, face]).astype(np.int32),
        np.repeat([_SIDEWALK, _ROAD, _SIDEWALK], repeats).astype(np.uint8),
        np.repeat([sidewalk_row, diagonal, curb_material], repeats).astype(np.int32),
    )
