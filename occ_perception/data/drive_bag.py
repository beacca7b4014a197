"""The layout of the bags this project writes: topic names, frames, rates and QoS (specs/datasets.md section 6.2).

Camera ``cam_front`` becomes ``/cam_front/image_raw/compressed`` and ``/cam_front/camera_info`` in frame
``cam_front``; LiDAR ``lidar_top`` becomes ``/lidar_top/points``.  Frames: map -> odom (static) -> base_link
(`/tf`) -> sensors (`/tf_static`, one latched message).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from occ_perception.data import bag_messages
from occ_perception.data.bag_messages import StampedTransform
from occ_perception.data.bag_writer import BagWriter, reliable_qos
from occ_perception.geometry import CameraRig

MAP, ODOM, BASE = "map", "odom", "base_link"
SAMPLE_TOPIC = "/nuscenes/sample"
TF_PERIOD_NS = 10_000_000
"""/tf is written at least this often."""
TF_MARGIN_NS = 100_000_000
"""/tf reaches this far beyond the first and the last sensor stamp, so that looking them up never extrapolates."""


@dataclass(frozen=True, order=True)
class TimedWrite:
    """Something to write at a stamp; several sources of them, each in order, are merged by `heapq.merge`."""

    stamp_ns: int
    write: Callable[[], None] = field(compare=False)


def transform_stamps(sensor_stamps: Sequence[int]) -> list[int]:
    """When to write /tf: every 10 ms, and exactly at every sensor stamp, with a margin at both ends."""
    stamps = np.asarray(sensor_stamps, np.int64)
    regular = np.arange(stamps.min() - TF_MARGIN_NS, stamps.max() + TF_MARGIN_NS + 1, TF_PERIOD_NS)
    return np.unique(np.concatenate([regular, stamps])).tolist()


def image_topic(camera: str) -> str:
    """Topic of a camera's JPEG images."""
    return f"/{camera}/image_raw/compressed"


def camera_info_topic(camera: str) -> str:
    """Topic of a camera's calibration."""
    return f"/{camera}/camera_info"


def points_topic(lidar: str) -> str:
    """Topic of a LiDAR's sweeps."""
    return f"/{lidar}/points"


class DriveBag(BagWriter):
    """A bag in this layout being written; call the methods in order of their stamps, `write_static` first.

    Args:
        path, storage, custom_data, overwrite: see `BagWriter`.
        rig: cameras; frame ids and topics are their names.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rig: CameraRig,
        storage: str = "mcap",
        custom_data: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, storage, custom_data, overwrite)
        self.rig = rig

    def write_static(
        self, stamp_ns: int, base_from_sensors: Mapping[str, np.ndarray], map_from_odom: np.ndarray | None = None
    ) -> None:
        """All that never moves in one latched message: the local origin, the cameras, and other sensors by frame."""
        mounts = {name: camera.ego_from_camera for name, camera in self.rig.items()} | dict(base_from_sensors)
        edges = [StampedTransform.of(stamp_ns, MAP, ODOM, np.eye(4) if map_from_odom is None else map_from_odom)]
        edges += [StampedTransform.of(stamp_ns, BASE, frame, pose) for frame, pose in mounts.items()]
        self.add_topic("/tf_static", bag_messages.TRANSFORMS, reliable_qos(1, latched=True))
        self.write("/tf_static", stamp_ns, bag_messages.transforms(edges))

    def write_pose(self, stamp_ns: int, odom_from_base: np.ndarray) -> None:
        """Pose of the vehicle on /tf."""
        self.write_transform(StampedTransform.of(stamp_ns, ODOM, BASE, odom_from_base))

    def write_transform(self, transform: StampedTransform) -> None:
        """One edge on /tf."""
        self.add_topic("/tf", bag_messages.TRANSFORMS, reliable_qos(100))
        self.write("/tf", transform.stamp_ns, bag_messages.transforms([transform]))

    def write_odometry(self, pose: StampedTransform, linear_mps: np.ndarray, angular_rps: np.ndarray) -> None:
        """Pose and twist (in base_link axes) on /odom."""
        self.add_topic("/odom", bag_messages.ODOMETRY, reliable_qos(10))
        self.write("/odom", pose.stamp_ns, bag_messages.odometry(pose, linear_mps, angular_rps))

    def write_image(self, stamp_ns: int, camera: str, jpeg: bytes) -> None:
        """An image and its calibration, both with the same stamp."""
        self.add_topic(camera_info_topic(camera), bag_messages.CAMERA_INFO, reliable_qos(5))
        self.add_topic(image_topic(camera), bag_messages.COMPRESSED_IMAGE, reliable_qos(5))
        calibration = bag_messages.camera_info(stamp_ns, camera, self.rig[camera])
        self.write(camera_info_topic(camera), stamp_ns, calibration)
        self.write(image_topic(camera), stamp_ns, bag_messages.compressed_image(stamp_ns, camera, jpeg))

    def write_points(
        self, stamp_ns: int, lidar: str, points: np.ndarray, rings: np.ndarray, offsets_s: np.ndarray | None
    ) -> None:
        """A sweep: points float32 [N, 4] (x, y, z, intensity), rings uint16 [N], offsets float32 [N] (<= 0 s)."""
        columns = {name: points[:, i] for i, name in enumerate(("x", "y", "z", "intensity"))}
        columns["ring"] = rings
        if offsets_s is not None:
            columns["time_offset"] = offsets_s
        self.add_topic(points_topic(lidar), bag_messages.POINT_CLOUD, reliable_qos(5))
        self.write(points_topic(lidar), stamp_ns, bag_messages.point_cloud(stamp_ns, lidar, columns))

    def write_text(self, stamp_ns: int, topic: str, content: str) -> None:
        """A std_msgs/String, latched per topic."""
        self.add_topic(topic, bag_messages.TEXT, reliable_qos(10))
        self.write(topic, stamp_ns, bag_messages.text(content))
