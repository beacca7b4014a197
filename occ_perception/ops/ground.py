"""The ground under a LiDAR sweep: a smooth surface fitted to its low points, and which points are ground.

1. The lowest point of every metre of ground is a candidate; the vehicle itself stands on the ground.
2. A cubic B-spline (knots 8 m apart, penalised second differences) is fitted to the candidates by iteratively
   reweighted least squares.  Points above the surface soon stop counting (they are walls, cars, crowns), points below
   count longer, ghost reflections far below do not.  The surface starts flat under the vehicle and takes in slopes
   from there outwards, since only what nearly continues the surface counts (Geman-McClure weights).
3. What the stiff spline leaves of kerbs, cambers and ditches is averaged over shrinking windows and added.

Heights are metres in the frame of the points, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import VoxelGrid


@dataclass(frozen=True)
class GroundSettings:
    """What counts as ground; lengths in metres.

    Attributes:
        tolerance: points up to this height above the surface are ground.
        depth: points up to this far below it are ground, too; what is deeper is something else (a drop, a reflection).
        step: where the ground points of one grid column differ by more in height, there is an edge (a kerb, the foot of
            a wall), and the higher ones are not ground.
        knot_spacing: of the spline; grids of more than 12 intervals get wider ones.
    """

    tolerance: float = 0.2
    depth: float = 0.4
    step: float = 0.12
    knot_spacing: float = 8.0


@dataclass(frozen=True)
class Footprint:
    """Where the vehicle stands, in its own frame, metres: a rectangle at the height of the ground."""

    lower: tuple[float, float]
    upper: tuple[float, float]
    height: float = 0.0


@dataclass(frozen=True)
class GroundSurface:
    """Height of the ground on a regular lattice of nodes, bilinear in between.

    Attributes:
        lower: x, y of the first node, metres.
        spacing: between nodes, metres.
        heights: float32 [nx, ny], metres.
    """

    lower: tuple[float, float]
    spacing: float
    heights: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Height of the ground under points [N, >= 2], float32 [N]; held constant beyond the lattice."""
        nx, ny = self.heights.shape
        x = np.clip((points[:, 0] - self.lower[0]) / self.spacing, 0, nx - 1)
        y = np.clip((points[:, 1] - self.lower[1]) / self.spacing, 0, ny - 1)
        i, j = np.minimum(x.astype(np.int32), nx - 2), np.minimum(y.astype(np.int32), ny - 2)
        u, v = (x - i).astype(np.float32), (y - j).astype(np.float32)
        flat, first = self.heights.ravel(), i * ny + j
        near = flat[first] * (1 - v) + flat[first + 1] * v
        far = flat[first + ny] * (1 - v) + flat[first + ny + 1] * v
        return near * (1 - u) + far * u


def fit_ground(points: np.ndarray, grid: VoxelGrid, footprint: Footprint, settings: GroundSettings) -> GroundSurface:
    """The ground surface over the area of a grid (whatever its height).

    Args:
        points: float [N, 3], metres in the grid's frame, finite; without the vehicle's own returns.
        grid: its x-y extent is covered.
        footprint: where the ground is known beforehand.
    """
    lower, upper = grid.lower[:2], grid.upper[:2]
    inside = np.all((points[:, :2] >= lower) & (points[:, :2] < upper), axis=1)
    points = points[inside]
    spline = _Spline.covering(lower, upper, settings.knot_spacing)
    stand = _footprint_points(footprint)
    candidates = points[_lowest_per_cell(points, lower, upper, _CANDIDATE_CELL)]
    coefficients = _fit_spline(spline, candidates, stand, footprint.height)
    return _refined(spline, coefficients, points, lower, upper)


