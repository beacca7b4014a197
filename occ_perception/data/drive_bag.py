"""The layout of the bags this project writes: topic names, frames, rates and QoS (specs/datasets.md section 6.2).

Topic names are those of a `Profile`; with any of them sensors keep their names (``cam_front``), which are also their
frames.  Frames: map -> odom (static) -> base_link (`/tf`) -> sensors (`/tf_static`, one latched message).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from occ_perception.data import bag_markers, bag_messages
from occ_perception.data.bag_markers import Box
from occ_perception.data.bag_messages import StampedTransform
from occ_perception.data.bag_writer import BagWriter, reliable_qos
from occ_perception.geometry import CameraRig
from occ_perception.occupancy import Occupancy

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


@dataclass(frozen=True)
class Profile:
    """Topic names as a family of tools expects them.

    Attributes:
        name: what the command line takes.
        image, camera_info, points: patterns of a sensor's topics, with ``{}`` for its name.
        odometry: topic of pose and twist.
        boxes: topic of annotated boxes.
        occupancy: topic of ground-truth grids.
    """

    name: str
    image: str
    camera_info: str
    points: str
    odometry: str = "/odom"
    boxes: str = "/annotations/boxes"
    occupancy: str = "/gt/occupancy"


DEFAULT = Profile("default", "/{}/image_raw/compressed", "/{}/camera_info", "/{}/points")
PROFILES = {
    profile.name: profile
    for profile in (
        DEFAULT,
        Profile(
            "autoware",  # its documentation, "Autoware interfaces", components sensing, localization
            "/sensing/camera/{}/image_rect_color/compressed",
            "/sensing/camera/{}/camera_info",
            "/sensing/lidar/{}/pointcloud",
            odometry="/localization/kinematic_state",
        ),
        Profile(
            "foxglove",  # its nuScenes converter, specs/datasets.md section 6.1
            "/{}/image_rect_compressed",
            "/{}/camera_info",
            "/{}",
            boxes="/markers/annotations",
        ),
    )
}


class DriveBag(BagWriter):
    """A bag in this layout being written; call the methods in order of their stamps, `write_static` first.

    Args:
        path, storage, custom_data, overwrite: see `BagWriter`.
        rig: cameras; their names are their frame ids.
        profile: names of the topics.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rig: CameraRig,
        storage: str = "mcap",
        custom_data: Mapping[str, str] | None = None,
        overwrite: bool = False,
        profile: Profile = DEFAULT,
    ) -> None:
        super().__init__(path, storage, custom_data, overwrite)
        self.rig, self.profile = rig, profile

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
        """Pose and twist (in base_link axes)."""
        self.add_topic(self.profile.odometry, bag_messages.ODOMETRY, reliable_qos(10))
        self.write(self.profile.odometry, pose.stamp_ns, bag_messages.odometry(pose, linear_mps, angular_rps))

    def write_image(self, stamp_ns: int, camera: str, jpeg: bytes) -> None:
        """An image and its calibration, both with the same stamp."""
        info, image = self.profile.camera_info.format(camera), self.profile.image.format(camera)
        self.add_topic(info, bag_messages.CAMERA_INFO, reliable_qos(5))
        self.add_topic(image, bag_messages.COMPRESSED_IMAGE, reliable_qos(5))
        self.write(info, stamp_ns, bag_messages.camera_info(stamp_ns, camera, self.rig[camera]))
        self.write(image, stamp_ns, bag_messages.compressed_image(stamp_ns, camera, jpeg))

    def write_points(
        self, stamp_ns: int, lidar: str, points: np.ndarray, rings: np.ndarray, offsets_s: np.ndarray | None
    ) -> None:
        """A sweep: points float32 [N, 4] (x, y, z, intensity), rings uint16 [N], offsets float32 [N] (<= 0 s)."""
        columns = {name: points[:, i] for i, name in enumerate(("x", "y", "z", "intensity"))}
        columns["ring"] = rings
        if offsets_s is not None:
            columns["time_offset"] = offsets_s
        topic = self.profile.points.format(lidar)
        self.add_topic(topic, bag_messages.POINT_CLOUD, reliable_qos(5))
        self.write(topic, stamp_ns, bag_messages.point_cloud(stamp_ns, lidar, columns))

    def write_boxes(self, stamp_ns: int, boxes: Sequence[Box]) -> None:
        """Boxes in the fixed frame `MAP`, for RViz."""
        self.add_topic(self.profile.boxes, bag_markers.MARKERS, reliable_qos(10))
        self.write(self.profile.boxes, stamp_ns, bag_markers.boxes_message(stamp_ns, MAP, boxes))

    def write_occupancy(self, occupancy: Occupancy) -> None:
        """A ground-truth grid in base_link, sparse."""
        self.add_topic(self.profile.occupancy, bag_messages.VOXEL_GRID, reliable_qos(5))
        self.write(self.profile.occupancy, occupancy.stamp_ns, bag_messages.voxel_grid(occupancy, BASE))

    def write_text(self, stamp_ns: int, topic: str, content: str) -> None:
        """A std_msgs/String."""
        self.add_topic(topic, bag_messages.TEXT, reliable_qos(10))
        self.write(topic, stamp_ns, bag_messages.text(content))
