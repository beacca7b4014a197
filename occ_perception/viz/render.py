"""A voxel renderer: one ray per pixel, shaded faces, edges that make single voxels visible. No display needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import PinholeCamera
from occ_perception.occupancy import Occupancy
from occ_perception.ops.ray_casting import RayHits, cast_rays
from occ_perception.viz.colors import BACKGROUND, voxel_colors
from occ_perception.viz.views import pixel_rays

# How bright faces are, by their outward normal (axis, pointing along - or +): light from above, front and left, so that
# the three faces one sees of a cube differ.
_FACE_LIGHT = np.array([[0.68, 0.78], [0.58, 0.86], [0.45, 1.0]], np.float32)
_NO_CELL = -1
_TOUCHING = 1e-6  # voxels


@dataclass(frozen=True)
class Style:
    """How surfaces look.

    Attributes:
        edge: how dark the edges of voxels are, 0 (invisible) .. 1 (black).
        fade_from_m, fade_to_m: distances from the eye over which surfaces fade into the background, at most by
            ``fade``; equal = no fade.
        background: colour of pixels without a surface.
    """

    edge: float = 0.5
    fade_from_m: float = 40.0
    fade_to_m: float = 110.0
    fade: float = 0.75
    background: tuple[int, int, int] = BACKGROUND


@dataclass(frozen=True)
class Rendering:
    """A picture of a grid, and what is behind each of its pixels.

    Attributes:
        rgb: float32 [H, W, 3] in 0..255, voxels over the background.
        coverage: float32 [H, W], 0 = no voxel, 1 = opaque voxel.
        distance: float32 [H, W], metres from the eye to the nearest voxel; infinite where there is none.
        cell: int32 [H, W, 3], the nearest voxel; -1 where there is none.
    """

    rgb: np.ndarray
    coverage: np.ndarray
    distance: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class _Layer:
    """The first surface along each of R rays: colour, distance and cell as in `Rendering`, and which rays hit."""

    hit: np.ndarray
    color: np.ndarray
    distance: np.ndarray
    cell: np.ndarray


def render(
    occupancy: Occupancy, camera: PinholeCamera, style: Style | None = None, opacity: np.ndarray | None = None
) -> Rendering:
    """Render the occupied voxels as a camera sees them.

    Unknown voxels have no surface and cannot be seen here; whoever shows this picture says where they are
    (`birds_eye`, `solids.paint_floor`).  The voxel the eye is in is left out: it would fill the picture.

    Args:
        occupancy: the grid.
        camera: the camera; its ``ego_from_camera`` is its pose in the grid's frame.
        style: how surfaces look.
        opacity: float [X, Y, Z] in 0..1, or None for opaque.  A translucent voxel shows the opaque one behind it; of
            several translucent ones in a row the first is drawn.

    Raises:
        InvalidInputError: ``opacity`` does not have the grid's shape.
    """
    style = style or Style()
    directions = pixel_rays(camera)
    eye = camera.ego_from_camera[:3, 3]
    occupied = _without_cell_of(occupancy, eye)
    if opacity is None:
        layers = _cast(occupancy, [occupied], camera, directions, style)
        return _compose(layers, [layers[0].hit], camera, style)
    if opacity.shape != occupancy.grid.size:
        raise InvalidInputError(f"opacity: expected {occupancy.grid.size}, got {opacity.shape}")
    solid, translucent = opacity >= 1.0, (opacity > 0.0) & (opacity < 1.0)
    layers = _cast(occupancy, [occupied & solid, occupied & translucent], camera, directions, style)
    return _compose(layers, [layers[0].hit, opacity[tuple(layers[1].cell.T)]], camera, style)


def _without_cell_of(occupancy: Occupancy, eye: np.ndarray) -> np.ndarray:
    """Occupied voxels, bool [X, Y, Z], but those that hold the eye (several if it is on a face between them)."""
    occupied = occupancy.occupied()
    in_voxels = (eye - occupancy.grid.lower) / occupancy.grid.voxel_size
    first, last = np.floor(in_voxels - _TOUCHING).astype(int), np.floor(in_voxels + _TOUCHING).astype(int)
    occupied[tuple(slice(max(a, 0), max(b + 1, 0)) for a, b in zip(first, last, strict=True))] = False
    return occupied


def _cast(
    occupancy: Occupancy, surfaces: list[np.ndarray], camera: PinholeCamera, directions: np.ndarray, style: Style
) -> list[_Layer]:
    """First surface of each of the given sets of voxels (bool [X, Y, Z]), in one walk."""
    num_rays = len(directions)
    nothing = _Layer(
        np.zeros(num_rays, bool),
        np.zeros((num_rays, 3), np.float32),
        np.full(num_rays, np.inf, np.float32),
        np.full((num_rays, 3), _NO_CELL, np.int32),
    )
    anything = np.any(surfaces, axis=0)
    if not anything.any():
        return [nothing] * len(surfaces)
    # Rays need to walk only the box that holds all surfaces; its top is far below that of the grid, as a rule.
    lower, upper = _bounds(anything)
    # One empty layer around it keeps an eye just outside apart from the first cells: rays truncate toward zero.
    box = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    eye = (camera.ego_from_camera[:3, 3] - occupancy.grid.lower) / occupancy.grid.voxel_size
    volume = torch.from_numpy(np.stack([np.pad(surface[box], 1) for surface in surfaces]))
    lower = lower - 1
    origins = np.broadcast_to(eye - lower, directions.shape).copy()
    hits = cast_rays(volume, torch.from_numpy(origins), torch.from_numpy(directions))
    return [
        _shade(occupancy, hits, layer, lower, eye, directions, 1.0 / camera.intrinsics[0, 0], style)
        for layer in range(len(surfaces))
    ]


def _bounds(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells [3] between which ``volume`` (bool [X, Y, Z], not empty) is not empty: first, last + 1."""
    spans = [np.flatnonzero(volume.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([span[0] for span in spans]), np.array([span[-1] + 1 for span in spans])


def _shade(
    occupancy: Occupancy,
    hits: RayHits,
    layer: int,
    lower: np.ndarray,
    eye: np.ndarray,
    directions: np.ndarray,
    pixel_angle: float,
    style: Style,
) -> _Layer:
    """Colour the hits of one cast volume; ``eye`` in voxels, ``pixel_angle`` in radians."""
    hit = hits.hit[layer].numpy()
    ray = np.flatnonzero(hit)
    cell = hits.cell[layer].numpy()[ray] + lower.astype(np.int32)
    entry = hits.entry_distance[layer].numpy()[ray]
    direction = directions[ray].astype(np.float32)
    axis = _face_axis(hits.face_axis[layer].numpy()[ray], direction)
    in_voxel = eye.astype(np.float32) + direction * entry[:, None] - cell

    light = _FACE_LIGHT[axis, (np.take_along_axis(direction, axis[:, None], 1)[:, 0] < 0).astype(int)]
    edge = _edges(in_voxel, direction, axis, entry * pixel_angle)
    shaded = voxel_colors(occupancy, cell) * (light * (1.0 - style.edge * edge))[:, None]
    distance = entry * occupancy.grid.voxel_size
    shaded = _faded(shaded, distance, style)

    out = _Layer(
        hit,
        np.zeros((len(hit), 3), np.float32),
        np.full(len(hit), np.inf, np.float32),
        np.full((len(hit), 3), _NO_CELL, np.int32),
    )
    out.color[ray], out.distance[ray], out.cell[ray] = shaded, distance, cell
    return out


def _face_axis(axis: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Axis of the face seen, int64 [N]; a ray that starts on the surface counts as meeting it head on."""
    return np.where(axis >= 0, axis, np.abs(direction).argmax(axis=1)).astype(np.int64)


def _edges(in_voxel: np.ndarray, direction: np.ndarray, axis: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """How much of each pixel is edge of its voxel's face, float32 [N] in 0..1.

    Lines are one to three pixels wide, so that they neither break up nor cover much, and vanish where voxels are only a
    few pixels large, so that they do not become noise.

    Args:
        in_voxel: [N, 3] position on the voxel, 0..1.
        direction: [N, 3] of the ray.
        axis: [N] normal of the face.
        pixel: [N] size of a pixel at that distance, in voxels, seen head on.
    """
    rows = np.arange(len(axis))
    along_normal = np.maximum(np.abs(direction[rows, axis]), 1e-3)
    edge = np.zeros(len(axis), np.float32)
    for turn in (1, 2):
        other = (axis + turn) % 3
        position = in_voxel[rows, other]
        to_line = np.minimum(np.abs(position), np.abs(1.0 - position))
        # A pixel covers more of a face that is seen at a grazing angle, along the direction of sight.
        footprint = pixel * np.sqrt(1.0 + (direction[rows, other] / along_normal) ** 2)
        half_width = np.clip(0.025, 0.6 * footprint, 1.25 * footprint)
        line = np.clip((half_width - to_line) / footprint + 0.5, 0.0, 1.0)
        edge = np.maximum(edge, line * np.clip(1.5 - 5.0 * footprint, 0.0, 1.0))
    return edge


def _faded(color: np.ndarray, distance: np.ndarray, style: Style) -> np.ndarray:
    if style.fade_to_m <= style.fade_from_m:
        return color
    share = np.clip((distance - style.fade_from_m) / (style.fade_to_m - style.fade_from_m), 0.0, 1.0)[:, None]
    share = style.fade * share * share * (3.0 - 2.0 * share)
    return color * (1.0 - share) + np.asarray(style.background, np.float32) * share


def _compose(layers: list[_Layer], alphas: list[np.ndarray], camera: PinholeCamera, style: Style) -> Rendering:
    """Paint layers, each ``alpha`` [R] opaque, over the background; what lies behind an earlier layer is hidden."""
    color = np.broadcast_to(np.asarray(style.background, np.float32), layers[0].color.shape)
    coverage = np.zeros(len(color), np.float32)
    distance, cell = np.full(len(color), np.inf, np.float32), np.full((len(color), 3), _NO_CELL, np.int32)
    for layer, alpha in zip(layers, alphas, strict=True):
        nearer = layer.distance < distance
        seen = np.where(nearer, alpha, 0.0).astype(np.float32)
        color = seen[:, None] * layer.color + (1.0 - seen[:, None]) * color
        coverage = seen + (1.0 - seen) * coverage
        distance = np.minimum(layer.distance, distance)
        cell = np.where(nearer[:, None], layer.cell, cell)
    shape = (camera.height, camera.width)
    return Rendering(
        color.reshape(*shape, 3), coverage.reshape(shape), distance.reshape(shape), cell.reshape(*shape, 3)
    )
