"""The ROS messages of our bags as type-store dataclasses (no ROS): images, calibration, clouds, transforms.

Reading images, calibration and clouds is `sensor_messages` and `point_clouds`.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from occ_perception.data.instance_messages import fill_instances
from occ_perception.data.message_definitions import message_store
from occ_perception.data.point_clouds import POINT_FIELD_CODES, pack_points
from occ_perception.data.sensor_messages import stamp_to_ns
from occ_perception.data.voxel_messages import fill_voxel_grid
from occ_perception.geometry import PinholeCamera, quaternion_from_rotation
from occ_perception.occupancy import Occupancy

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"
TEXT = "std_msgs/msg/String"
VOXEL_GRID = "occ_perception/msg/VoxelGrid"
INSTANCES = "occ_perception/msg/VoxelInstanceArray"
_EMPTY = array.array("B")


@dataclass(frozen=True)
class StampedTransform:
    """``parent_from_child`` at a stamp: translation [3] in metres, quaternion [4] in x, y, z, w order."""

    stamp_ns: int
    parent: str
    child: str
    translation: np.ndarray
    quaternion_xyzw: np.ndarray

    @staticmethod
    def of(stamp_ns: int, parent: str, child: str, parent_from_child: np.ndarray) -> StampedTransform:
        """From a 4x4 matrix."""
        quaternion = quaternion_from_rotation(parent_from_child[:3, :3])
        return StampedTransform(stamp_ns, parent, child, np.asarray(parent_from_child[:3, 3]), quaternion)


def new_message(message_type: str, **fields: Any) -> Any:
    """A message of the type store."""
    return message_store().types[message_type](**fields)


def time_message(stamp_ns: int) -> Any:
    """builtin_interfaces/Time."""
    return new_message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    return new_message("std_msgs/msg/Header", stamp=time_message(stamp_ns), frame_id=frame_id)


def compressed_image(stamp_ns: int, frame_id: str, jpeg: bytes) -> Any:
    """sensor_msgs/CompressedImage around JPEG bytes, which stay as they are."""
    data = np.frombuffer(jpeg, np.uint8)
    return new_message(COMPRESSED_IMAGE, header=header(stamp_ns, frame_id), format="jpeg", data=data)


def camera_info(stamp_ns: int, frame_id: str, camera: PinholeCamera) -> Any:
    """sensor_msgs/CameraInfo of an undistorted pinhole camera: D = 0, R = identity, P = [K | 0]."""
    K = camera.intrinsics
    region = new_message(
        "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return new_message(
        CAMERA_INFO,
        header=header(stamp_ns, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K.reshape(9).copy(),
        r=np.eye(3).reshape(9),
        p=np.hstack([K, np.zeros((3, 1))]).reshape(12),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def point_cloud(stamp_ns: int, frame_id: str, columns: Mapping[str, np.ndarray]) -> Any:
    """sensor_msgs/PointCloud2, unordered (height 1), from one array [N] per field, in the order given.

    Raises:
        InvalidInputError: no fields, fields of different lengths, or of a type PointCloud2 does not know.
    """
    points = pack_points(columns)
    fields = [
        new_message("sensor_msgs/msg/PointField", name=n, offset=offset, datatype=POINT_FIELD_CODES[dtype], count=1)
        for n, (dtype, offset, *_) in (points.dtype.fields or {}).items()
    ]
    return new_message(
        POINT_CLOUD,
        header=header(stamp_ns, frame_id),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=sys.byteorder == "big",
        point_step=points.itemsize,
        row_step=points.nbytes,
        data=points.view(np.uint8).reshape(-1),
        is_dense=all(bool(np.isfinite(column).all()) for column in columns.values()),
    )


def vector(values: Sequence[float] | np.ndarray) -> Any:
    """geometry_msgs/Vector3."""
    x, y, z = (float(v) for v in values)
    return new_message("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def quaternion(xyzw: Sequence[float] | np.ndarray) -> Any:
    """geometry_msgs/Quaternion."""
    x, y, z, w = (float(v) for v in xyzw)
    return new_message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def point(values: Sequence[float] | np.ndarray) -> Any:
    """geometry_msgs/Point."""
    x, y, z = (float(v) for v in values)
    return new_message("geometry_msgs/msg/Point", x=x, y=y, z=z)


def pose(position: Sequence[float] | np.ndarray, xyzw: Sequence[float] | np.ndarray) -> Any:
    """geometry_msgs/Pose."""
    return new_message("geometry_msgs/msg/Pose", position=point(position), orientation=quaternion(xyzw))


def transforms(stamped: Sequence[StampedTransform]) -> Any:
    """tf2_msgs/TFMessage."""
    messages = [
        new_message(
            "geometry_msgs/msg/TransformStamped",
            header=header(t.stamp_ns, t.parent),
            child_frame_id=t.child,
            transform=new_message(
                "geometry_msgs/msg/Transform",
                translation=vector(t.translation),
                rotation=quaternion(t.quaternion_xyzw),
            ),
        )
        for t in stamped
    ]
    return new_message(TRANSFORMS, transforms=messages)


def transforms_from_message(message: Any) -> list[StampedTransform]:
    """The edges of a tf2_msgs/TFMessage.

    Raises:
        InvalidInputError: a stamp that is none.
    """
    edges = []
    for stamped in message.transforms:
        t, q = stamped.transform.translation, stamped.transform.rotation
        stamp_ns, parent = stamp_to_ns(stamped.header.stamp), stamped.header.frame_id
        translation, quaternion = np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w])
        edges.append(StampedTransform(stamp_ns, parent, stamped.child_frame_id, translation, quaternion))
    return edges


def odometry(edge: StampedTransform, linear_mps: np.ndarray, angular_rps: np.ndarray) -> Any:
    """nav_msgs/Odometry: the pose, and the twist [3], [3] in the child frame's axes; covariances not known (zero)."""
    twist = new_message("geometry_msgs/msg/Twist", linear=vector(linear_mps), angular=vector(angular_rps))
    return new_message(
        ODOMETRY,
        header=header(edge.stamp_ns, edge.parent),
        child_frame_id=edge.child,
        pose=new_message(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=pose(edge.translation, edge.quaternion_xyzw),
            covariance=np.zeros(36),
        ),
        twist=new_message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )


