"""Dense points on triangle meshes, and inside closed objects: what ground truth is counted from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.data.synthetic.scene import TriangleMesh


@dataclass(frozen=True)
class Samples:
    """Points of things.

    Attributes:
        points: float32 [3, N], metres; one row per axis, which makes transforming them one matrix product.
        class_ids: uint8 [N], Occ3D classes.
        instances: uint16 [N], 0 = none.
    """

    points: np.ndarray
    class_ids: np.ndarray
    instances: np.ndarray

    def __len__(self) -> int:
        return self.points.shape[1]

    def take(self, which: np.ndarray | slice) -> Samples:
        """Those at positions, under a mask, or in a slice."""
        return Samples(self.points[:, which], self.class_ids[which], self.instances[which])

    @staticmethod
    def joined(parts: list[Samples]) -> Samples:
        """All of several."""
        if not parts:
            return Samples(np.zeros((3, 0), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.uint16))
        return Samples(
            np.concatenate([part.points for part in parts], axis=1),
            np.concatenate([part.class_ids for part in parts]),
            np.concatenate([part.instances for part in parts]),
        )


def triangle_points(corners: np.ndarray, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on triangles so dense that no point of a triangle is farther than ``pitch`` from one.

    Every triangle is covered with rows parallel to its longest edge, at most ``pitch`` apart, each with points at most
    ``pitch`` apart and one at either end.

    Args:
        corners: float [F, 3, 3].
        pitch: metres.

    Returns:
        (points float32 [N, 3], triangle of each int64 [N]).
    """
    base, edge, side = _longest_edge_first(corners.astype(np.float64))
    length = np.linalg.norm(edge, axis=1)
    height = np.linalg.norm(np.cross(edge, side), axis=1) / np.maximum(length, 1e-12)
    rows = np.ceil(height / pitch).astype(np.int64) + 1
    triangle = np.repeat(np.arange(len(corners)), rows)
    row = np.arange(len(triangle)) - np.repeat(np.cumsum(rows) - rows, rows)
    rise = row / np.maximum(rows[triangle] - 1, 1)  # 0 on the longest edge .. 1 at the apex
    width = 1.0 - rise
    counts = np.ceil(width * length[triangle] / pitch).astype(np.int64) + 1
    line = np.repeat(np.arange(len(triangle)), counts)
    step = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
    along = width[line] * step / np.maximum(counts[line] - 1, 1)
    owner = triangle[line]
    points = base[owner] + along[:, None] * edge[owner] + rise[line, None] * side[owner]
    return points.astype(np.float32), owner


def _longest_edge_first(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first corner, longest edge from it, side from it to the apex), float64 [F, 3] each."""
    lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    order = (lengths.argmax(axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(corners, order[:, :, None], axis=1)
    return turned[:, 0], turned[:, 1] - turned[:, 0], turned[:, 2] - turned[:, 0]


def thinned(points: np.ndarray, class_ids: np.ndarray, cell: float) -> np.ndarray:
    """One point per class in every cell of a fine lattice: small triangles give far more points than are needed.

    Args:
        points: float [N, 3]; class_ids: [N].
        cell: edge of the lattice, metres.

    Returns:
        int64 [M], the points kept, in ascending order.
    """
    if not len(points):
        return np.zeros(0, np.int64)
    lattice = np.floor((points - points.min(axis=0)) / cell).astype(np.int64)
    size = lattice.max(axis=0) + 1
    key = ((lattice[:, 0] * size[1] + lattice[:, 1]) * size[2] + lattice[:, 2]) * 32 + class_ids
    return np.sort(np.unique(key, return_index=True)[1])


def solid_points(mesh: TriangleMesh, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on a mesh and inside it, so that objects are solid.

    Inside is what has surface on all six sides along the axes; so a car is filled, and the gap between a person's
    legs stays open.

    Returns:
        (points float32 [N, 3], class of each uint8 [N]); first the inner points, of the mesh's most frequent class.
    """
    points, faces = triangle_points(mesh.corners(), pitch)
    keep = thinned(points, mesh.class_ids[faces], pitch / 2)
    points, class_ids = points[keep], mesh.class_ids[faces[keep]]
    lower = points.min(axis=0) - pitch / 2
    cells = np.floor((points - lower) / pitch).astype(np.int64)
    shell = np.zeros(cells.max(axis=0) + 1, bool)
    shell[tuple(cells.T)] = True
    inside = np.argwhere(_enclosed(shell) & ~shell)
    filling = (lower + (inside + 0.5) * pitch).astype(np.float32)
    most = np.bincount(class_ids).argmax().astype(np.uint8)
    return np.concatenate([filling, points]), np.concatenate([np.full(len(filling), most), class_ids])


def _enclosed(shell: np.ndarray) -> np.ndarray:
    """Cells with shell cells before and behind them along every axis, bool like ``shell``."""
    enclosed = np.ones_like(shell)
    for axis in range(3):
        enclosed &= np.logical_or.accumulate(shell, axis=axis)
        enclosed &= np.flip(np.logical_or.accumulate(np.flip(shell, axis), axis=axis), axis)
    return enclosed
