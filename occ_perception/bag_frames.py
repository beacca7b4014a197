"""The frames of a bag: the node's own synchroniser and assembler, without ROS, driven by the bag's log time.

No clock is read and nothing is skipped, so a bag always gives the same frames; they are those of the live node for
the sets that it had time for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from occ_perception.assembler import Assembler, Late, Measurement
from occ_perception.calibration import load_calibration
from occ_perception.data.bag_messages import transforms_from_message
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.sensor_messages import camera_from_message, stamp_to_ns
from occ_perception.data.topics import CameraTopics, configured_cameras, detect_topics, lidar_name, require_sensors
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.frame import Frame
from occ_perception.measurements import image_measurement, lidar_measurement
from occ_perception.parameters import AUTO, NONE, Parameters
from occ_perception.synchroniser import SyncedSet, Synchroniser

logger = logging.getLogger(__name__)

_Handler = Callable[[Any, int], list[SyncedSet[Measurement]]]


class BagFrames:
    """The frames of a bag, in order; iterate once.

    Args:
        bag: an open bag.
        parameters: as for the node.
        images, lidar: whether they are of any use (see `Session`).

    Attributes:
        cameras: topics of the cameras that are taken.
        lidar: topic of the LiDAR that is taken, "" if none.
        synchroniser, assembler: what made the frames, with their counts of drops.
        unreadable: messages that could not be read, by topic.

    Raises:
        DatasetError: the bag lacks what was asked for; the message lists its topics.
        ConfigurationError: parameters that contradict each other or the bag.
    """

    def __init__(
        self, bag: BagReader, parameters: Parameters | None = None, images: bool = True, lidar: bool = True
    ) -> None:
        self._bag = bag
        self._parameters = parameters = parameters or Parameters()
        calibration = load_calibration(parameters.calibration_file) if parameters.calibration_file else None
        calibrated = tuple(calibration.rig) if calibration else ()
        self.cameras, self.lidar = _choose_sensors(bag, parameters, images, lidar, calibrated)
        names = tuple(camera.name for camera in self.cameras)
        self._lidar_name = lidar_name(self.lidar, names) if self.lidar else ""
        self.synchroniser: Synchroniser[Measurement] = Synchroniser(
            parameters.synchronisation(names, self._lidar_name, images)
        )
        self.assembler = Assembler(parameters.assembly(), names)
        if calibration is not None:
            for name in set(names) & set(calibration.rig):
                self.assembler.set_camera(name, calibration.rig[name], None)
            if calibration.ego_from_lidar is not None:
                self.assembler.set_lidar_mount(calibration.ego_from_lidar)
        self.unreadable: dict[str, int] = {}
        self._waiting: deque[SyncedSet[Measurement]] = deque()
        self._handlers = self._route(calibrated)

    def __iter__(self) -> Iterator[Frame]:
        """Frames as soon as log time allows; the rest at the end of the bag."""
        for message in self._bag.messages(self._handlers):
            now_ns = message.log_time_ns
            try:
                decoded = self._bag.decode(message)
                self._waiting += self._handlers[message.topic](decoded, now_ns)
            except InvalidInputError as error:
                self.unreadable[message.topic] = self.unreadable.get(message.topic, 0) + 1
                logger.warning("message left out: %s", error)
            yield from self._assembled(now_ns)
        while (deadline_ns := self.synchroniser.next_deadline_ns) is not None:
            self._waiting += self.synchroniser.poll(deadline_ns)
        yield from self._assembled(None)

    def _assembled(self, now_ns: int | None) -> Iterator[Frame]:
        """Frames of the waiting sets, in order; at the end of the bag (None) whatever they lack."""
        patience_ns = round(self._parameters.tf_timeout * 1e9)
        while self._waiting:
            give_up = now_ns is None or now_ns >= self._waiting[0].closed_ns + patience_ns
            frame = self.assembler.assemble(self._waiting[0], give_up)
            if isinstance(frame, Late):
                return
            self._waiting.popleft()
            yield frame

    # -- what each topic means

    def _route(self, calibrated: tuple[str, ...]) -> dict[str, _Handler]:
        handlers: dict[str, _Handler] = {
            "/tf": lambda message, now: self._take_transforms(message, now, static=False),
            "/tf_static": lambda message, now: self._take_transforms(message, now, static=True),
        }
        for camera in self.cameras:
            if camera.info is not None and camera.name not in calibrated:
                handlers[camera.info] = self._calibration_handler(camera)
            handlers[camera.image] = self._image_handler(camera.name)
        if self.lidar:
            handlers[self.lidar] = self._take_points
        return handlers

    def _take_transforms(self, message: Any, now_ns: int, static: bool) -> list[SyncedSet[Measurement]]:
        for edge in transforms_from_message(message):
            translation, quaternion = edge.translation, edge.quaternion_xyzw
            self.assembler.add_transform(edge.parent, edge.child, edge.stamp_ns, translation, quaternion, static)
        return self.synchroniser.poll(now_ns)

    def _calibration_handler(self, camera: CameraTopics) -> _Handler:
        rectified = self._parameters.is_rectified(camera.rectified)

        def take(message: Any, now_ns: int) -> list[SyncedSet[Measurement]]:
            calibrated = camera_from_message(message, np.eye(4), rectified=rectified)
            self.assembler.set_camera(camera.name, calibrated, message.header.frame_id)
            return self.synchroniser.poll(now_ns)

        return take

    def _image_handler(self, name: str) -> _Handler:
        def take(message: Any, now_ns: int) -> list[SyncedSet[Measurement]]:
            stamp_ns = stamp_to_ns(message.header.stamp)
            return self.synchroniser.add(name, stamp_ns, now_ns, image_measurement(message, stamp_ns))

        return take

    def _take_points(self, message: Any, now_ns: int) -> list[SyncedSet[Measurement]]:
        stamp_ns = stamp_to_ns(message.header.stamp)
        return self.synchroniser.add(self._lidar_name, stamp_ns, now_ns, lidar_measurement(message))


def _choose_sensors(
    bag: BagReader, parameters: Parameters, images: bool, lidar: bool, calibrated: tuple[str, ...]
) -> tuple[tuple[CameraTopics, ...], str]:
    """(cameras, LiDAR topic or ""): those asked for, else those found.

    Raises:
        DatasetError: something asked for is not there, or nothing of use is.
    """
    where, topics = f"bag {bag.path}", bag.topic_types
    with_images = parameters.wants_cameras and (images or bool(parameters.camera_names))
    named = parameters.image_topics if with_images else ()
    wanted_cameras = parameters.camera_names if with_images and not named else ()
    wanted_lidar = None if parameters.lidar == AUTO else parameters.lidar
    found = detect_topics(
        topics, wanted_cameras, wanted_lidar if lidar and wanted_lidar != NONE else "", where, calibrated
    )
    cameras = found.cameras if with_images else ()
    if named:
        absent = [name for name in (*named, *parameters.camera_info_topics) if name not in dict(topics)]
        if absent:
            raise DatasetError(f"{where}: wanted the topics {absent}; it has {[name for name, _ in topics]}")
        infos = parameters.camera_info_topics
        cameras = tuple(configured_cameras(parameters.camera_names, named, infos, dict(topics), calibrated))
    if not cameras and not found.lidar:
        require_sensors(found, topics, where)
        raise DatasetError(f"{where}: it has sensors, but none that the model can use")
    return cameras, found.lidar or ""
