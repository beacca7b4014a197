# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""Light at what a pixel sees: sun, shadows, ambient light, headlights, sky, fog, and the camera's response."""

from __future__ import annotations

import warp as wp

from occ_perception.data.synthetic._raster_kernels import EMPTY
from occ_perception.data.synthetic._texture_kernels import (
    SPREAD_X,
    WINDOWS,
    cell_random,
    mixed_bits,
    smooth_noise,
    texture_mix,
)

wp.set_module_options({"enable_backward": False})

HEADLIGHT_STRENGTH = wp.constant(70.0)  # light at one metre
SHADOW_BIAS = wp.constant(0.05)  # metres towards the sun


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
    depth: wp.float32  # along the optical axis
    distance: wp.float32
    color: wp.vec3
    emission: wp.vec3
    gloss: wp.float32


@wp.func
def scaled(a: wp.vec3, b: wp.vec3) -> wp.vec3:
    """Product of light and colour."""
    return wp.cw_mul(a, b)


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


@wp.func
def surface_at(
    ray: wp.vec3,
    triangle: int,
    corners: wp.array[wp.vec3],
    material: int,
    materials: MaterialTable,
    view_pose: wp.mat44,
    body_pose: wp.mat44,
    pixel_angle: float,
) -> Surface:
    """The surface of a triangle on a view's ray (depth 1): its place, texture and normal.

    Args:
        view_pose: body_from_view; body_pose: world_from_body.
        pixel_angle: width of a pixel at depth 1.
    """
    found = Surface()
    eye = wp.transform_point(view_pose, wp.vec3(0.0, 0.0, 0.0))
    direction = wp.transform_vector(view_pose, ray)
    corner = corners[3 * triangle]
    normal = wp.normalize(wp.cross(corners[3 * triangle + 1] - corner, corners[3 * triangle + 2] - corner))
    facing = wp.dot(normal, direction)
    if facing > 0.0:
        normal = -normal
        facing = -facing
    found.depth = wp.dot(normal, corner - eye) / wp.min(facing, -1.0e-12)
    length = wp.length(ray)
    found.distance = found.depth * length
    local = eye + found.depth * direction
    found.point = wp.transform_point(body_pose, local)
    found.normal = wp.transform_vector(body_pose, normal)
    level = wp.abs(normal[2]) > 0.7
    u = local[0]
    v = local[1]
    if not level:
        u = (normal[0] * local[1] - normal[1] * local[0]) / wp.sqrt(normal[0] * normal[0] + normal[1] * normal[1])
        v = local[2]
    # A pixel covers more of a surface seen at a flat angle; the root of it as a mean of both directions.
    pixel = pixel_angle * found.depth / wp.sqrt(wp.max(-facing / length, 0.01))
    pattern = wp.int32(materials.pattern[material])
    scale = materials.scale[material]
    mix = texture_mix(pattern, local, u, v, scale, pixel, level)
    found.color = wp.lerp(materials.color[material], materials.second_color[material], mix)
    found.emission = materials.emission[material]
    found.gloss = materials.gloss[material]
    if pattern == WINDOWS:
        # Some panes are lit; all mirror the sky.
        pane = cell_random(wp.int32(wp.floor(u / scale + 1.0)), wp.int32(wp.floor(v / scale + 0.9)) + 977)
        found.emission = found.emission * (mix * wp.step(0.7 - pane))
        found.gloss = wp.max(found.gloss, 0.8 * mix)
    return found


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
    out = scaled(found.color, light) + found.emission
    if found.gloss > 0.0:
        out = out + reflected(found, direction, shade, air)
    return out


@wp.func
def displayed(value: float) -> float:
    """A camera's response to light, 0..1: a shoulder up to 2, and nearly the power 1 / 2.2, made of roots."""
    value = wp.max(value, 0.0)
    value = wp.min(value * (1.0 + 0.25 * value) / (1.0 + value), 1.0)
    root = wp.sqrt(value)
    return 0.82 * root + 0.18 * wp.sqrt(root)


@wp.func
def bell(bits: wp.uint32) -> float:
    """A random number of mean 0 and deviation 1 from the lowest ten of random bits: the sum of two halves."""
    mask = wp.uint32(31)
    return (float((bits & mask) + ((bits >> wp.uint32(5)) & mask)) - 31.0) * 0.0765851


@wp.func
def developed(light: wp.vec3, off_axis: float, bits: wp.uint32, air: Air) -> wp.vec3:
    """Light to pixel values 0..255: vignetting, exposure, response, noise.

    Args:
        off_axis: tangent of the angle to the optical axis, squared.
        bits: random, of the pixel.
    """
    gain = air.exposure / (1.0 + 0.5 * off_axis)
    bits = mixed_bits(bits)
    return 255.0 * wp.vec3(
        displayed(gain * light[0]) + air.noise * bell(bits),
        displayed(gain * light[1]) + air.noise * bell(bits >> wp.uint32(10)),
        displayed(gain * light[2]) + air.noise * bell(bits >> wp.uint32(20)),
    )