def voxel_grid(
    occupancy: Occupancy, frame_id: str = "base_link", sparse: bool = True, lidars: tuple[str, ...] = ("lidar",)
) -> Any:
    """occ_perception/VoxelGrid; arguments as of `occ_perception.ros.messages.occupancy_to_message`.

    Raises:
        InvalidInputError: a grid that contradicts itself.
    """
    fields = SimpleNamespace(
        origin=pose((0, 0, 0), (0, 0, 0, 1)), indices=_EMPTY, confidence=_EMPTY, instance=_EMPTY, flow=_EMPTY
    )
    fill_voxel_grid(fields, occupancy, sparse=sparse, lidars=lidars)
    values = {
        name: np.frombuffer(value, value.typecode) if isinstance(value, array.array) and len(value) else value
        for name, value in vars(fields).items()
    }
    types = {"indices": np.uint32, "instance": np.uint16, "flow": np.int16}
    empty = {n: np.empty(0, types.get(n, np.uint8)) for n, v in values.items() if isinstance(v, array.array)}
    return new_message(VOXEL_GRID, header=header(occupancy.stamp_ns, frame_id), **(values | empty))


def voxel_instances(occupancy: Occupancy, frame_id: str = "base_link") -> Any:
    """occ_perception/VoxelInstanceArray of the objects of a grid, each with its voxels.

    Raises:
        InvalidInputError: an id outside 1..65535 or given twice, or a class outside the ontology.
    """

    def new_instance(fields: dict[str, Any]) -> Any:
        geometry = {n: kind(fields[n]) for n, kind in (("center", point), ("size", vector), ("velocity", vector))}
        return new_message("occ_perception/msg/VoxelInstance", **(fields | geometry))

    fields = SimpleNamespace(origin=pose((0, 0, 0), (0, 0, 0, 1)))
    fill_instances(fields, occupancy, new_instance)
    indices = np.frombuffer(fields.voxel_indices, np.uint32) if len(fields.voxel_indices) else np.empty(0, np.uint32)
    head = header(occupancy.stamp_ns, frame_id)
    return new_message(INSTANCES, header=head, **(vars(fields) | {"voxel_indices": indices}))


def text(content: str) -> Any:
    """std_msgs/String."""
    return new_message(TEXT, data=content)
