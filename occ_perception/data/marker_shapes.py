"""What RViz and Foxglove draw of objects without any plugin, whoever makes the messages (no ROS).

The first marker of every message deletes all that were there (DELETEALL), then those of now are added.  So nothing that
is gone stays, whether it left, the tracks were dropped or the model says nothing any more, and a message that a viewer
missed (the queue holds one) leaves no ghost, as one with a DELETE for a single object would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import quaternion_from_rotation, rigid, transform_points
from occ_perception.occupancy import Instance, Occupancy

ARROW, CUBE, LINE_STRIP, TEXT = 0, 1, 4, 9
"""visualization_msgs/Marker.type"""
ADD, DELETE_ALL = 0, 3
"""visualization_msgs/Marker.action"""
LIFETIME_NS = 1_200_000_000
"""How long a marker is drawn: more than two periods at 2 Hz, so that a lost message does not show; but if nothing comes
any more (the node died, or publishes no grid), nothing stays."""
_SLOWEST_ARROW_MPS = 0.2
_FADED = 0.35  # of the opacity that is left of what is not seen
_Vector = tuple[float, float, float]
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
    size: _Vector
    velocity: np.ndarray


@dataclass(frozen=True)
class Shape:
    """One marker.

    Attributes:
        namespace, id: its key.
        kind: `ARROW`, `CUBE`, ...
        scale: metres.
        color: red, green, blue, alpha, 0..1.
        position, quaternion_xyzw: pose in the message's frame.
        points: of arrows and lines, in the message's frame.
        text: of `TEXT`.
    """

    namespace: str
    id: int
    kind: int
    scale: _Vector
    color: tuple[float, float, float, float]
    position: _Vector = (0.0, 0.0, 0.0)
    quaternion_xyzw: tuple[float, float, float, float] = _UPRIGHT
    points: tuple[_Vector, ...] = ()
    text: str = ""


def box_shapes(box: Box, label: str, faded: bool = False) -> list[Shape]:
    """A cube (namespace ``boxes``), a line to its front (``headings``), its label (``names``) and, if it moves, an
    arrow as long as its way in one second (``velocities``)."""
    center, (length, _, height) = box.frame_from_box[:3, 3], box.size
    opacity = _FADED if faded else 1.0
    red, green, blue = (channel / 255 for channel in box.color)
    turn = tuple(quaternion_from_rotation(box.frame_from_box[:3, :3]).tolist())
    nose = transform_points(box.frame_from_box, np.array([[0, 0, height / 2], [length / 2, 0, height / 2]]))
    line = ((0.08, 0.0, 0.0), (red, green, blue, opacity))
    shapes = [
        Shape("boxes", box.id, CUBE, box.size, (red, green, blue, 0.5 * opacity), _vector(center), turn),
        Shape("headings", box.id, LINE_STRIP, *line, points=(_vector(nose[0]), _vector(nose[1]))),
    ]
    above = _vector(center + np.array([0.0, 0.0, height / 2 + 0.5]))
    shapes.append(Shape("names", box.id, TEXT, (0.0, 0.0, 0.6), (1.0, 1.0, 1.0, opacity), above, text=label))
    if np.isfinite(box.velocity).all() and np.linalg.norm(box.velocity) > _SLOWEST_ARROW_MPS:
        way = (_vector(center), _vector(center + box.velocity))
        shapes.append(Shape("velocities", box.id, ARROW, (0.15, 0.35, 0.5), (1.0, 0.9, 0.1, 0.9 * opacity), points=way))
    return shapes


def instance_shapes(occupancy: Occupancy) -> list[Shape]:
    """The objects of a grid: in the colour of their class, labelled with class, id and speed, faded if occluded."""
    palette = occupancy.ontology.palette()
    shapes: list[Shape] = []
    for item in occupancy.objects:
        red, green, blue = palette[item.class_id].tolist()
        turn = np.array([0.0, 0.0, np.sin(item.yaw / 2), np.cos(item.yaw / 2)])
        name, velocity = occupancy.ontology.class_names[item.class_id], np.asarray(item.velocity)
        box = Box(item.id, name, (red, green, blue), rigid(item.center, turn), item.size, velocity)
        shapes += box_shapes(box, _label(item, name), item.occluded)
    return shapes


def _label(item: Instance, name: str) -> str:
    speed = float(np.linalg.norm(item.velocity))
    return f"{name} {item.id}" + (f"\n{speed:.1f} m/s" if np.isfinite(speed) else "")


def _vector(values: np.ndarray) -> _Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
