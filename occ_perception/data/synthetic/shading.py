"""From what pixels see to what cameras show: the shadow map, materials and weather on the device, and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.data.synthetic.rasteriser import Rasteriser, Views, Visibility
from occ_perception.data.synthetic.scene import Materials, Scene, Weather
from occ_perception.data.synthetic.scene_buffers import SceneBuffers
from occ_perception.data.synthetic.warp_runtime import load_kernels, load_warp
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import inverse

SHADOW_TEXELS, SHADOW_TEXEL_M = 1280, 0.1
"""Side of the shadow map, which lies about the vehicle, and what one texel covers."""
_SUN_DISTANCE_M = 500.0
_FAINT_SUN = 0.25  # of the ambient light: below, shadows are those of the sky overhead
_OVERHEAD, _OVERHEAD_SOFTNESS_M = 0.4, 0.5  # the share of ambient light that this part of the sky gives


@dataclass(frozen=True)
class ShadowMap:
    """What the light that casts shadows sees.

    Attributes:
        keys: Warp int64 [texels * texels], as in `Visibility`.
        map_from_world: float64 [4, 4], world to (column, row, depth in metres).
    """

    keys: Any
    map_from_world: np.ndarray


@dataclass(frozen=True)
class Moment:
    """Where everything is when each of V views is taken, float64.

    Attributes:
        world_from_body: [V, B, 4, 4].
        body_from_view: [V, B, 4, 4].
        world_from_ego: [V, 4, 4], of the recording vehicle.
        seeds: uint32 [V], of the pixel noise.
    """

    world_from_body: np.ndarray
    body_from_view: np.ndarray
    world_from_ego: np.ndarray
    seeds: np.ndarray


class Shading:
    """Colours and truth of visible surfaces.

    Args:
        scene: its materials and weather.
        buffers: its triangles.
        device: where they are.

    Raises:
        InvalidInputError: a mesh refers to a material that is not in the table, or the sun has no direction.
    """

    def __init__(self, scene: Scene, buffers: SceneBuffers, device: str) -> None:
        self._weather, self._buffers, self._device = scene.weather, buffers, device
        self._warp, self._kernels = load_warp(device), load_kernels("_shading_kernels", device)
        _check_materials(scene)
        self._materials = self._upload_materials(scene.materials)
        self._light = _shadow_light(scene.weather)

    def shadow_map(self, rasteriser: Rasteriser, center: np.ndarray, world_from_body: np.ndarray) -> ShadowMap:
        """What casts shadows around a point [3] of the world while bodies have poses [B, 4, 4]."""
        view_from_world = _light_view(self._light.direction, center)
        scale, half = 1.0 / SHADOW_TEXEL_M, SHADOW_TEXELS / 2
        pixel_from_ray = np.array([[scale, 0, half], [0, scale, half], [0, 0, 1.0]])
        views = Views(
            pixel_from_ray[None],
            ((SHADOW_TEXELS, SHADOW_TEXELS),),
            (view_from_world @ world_from_body)[None],
            orthographic=True,
        )
        map_from_view = np.array([[scale, 0, 0, half], [0, scale, 0, half], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        return ShadowMap(rasteriser.draw(views).keys, map_from_view @ view_from_world)

    def colors(
        self, seen: Visibility, image_layout: Any, moment: Moment, shadows: ShadowMap, sizes: tuple, samples: int
    ) -> Any:
        """RGB of all views' images, Warp uint8 [pixels, 3].

        Args:
            seen: visibility at samples x samples points per pixel.
            image_layout: `Views.layout` of the images, Warp vec3i [V].
            sizes: (width, height) of every image.
        """
        warp, device = self._warp, self._device
        pixels = [width * height for width, height in sizes]
        image = warp.empty((sum(pixels), 3), dtype=warp.uint8, device=device)
        inputs = [
            seen.keys,
            seen.layout,
            seen.ray_from_pixel,
            self._stage(moment),
            self._materials,
            self._air(shadows),
            shadows.keys,
            samples,
            image_layout,
            image,
        ]
        warp.launch(self._kernels.shade, dim=(len(sizes), max(pixels)), inputs=inputs, device=device)
        return image

    def truth(self, seen: Visibility) -> tuple[Any, Any, Any]:
        """Depth float32 (metres, inf = sky), class uint8 (255 = sky) and instance uint16 (0 = none), Warp [pixels]."""
        warp, device, buffers = self._warp, self._device, self._buffers
        depth = warp.empty(len(seen.keys), dtype=warp.float32, device=device)
        class_ids = warp.empty(len(seen.keys), dtype=warp.uint8, device=device)
        instances = warp.empty(len(seen.keys), dtype=warp.uint16, device=device)
        inputs = [seen.keys, buffers.bodies, buffers.class_ids, buffers.instances, depth, class_ids, instances]
        warp.launch(self._kernels.identify, dim=len(seen.keys), inputs=inputs, device=device)
        return depth, class_ids, instances

    def _stage(self, moment: Moment) -> Any:
        """The kernels' `Stage`."""
        warp, device = self._warp, self._device
        stage = self._kernels.Stage()
        stage.corners, stage.bodies = self._buffers.corners, self._buffers.bodies
        stage.triangle_materials = self._buffers.materials
        for name in ("body_from_view", "world_from_body", "world_from_ego"):
            poses = getattr(moment, name).astype(np.float32)
            setattr(stage, name, warp.array(poses, dtype=warp.mat44, device=device))
        stage.seeds = warp.array(moment.seeds, dtype=warp.uint32, device=device)
        return stage

    def _air(self, shadows: ShadowMap) -> Any:
        """The kernels' `Air`."""
        weather, warp = self._weather, self._warp
        air = self._kernels.Air()
        for name in ("sun_color", "sky_color", "horizon_color"):
            setattr(air, name, warp.vec3(*getattr(weather, name)))
        air.sun_direction = warp.vec3(*_unit(weather.sun_direction))
        air.light_direction, air.light_color = warp.vec3(*self._light.direction), warp.vec3(*self._light.color)
        air.ambient_color, air.softness = warp.vec3(*self._light.ambient), self._light.softness
        for name in ("cloudiness", "fog_density", "exposure", "noise", "wetness"):
            setattr(air, name, getattr(weather, name))
        air.headlights = 1.0 if weather.headlights else 0.0
        air.map_from_world = warp.mat44(shadows.map_from_world.astype(np.float32))
        air.map_size, air.texel = SHADOW_TEXELS, SHADOW_TEXEL_M
        return air

    def _upload_materials(self, materials: Materials) -> Any:
        warp, device = self._warp, self._device
        table = self._kernels.MaterialTable()
        for name in ("color", "second_color", "emission"):
            setattr(table, name, warp.array(getattr(materials, name), dtype=warp.vec3, device=device))
        for name in ("scale", "gloss"):
            setattr(table, name, warp.array(getattr(materials, name), dtype=warp.float32, device=device))
        table.pattern = warp.array(materials.pattern, dtype=warp.uint8, device=device)
        return table


