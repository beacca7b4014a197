"""Objects as rclpy's ``VoxelInstanceArray``; what is in it, and reading it: `occ_perception.data.instance_messages`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point, Vector3

from occ_perception.data.instance_messages import fill_instances
from occ_perception.msg import VoxelInstance, VoxelInstanceArray
from occ_perception.occupancy import Occupancy
from occ_perception.ros.geometry_messages import ns_to_stamp


def instances_to_message(occupancy: Occupancy, *, frame_id: str = "base_link") -> VoxelInstanceArray:
    """Put the objects of a grid, each with its voxels, on the wire.

    Raises:
        InvalidInputError: an id outside 1..65535 or given twice, or a class outside the ontology.
    """
    message = VoxelInstanceArray()
    message.header.stamp = ns_to_stamp(occupancy.stamp_ns)
    message.header.frame_id = frame_id
    fill_instances(message, occupancy, _voxel_instance)
    return message


def _voxel_instance(fields: dict[str, Any]) -> VoxelInstance:
    geometry = {
        "center": _xyz(Point, fields["center"]),
        "size": _xyz(Vector3, fields["size"]),
        "velocity": _xyz(Vector3, fields["velocity"]),
    }
    return VoxelInstance(**(fields | geometry))


def _xyz(kind: type, values: Sequence[float]) -> Point | Vector3:
    x, y, z = map(float, values)
    return kind(x=x, y=y, z=z)