def on_ground(points: np.ndarray, columns: np.ndarray, surface: GroundSurface, settings: GroundSettings) -> np.ndarray:
    """Which points are ground, bool [N]: on the surface, and not on the upper side of an edge within their column.

    Args:
        points: float [N, 3], metres.
        columns: int [N], which column of the grid each is in, >= 0.
    """
    height = points[:, 2] - surface.at(points)
    low = height <= settings.tolerance
    level = low & (height >= -settings.tolerance)  # reflections from below the road are no lower side of an edge
    lowest = np.full(columns.max(initial=0) + 1, np.inf, height.dtype)
    np.minimum.at(lowest, columns[level], height[level])
    return low & (height >= -settings.depth) & (height <= lowest[columns] + settings.step)


def feet(ground: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    """Ground voxels (bool [X, Y, Z]) right below occupied ones: something stands there, they are its foot."""
    below = np.zeros_like(ground)
    below[:, :, :-1] = ground[:, :, :-1] & occupied[:, :, 1:]
    return below


# -- candidates

_CANDIDATE_CELL = 1.0  # metres
_REFINED_CELL = 0.8  # metres


def _cell_count(lower: np.ndarray, upper: np.ndarray, cell: float) -> tuple[int, int]:
    nx, ny = np.ceil((upper - lower) / cell - 1e-6).astype(int).tolist()
    return max(nx, 2), max(ny, 2)  # two, so that there is something to interpolate between


def _cell_index(points: np.ndarray, lower: np.ndarray, cell: float, ny: int) -> np.ndarray:
    ij = ((points[:, :2] - lower) / cell).astype(np.int32)
    return ij[:, 0] * ny + ij[:, 1]


def _lowest_per_cell(points: np.ndarray, lower: np.ndarray, upper: np.ndarray, cell: float) -> np.ndarray:
    """Index of the lowest point of every square cell that has any, int64 [C], by cell."""
    nx, ny = _cell_count(lower, upper, cell)
    falling = np.argsort(points[:, 2])[::-1]
    lowest = np.full(nx * ny, -1, np.int64)
    lowest[_cell_index(points, lower, cell, ny)[falling]] = falling  # the last to write is the lowest
    return lowest[lowest >= 0]


def _footprint_points(footprint: Footprint) -> np.ndarray:
    x = np.linspace(footprint.lower[0], footprint.upper[0], 4)
    y = np.linspace(footprint.lower[1], footprint.upper[1], 3)
    stand = np.stack(np.meshgrid(x, y, [footprint.height], indexing="ij"), axis=-1)
    return stand.reshape(-1, 3)


# -- spline


@dataclass(frozen=True)
class _Spline:
    """A tensor-product cubic B-spline with uniform knots."""

    lower: np.ndarray  # float64 [2]
    spacing: float
    shape: tuple[int, int]  # coefficients along x and y

    @classmethod
    def covering(cls, lower: np.ndarray, upper: np.ndarray, knot_spacing: float) -> _Spline:
        spacing = max(knot_spacing, float((upper - lower).max()) / 12)  # bounds the size of the equations
        nx, ny = _cell_count(lower, upper, spacing)
        return cls(lower, spacing, (nx + 3, ny + 3))

    def basis(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Values of the basis functions of one axis, float32 [N, coefficients]."""
        count = self.shape[axis]
        position = (values - self.lower[axis]) / self.spacing
        first = np.clip(position.astype(np.int32), 0, count - 4)
        t = np.clip(position - first, 0.0, 1.0)
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
        basis = np.zeros((len(values), count), np.float32)
        np.put_along_axis(basis, first[:, None] + np.arange(4), weights, axis=1)
        return basis

    def design(self, points: np.ndarray) -> np.ndarray:
        """Rows of the linear map from coefficients to heights at points, float32 [N, coefficients]."""
        along_x, along_y = self.basis(points[:, 0], 0), self.basis(points[:, 1], 1)
        return (along_x[:, :, None] * along_y[:, None, :]).reshape(len(points), -1)

    def roughness(self) -> np.ndarray:
        """Penalty on bending, and a hundred times less on slope, which decides only where there are no points."""
        nx, ny = self.shape
        ix, iy = np.eye(nx), np.eye(ny)
        (x1, x2), (y1, y2) = ((_squared_difference(n, 1), _squared_difference(n, 2)) for n in (nx, ny))
        bending = np.kron(x2, iy) + np.kron(ix, y2) + 2 * np.kron(x1, y1)
        return bending + 0.01 * (np.kron(x1, iy) + np.kron(ix, y1))


def _squared_difference(n: int, order: int) -> np.ndarray:
    difference = np.diff(np.eye(n), order, axis=0)
    return difference.T @ difference


_SCALES = (0.5, 0.5, 0.5, 0.5, 0.3, 0.2)  # metres above the surface at which a candidate counts a quarter, by iteration
_FOOTPRINT_WEIGHT = 5.0


def _fit_spline(spline: _Spline, candidates: np.ndarray, stand: np.ndarray, height: float) -> np.ndarray:
    """Coefficients of the surface, float64 [kx, ky]."""
    data = np.concatenate([candidates, stand])
    importance = np.repeat([1.0, _FOOTPRINT_WEIGHT], [len(candidates), len(stand)])
    design, roughness = spline.design(data), spline.roughness()
    target = data[:, 2] - height  # the penalty on slope is none on height, but conditioning likes small numbers
    coefficients = np.zeros(design.shape[1])
    for scale in _SCALES:
        weights = importance * _asymmetric_weights(target - design @ coefficients.astype(np.float32), scale)
        weighted = design * weights.astype(np.float32)[:, None]
        coefficients = np.linalg.solve(weighted.T @ design + roughness, weighted.T @ target)
    return coefficients.reshape(spline.shape) + height


def _asymmetric_weights(residual: np.ndarray, scale: float) -> np.ndarray:
    """Geman-McClure weights for what lies above the surface, slower (Cauchy, twice the scale) for what lies below."""
    ratio = np.where(residual > 0, residual / scale, residual / (2 * scale))
    bounded = 1 / (1 + ratio**2)
    return np.where(residual > 0, bounded**2, bounded)


# -- refinement

_WINDOWS = ((3, 0.18), (2, 0.12), (1, 0.1))  # (radius in cells, scale in metres), one after the other
_PRIOR = 1.0  # cells' worth of "the spline is right" in every window


def _refined(
    spline: _Spline, coefficients: np.ndarray, points: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> GroundSurface:
    """The spline sampled at cell centres, plus the local mean of what the lowest points of the cells are off it."""
    nx, ny = shape = _cell_count(lower, upper, _REFINED_CELL)
    x = lower[0] + (np.arange(nx) + 0.5) * _REFINED_CELL
    y = lower[1] + (np.arange(ny) + 0.5) * _REFINED_CELL
    smooth = spline.basis(x, 0) @ coefficients @ spline.basis(y, 1).T
    surface = GroundSurface((float(x[0]), float(y[0])), _REFINED_CELL, smooth.astype(np.float32))
    low = points[_lowest_per_cell(points, lower, upper, _REFINED_CELL)]
    index = _cell_index(low, lower, _REFINED_CELL, ny)
    off = (low[:, 2] - surface.at(low)).astype(np.float64)
    correction = np.zeros(nx * ny)
    for radius, scale in _WINDOWS:
        residual = off - correction[index]
        weights = _asymmetric_weights(residual, scale)
        sums = np.zeros((2, nx * ny))
        sums[0, index], sums[1, index] = weights * residual, weights
        total, weight = (_window_sum(s.reshape(shape), radius) for s in sums)
        correction += (total / (weight + _PRIOR)).ravel()
    heights = smooth + correction.reshape(shape)
    return GroundSurface(surface.lower, _REFINED_CELL, heights.astype(np.float32))


def _window_sum(values: np.ndarray, radius: int) -> np.ndarray:
    """Sum over the square window of ``2 * radius + 1`` cells around each cell (cells outside count nothing)."""
    width = 2 * radius + 1
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius + 1, radius)
        running = np.cumsum(np.pad(values, padding), axis=axis)
        n = running.shape[axis]
        values = np.take(running, range(width, n), axis=axis) - np.take(running, range(n - width), axis=axis)
    return values
