"""A perception node on the bench: fed and listened to over real DDS from within the test's own process."""

import time
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from tf2_msgs.msg import TFMessage

from occ_perception.data.topics import COMPRESSED_IMAGE, CameraTopics
from occ_perception.geometry import PinholeCamera, VoxelGrid
from occ_perception.image_codec import encode_jpeg
from occ_perception.models.base import ImageSpec, ModelOutput
from occ_perception.msg import VoxelGrid as VoxelGridMessage
from occ_perception.occupancy import ModelInfo
from occ_perception.ontology import FREE, OCC3D
from occ_perception.ros import perception_node
from occ_perception.ros.diagnostics import statuses
from occ_perception.ros.discovery import SensorPlan
from occ_perception.ros.messages import camera_to_message, ns_to_stamp, occupancy_from_message, points_to_message
from occ_perception.ros.perception_node import PerceptionNode
from occ_perception.ros.qos import STATIC_TRANSFORMS, TRANSFORMS

MS = 1_000_000
START = 1_700_000_000 * 1_000 * MS
CAMERAS = ("cam_front", "cam_back")
WIDTH, HEIGHT = 320, 180
INTRINSICS = np.array([[250.0, 0, 160], [0, 250, 90], [0, 0, 1]])
JPEG = encode_jpeg(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), 50)
PLAN = SensorPlan(
    tuple(CameraTopics(n, f"/{n}/image_raw/compressed", COMPRESSED_IMAGE, f"/{n}/camera_info", False) for n in CAMERAS),
    "/lidar_top/points",
)


class CameraModel:
    """A stand-in for a network: the first voxel's class is how many cameras it saw. Fails or dawdles on demand."""

    image_spec = ImageSpec(height=64, width=176, resize_from=(WIDTH, HEIGHT), resize=0.55)
    uses_lidar = False
    history_interval_s = 0.0

    def __init__(self):
        self.info = ModelInfo("camera-stub", OCC3D, VoxelGrid((-4.0, -4.0, -1.0), 1.0, (8, 8, 4)), "stub", "nothing")
        self.error = None
        self.delay_s = 0.0

    def step(self, inputs, state, prev_ego_from_ego):
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        semantics = torch.full(self.info.grid.size, FREE, dtype=torch.uint8)
        semantics[6, 4, 2] = sum(inputs.present)
        return ModelOutput(semantics, state=0, state_frames=0 if state is None else 1)


