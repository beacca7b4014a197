# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""Hashes, smooth noise and the procedural textures of `Pattern`, each faded to its mean where a pixel covers more
than its features, so that distant surfaces do not flicker."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

PLAIN = wp.constant(0)
NOISE = wp.constant(1)
LEAVES = wp.constant(2)
BRICKS = wp.constant(3)
WINDOWS = wp.constant(4)
STRIPES = wp.constant(5)

SHUFFLE_1 = wp.constant(wp.uint32(0x7FEB352D))
SHUFFLE_2 = wp.constant(wp.uint32(0x846CA68B))
SPREAD_X = wp.constant(wp.uint32(0x9E3779B1))
SPREAD_Y = wp.constant(wp.uint32(0x85EBCA77))


@wp.func
def mixed_bits(value: wp.uint32) -> wp.uint32:
    """A permutation of the 32-bit numbers that looks random (the finaliser "lowbias32" of C. Wellons)."""
    value = (value ^ (value >> wp.uint32(16))) * SHUFFLE_1
    value = (value ^ (value >> wp.uint32(15))) * SHUFFLE_2
    return value ^ (value >> wp.uint32(16))


@wp.func
def cell_random(x: int, y: int) -> float:
    """A random number of a lattice cell, 0..1."""
    bits = mixed_bits(wp.uint32(x) * SPREAD_X + wp.uint32(y) * SPREAD_Y)
    return float(bits >> wp.uint32(8)) * 5.9604645e-8


@wp.func
def smooth_noise(u: float, v: float) -> float:
    """Value noise with features of size 1, 0..1."""
    x = wp.floor(u)
    y = wp.floor(v)
    fx = u - x
    fy = v - y
    fx = fx * fx * (3.0 - 2.0 * fx)
    fy = fy * fy * (3.0 - 2.0 * fy)
    ix = wp.int32(x)
    iy = wp.int32(y)
    lower = wp.lerp(cell_random(ix, iy), cell_random(ix + 1, iy), fx)
    upper = wp.lerp(cell_random(ix, iy + 1), cell_random(ix + 1, iy + 1), fx)
    return wp.lerp(lower, upper, fy)


@wp.func
def detail(feature: float, pixel: float) -> float:
    """How much of a feature of a size a pixel of a size still shows, 1 (all) .. 0 (only the mean); metres."""
    return wp.clamp(1.5 - pixel / feature, 0.0, 1.0)


@wp.func
def band(position: float, width: float, pixel: float) -> float:
    """Share of a pixel that lies in the first `width` of every period of 1 (box filter); position, pixel in periods."""
    half = wp.clamp(0.5 * pixel, 1.0e-4, 0.5)
    start = position - half
    end = position + half
    covered_end = wp.floor(end) * width + wp.min(end - wp.floor(end), width)
    covered_start = wp.floor(start) * width + wp.min(start - wp.floor(start), width)
    return wp.lerp((covered_end - covered_start) / (2.0 * half), width, wp.clamp(pixel - 1.0, 0.0, 1.0))


@wp.func
def noise_mix(u: float, v: float, scale: float, pixel: float) -> float:
    """Share of the second colour: blotches of twenty times the scale, features, and grain."""
    mix = 0.5
    coarse = detail(20.0 * scale, pixel)
    if coarse > 0.0:
        mix = mix + coarse * 0.35 * (smooth_noise(u / (20.0 * scale), v / (20.0 * scale)) - 0.5)
    fine = detail(scale, pixel)
    if fine > 0.0:
        mix = mix + fine * 0.7 * (smooth_noise(u / scale, v / scale) - 0.5)
    finest = detail(0.2 * scale, pixel)
    if finest > 0.0:
        mix = mix + finest * 0.5 * (smooth_noise(5.0 * u / scale, 5.0 * v / scale) - 0.5)
    return wp.clamp(mix, 0.0, 1.0)


@wp.func
def leaves_mix(u: float, v: float, scale: float, pixel: float) -> float:
    """Share of the second colour: clumps, hard-edged leaves in them, and finer ones in those."""
    mix = 0.45
    coarse = detail(4.0 * scale, pixel)
    if coarse > 0.0:
        mix = mix + coarse * 0.9 * (smooth_noise(u / (4.0 * scale), v / (4.0 * scale)) - 0.5)
    fine = detail(scale, pixel)
    if fine > 0.0:
        leaf = smooth_noise((u + 0.4 * v) / scale, (v - 0.4 * u) / scale)
        mix = mix + fine * 0.7 * (wp.smoothstep(0.4, 0.6, leaf) - 0.5)
    finest = detail(0.25 * scale, pixel)
    if finest > 0.0:
        blade = smooth_noise(4.0 * (u - 0.4 * v) / scale, 4.0 * (v + 0.4 * u) / scale)
        mix = mix + finest * 0.6 * (wp.smoothstep(0.3, 0.7, blade) - 0.5)
    return wp.clamp(mix, 0.0, 1.0)


@wp.func
def bricks_mix(u: float, v: float, scale: float, pixel: float) -> float:
    """Share of the second colour: joints between blocks twice as long as high; every block is a little different."""
    row = wp.floor(v / scale)
    along = 0.5 * u / scale + 0.5 * (row - 2.0 * wp.floor(0.5 * row))
    joint_v = band(v / scale, 0.1, pixel / scale)
    joint_u = band(along, 0.05, 0.5 * pixel / scale)
    shade = 0.35 * detail(scale, pixel) * (cell_random(wp.int32(wp.floor(along)), wp.int32(row)) - 0.5) + 0.17
    return wp.clamp(wp.max(wp.max(joint_u, joint_v), shade), 0.0, 1.0)


@wp.func
def pane_share(u: float, v: float, scale: float, pixel: float) -> float:
    """Share of a pixel that shows window panes: 55 % of the width and 60 % of the height of every cell."""
    return band(u / scale + 0.775, 0.55, pixel / scale) * band(v / scale + 0.7, 0.6, pixel / scale)


@wp.func
def pane_random(u: float, v: float, scale: float) -> float:
    """A random number of the pane that is next, 0..1."""
    return cell_random(wp.int32(wp.floor(u / scale + 1.0)), wp.int32(wp.floor(v / scale + 0.9)) + 977)


@wp.func
def texture_mix(pattern: int, local: wp.vec3, u: float, v: float, scale: float, pixel: float, level: wp.bool) -> float:
    """Share of the second colour at a surface point.

    Args:
        local: the point in its mesh's frame; u, v: the same along the surface, v up on walls; metres.
        scale: size of the features; pixel: what one pixel covers; metres.
        level: the surface is more floor than wall, where there are no windows.
    """
    if pattern == NOISE:
        return noise_mix(u, v, scale, pixel)
    if pattern == LEAVES:
        return leaves_mix(u, v, scale, pixel)
    if pattern == BRICKS:
        return bricks_mix(u, v, scale, pixel)
    if pattern == WINDOWS and not level:
        return pane_share(u, v, scale, pixel)
    if pattern == STRIPES:
        return band(0.5 * local[0] / scale, 0.5, 0.5 * pixel / scale)
    return 0.0
