"""Boxes as visualization_msgs/MarkerArray of our bags (no ROS): what RViz and Foxglove draw without any plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.data.bag_messages import header, new_message, point, pose, vector
from occ_perception.geometry import quaternion_from_rotation

MARKERS = "visualization_msgs/msg/MarkerArray"
_ARROW, _CUBE, _TEXT = 0, 1, 9
_ADD, _DELETE_ALL = 0, 3
_SLOWEST_ARROW = 0.2
_NOWHERE = (0.0, 0.0, 0.0)
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Box:
    """One object.

    Attributes:
        id: stable identity, > 0.
        name: of its category.
        color: RGB, 0..255.
        frame_from_box: float64 [4, 4], centre and heading (x forward).
        size: length, width, height in metres.
        velocity: m/s [3] in the frame's axes; NaN where not known.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    frame_from_box: np.ndarray
    size: tuple[float, float, float]
    velocity: np.ndarray


def boxes_message(stamp_ns: int, frame_id: str, boxes: Sequence[Box]) -> Any:
    """A MarkerArray like the node's: first DELETEALL, then for each object a cube (namespace ``boxes``), its name
    (``names``) and, if it moves, an arrow as long as its way in one second (``velocities``)."""
    head = header(stamp_ns, frame_id)
    markers = [_marker(head, "", 0, _CUBE, action=_DELETE_ALL)]
    for box in boxes:
        center = box.frame_from_box[:3, 3]
        tint, turn = [channel / 255 for channel in box.color], quaternion_from_rotation(box.frame_from_box[:3, :3])
        markers.append(
            _marker(head, "boxes", box.id, _CUBE, pose=pose(center, turn), scale=box.size, color=(*tint, 0.5))
        )
        above = center + np.array([0.0, 0.0, box.size[2] / 2 + 0.5])
        label = {"text": f"{box.name} {box.id}", "color": (1.0, 1.0, 1.0, 1.0)}
        markers.append(
            _marker(head, "names", box.id, _TEXT, pose=pose(above, _UPRIGHT), scale=(0.0, 0.0, 0.6), **label)
        )
        if np.isfinite(box.velocity).all() and np.linalg.norm(box.velocity) > _SLOWEST_ARROW:
            ends = [point(center), point(center + box.velocity)]
            arrow = {"points": ends, "scale": (0.15, 0.35, 0.5), "color": (1.0, 0.9, 0.1, 0.9)}
            markers.append(_marker(head, "velocities", box.id, _ARROW, **arrow))
    return new_message(MARKERS, markers=markers)


def _marker(head: Any, namespace: str, number: int, kind: int, **fields: Any) -> Any:
    """visualization_msgs/Marker with ROS' defaults for what is not given."""
    red, green, blue, alpha = fields.pop("color", (0.0, 0.0, 0.0, 0.0))
    scale = vector(fields.pop("scale", _NOWHERE))
    defaults = {
        "action": _ADD,
        "pose": pose(_NOWHERE, _UPRIGHT),
        "lifetime": new_message("builtin_interfaces/msg/Duration", sec=0, nanosec=0),
        "frame_locked": False,
        "points": [],
        "colors": [],
        "texture_resource": "",
        "texture": new_message(
            "sensor_msgs/msg/CompressedImage", header=header(0, ""), format="", data=np.empty(0, np.uint8)
        ),
        "uv_coordinates": [],
        "text": "",
        "mesh_resource": "",
        "mesh_file": new_message("visualization_msgs/msg/MeshFile", filename="", data=np.empty(0, np.uint8)),
        "mesh_use_embedded_materials": False,
    }
    color = new_message("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha)
    kinds = {"header": head, "ns": namespace, "id": number, "type": kind, "scale": scale, "color": color}
    return new_message("visualization_msgs/msg/Marker", **(defaults | kinds | fields))
