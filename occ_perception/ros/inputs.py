"""The subscriptions of the node, and what is in their messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from occ_perception.assembler import Assembler, Measurement
from occ_perception.data.sensor_messages import camera_from_message, stamp_to_ns
from occ_perception.data.topics import COMPRESSED_IMAGE
from occ_perception.errors import OccPerceptionError
from occ_perception.frame import CameraImage
from occ_perception.measurements import lidar_measurement
from occ_perception.parameters import Parameters
from occ_perception.ros.discovery import SensorPlan
from occ_perception.ros.image_preparation import ImagePreparation
from occ_perception.ros.inference import Reading, ReadLater
from occ_perception.ros.monitor import Monitor
from occ_perception.ros.qos import SENSORS, STATIC_TRANSFORMS, TRANSFORMS, subscription_events

OnMeasurement = Callable[[str, int, Reading], None]
"""Called with a sensor's name, the stamp (ns), and the message."""


class TransformInputs:
    """/tf and /tf_static into the assembler.

    Args:
        node: that subscribes.
        assembler: that takes them.
        monitor: told of those that are impossible.
        arrived: called after each message.
    """

    def __init__(self, node: Node, assembler: Assembler, monitor: Monitor, arrived: Callable[[], None]) -> None:
        self._assembler = assembler
        self._monitor = monitor
        self._arrived = arrived
        for topic, qos, static in (("/tf", TRANSFORMS, False), ("/tf_static", STATIC_TRANSFORMS, True)):
            _subscribe(node, TFMessage, topic, partial(self._take, static), qos, monitor)

    def _take(self, static: bool, message: TFMessage) -> None:
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id, stamped.child_frame_id
            shift, turn = stamped.transform.translation, stamped.transform.rotation
            try:
                stamp_ns = stamp_to_ns(stamped.header.stamp)
                translation, quaternion = (shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w)
                self._assembler.add_transform(parent, child, stamp_ns, translation, quaternion, static)
            except OccPerceptionError as error:
                self._monitor.problem("transforms refused", str(error))
        self._arrived()


class SensorInputs:
    """The sensors of a plan; `close` before making others.

    Args:
        node: that subscribes.
        plan: to what.
        assembler: that takes calibrations.
        images: prepares images; None if nobody wants to see them.
        monitor: told of every message.
        on_measurement: told of every message that has a stamp.
        parameters: whether images are rectified.
        calibrated: cameras whose calibration is known already.
    """

    def __init__(
        self,
        node: Node,
        plan: SensorPlan,
        assembler: Assembler,
        images: ImagePreparation | None,
        monitor: Monitor,
        on_measurement: OnMeasurement,
        parameters: Parameters,
        calibrated: frozenset[str],
    ) -> None:
        self._node = node
        self._assembler = assembler
        self._images = images
        self._monitor = monitor
        self._on_measurement = on_measurement
        self._subscriptions: list[Subscription] = []
        try:
            self._subscribe_to(plan, parameters, calibrated)
        except Exception:
            self.close()  # half of them would hear everything twice once this is tried again
            raise

    def _subscribe_to(self, plan: SensorPlan, parameters: Parameters, calibrated: frozenset[str]) -> None:
        for camera in plan.cameras:
            kind = CompressedImage if camera.image_type == COMPRESSED_IMAGE else Image
            self._listen(kind, camera.image, partial(self._take_image, camera.name))
            if camera.info is not None and camera.name not in calibrated:
                take = partial(self._take_calibration, camera.name, parameters.is_rectified(camera.rectified))
                self._listen(CameraInfo, camera.info, take)
        if plan.lidar:
            self._listen(PointCloud2, plan.lidar, partial(self._take_points, plan.lidar_name))

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _listen(self, kind: type, topic: str, take: Callable[[Any], None]) -> None:
        self._subscriptions.append(_subscribe(self._node, kind, topic, take, SENSORS, self._monitor))

    def _take_image(self, camera: str, message: CompressedImage | Image) -> None:
        self._monitor.received(camera)
        stamp_ns = self._stamp(camera, message)
        if stamp_ns is None:
            return
        if self._images is None:  # the model looks at no images: that one came is all that counts
            self._on_measurement(camera, stamp_ns, ReadLater(partial(CameraImage, stamp_ns, b"")))
        else:
            self._on_measurement(camera, stamp_ns, self._images.take(camera, stamp_ns, message))

    def _take_points(self, lidar: str, message: PointCloud2) -> None:
        self._monitor.received(lidar)
        stamp_ns = self._stamp(lidar, message)
        if stamp_ns is not None:
            self._on_measurement(lidar, stamp_ns, ReadLater(partial(self._read_points, lidar, message)))

    def _read_points(self, lidar: str, message: PointCloud2) -> Measurement:
        measured = lidar_measurement(message)
        if isinstance(measured, OccPerceptionError):
            self._monitor.unreadable(lidar, str(measured))
        return measured

    def _take_calibration(self, camera: str, rectified: bool, message: CameraInfo) -> None:
        try:
            calibrated = camera_from_message(message, np.eye(4), rectified=rectified)
        except OccPerceptionError as error:
            self._monitor.unreadable(camera, str(error))
            return
        self._assembler.set_camera(camera, calibrated, message.header.frame_id)

    def _stamp(self, sensor: str, message: Any) -> int | None:
        try:
            return stamp_to_ns(message.header.stamp)
        except OccPerceptionError as error:
            self._monitor.unreadable(sensor, str(error))
            return None


def _subscribe(
    node: Node, kind: type, topic: str, take: Callable[[Any], None], qos: QoSProfile, monitor: Monitor
) -> Subscription:
    events = subscription_events(topic, partial(monitor.problem, "quality of service"))
    return node.create_subscription(kind, topic, take, qos, event_callbacks=events)
