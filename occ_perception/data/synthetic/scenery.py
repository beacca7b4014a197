"""What stands still beside the streets: buildings and gardens on the lots, furniture and trees on the sidewalks."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic import furniture
from occ_perception.data.synthetic.buildings import SUNK_M, building, wall
from occ_perception.data.synthetic.ground import median_spans
from occ_perception.data.synthetic.lots import Lot
from occ_perception.data.synthetic.materials import Palette
from occ_perception.data.synthetic.plan import Street
from occ_perception.data.synthetic.primitives import paint
from occ_perception.data.synthetic.scene import TriangleMesh
from occ_perception.data.synthetic.site import Site
from occ_perception.data.synthetic.small_objects import other_object
from occ_perception.data.synthetic.standing import near_spans
from occ_perception.data.synthetic.traffic import Itinerary
from occ_perception.data.synthetic.vegetation import bush, street_tree, tree

_DETAIL_M = 48.0


def lot_scenery(rng: np.random.Generator, site: Site, palette: Palette, lots: list[Lot]) -> list[TriangleMesh]:
    """Everything on the lots but actors."""
    meshes: list[TriangleMesh] = []
    for lot in lots:
        if lot.use == "building":
            meshes += _built_lot(rng, site, palette, lot)
        elif lot.near and lot.use in ("park", "plaza"):
            meshes += _open_lot(rng, site, palette, lot)
        elif lot.near:
            meshes += _fence(rng, site, palette, lot)
    return meshes


def _built_lot(rng: np.random.Generator, site: Site, palette: Palette, lot: Lot) -> list[TriangleMesh]:
    """A building that looks to the street, and a garden around it."""
    axis, sign = lot.front or (1, -1)
    across_size, depth_size = (lot.size[0], lot.size[1]) if axis == 1 else (lot.size[1], lot.size[0])
    setback = float(rng.choice([0.8, 3.0, 6.0], p=[0.4, 0.35, 0.25]))
    length = float(max(across_size - rng.choice([1.6, 4.0, 8.0]), 5.0))
    depth = float(np.clip(depth_size - setback - rng.uniform(1.0, 8.0), 4.0, 22.0))
    uv = lot.center
    edge = lot.high[axis] if sign > 0 else lot.low[axis]
    uv[axis] = edge - sign * (setback + depth / 2)
    # The front (-y) looks along axis * sign: heading such that -y of the frame points there.
    outwards = np.arctan2(sign if axis == 1 else 0.0, sign if axis == 0 else 0.0)
    mesh = building(rng, palette, length, depth, detailed=lot.near)
    half = np.array([length, depth] if axis == 1 else [depth, length]) / 2
    corners = uv + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    drop = float(site.ground.height(uv) - site.ground.height(corners).min())
    meshes = [site.place(mesh, uv, float(outwards) + np.pi / 2, SUNK_M + max(drop, 0.0))]
    if lot.near and lot.distance < _DETAIL_M and setback > 2.0:
        meshes += _garden(rng, site, palette, lot, axis, sign, setback)
    return meshes


def _garden(
    rng: np.random.Generator, site: Site, palette: Palette, lot: Lot, axis: int, sign: int, setback: float
) -> list[TriangleMesh]:
    """Bushes, a tree, a fence or hedge along the sidewalk."""
    meshes = []
    edge = lot.high[axis] if sign > 0 else lot.low[axis]
    low, high = lot.low[1 - axis] + 1.0, lot.high[1 - axis] - 1.0
    for _ in range(int(rng.integers(0, 5))):
        uv = np.empty(2)
        uv[axis], uv[1 - axis] = edge - sign * rng.uniform(1.0, setback - 0.6), rng.uniform(low, high)
        if site.claim(uv, 0.8):
            plant = tree(rng, palette, small=True) if rng.random() < 0.3 and setback > 4 else bush(rng, palette)
            meshes.append(site.place(plant, uv, 0.0))
    if rng.random() < 0.5:
        start, end = np.empty(2), np.empty(2)
        start[axis] = end[axis] = edge - sign * 0.4
        gap = rng.uniform(0.3, 0.6)
        start[1 - axis], end[1 - axis] = low, low + gap * (high - low)
        meshes.append(_border(rng, site, palette, start, end))
    return meshes


def _border(rng: np.random.Generator, site: Site, palette: Palette, start: np.ndarray, end: np.ndarray) -> TriangleMesh:
    """A hedge, wall or fence between two plan points."""
    first, last = site.position(start), site.position(end)
    if rng.random() < 0.4:
        leaves = paint("vegetation", int(rng.choice(palette.foliage)))
        return wall(first, last, float(rng.uniform(0.7, 1.8)), float(rng.uniform(0.5, 0.9)), leaves)
    row = palette.wall(rng) if rng.random() < 0.6 else palette.wood
    return wall(first, last, float(rng.uniform(0.6, 2.0)), float(rng.uniform(0.12, 0.3)), paint("manmade", row))


def _fence(rng: np.random.Generator, site: Site, palette: Palette, lot: Lot) -> list[TriangleMesh]:
    """Along the two sides that run along v, of building sites and car parks."""
    if rng.random() < 0.5:
        return []
    return [
        _border(rng, site, palette, np.array([u, lot.low[1] + 1.0]), np.array([u, lot.high[1] - 1.0]))
        for u in (lot.low[0] + 0.4, lot.high[0] - 0.4)
        if rng.random() < 0.7
    ]


def _open_lot(rng: np.random.Generator, site: Site, palette: Palette, lot: Lot) -> list[TriangleMesh]:
    """Trees and bushes of parks; fewer, and benches, on squares."""
    meshes = []
    share = 1 / 55 if lot.use == "park" else 1 / 160
    for _ in range(int(float(np.prod(lot.size)) * share * rng.uniform(0.5, 1.3))):
        uv = rng.uniform(np.array(lot.low) + 1.5, np.array(lot.high) - 1.5)
        far = site.distance(uv)[0] > _DETAIL_M
        if far and rng.random() < 0.5:
            continue
        if site.claim(uv, 1.6):
            plant = tree(rng, palette) if rng.random() < 0.7 else bush(rng, palette)
            meshes.append(site.place(plant, uv, rng.uniform(0, 6)))
    if lot.use == "plaza":
        for _ in range(int(rng.integers(0, 4))):
            uv = rng.uniform(np.array(lot.low) + 1.0, np.array(lot.high) - 1.0)
            if site.claim(uv, 1.0):
                item = furniture.bench(palette) if rng.random() < 0.7 else furniture.cabinet(rng, palette)
                meshes.append(site.place(item, uv, rng.uniform(0, 6)))
    return meshes


def street_scenery(rng: np.random.Generator, site: Site, palette: Palette) -> list[TriangleMesh]:
    """Along the sidewalks and medians near the path."""
    meshes: list[TriangleMesh] = []
    for street in site.plan.streets:
        trees = rng.random() < 0.6
        step = float(rng.uniform(8.5, 15))
        lamp_height = float(rng.uniform(5.0, 9.0))
        for start, end in near_spans(site, street, 4.0, _DETAIL_M):
            for side in (-1, 1):
                for count, along in enumerate(np.arange(start, end, step)):
                    kind = "lamp" if count % 3 == 0 else "tree" if trees and rng.random() < 0.7 else "item"
                    meshes += _at_curb(rng, site, palette, street, side, along + rng.normal(0, 0.4), kind, lamp_height)
                meshes += _at_walls(rng, site, palette, street, side, start, end)
        meshes += _on_medians(rng, site, palette, street)
    return meshes


def _at_curb(
    rng: np.random.Generator,
    site: Site,
    palette: Palette,
    street: Street,
    side: int,
    along: float,
    kind: str,
    lamp_height: float,
) -> list[TriangleMesh]:
    uv = street.uv(along, side * (street.road_half + 0.6))
    to_road = street.plan_heading(1) + (np.pi / 2 if side * street.right_side(1) > 0 else -np.pi / 2)
    if not site.claim(uv, 0.5):
        return []
    if kind == "lamp":
        mesh = furniture.street_lamp(palette, lamp_height, float(min(2.2, lamp_height * 0.25)))
    elif kind == "tree":
        mesh = street_tree(rng, palette)
    else:
        roll = rng.random()
        if roll < 0.35:
            mesh = furniture.sign(rng, palette)
        elif roll < 0.5:
            mesh = furniture.bollard(rng, palette)
        elif roll < 0.6:
            mesh = furniture.mast(rng, palette)
        else:
            mesh = other_object(rng, palette)
    return [site.place(mesh, uv, to_road)]


def _at_walls(
    rng: np.random.Generator, site: Site, palette: Palette, street: Street, side: int, start: float, end: float
) -> list[TriangleMesh]:
    """Objects at the inner edge of the sidewalk: bins, boxes, benches, cabinets, bus shelters."""
    meshes = []
    to_road = street.plan_heading(1) + (np.pi / 2 if side * street.right_side(1) > 0 else -np.pi / 2)
    along = start + float(rng.exponential(12))
    while along < end:
        uv = street.uv(along, side * (street.outer_half - 0.3))
        if site.claim(uv, 0.8):
            roll = rng.random()
            if roll < 0.6:
                mesh = other_object(rng, palette)
            elif roll < 0.75:
                mesh = furniture.bench(palette)
            elif roll < 0.92 or street.sidewalk < 3.5:
                mesh = furniture.cabinet(rng, palette)
            else:
                mesh = furniture.bus_shelter(palette)
            meshes.append(site.place(mesh, uv, to_road))
        along += 3.0 + float(rng.exponential(16))
    return meshes


def _on_medians(rng: np.random.Generator, site: Site, palette: Palette, street: Street) -> list[TriangleMesh]:
    meshes = []
    planted, step = rng.random() < 0.6, float(rng.uniform(5, 14))
    for start, end in median_spans(site.plan, street):
        along = np.arange(start + 2.0, end - 2.0, step)
        close = along[site.distance(street.uv(along, 0.0)) < _DETAIL_M] if len(along) else along
        for position in close:
            uv = street.uv(position, 0.0)
            if not site.claim(uv, 0.5):
                continue
            if not planted:
                mesh = furniture.sign(rng, palette) if rng.random() < 0.5 else furniture.bollard(rng, palette)
            elif street.median > 2.0:
                mesh = street_tree(rng, palette)
            else:
                continue
            meshes.append(site.place(mesh, uv, street.plan_heading(1)))
    return meshes


def traffic_lights(rng: np.random.Generator, site: Site, palette: Palette, itinerary: Itinerary) -> list[TriangleMesh]:
    """At the main street's junctions, one for each direction that enters; they show the first phase."""
    meshes = []
    main = site.plan.main
    for phase in itinerary.phases:
        if site.distance(np.array([phase.crossing.center, main.center]))[0] > _DETAIL_M or rng.random() < 0.3:
            continue
        reach = float(rng.choice([0.0, main.road_half * 0.6]))
        for street, other in ((main, phase.crossing), (phase.crossing, main)):
            for direction in (-1, 1):
                along = other.center - direction * (other.road_half + 4.6)
                if not street.reaches(along):
                    continue
                uv = street.uv(along, street.right_side(direction) * (street.road_half + 0.6))
                goes = (street is main) == (phase.wait_s == 0.0)
                mesh = furniture.traffic_light(palette, reach, "green" if goes else "red")
                # The head's -y looks at who comes, x over the road: the frame's y is the driving direction.
                site.claim(uv, 0.5)
                meshes.append(site.place(_mirrored_x(mesh), uv, street.plan_heading(direction) - np.pi / 2))
    return meshes


def _mirrored_x(mesh: TriangleMesh) -> TriangleMesh:
    """x to -x, faces turned so that they still look outside."""
    vertices = mesh.vertices * np.array([-1, 1, 1], np.float32)
    return TriangleMesh(vertices, mesh.faces[:, ::-1], mesh.class_ids, mesh.materials)
