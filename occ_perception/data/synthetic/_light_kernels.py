# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""Where light comes from: the sky and its clouds, the light that casts shadows, the vehicle's headlights."""

from __future__ import annotations

import warp as wp

from occ_perception.data.synthetic._texture_kernels import smooth_noise

wp.set_module_options({"enable_backward": False})

HEADLIGHT_STRENGTH = wp.constant(70.0)  # light at one metre
SHADOW_BIAS = wp.constant(0.05)  # metres towards the light


@wp.struct
class Air:
    """`Weather`, and where the shadow map lies."""

    sun_direction: wp.vec3
    sun_color: wp.vec3
    light_direction: wp.vec3  # what casts shadows: the sun, or under clouds the sky overhead
    light_color: wp.vec3
    ambient_color: wp.vec3
    sky_color: wp.vec3
    horizon_color: wp.vec3
    cloudiness: wp.float32
    fog_density: wp.float32
    headlights: wp.float32  # 0 or 1
    exposure: wp.float32
    noise: wp.float32
    wetness: wp.float32
    map_from_world: wp.mat44  # shadow map: to (column, row, depth in metres)
    map_size: wp.int32  # texels of its side
    texel: wp.float32  # metres
    softness: wp.float32  # half the width of the shadows' edges, metres


@wp.func
def sky_gradient(direction: wp.vec3, air: Air) -> wp.vec3:
    """Light of the sky without clouds; below the horizon that of the horizon."""
    up = wp.max(direction[2], 0.0)
    # Steep at the horizon, flat overhead.
    return wp.lerp(air.horizon_color, air.sky_color, wp.sqrt(wp.min(up, 1.0)))


@wp.func
def sky(direction: wp.vec3, air: Air) -> wp.vec3:
    """Light from a direction without surface: gradient, glow about the sun, clouds drifting on a plane."""
    light = sky_gradient(direction, air)
    towards_sun = wp.max(wp.dot(direction, air.sun_direction), 0.0)
    glow = wp.pow(towards_sun, 24.0) * 0.25
    if towards_sun > 0.9995:
        glow = 4.0
    light = light + glow * air.sun_color
    if direction[2] > 0.01 and air.cloudiness > 0.0:
        u = direction[0] / (direction[2] + 0.08)
        v = direction[1] / (direction[2] + 0.08)
        thickness = (
            0.55 * smooth_noise(1.3 * u, 1.3 * v)
            + 0.3 * smooth_noise(3.1 * u + 7.0, 3.1 * v)
            + 0.15 * smooth_noise(7.3 * u, 7.3 * v + 3.0)
        )
        cover = wp.smoothstep(0.75 - 0.45 * air.cloudiness, 0.95 - 0.3 * air.cloudiness, thickness)
        cover = cover * air.cloudiness * wp.smoothstep(0.0, 0.15, direction[2])
        cloud = 0.45 * air.sun_color + 0.6 * air.horizon_color
        light = wp.lerp(light, cloud * (1.15 - 0.5 * thickness), cover)
    return light


@wp.func
def reached(key: wp.int64, bits: wp.int64) -> float:
    """1 if nothing is nearer to the light than a depth."""
    if key >= bits:
        return 1.0
    return 0.0


@wp.func
def lit_share(u: float, v: float, depth: float, air: Air, shadow_keys: wp.array[wp.int64]) -> float:
    """Share of the map's light that arrives, 0..1: four texels, blended; outside the map nothing is in shade."""
    column = wp.int32(wp.floor(u))
    row = wp.int32(wp.floor(v))
    if column < 0 or row < 0 or column + 1 >= air.map_size or row + 1 >= air.map_size:
        return 1.0
    bits = wp.int64(wp.cast(wp.max(depth, 0.0), wp.int32)) << wp.int64(32)
    start = row * air.map_size + column
    upper = wp.lerp(reached(shadow_keys[start], bits), reached(shadow_keys[start + 1], bits), u - float(column))
    start = start + air.map_size
    lower = wp.lerp(reached(shadow_keys[start], bits), reached(shadow_keys[start + 1], bits), u - float(column))
    return wp.lerp(upper, lower, v - float(row))


@wp.func
def unshaded(point: wp.vec3, normal: wp.vec3, air: Air, shadow_keys: wp.array[wp.int64]) -> float:
    """Share of the map's light that reaches a point of a surface, 0..1; a wide light's shadows have wide edges."""
    place = wp.transform_point(air.map_from_world, point + normal * (1.5 * air.texel))
    u = place[0] - 0.5
    v = place[1] - 0.5
    depth = place[2] - SHADOW_BIAS
    if air.softness == 0.0:
        return lit_share(u, v, depth, air, shadow_keys)
    wide = air.softness / air.texel
    narrow = 0.4 * wide
    return 0.25 * (
        lit_share(u + wide, v + narrow, depth, air, shadow_keys)
        + lit_share(u - narrow, v + wide, depth, air, shadow_keys)
        + lit_share(u - wide, v - narrow, depth, air, shadow_keys)
        + lit_share(u + narrow, v - wide, depth, air, shadow_keys)
    )


@wp.func
def headlight(point: wp.vec3, normal: wp.vec3, world_from_ego: wp.mat44) -> float:
    """Light of the vehicle's two lamps, taken as one at the middle of its front."""
    lamp = wp.transform_point(world_from_ego, wp.vec3(3.7, 0.0, 0.7))
    forward = wp.transform_vector(world_from_ego, wp.vec3(0.998, 0.0, -0.055))
    ray = point - lamp
    squared = wp.max(wp.dot(ray, ray), 1.0)
    direction = ray / wp.sqrt(squared)
    beam = wp.smoothstep(0.75, 0.99, wp.dot(direction, forward))
    # Dipped: little above the horizon.
    beam = beam * (1.0 - 0.85 * wp.smoothstep(-0.01, 0.06, direction[2]))
    facing = 0.15 + 0.85 * wp.max(-wp.dot(direction, normal), 0.0)
    return HEADLIGHT_STRENGTH * beam * facing / squared