def _check_materials(scene: Scene) -> None:
    count = len(scene.materials.color)
    for mesh in (scene.static, *(actor.mesh for actor in scene.actors)):
        if len(mesh.materials) and not 0 <= int(mesh.materials.min()) <= int(mesh.materials.max()) < count:
            raise InvalidInputError(
                f"scene: faces refer to material {int(mesh.materials.max())}, of {count} in its table"
            )


def _unit(direction: tuple[float, float, float]) -> np.ndarray:
    vector = np.array(direction, np.float64)
    length = float(np.linalg.norm(vector))
    if not 1e-6 < length < np.inf:
        raise InvalidInputError(f"weather: expected a direction to the sun, got {direction}")
    return vector / length


@dataclass(frozen=True)
class _ShadowLight:
    """The light that casts shadows, and what else there is.

    Attributes:
        direction: towards it, unit, float64 [3].
        color: of a surface that faces it, [3].
        ambient: light from everywhere else, [3].
        softness: half the width of its shadows' edges, metres.
    """

    direction: np.ndarray
    color: np.ndarray
    ambient: np.ndarray
    softness: float


def _shadow_light(weather: Weather) -> _ShadowLight:
    """The sun; or, where it is faint, the sky overhead, which leaves the ground under vehicles and trees darker."""
    sun, ambient = np.array(weather.sun_color), np.array(weather.ambient_color)
    if sun.max() > _FAINT_SUN * ambient.max():
        return _ShadowLight(_unit(weather.sun_direction), sun, ambient, 0.0)
    overhead = sun + _OVERHEAD * ambient
    return _ShadowLight(np.array([0.0, 0.0, 1.0]), overhead, (1 - _OVERHEAD) * ambient, _OVERHEAD_SOFTNESS_M)


def _light_view(direction: np.ndarray, center: np.ndarray) -> np.ndarray:
    """view_from_world [4, 4] of a light looking at a point, moved by whole texels so that shadows stand still."""
    forward = -direction
    right = np.cross(forward, [0.0, 0.0, 1.0] if abs(forward[2]) < 0.9 else [1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    world_from_view = np.eye(4)
    world_from_view[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    view_from_world = inverse(world_from_view)
    middle = view_from_world[:3, :3] @ center
    view_from_world[:2, 3] = -np.round(middle[:2] / SHADOW_TEXEL_M) * SHADOW_TEXEL_M
    view_from_world[2, 3] = _SUN_DISTANCE_M - middle[2]
    return view_from_world
