"""The ground: one watertight raster of tiles in the plan, with curbs, rounded corners and uneven terrain."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from occ_perception.data.synthetic.lots import Lot
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.plan import Plan, Street
from occ_perception.data.synthetic.relief import Relief
from occ_perception.ontology import OCC3D

_ROAD, _SIDEWALK, _FLAT, _TERRAIN = (
    OCC3D.id_of(name) for name in ("driveable_surface", "sidewalk", "other_flat", "terrain")
)
_FINE_TILE, _COARSE_TILE = 4.0, 20.0
_FINE_M = 40.0  # tiles are fine this close to the rectangle around the path
_SKIRT_M = (40.0, 120.0, 300.0)  # rings of coarse terrain around the plan, out to the horizon
MEDIAN_GAP_M = 5.0
"""Medians end this far before the crossing street's curb."""


@dataclass(frozen=True)
class Patch:
    """A rectangle of the plan with one surface; `height` None is terrain, which follows the relief."""

    low: tuple[float, float]
    high: tuple[float, float]
    class_id: int
    material: int
    height: float | None


@dataclass(frozen=True)
class Corner:
    """The rounded sidewalk corner of a block: a quarter ellipse of sidewalk about `pivot`, road outside it."""

    low: tuple[float, float]
    high: tuple[float, float]
    pivot: tuple[int, int]  # which corner of the cell is the ellipse's centre: 0 low, 1 high, for u and v
    height: float


