# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""Surfaces: where a ray meets a triangle, what it is made of there, and the light that it sends on."""

from __future__ import annotations

import warp as wp

from occ_perception.data.synthetic._light_kernels import Air, headlight, sky_gradient, unshaded
from occ_perception.data.synthetic._texture_kernels import WINDOWS, pane_random, smooth_noise, texture_mix

wp.set_module_options({"enable_backward": False})


@wp.struct
class MaterialTable:
    """`Materials`."""

    color: wp.array[wp.vec3]
    second_color: wp.array[wp.vec3]
    pattern: wp.array[wp.uint8]
    scale: wp.array[wp.float32]
    emission: wp.array[wp.vec3]
    gloss: wp.array[wp.float32]


@wp.struct
class Surface:
    """What a ray meets."""

    point: wp.vec3  # world
    normal: wp.vec3  # world, unit, towards the viewer
    distance: wp.float32  # from the eye
    color: wp.vec3
    emission: wp.vec3
    gloss: wp.float32


@wp.func
def textured(
    local: wp.vec3, normal: wp.vec3, pixel: float, found: Surface, material: int, materials: MaterialTable
) -> Surface:
    """A surface with the looks of a material.

    Args:
        local, normal: place and unit normal in the mesh's frame.
        pixel: what one pixel covers, metres.
    """
    level = wp.abs(normal[2]) > 0.7
    u = local[0]
    v = local[1]
    if not level:
        u = (normal[0] * local[1] - normal[1] * local[0]) / wp.sqrt(normal[0] * normal[0] + normal[1] * normal[1])
        v = local[2]
    pattern = wp.int32(materials.pattern[material])
    scale = materials.scale[material]
    mix = texture_mix(pattern, local, u, v, scale, pixel, level)
    found.color = wp.lerp(materials.color[material], materials.second_color[material], mix)
    found.emission = materials.emission[material]
    found.gloss = materials.gloss[material]
    if pattern == WINDOWS:
        # Some panes are lit; all mirror the sky.
        found.emission = found.emission * (mix * wp.step(0.7 - pane_random(u, v, scale)))
        found.gloss = wp.max(found.gloss, 0.8 * mix)
    return found


@wp.func
def surface_at(
    ray: wp.vec3,
    triangle: int,
    corners: wp.array[wp.vec3],
    material: int,
    materials: MaterialTable,
    body_from_view: wp.mat44,
    world_from_body: wp.mat44,
    pixel_angle: float,
) -> Surface:
    """The surface of a triangle on a view's ray (depth 1): its place, normal and looks.

    Args:
        pixel_angle: width of a pixel at depth 1.
    """
    found = Surface()
    eye = wp.transform_point(body_from_view, wp.vec3(0.0, 0.0, 0.0))
    direction = wp.transform_vector(body_from_view, ray)
    corner = corners[3 * triangle]
    normal = wp.normalize(wp.cross(corners[3 * triangle + 1] - corner, corners[3 * triangle + 2] - corner))
    facing = wp.dot(normal, direction)
    if facing > 0.0:
        normal = -normal
        facing = -facing
    depth = wp.dot(normal, corner - eye) / wp.min(facing, -1.0e-12)
    length = wp.length(ray)
    local = eye + depth * direction
    found.distance = depth * length
    found.point = wp.transform_point(world_from_body, local)
    found.normal = wp.transform_vector(world_from_body, normal)
    # A pixel covers more of a surface seen at a flat angle; the root of it as a mean of both directions.
    pixel = pixel_angle * depth / wp.sqrt(wp.max(-facing / length, 0.01))
    return textured(local, normal, pixel, found, material, materials)


@wp.func
def wet(found: Surface, air: Air) -> Surface:
    """A surface in the rain: level ones get darker and mirror, most where puddles stand."""
    if found.normal[2] > 0.9:
        water = 0.65 * smooth_noise(0.3 * found.point[0], 0.3 * found.point[1])
        water = water + 0.35 * smooth_noise(1.7 * found.point[0], 1.7 * found.point[1])
        puddle = wp.smoothstep(0.62, 0.68, water)
        found.color = found.color * (1.0 - (0.4 + 0.3 * puddle) * air.wetness)
        found.gloss = wp.max(found.gloss, air.wetness * (0.25 + 0.6 * puddle))
    return found


@wp.func
def reflected(found: Surface, direction: wp.vec3, shade: float, air: Air) -> wp.vec3:
    """Light mirrored by a glossy surface: the sky by Schlick's formula, and a highlight of the sun."""
    facing = wp.clamp(-wp.dot(found.normal, direction), 0.0, 1.0)
    mirrored = direction + 2.0 * facing * found.normal
    rest = 1.0 - facing
    fresnel = 0.05 + 0.95 * rest * rest * rest * rest * rest
    light = fresnel * sky_gradient(mirrored, air)
    if mirrored[2] < 0.0:
        light = 0.5 * light  # mirrors the ground
    shine = wp.max(wp.dot(mirrored, air.sun_direction), 0.0)
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine
    shine = shine * shine
    return found.gloss * (light + (0.8 * shine * shade) * air.sun_color)


@wp.func
def lit(
    found: Surface, direction: wp.vec3, air: Air, shadow_keys: wp.array[wp.int64], world_from_ego: wp.mat44
) -> wp.vec3:
    """Light that leaves a surface towards the viewer."""
    facing = wp.max(wp.dot(found.normal, air.light_direction), 0.0)
    shade = 1.0
    if facing > 0.0:
        shade = unshaded(found.point, found.normal, air, shadow_keys)
    # From above comes more than from below; corners at the ground get less.
    open_sky = (0.7 + 0.3 * found.normal[2]) * (0.75 + 0.25 * wp.smoothstep(-0.2, 1.2, found.point[2]))
    if found.normal[2] > 0.7:
        open_sky = 1.0
    light = (facing * shade) * air.light_color + open_sky * air.ambient_color
    if air.headlights > 0.0:
        light = light + headlight(found.point, found.normal, world_from_ego) * wp.vec3(1.0, 0.93, 0.8)
    out = wp.cw_mul(found.color, light) + found.emission
    if found.gloss > 0.0:
        out = out + reflected(found, direction, shade, air)
    return out
