# mypy: ignore-errors
# (Warp compiles these functions from their source; their types are Warp's, not Python's.)
"""Ray casting of a LiDAR's beams, each at its own time: the static world and every actor have a mesh that never
changes; beams are moved into an actor's frame at their time instead."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.struct
class Hit:
    """The nearest surface so far."""

    range: wp.float32
    body: wp.int32  # -1 = none
    face: wp.int32
    facing: wp.float32  # cosine of the angle between beam and normal


@wp.func
def nearer(hit: Hit, mesh: wp.uint64, origin: wp.vec3, direction: wp.vec3, body: int) -> Hit:
    """The nearer of a hit and what a beam meets in a mesh."""
    query = wp.mesh_query_ray(mesh, origin, direction, hit.range)
    if query.result:
        hit.range = query.t
        hit.body = body
        hit.face = query.face
        hit.facing = wp.abs(wp.dot(query.normal, direction))
    return hit


@wp.kernel
def cast(
    world_from_lidar: wp.array[wp.mat44],
    beams: wp.array2d[wp.vec3],
    fractions: wp.array[wp.float32],
    static_mesh: wp.uint64,
    actor_meshes: wp.array[wp.uint64],
    actor_radii: wp.array[wp.float32],
    actor_starts: wp.array[wp.vec4],
    actor_ends: wp.array[wp.vec4],
    actor_bodies: wp.array[wp.int32],
    max_range: float,
    ranges: wp.array2d[wp.float32],
    bodies: wp.array2d[wp.int32],
    faces: wp.array2d[wp.int32],
    facings: wp.array2d[wp.float32],
) -> None:
    """Launched over [columns, rings].

    Args:
        world_from_lidar: pose at each column's time.
        beams: unit directions in the LiDAR's frame.
        fractions: of the turn that had passed at each column, 0..1.
        static_mesh: 0 = none.
        actor_starts, actor_ends: x, y, z, yaw at the turn's start and end.
    """
    column, ring = wp.tid()
    pose = world_from_lidar[column]
    origin = wp.transform_point(pose, wp.vec3(0.0, 0.0, 0.0))
    direction = wp.transform_vector(pose, beams[column, ring])
    hit = Hit()
    hit.range = max_range
    hit.body = -1
    if static_mesh != wp.uint64(0):
        hit = nearer(hit, static_mesh, origin, direction, 0)
    for actor in range(actor_meshes.shape[0]):
        state = wp.lerp(actor_starts[actor], actor_ends[actor], fractions[column])
        offset = origin - wp.vec3(state[0], state[1], state[2])
        along = -wp.dot(offset, direction)
        radius = actor_radii[actor]
        aside = wp.dot(offset, offset) - along * along
        if along > -radius and along - radius < hit.range and aside < radius * radius:
            c = wp.cos(state[3])
            s = wp.sin(state[3])
            local = wp.vec3(c * offset[0] + s * offset[1], c * offset[1] - s * offset[0], offset[2])
            beam = wp.vec3(c * direction[0] + s * direction[1], c * direction[1] - s * direction[0], direction[2])
            hit = nearer(hit, actor_meshes[actor], local, beam, actor_bodies[actor])
    ranges[column, ring] = hit.range
    bodies[column, ring] = hit.body
    faces[column, ring] = hit.face
    facings[column, ring] = hit.facing