@dataclass(frozen=True)
class Ground:
    """The raster: lines [U + 1], [V + 1], and per cell [U, V] its class, material, and four corner heights.

    Attributes:
        corner_heights: float64 [U, V, 2, 2], metres; the last two axes are low/high in u and v.
        corners: (cell u, cell v, pivot u, pivot v, height) of the rounded cells.
    """

    u_lines: np.ndarray
    v_lines: np.ndarray
    class_ids: np.ndarray
    materials: np.ndarray
    corner_heights: np.ndarray
    corners: list[tuple[int, int, int, int, float]]

    def cells(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the cells that hold plan points [..., 2]; points outside get the outermost."""
        i = np.clip(np.searchsorted(self.u_lines, uv[..., 0], side="right") - 1, 0, len(self.u_lines) - 2)
        j = np.clip(np.searchsorted(self.v_lines, uv[..., 1], side="right") - 1, 0, len(self.v_lines) - 2)
        return i, j

    def height(self, uv: np.ndarray) -> np.ndarray:
        """Height of the ground at plan points [..., 2], metres; rounded corners count as sidewalk."""
        i, j = self.cells(uv)
        s = np.clip((uv[..., 0] - self.u_lines[i]) / (self.u_lines[i + 1] - self.u_lines[i]), 0, 1)
        t = np.clip((uv[..., 1] - self.v_lines[j]) / (self.v_lines[j + 1] - self.v_lines[j]), 0, 1)
        h = self.corner_heights[i, j]
        low_u = h[..., 0, 0] * (1 - t) + h[..., 0, 1] * t
        high_u = h[..., 1, 0] * (1 - t) + h[..., 1, 1] * t
        return low_u * (1 - s) + high_u * s


def make_ground(rng: np.random.Generator, plan: Plan, palette: Palette, lots: list[Lot], path: np.ndarray) -> Ground:
    """The ground of a plan; `path` is the vehicle's in the plan, [N, 2]."""
    patches = [*_lot_patches(rng, lots, palette), *_street_patches(rng, plan, palette)]
    corners = _rounded_corners(plan)
    lines = [
        _lines(axis, patches, corners, (plan.low[axis], plan.high[axis]), (path[:, axis].min(), path[:, axis].max()))
        for axis in (0, 1)
    ]
    shape = len(lines[0]) - 1, len(lines[1]) - 1
    class_ids = np.full(shape, _TERRAIN, np.uint8)
    materials = np.full(shape, palette.grass[0], np.int32)
    heights = np.full(shape, np.nan)
    for patch in patches:
        cells = _covered(lines, patch)
        class_ids[cells], materials[cells] = patch.class_id, patch.material
        heights[cells] = np.nan if patch.height is None else patch.height

    relief = Relief.random(rng, plan).heights(*np.meshgrid(*lines, indexing="ij"))
    corner_heights = np.repeat(heights[..., None], 4, -1).reshape(*shape, 2, 2)
    at_lines = np.stack([relief[:-1, :-1], relief[:-1, 1:], relief[1:, :-1], relief[1:, 1:]], -1).reshape(*shape, 2, 2)
    corner_heights = np.where(np.isnan(corner_heights), at_lines, corner_heights)
    rounded = []
    for corner in corners:
        i, j = (int(np.abs(lines[axis] - corner.low[axis]).argmin()) for axis in (0, 1))
        rounded.append((i, j, *corner.pivot, corner.height))
    return Ground(lines[0], lines[1], class_ids, materials, corner_heights, rounded)


def _lot_patches(rng: np.random.Generator, lots: list[Lot], palette: Palette) -> list[Patch]:
    patches = []
    for lot in lots:
        if not lot.near:
            continue
        if lot.use == "plaza":
            surface = _FLAT, int(rng.choice(palette.plaza)), float(rng.choice([0.1, 0.15, 0.2]))
        elif lot.use == "car_park" and rng.random() < 0.75:
            surface = (_ROAD, int(rng.choice(palette.asphalt)), float(rng.choice([0.0, 0.05])))
        elif lot.use == "car_park":  # a parking apron
            surface = (_FLAT, int(rng.choice(palette.plaza)), 0.08)
        else:
            continue
        patches.append(Patch(lot.low, lot.high, *surface))
    for lot in lots:
        if lot.near and lot.use in ("site", "building", "park"):
            bare = lot.use == "site" or (lot.use == "building" and rng.random() < 0.2)
            row = palette.soil if bare else int(rng.choice(palette.grass))
            patches.append(Patch(lot.low, lot.high, _TERRAIN, row, None))
    return patches


def _band(
    street: Street, offsets: tuple[float, float], start: float, end: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(low, high) plan corners of a stretch of street between two offsets from its middle."""
    low, high = street.center + offsets[0], street.center + offsets[1]
    return ((start, low), (end, high)) if street.axis == 0 else ((low, start), (high, end))


def _street_patches(rng: np.random.Generator, plan: Plan, palette: Palette) -> list[Patch]:
    """Sidewalks first, roads over them, medians on top: so junctions come out right."""
    sidewalks, roads, medians = [], [], []
    for street in plan.streets:
        sidewalk, asphalt = int(rng.choice(palette.sidewalk)), int(rng.choice(palette.asphalt))
        for sign in (-1, 1):
            edges = (street.road_half, street.outer_half) if sign > 0 else (-street.outer_half, -street.road_half)
            band = _band(street, edges, street.start, street.end)
            sidewalks.append(Patch(*band, _SIDEWALK, sidewalk, street.curb))
        band = _band(street, (-street.road_half, street.road_half), street.start, street.end)
        roads.append(Patch(*band, _ROAD, asphalt, 0.0))
        medians += _median_patches(rng, plan, street, palette)
    return [*sidewalks, *roads, *medians]


def median_spans(plan: Plan, street: Street) -> list[tuple[float, float]]:
    """Where a street's median stands between junctions: (from, to) along its axis."""
    if street.median < 1.0:
        return []
    return [(start, end) for start, end in plan.spans(street, MEDIAN_GAP_M) if end - start > 8.0]


def _median_patches(rng: np.random.Generator, plan: Plan, street: Street, palette: Palette) -> list[Patch]:
    class_id, row, height = _FLAT, int(rng.choice(palette.plaza)), float(rng.choice([0.12, 0.15, 0.2]))
    if rng.random() < 0.25:  # planted
        class_id, row = _TERRAIN, int(rng.choice(palette.grass))
    half = street.median / 2 - 0.25
    bands = [_band(street, (-half, half), start, end) for start, end in median_spans(plan, street)]
    return [Patch(low, high, class_id, row, height) for low, high in bands]


def _rounded_corners(plan: Plan) -> list[Corner]:
    corners = []
    for along in plan.streets_along(0):
        for across in plan.crossings(along):
            for su in (-1, 1):
                for sv in (-1, 1):
                    if not (across.reaches(along.center + sv * 10) and along.reaches(across.center + su * 10)):
                        continue
                    us = sorted(across.center + su * half for half in (across.road_half, across.outer_half))
                    vs = sorted(along.center + sv * half for half in (along.road_half, along.outer_half))
                    pivot = (int(su > 0), int(sv > 0))
                    corners.append(Corner((us[0], vs[0]), (us[1], vs[1]), pivot, along.curb))
    return corners


def _lines(
    axis: int,
    patches: list[Patch],
    corners: list[Corner],
    limits: tuple[float, float],
    path: tuple[float, float],
) -> np.ndarray:
    """Raster lines of one axis: all edges of patches, and more in between so that no tile is too long."""
    rectangles = [(item.low, item.high) for item in patches] + [(item.low, item.high) for item in corners]
    both = [limits, *((low[axis], high[axis]) for low, high in rectangles)]
    edges = np.unique(np.round(np.clip(np.ravel(both), *limits), 3))
    edges = edges[np.concatenate([[True], np.diff(edges) > 1e-3])]
    whole = {(round(corner.low[axis], 3), round(corner.high[axis], 3)) for corner in corners}
    lines = [edges[:1]]
    for a, b in pairwise(edges):
        far = a > path[1] + _FINE_M or b < path[0] - _FINE_M
        parts = 1 if (a, b) in whole else int(np.ceil((b - a) / (_COARSE_TILE if far else _FINE_TILE)))
        lines.append(np.linspace(a, b, parts + 1)[1:])
    skirt = np.cumsum(_SKIRT_M)
    return np.concatenate([limits[0] - skirt[::-1], *lines, limits[1] + skirt])


def _covered(lines: list[np.ndarray], patch: Patch) -> tuple[slice, slice]:
    spans = []
    for axis in (0, 1):
        first, last = np.searchsorted(lines[axis], [patch.low[axis] - 2e-3, patch.high[axis] - 2e-3])
        spans.append(slice(int(first), int(last)))
    return spans[0], spans[1]
