# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""The z-buffer rasteriser's kernels: triangles in homogeneous coordinates, so that none needs to be cut.

A pixel (u, v) looks along the ray r = ray_from_pixel (u, v, 1).  With corners p0, p1, p2 in the view's frame, r meets
the triangle in front of the view exactly if the three determinants det(p1, p2, r), det(p2, p0, r), det(p0, p1, r) have
the sign of det(p0, p1, p2) -- wherever the corners lie, also behind the camera (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997).  Each is linear in (u, v), as is 1 / depth.  Orthographic views
use (x, y, 1) for the corners and have a linear depth; everything else is the same.
"""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

EMPTY = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
NEAR = wp.constant(0.05)  # metres; what is nearer to a perspective view's eye is not drawn
LARGE = wp.constant(4096)  # pixels in a triangle's box from which several threads share it
PARTS = wp.constant(16)  # threads that share it, row by row
SLACK = wp.constant(1.0e-3)  # pixels by which edges are moved out, so that rounding opens no cracks


@wp.struct
class Triangles:
    """`SceneBuffers`."""

    corners: wp.array[wp.vec3]
    radii: wp.array[wp.float32]
    bodies: wp.array[wp.int32]


@wp.struct
class ViewTable:
    """`Views`."""

    view_from_body: wp.array2d[wp.mat44]
    pixel_from_ray: wp.array[wp.mat33]
    ray_from_pixel: wp.array[wp.mat33]
    borders: wp.array2d[wp.vec4]
    layout: wp.array[wp.vec3i]
    orthographic: wp.bool


@wp.struct
class Footprint:
    """A triangle as a view sees it; linear functions of the pixel are (a, b, c): a u + b v + c."""

    edge0: wp.vec3  # >= 0 inside
    edge1: wp.vec3
    edge2: wp.vec3
    depth: wp.vec3  # 1 / depth, or depth if orthographic
    lowest: wp.float32  # range of that over the triangle, against extrapolation along slivers
    highest: wp.float32
    left: wp.int32  # box of pixels, right and bottom excluded; empty if nothing is seen
    top: wp.int32
    right: wp.int32
    bottom: wp.int32


@wp.func
def grow(box: wp.vec4, point: wp.vec3, pixel_from_ray: wp.mat33) -> wp.vec4:
    """A box (u, v lowest, u, v highest) with the image of a point added."""
    pixel = pixel_from_ray * (point / point[2])
    return wp.vec4(
        wp.min(box[0], pixel[0]), wp.min(box[1], pixel[1]), wp.max(box[2], pixel[0]), wp.max(box[3], pixel[1])
    )


@wp.func
def grow_by_edge(box: wp.vec4, start: wp.vec3, end: wp.vec3, pixel_from_ray: wp.mat33) -> wp.vec4:
    """A box with an edge's start, and the point where it passes the near plane, added; what is behind is left out."""
    if start[2] >= NEAR:
        box = grow(box, start, pixel_from_ray)
    if (start[2] >= NEAR) != (end[2] >= NEAR):
        crossing = start + (end - start) * ((NEAR - start[2]) / (end[2] - start[2]))
        box = grow(box, wp.vec3(crossing[0], crossing[1], NEAR), pixel_from_ray)
    return box


@wp.func
def edge(start: wp.vec3, end: wp.vec3, sign: float, pixel_to_ray: wp.mat33) -> wp.vec3:
    """The linear function of the pixel that is >= 0 on the inner side of an edge."""
    # start x end, written so that nearby corners far away do not cancel.
    line = pixel_to_ray * (sign * wp.cross(start, end - start))
    return wp.vec3(line[0], line[1], line[2] + SLACK * (wp.abs(line[0]) + wp.abs(line[1])))


@wp.func
def boxed(p0: wp.vec3, p1: wp.vec3, p2: wp.vec3, pixel_from_ray: wp.mat33, size: wp.vec3i) -> Footprint:
    """The box of the pixels whose middles a triangle in homogeneous coordinates can cover; the rest is still empty."""
    box = wp.vec4(1.0e9, 1.0e9, -1.0e9, -1.0e9)
    box = grow_by_edge(box, p0, p1, pixel_from_ray)
    box = grow_by_edge(box, p1, p2, pixel_from_ray)
    box = grow_by_edge(box, p2, p0, pixel_from_ray)
    seen = Footprint()
    seen.left = wp.int32(wp.ceil(wp.clamp(box[0], 0.0, float(size[0])) - 0.5 - SLACK))
    seen.top = wp.int32(wp.ceil(wp.clamp(box[1], 0.0, float(size[1])) - 0.5 - SLACK))
    seen.right = wp.int32(wp.floor(wp.clamp(box[2], 0.0, float(size[0])) + 0.5 + SLACK))
    seen.bottom = wp.int32(wp.floor(wp.clamp(box[3], 0.0, float(size[1])) + 0.5 + SLACK))
    return seen


