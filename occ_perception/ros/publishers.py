"""What the node says: one occupancy in every form somebody listens to."""

from __future__ import annotations

import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from occ_perception.geometry import rigid_from_rotation
from occ_perception.ground_grid import ground_grid
from occ_perception.msg import VoxelGrid, VoxelInstanceArray
from occ_perception.occupancy import Occupancy
from occ_perception.parameters import Parameters
from occ_perception.ros.messages import (
    instances_to_message,
    ns_to_stamp,
    occupancy_to_message,
    pack_rgb,
    points_to_message,
    pose_to_message,
)
from occ_perception.ros.monitor import Monitor
from occ_perception.ros.object_markers import markers_of
from occ_perception.ros.qos import OUTPUTS, publisher_events


class OccupancyPublishers:
    """Publishes occupancies; forms nobody subscribed to cost nothing.

    Args:
        node: whose topics.
        parameters: encoding, frame and height band.
        monitor: told of subscribers whose QoS does not fit, and of forms that could not be published.

    Attributes:
        lidars: names of the LiDARs there are.
    """

    def __init__(self, node: Node, parameters: Parameters, monitor: Monitor) -> None:
        self.lidars: tuple[str, ...] = ()
        self._parameters = parameters
        self._monitor = monitor
        report = partial(monitor.problem, "quality of service")
        self._forms: list[tuple[Any, Callable[[Occupancy], Any]]] = []
        for topic, kind, convert in (
            ("~/voxels", VoxelGrid, self._voxels),
            ("~/instances", VoxelInstanceArray, self._instances),
            ("~/points", PointCloud2, self._points),
            ("~/markers", MarkerArray, self._markers),
            ("~/ground_grid", OccupancyGrid, self._ground_grid),
        ):
            publisher = node.create_publisher(kind, topic, OUTPUTS, event_callbacks=publisher_events(topic, report))
            self._forms.append((publisher, convert))

    def publish(self, occupancy: Occupancy) -> None:
        """Publish in every form that has a subscriber; one that fails does not keep back the others."""
        for publisher, convert in self._forms:
            try:
                if publisher.get_subscription_count() > 0:
                    publisher.publish(convert(occupancy))
            except Exception as error:  # a fault of a converter or of the middleware; the grid is still good
                text = f"{publisher.topic_name}: {type(error).__name__}: {error}"
                self._monitor.problem("publishing failed", text, traceback=True)

    def _voxels(self, occupancy: Occupancy) -> VoxelGrid:
        sparse = self._parameters.encoding == "sparse"
        frame_id = self._parameters.base_frame
        return occupancy_to_message(occupancy, frame_id=frame_id, sparse=sparse, lidars=self.lidars)

    def _instances(self, occupancy: Occupancy) -> VoxelInstanceArray:
        return instances_to_message(occupancy, frame_id=self._parameters.base_frame)

    def _points(self, occupancy: Occupancy) -> PointCloud2:
        return points_to_message(occupancy.stamp_ns, self._parameters.base_frame, surface_columns(occupancy))

    def _markers(self, occupancy: Occupancy) -> MarkerArray:
        return markers_of(occupancy, self._parameters.base_frame)

    def _ground_grid(self, occupancy: Occupancy) -> OccupancyGrid:
        settings = self._parameters
        low, high = settings.ground_grid_min_height, settings.ground_grid_max_height
        cells = ground_grid(occupancy, low, high, settings.ground_grid_require_ground, settings.ground_height)
        return ground_grid_message(occupancy, settings.base_frame, cells)


def surface_columns(occupancy: Occupancy) -> dict[str, np.ndarray]:
    """Columns of ~/points: centres of the occupied voxels that touch one that is not.

    x, y, z in metres, rgb packed, label uint8, instance uint16 (0 = none), vx, vy, vz in m/s (NaN where not known).
    """
    listed = np.flatnonzero(_surface(occupancy.occupied()))
    labels = occupancy.semantics.reshape(-1)[listed]
    centers = occupancy.grid.center_of(listed).astype(np.float32)
    velocity = np.full((len(listed), 3), np.nan, np.float32)
    if occupancy.flow is not None:
        velocity[:, :2] = occupancy.flow.reshape(-1, 2)[listed]
        velocity[:, 2] = np.where(np.isfinite(velocity[:, 0]), 0.0, np.nan)  # the flow is in the plane
    instances = occupancy.instances
    return {
        **{axis: np.ascontiguousarray(centers[:, i]) for i, axis in enumerate("xyz")},
        "rgb": pack_rgb(occupancy.ontology.palette()[labels]),
        "label": labels,
        "instance": np.zeros(len(listed), np.uint16) if instances is None else instances.reshape(-1)[listed],
        **{f"v{axis}": np.ascontiguousarray(velocity[:, i]) for i, axis in enumerate("xyz")},
    }


def _surface(occupied: np.ndarray) -> np.ndarray:
    """Occupied voxels with one of the six neighbours not occupied; the border of the grid counts as not occupied."""
    padded = np.pad(occupied, 1)
    inside = padded[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return occupied & ~inside


def ground_grid_message(occupancy: Occupancy, frame_id: str, cells: np.ndarray) -> OccupancyGrid:
    """The `ground_grid` as nav_msgs/OccupancyGrid: 100 occupied, 0 free, -1 unknown; rows along y, cells along x."""
    grid = occupancy.grid
    message = OccupancyGrid()
    message.header.frame_id = frame_id
    message.header.stamp = message.info.map_load_time = ns_to_stamp(occupancy.stamp_ns)
    message.info.resolution = float(grid.voxel_size)
    message.info.width, message.info.height = grid.size[0], grid.size[1]
    message.info.origin = pose_to_message(rigid_from_rotation(np.eye(3), (grid.origin[0], grid.origin[1], 0.0)))
    data = array.array("b")
    data.frombytes(np.ascontiguousarray(cells.T).tobytes())
    message.data = data
    return message