class Bench:
    """The node under test, a driver that publishes what sensors would, and what it published."""

    def __init__(self, node, executor):
        self.node = node
        self.grids, self.diagnostics = [], []
        self._executor = executor
        self._driver = rclpy.create_node("driver")
        executor.add_node(self._driver)
        self._driver.create_subscription(VoxelGridMessage, "/perception/voxels", self._take, 50)
        self._driver.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self._publishers = {}

    def _take(self, message):
        self.grids.append(occupancy_from_message(message))

    def publish(self, kind, topic, message, qos=None):
        """Publish, once the node's subscription is matched."""
        if topic not in self._publishers:
            self._publishers[topic] = self._driver.create_publisher(kind, topic, qos or QoSProfile(depth=10))
            self.spin(lambda: self._publishers[topic].get_subscription_count() > 0, f"a subscriber of {topic}")
        self._publishers[topic].publish(message)

    def spin(self, until=None, what="", seconds=10.0):
        """Let everything run until something is so; without a condition, for that long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until is not None and until():
                return
            self._executor.spin_once(timeout_sec=0.01)
        assert until is None, f"not within {seconds} s: {what}; problems: {self.node.monitor.recent_problems(60)}"

    # -- what a robot publishes

    def calibrate(self, cameras=CAMERAS, width=WIDTH, height=HEIGHT):
        """Mountings of all sensors and the calibration of cameras."""
        edges = [edge("base_link", n, 0, (1.0, 0, 1.5), (-0.5, 0.5, -0.5, 0.5)) for n in CAMERAS]
        edges.append(edge("base_link", "lidar_top", 0, (0, 0, 1.8), (0, 0, 0, 1)))
        self.publish(TFMessage, "/tf_static", TFMessage(transforms=edges), STATIC_TRANSFORMS)
        for name in cameras:
            camera = PinholeCamera(INTRINSICS, np.eye(4), width, height)
            self.publish(CameraInfo, f"/{name}/camera_info", camera_to_message(camera, name, START))
        self.spin(lambda: set(self.node.assembler.rig) >= set(cameras), "calibration")

    def drive(self, first=START - 1000 * MS, last=START + 1000 * MS):
        """Odometry at 10 m/s."""
        for stamp in range(first, last + 1, 50 * MS):
            pose = edge("odom", "base_link", stamp, ((stamp - START) * 1e-8, 0, 0), (0, 0, 0, 1))
            self.publish(TFMessage, "/tf", TFMessage(transforms=[pose]), TRANSFORMS)
        self.spin(lambda: self.node.assembler.odometry_state(last) == "", "odometry")

    def image(self, camera, stamp, data=JPEG):
        message = CompressedImage(format="jpeg", data=data)
        message.header.frame_id, message.header.stamp = camera, ns_to_stamp(stamp)
        self.publish(CompressedImage, f"/{camera}/image_raw/compressed", message)

    def images(self, stamp, cameras=CAMERAS):
        for i, name in enumerate(cameras):
            self.image(name, stamp + i * 10 * MS)

    def sweep(self, stamp, points=None, message=None):
        """A LiDAR sweep, by default a ring of returns around the vehicle."""
        if message is None:
            message = points_to_message(stamp, "lidar_top", columns(ring() if points is None else points))
        self.publish(PointCloud2, "/lidar_top/points", message)

    def expect_grids(self, count, seconds=10.0):
        counted = self.node.monitor.counted  # the node counts a grid once it is out
        complete = lambda: len(self.grids) >= count <= counted().get("published", 0)  # noqa: E731
        self.spin(complete, f"{count} grids (got {len(self.grids)})", seconds)
        return self.grids

    def status(self, name):
        """(level, message, values) of a status as the node would publish it now."""
        found = {s.name: s for s in statuses(self.node)}
        status = found[f"perception: {name}"]
        return status.level, status.message, {v.key: v.value for v in status.values}


def ring():
    """A wall 10 m around the vehicle, as seen by a LiDAR 1.8 m above the ground."""
    angle, height = np.meshgrid(np.linspace(-np.pi, np.pi, 360, endpoint=False), np.linspace(-1.5, 0.5, 8))
    return np.stack([10 * np.cos(angle), 10 * np.sin(angle), height], -1).reshape(-1, 3).astype(np.float32)


def columns(points):
    return {axis: np.ascontiguousarray(points[:, i]) for i, axis in enumerate("xyz")}


def edge(parent, child, stamp, translation, quaternion):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, ns_to_stamp(stamp)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, translation)
    q.x, q.y, q.z, q.w = map(float, quaternion)
    return message


@contextmanager
def bench(model=None, plan=PLAN, **parameters):
    """A node with these parameters, running a stand-in model or the real one by its name.

    It listens to the plan; without one it looks for topics by itself.
    """
    arguments = ["--ros-args", *(["-p", "model:=stand-in"] if model else [])]
    for name, value in parameters.items():
        arguments += ["-p", f"{name.replace('__', '.')}:={value}"]
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = None
    try:
        with ExitStack() as patches:
            real = perception_node.create_model
            stand_in = lambda name, *rest: model if name == "stand-in" else real(name, *rest)  # noqa: E731
            patches.enter_context(mock.patch.object(perception_node, "create_model", stand_in))
            if plan is not None:
                patches.enter_context(mock.patch.object(PerceptionNode, "_look_for_topics", return_value=None))
            node = PerceptionNode()
            executor.add_node(node)
            if plan is not None:
                node.listen_to(plan)
            yield Bench(node, executor)
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