@wp.func
def footprint(p0: wp.vec3, p1: wp.vec3, p2: wp.vec3, view: int, views: ViewTable) -> Footprint:
    """What a view sees of a triangle given in its frame."""
    h0 = p0
    h1 = p1
    h2 = p2
    if views.orthographic:
        h0 = wp.vec3(p0[0], p0[1], 1.0)
        h1 = wp.vec3(p1[0], p1[1], 1.0)
        h2 = wp.vec3(p2[0], p2[1], 1.0)
    seen = boxed(h0, h1, h2, views.pixel_from_ray[view], views.layout[view])
    normal = wp.cross(p1 - p0, p2 - p0)
    offset = wp.dot(normal, p0)
    determinant = offset
    if views.orthographic:
        determinant = normal[2]
    if seen.right <= seen.left or seen.bottom <= seen.top or determinant == 0.0:
        seen.right = seen.left
        return seen
    pixel_to_ray = wp.transpose(views.ray_from_pixel[view])
    sign = wp.sign(determinant)
    seen.edge0 = edge(h1, h2, sign, pixel_to_ray)
    seen.edge1 = edge(h2, h0, sign, pixel_to_ray)
    seen.edge2 = edge(h0, h1, sign, pixel_to_ray)
    nearest = wp.min(p0[2], wp.min(p1[2], p2[2]))
    farthest = wp.max(p0[2], wp.max(p1[2], p2[2]))
    if views.orthographic:
        seen.depth = pixel_to_ray * (wp.vec3(-normal[0], -normal[1], offset) / determinant)
        seen.lowest = wp.max(nearest, 0.0)
        seen.highest = wp.max(farthest, 0.0)
    else:
        seen.depth = pixel_to_ray * (normal / determinant)
        seen.lowest = 1.0 / farthest
        seen.highest = 1.0 / wp.max(nearest, NEAR)
    return seen


@wp.func
def bound_left(bound: float, line: wp.vec3, v: float) -> float:
    """The smallest u of a row that an edge admits."""
    if line[0] > 0.0:
        return wp.max(bound, -(line[1] * v + line[2]) / line[0])
    return bound


@wp.func
def bound_right(bound: float, line: wp.vec3, v: float) -> float:
    """The greatest u of a row that an edge admits."""
    value = line[1] * v + line[2]
    if line[0] < 0.0:
        return wp.min(bound, -value / line[0])
    if line[0] == 0.0 and value < 0.0:
        return -1.0
    return bound


@wp.func
def fill_row(
    seen: Footprint, row: int, triangle: int, size: wp.vec3i, orthographic: wp.bool, keys: wp.array[wp.int64]
) -> None:
    """Enter a triangle into one row; a key is the depth's bits over the triangle's number, the smallest stays."""
    v = float(row) + 0.5
    first = float(seen.left) + 0.5
    first = bound_left(bound_left(bound_left(first, seen.edge0, v), seen.edge1, v), seen.edge2, v)
    last = float(seen.right) - 0.5
    last = bound_right(bound_right(bound_right(last, seen.edge0, v), seen.edge1, v), seen.edge2, v)
    for column in range(wp.int32(wp.ceil(first - 0.5)), wp.int32(wp.floor(last - 0.5)) + 1):
        value = seen.depth[0] * (float(column) + 0.5) + seen.depth[1] * v + seen.depth[2]
        depth = wp.clamp(value, seen.lowest, seen.highest)
        if not orthographic:
            depth = 1.0 / depth
        if orthographic or value * NEAR <= 1.0:
            # Bits of floats >= 0 are ordered as the floats are; equal depths go to the smaller number.
            key = (wp.int64(wp.cast(depth, wp.int32)) << wp.int64(32)) | wp.int64(triangle)
            wp.atomic_min(keys, size[2] + row * size[0] + column, key)


@wp.func
def see(view: int, triangle: int, triangles: Triangles, views: ViewTable) -> Footprint:
    """What a view sees of a triangle of the scene."""
    pose = views.view_from_body[view, triangles.bodies[triangle]]
    p0 = wp.transform_point(pose, triangles.corners[3 * triangle])
    p1 = wp.transform_point(pose, triangles.corners[3 * triangle + 1])
    p2 = wp.transform_point(pose, triangles.corners[3 * triangle + 2])
    return footprint(p0, p1, p2, view, views)


@wp.func
def outside(view: int, triangle: int, triangles: Triangles, views: ViewTable) -> wp.bool:
    """Whether a triangle surely lies beyond one of the planes that bound what a view sees."""
    pose = views.view_from_body[view, triangles.bodies[triangle]]
    point = wp.transform_point(pose, triangles.corners[3 * triangle])
    for i in range(views.borders.shape[1]):
        border = views.borders[view, i]
        distance = border[0] * point[0] + border[1] * point[1] + border[2] * point[2] + border[3]
        if distance < -triangles.radii[triangle]:
            return True
    return False


@wp.kernel
def draw_small(
    triangles: Triangles,
    views: ViewTable,
    keys: wp.array[wp.int64],
    large: wp.array[wp.vec2i],
    large_count: wp.array[wp.int32],
) -> None:
    """Launched over [views, triangles]: draws what is small in its view, notes (view, triangle) of what is large."""
    view, triangle = wp.tid()
    if outside(view, triangle, triangles, views):
        return
    seen = see(view, triangle, triangles, views)
    if (seen.right - seen.left) * (seen.bottom - seen.top) > LARGE:
        large[wp.atomic_add(large_count, 0, 1)] = wp.vec2i(view, triangle)
    else:
        for row in range(seen.top, seen.bottom):
            fill_row(seen, row, triangle, views.layout[view], views.orthographic, keys)


@wp.kernel
def draw_large(
    triangles: Triangles,
    views: ViewTable,
    keys: wp.array[wp.int64],
    large: wp.array[wp.vec2i],
    large_count: wp.array[wp.int32],
    workers: int,
) -> None:
    """Launched over [workers, PARTS]: every worker takes each workers-th large triangle, PARTS threads share its rows.

    The host need not know how many there are, so nothing waits for the device.
    """
    worker, part = wp.tid()
    for item in range(worker, large_count[0], workers):
        view = large[item][0]
        triangle = large[item][1]
        seen = see(view, triangle, triangles, views)
        for row in range(seen.top + part, seen.bottom, PARTS):
            fill_row(seen, row, triangle, views.layout[view], views.orthographic, keys)
