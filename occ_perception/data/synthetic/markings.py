"""Paint on the road: lane lines, stop lines, crossings, parking bays, arrows, and patches of other asphalt."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.plan import Plan, Street, Warp
from occ_perception.data.synthetic.primitives import mesh_of, paint, quad_faces
from occ_perception.data.synthetic.scene import TriangleMesh

LIFT_M, PATCH_LIFT_M = 0.012, 0.006
"""Markings float this high above the road, patches of asphalt under them: so it is clear which surface is nearer."""
CROSSING_M = 3.0
"""Length of a pedestrian crossing along the street, metres."""
STOP_LINE_M = 5.0
"""From the crossing street's curb line back to the stop line, metres."""
_PIECE_M = 4.0
_NEAR_M = 70.0


class _Strips:
    """Collects rectangles of the plan at one height, long ones in pieces so that they follow the warp."""

    def __init__(self, lift: float) -> None:
        self._lift = lift
        self._rectangles: dict[int, list[np.ndarray]] = {}

    def add(self, street: Street, along: tuple[float, float], across: tuple[float, float], material: int) -> None:
        """From/to along the street's axis and offset from its middle."""
        pieces = max(1, int(np.ceil((along[1] - along[0]) / _PIECE_M)))
        cuts = np.linspace(along[0], along[1], pieces + 1)
        low, high = street.uv(cuts, across[0]), street.uv(cuts, across[1])
        if street.axis == 1:  # offsets grow to +u while the street runs to +v: mirrored
            low, high = high, low
        quads = np.stack([low[:-1], low[1:], high[1:], high[:-1]], 1)
        self._rectangles.setdefault(material, []).append(quads)

    def meshes(self, warp: Warp) -> list[TriangleMesh]:
        """One mesh per material."""
        meshes = []
        for material, rectangles in self._rectangles.items():
            corners = np.concatenate(rectangles).reshape(-1, 2)
            vertices = np.column_stack([warp.points(corners), np.full(len(corners), self._lift)])
            meshes.append(mesh_of(vertices, quad_faces(len(corners) // 4), paint("driveable_surface", material)))
        return meshes


def road_markings(rng: np.random.Generator, plan: Plan, palette: Palette, path: np.ndarray) -> list[TriangleMesh]:
    """Markings of all streets near the vehicle's path, [N, 2] in the plan."""
    strips, patches = _Strips(LIFT_M), _Strips(PATCH_LIFT_M)
    low, high = path.min(0) - _NEAR_M, path.max(0) + _NEAR_M
    for street in plan.streets:
        across = 1 - street.axis
        if not low[across] <= street.center <= high[across]:
            continue
        for start, end in plan.spans(street, STOP_LINE_M):
            start, end = max(start, low[street.axis]), min(end, high[street.axis])
            if end - start > 12.0:
                _mark_span(rng, strips, street, start, end, palette)
        for crossing in plan.crossings(street):
            if low[street.axis] <= crossing.center <= high[street.axis]:
                _mark_junction(rng, strips, street, crossing, palette)
        _mark_patches(rng, patches, street, (low[street.axis], high[street.axis]), palette)
    return [*strips.meshes(plan.warp), *patches.meshes(plan.warp)]


def _mark_span(
    rng: np.random.Generator, strips: _Strips, street: Street, start: float, end: float, palette: Palette
) -> None:
    middle = palette.yellow_marking if rng.random() < 0.4 else palette.white_marking
    half = 0.07
    if street.median < 1.0:
        style = rng.choice(["single", "double", "dashed", "none"], p=[0.25, 0.3, 0.35, 0.1])
        offsets = {"double": (-0.14, 0.14), "none": ()}.get(str(style), (0.0,))
        for offset in offsets:
            _line(strips, street, (start, end), offset, half, middle, dashed=style == "dashed")
    for sign in (-1, 1):
        for lane in range(1, street.lanes):
            offset = sign * (street.median / 2 + lane * street.lane_width)
            _line(strips, street, (start, end), offset, half, palette.white_marking, dashed=True)
        if rng.random() < 0.6:
            edge = street.lane_edge if street.parking else street.road_half - 0.35
            _line(strips, street, (start, end), sign * edge, half, palette.white_marking, dashed=False)
        if street.parking and rng.random() < 0.4:
            across = sorted((sign * street.lane_edge, sign * street.road_half))
            for along in np.arange(start + 6, end - 6, 6.0):
                strips.add(street, (along, along + 0.1), (across[0], across[1]), palette.white_marking)


def _line(
    strips: _Strips, street: Street, along: tuple[float, float], offset: float, half: float, row: int, dashed: bool
) -> None:
    across = (offset - half, offset + half)
    if not dashed:
        strips.add(street, along, across, row)
        return
    for start in np.arange(along[0], along[1] - 3.0, 9.0):
        strips.add(street, (start, start + 3.0), across, row)


def _mark_junction(
    rng: np.random.Generator, strips: _Strips, street: Street, crossing: Street, palette: Palette
) -> None:
    """Stop lines and pedestrian crossings where `street` meets `crossing`."""
    zebra, stripe = rng.random() < 0.75, float(rng.choice([0.4, 0.5, 0.6]))
    for sign in (-1, 1):
        curb = crossing.center + sign * crossing.road_half
        if not street.reaches(curb + sign * 8):
            continue
        along = sorted((curb + sign * 1.0, curb + sign * (1.0 + CROSSING_M)))
        if zebra:
            for offset in np.arange(-street.road_half + 0.4, street.road_half - stripe, 2 * stripe):
                strips.add(street, (along[0], along[1]), (offset, offset + stripe), palette.white_marking)
        else:
            for edge in along:
                strips.add(
                    street, (edge - 0.1, edge + 0.1), (-street.road_half, street.road_half), palette.white_marking
                )
        stop = sorted((curb + sign * (STOP_LINE_M - 0.4), curb + sign * STOP_LINE_M))
        direction = -sign  # traffic towards the junction
        side = street.right_side(direction)
        lanes = sorted((side * street.median / 2, side * street.lane_edge))
        strips.add(street, (stop[0], stop[1]), (lanes[0], lanes[1]), palette.white_marking)


def _mark_patches(
    rng: np.random.Generator, strips: _Strips, street: Street, limits: tuple[float, float], palette: Palette
) -> None:
    """Repaired asphalt."""
    start, end = max(street.start, limits[0]), min(street.end, limits[1])
    for _ in range(int(rng.integers(0, 12))):
        along, offset = rng.uniform(start, end), rng.uniform(street.median / 2 + 0.4, street.road_half - 0.8)
        length, width = rng.uniform(0.6, 6.0), rng.uniform(0.5, 1.2)
        width = min(width, street.road_half - offset - 0.1)
        side = float(rng.choice([-1, 1]))
        across = sorted((side * offset, side * (offset + width)))
        strips.add(street, (along, along + length), (across[0], across[1]), palette.patch)
