"""Objects as rclpy's MarkerArray; what is drawn is `occ_perception.data.marker_shapes`."""

from __future__ import annotations

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from occ_perception.data.marker_shapes import ADD, DELETE_ALL, LIFETIME_NS, Shape, instance_shapes
from occ_perception.occupancy import Occupancy
from occ_perception.ros.geometry_messages import ns_to_stamp


def markers_of(occupancy: Occupancy, frame_id: str) -> MarkerArray:
    """The objects of a grid as boxes with heading, label and velocity; the first marker deletes all there were.

    What is not followed by another message disappears by itself, see `LIFETIME_NS`.
    """
    markers = [Marker(action=DELETE_ALL), *(_marker(shape) for shape in instance_shapes(occupancy))]
    stamp = ns_to_stamp(occupancy.stamp_ns)
    for marker in markers:
        marker.header.frame_id, marker.header.stamp = frame_id, stamp
    return MarkerArray(markers=markers)


def _marker(shape: Shape) -> Marker:
    red, green, blue, alpha = shape.color
    marker = Marker(ns=shape.namespace, id=shape.id, type=shape.kind, action=ADD, text=shape.text)
    seconds, nanoseconds = divmod(LIFETIME_NS, 10**9)
    marker.lifetime = Duration(sec=seconds, nanosec=nanoseconds)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=alpha)
    marker.scale = Vector3(**dict(zip("xyz", shape.scale, strict=True)))
    marker.pose.position = Point(**dict(zip("xyz", shape.position, strict=True)))
    marker.pose.orientation = Quaternion(**dict(zip("xyzw", shape.quaternion_xyzw, strict=True)))
    marker.points = [Point(**dict(zip("xyz", point, strict=True))) for point in shape.points]
    return marker