@wp.func
def light_at(
    ray: wp.vec3,
    key: wp.int64,
    view: int,
    corners: wp.array[wp.vec3],
    bodies: wp.array[wp.int32],
    triangle_materials: wp.array[wp.int32],
    materials: MaterialTable,
    body_from_view: wp.array2d[wp.mat44],
    world_from_body: wp.array2d[wp.mat44],
    world_from_ego: wp.array[wp.mat44],
    shadow_keys: wp.array[wp.int64],
    pixel_angle: float,
    air: Air,
) -> wp.vec3:
    """Light that comes along a ray of a view whose nearest triangle is known."""
    # Body 0 is the world.
    direction = wp.normalize(wp.transform_vector(body_from_view[view, 0], ray))
    if key == EMPTY:
        return sky(direction, air)
    triangle = wp.int32(key & wp.int64(0xFFFFFFFF))
    body = bodies[triangle]
    found = surface_at(
        ray,
        triangle,
        corners,
        triangle_materials[triangle],
        materials,
        body_from_view[view, body],
        world_from_body[view, body],
        pixel_angle,
    )
    if air.wetness > 0.0:
        found = wet(found, air)
    light = lit(found, direction, air, shadow_keys, world_from_ego[view])
    if air.fog_density > 0.0:
        light = wp.lerp(air.horizon_color, light, wp.exp(-air.fog_density * found.distance))
    return light


@wp.kernel
def shade(
    keys: wp.array[wp.int64],
    layout: wp.array[wp.vec3i],
    ray_from_pixel: wp.array[wp.mat33],
    corners: wp.array[wp.vec3],
    bodies: wp.array[wp.int32],
    triangle_materials: wp.array[wp.int32],
    materials: MaterialTable,
    body_from_view: wp.array2d[wp.mat44],
    world_from_body: wp.array2d[wp.mat44],
    world_from_ego: wp.array[wp.mat44],
    shadow_keys: wp.array[wp.int64],
    seeds: wp.array[wp.uint32],
    air: Air,
    samples: int,
    image_layout: wp.array[wp.vec3i],
    image: wp.array2d[wp.uint8],
) -> None:
    """Launched over [views, pixels of the largest image]: the colour of each pixel, the mean of samples x samples."""
    view, pixel = wp.tid()
    size = image_layout[view]
    if pixel >= size[0] * size[1]:
        return
    row = pixel // size[0]
    column = pixel - row * size[0]
    fine = layout[view]
    inverse = ray_from_pixel[view]
    light = wp.vec3(0.0, 0.0, 0.0)
    center = wp.vec3(0.0, 0.0, 0.0)
    for i in range(samples):
        for j in range(samples):
            x = column * samples + j
            y = row * samples + i
            ray = inverse * wp.vec3(float(x) + 0.5, float(y) + 0.5, 1.0)
            center = center + ray
            light = light + light_at(
                ray,
                keys[fine[2] + y * fine[0] + x],
                view,
                corners,
                bodies,
                triangle_materials,
                materials,
                body_from_view,
                world_from_body,
                world_from_ego,
                shadow_keys,
                inverse[0, 0],
                air,
            )
    weight = 1.0 / float(samples * samples)
    center = center * weight
    bits = seeds[view] + wp.uint32(pixel) * SPREAD_X
    values = developed(light * weight, center[0] * center[0] + center[1] * center[1], bits, air)
    for channel in range(3):
        image[size[2] + pixel, channel] = wp.uint8(wp.clamp(values[channel] + 0.5, 0.0, 255.0))


@wp.kernel
def identify(
    keys: wp.array[wp.int64],
    bodies: wp.array[wp.int32],
    triangle_classes: wp.array[wp.uint8],
    body_instances: wp.array[wp.uint16],
    depth: wp.array[wp.float32],
    class_ids: wp.array[wp.uint8],
    instances: wp.array[wp.uint16],
) -> None:
    """Launched over pixels of all views: what each sees, as truth."""
    pixel = wp.tid()
    key = keys[pixel]
    if key == EMPTY:
        depth[pixel] = wp.inf
        class_ids[pixel] = wp.uint8(255)
        instances[pixel] = wp.uint16(0)
        return
    triangle = wp.int32(key & wp.int64(0xFFFFFFFF))
    depth[pixel] = wp.cast(wp.int32(key >> wp.int64(32)), wp.float32)
    class_ids[pixel] = triangle_classes[triangle]
    instances[pixel] = body_instances[bodies[triangle]]
