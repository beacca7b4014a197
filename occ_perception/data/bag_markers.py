"""Boxes as visualization_msgs/MarkerArray of our bags (no ROS); what is drawn is `marker_shapes`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from occ_perception.data.bag_messages import header, new_message, point, pose, vector
from occ_perception.data.marker_shapes import (
    ADD,
    ARROW,
    DELETE_ALL,
    LIFETIME_NS,
    Box,
    Shape,
    box_shapes,
    instance_shapes,
)
from occ_perception.occupancy import Occupancy

MARKERS = "visualization_msgs/msg/MarkerArray"
_NOWHERE = Shape("", 0, ARROW, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))


def boxes_message(stamp_ns: int, frame_id: str, boxes: Sequence[Box]) -> Any:
    """A MarkerArray of annotated boxes, each with its name and number."""
    shapes = [shape for box in boxes for shape in box_shapes(box, f"{box.name} {box.id}")]
    return _message(stamp_ns, frame_id, shapes)


def instances_message(occupancy: Occupancy, frame_id: str) -> Any:
    """A MarkerArray of the objects of a grid, as the node publishes them."""
    return _message(occupancy.stamp_ns, frame_id, instance_shapes(occupancy))


def _message(stamp_ns: int, frame_id: str, shapes: Iterable[Shape]) -> Any:
    head = header(stamp_ns, frame_id)
    markers = [_marker(head, _NOWHERE, DELETE_ALL), *(_marker(head, shape, ADD) for shape in shapes)]
    return new_message(MARKERS, markers=markers)


def _marker(head: Any, shape: Shape, action: int) -> Any:
    """visualization_msgs/Marker with ROS' defaults for what a shape does not tell."""
    red, green, blue, alpha = shape.color
    no_bytes = np.empty(0, np.uint8)
    seconds, nanoseconds = divmod(LIFETIME_NS if action == ADD else 0, 10**9)
    return new_message(
        "visualization_msgs/msg/Marker",
        header=head,
        ns=shape.namespace,
        id=shape.id,
        type=shape.kind,
        action=action,
        pose=pose(shape.position, shape.quaternion_xyzw),
        scale=vector(shape.scale),
        color=new_message("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha),
        lifetime=new_message("builtin_interfaces/msg/Duration", sec=seconds, nanosec=nanoseconds),
        frame_locked=False,
        points=[point(p) for p in shape.points],
        colors=[],
        texture_resource="",
        texture=new_message("sensor_msgs/msg/CompressedImage", header=header(0, ""), format="", data=no_bytes),
        uv_coordinates=[],
        text=shape.text,
        mesh_resource="",
        mesh_file=new_message("visualization_msgs/msg/MeshFile", filename="", data=no_bytes),
        mesh_use_embedded_materials=False,
    )
