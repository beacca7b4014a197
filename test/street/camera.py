"""Pictures of the made-up street by ray casting, vectorised: the ground in closed form, then box by box over the
part of the image that the box can cover."""

from __future__ import annotations

import numpy as np

from occ_perception.geometry import PinholeCamera, inverse, transform_points
from street.world import (
    ROAD_HALF_WIDTH,
    SIDEWALK_HALF_WIDTH,
    Boxes,
    StreetWorld,
)

_ASPHALT, _PAVEMENT, _GRASS, _PAINT = (90, 92, 96), (150, 140, 130), (95, 120, 70), (225, 225, 215)
_HAZE = np.array([190, 205, 220], np.float32)
_HAZE_LENGTH = 120.0
_LIGHT = np.array([0.45, 0.35, 0.82])


class StreetCamera:
    """Renders one camera of a vehicle that stands flat on the ground (no roll, no pitch).

    Everything that depends only on the mounting is computed once here: rays in the vehicle's axes and where they
    meet the ground.

    Args:
        world: what to look at.
        camera: intrinsics, mounting and image size.
    """

    def __init__(self, world: StreetWorld, camera: PinholeCamera) -> None:
        self.world, self.camera = world, camera
        u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        pixels = np.stack([u, v, np.ones_like(u)], -1)
        rays = pixels @ np.linalg.inv(camera.intrinsics).T @ camera.ego_from_camera[:3, :3].T
        self._rays = np.ascontiguousarray(rays.transpose(2, 0, 1), np.float32)  # [3, H, W], ego axes, unit depth
        self._position = camera.ego_from_camera[:3, 3]
        with np.errstate(divide="ignore"):
            depth = np.where(rays[..., 2] < 0, -self._position[2] / rays[..., 2], np.inf)
        self._ground_depth = np.where(depth < 300, depth, np.inf).astype(np.float32)
        self._on_ground = np.isfinite(self._ground_depth)
        self._ground_xy = (self._position[:2] + depth[self._on_ground, None] * rays[self._on_ground, :2]).astype(
            np.float32
        )
        self._ground_haze = np.exp(-self._ground_depth[self._on_ground] / _HAZE_LENGTH)[:, None]
        up = np.clip(rays[..., 2:] / np.linalg.norm(rays, axis=-1, keepdims=True), 0, 1)
        self._sky = (_HAZE * (1 - up) + np.array([90, 140, 210]) * up).astype(np.float32)

    def render(self, world_from_ego: np.ndarray, time_s: float) -> np.ndarray:
        """The picture at a pose and time, uint8 RGB [H, W, 3]."""
        image = self._sky.copy()
        image[self._on_ground] = self._ground_colors(world_from_ego)
        depth = self._ground_depth.copy()
        boxes = self.world.boxes(time_s)
        for box, nearest, window in self._visible(boxes, world_from_ego):
            if nearest < depth[window].max():
                self._draw(box, window, boxes, world_from_ego, image, depth)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _ground_colors(self, world_from_ego: np.ndarray) -> np.ndarray:
        (c, s), (x0, y0) = world_from_ego[:2, 0].astype(np.float32), world_from_ego[:2, 3].astype(np.float32)
        gx, gy = self._ground_xy.T
        x, y = c * gx - s * gy + x0, s * gx + c * gy + y0
        along, left = self.world.road.coordinates(x, y)
        distance = np.abs(left)
        zone = (distance > ROAD_HALF_WIDTH).astype(np.uint8) + (distance > SIDEWALK_HALF_WIDTH)
        dashes = (distance < 0.08) & (np.mod(along, 6.0) < 3.0)
        zone[dashes | (np.abs(distance - 3.6) < 0.06)] = 3
        colors = np.array([_ASPHALT, _PAVEMENT, _GRASS, _PAINT], np.float32)[zone]
        texture = self.world.ground_texture
        colors *= texture[(x * 4).astype(np.int32) & 255, (y * 4).astype(np.int32) & 255][:, None]
        return colors * self._ground_haze + _HAZE * (1 - self._ground_haze)

    def _visible(self, boxes: Boxes, world_from_ego: np.ndarray) -> list[tuple[int, float, tuple[slice, slice]]]:
        """Boxes that may be in the picture, nearest first: index, least depth, the rows and columns it can cover."""
        camera_from_world = inverse(world_from_ego @ self.camera.ego_from_camera)
        corners = transform_points(camera_from_world, boxes.corners().reshape(-1, 3)).reshape(-1, 8, 3)
        near = corners[..., 2] < 0.3
        depth = np.where(near, 1.0, corners[..., 2])
        pixels = (corners / depth[..., None]) @ self.camera.intrinsics[:2].T
        first, last = np.floor(pixels.min(1)).astype(int), np.ceil(pixels.max(1)).astype(int) + 1
        partly_behind = near.any(1)  # its outline is not that of its corners: take the whole image
        first[partly_behind], last[partly_behind] = 0, (self.camera.width, self.camera.height)
        first = np.clip(first, 0, (self.camera.width, self.camera.height))
        last = np.clip(last, 0, (self.camera.width, self.camera.height))
        nearest = corners[..., 2].min(1)
        wanted = ~near.all(1) & (nearest < 200) & (last > first).all(1)
        order = np.flatnonzero(wanted)[np.argsort(nearest[wanted])]
        return [
            (int(b), float(nearest[b]), (slice(first[b, 1], last[b, 1]), slice(first[b, 0], last[b, 0]))) for b in order
        ]

    def _draw(
        self,
        b: int,
        window: tuple[slice, slice],
        boxes: Boxes,
        world_from_ego: np.ndarray,
        image: np.ndarray,
        depth: np.ndarray,
    ) -> None:
        """Slab test of one box in its window; nearer pixels are painted by face."""
        heading = np.arctan2(world_from_ego[1, 0], world_from_ego[0, 0])
        turn_c, turn_s = np.cos(heading - boxes.yaws[b]), np.sin(heading - boxes.yaws[b])
        eye = transform_points(world_from_ego, self._position[None])[0] - boxes.centers[b]
        c, s = np.cos(boxes.yaws[b]), np.sin(boxes.yaws[b])
        origin = np.array([c * eye[0] + s * eye[1], c * eye[1] - s * eye[0], eye[2]], np.float32)
        half = (boxes.sizes[b] / 2).astype(np.float32)
        x, y, z = self._rays[(slice(None), *window)]
        rays = (np.float32(turn_c) * x - np.float32(turn_s) * y, np.float32(turn_s) * x + np.float32(turn_c) * y, z)
        enters, leaves = zip(*(_slab(*axis) for axis in zip(rays, origin, half, strict=True)), strict=True)
        enter = np.maximum(np.maximum(enters[0], enters[1]), enters[2])
        leave = np.minimum(np.minimum(leaves[0], leaves[1]), leaves[2])
        hit = (enter < leave) & (enter > 0.05) & (enter < depth[window])
        rows, columns = np.nonzero(hit)
        if len(rows) == 0:
            return
        distance = enter[hit]
        axis = np.where(distance == enters[0][hit], 0, np.where(distance == enters[1][hit], 1, 2))
        hit_rays = np.stack([r[hit] for r in rays], -1)
        local = (origin + distance[:, None] * hit_rays) / half  # -1..1 on each axis
        pattern = _pattern(local, boxes.sizes[b], axis, is_car=boxes.sizes[b, 2] < 3)
        normal_sign = -np.sign(np.take_along_axis(hit_rays, axis[:, None], 1)[:, 0])
        light_local = np.array([c * _LIGHT[0] + s * _LIGHT[1], c * _LIGHT[1] - s * _LIGHT[0], _LIGHT[2]])
        lit = 0.6 + 0.4 * np.clip(normal_sign * light_local.astype(np.float32)[axis], -0.6, 1)
        haze = np.exp(-distance / _HAZE_LENGTH)[:, None]
        colors = boxes.colors[b] * (lit * pattern)[:, None] * haze + _HAZE * (1 - haze)
        image[window][rows, columns] = colors
        depth[window][rows, columns] = distance


def _slab(ray: np.ndarray, origin: np.float32, half: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Depth at which rays enter and leave the space between two planes at -half and +half."""
    step = 1 / (ray + np.float32(1e-12))  # a ray exactly along the planes leaves them far away, not at NaN
    middle, extent = -origin * step, half * np.abs(step)
    return middle - extent, middle + extent


def _pattern(local: np.ndarray, size: np.ndarray, axis: np.ndarray, is_car: bool) -> np.ndarray:
    """Brightness on a box's faces: glass on a car's upper half, windows every 3 m on a building."""
    side = axis < 2
    if is_car:
        return np.where(side & (local[:, 2] > 0.15) & (local[:, 2] < 0.85), 0.35, 1.0).astype(np.float32)
    run = np.where(axis == 0, local[:, 1] * size[1], local[:, 0] * size[0]) / 2
    rise = (local[:, 2] + 1) * size[2] / 2
    window = (np.mod(run, 3.0) < 1.4) & (np.mod(rise, 3.0) > 1.2) & (np.mod(rise, 3.0) < 2.5)
    return np.where(side & window, 0.45, 1.0).astype(np.float32)
