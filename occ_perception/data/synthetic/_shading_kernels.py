# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""From visibility to pictures: light along every ray, fog, the camera's response; and the truth of every pixel."""

from __future__ import annotations

import warp as wp

from occ_perception.data.synthetic._light_kernels import Air, sky
from occ_perception.data.synthetic._raster_kernels import EMPTY
from occ_perception.data.synthetic._surface_kernels import MaterialTable, lit, surface_at, wet
from occ_perception.data.synthetic._texture_kernels import SPREAD_X, mixed_bits

wp.set_module_options({"enable_backward": False})


@wp.struct
class Stage:
    """The scene's triangles and where all bodies are in every view: `SceneBuffers` and `Moment`."""

    corners: wp.array[wp.vec3]
    bodies: wp.array[wp.int32]
    triangle_materials: wp.array[wp.int32]
    body_from_view: wp.array2d[wp.mat44]
    world_from_body: wp.array2d[wp.mat44]
    world_from_ego: wp.array[wp.mat44]
    seeds: wp.array[wp.uint32]


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
def light_along(
    ray: wp.vec3,
    key: wp.int64,
    view: int,
    stage: Stage,
    materials: MaterialTable,
    air: Air,
    shadow_keys: wp.array[wp.int64],
    pixel_angle: float,
) -> wp.vec3:
    """Light that comes along a ray of a view whose nearest triangle is known."""
    # Body 0 is the world.
    direction = wp.normalize(wp.transform_vector(stage.body_from_view[view, 0], ray))
    if key == EMPTY:
        return sky(direction, air)
    triangle = wp.int32(key & wp.int64(0xFFFFFFFF))
    body = stage.bodies[triangle]
    found = surface_at(
        ray,
        triangle,
        stage.corners,
        stage.triangle_materials[triangle],
        materials,
        stage.body_from_view[view, body],
        stage.world_from_body[view, body],
        pixel_angle,
    )
    if air.wetness > 0.0:
        found = wet(found, air)
    light = lit(found, direction, air, shadow_keys, stage.world_from_ego[view])
    if air.fog_density > 0.0:
        light = wp.lerp(air.horizon_color, light, wp.exp(-air.fog_density * found.distance))
    return light


@wp.kernel
def shade(
    keys: wp.array[wp.int64],
    layout: wp.array[wp.vec3i],
    ray_from_pixel: wp.array[wp.mat33],
    stage: Stage,
    materials: MaterialTable,
    air: Air,
    shadow_keys: wp.array[wp.int64],
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
    for i in range(samples):
        for j in range(samples):
            x = column * samples + j
            y = row * samples + i
            ray = inverse * wp.vec3(float(x) + 0.5, float(y) + 0.5, 1.0)
            key = keys[fine[2] + y * fine[0] + x]
            light = light + light_along(ray, key, view, stage, materials, air, shadow_keys, inverse[0, 0])
    across = float(samples)
    middle = inverse * wp.vec3((float(column) + 0.5) * across, (float(row) + 0.5) * across, 1.0)
    bits = stage.seeds[view] + wp.uint32(pixel) * SPREAD_X
    off_axis = middle[0] * middle[0] + middle[1] * middle[1]
    values = developed(light / (across * across), off_axis, bits, air)
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
