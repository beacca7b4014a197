"""Which topics to subscribe to: configured, or found in the graph as it fills up. Makes no ROS calls itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from occ_perception.data.topics import CameraTopics, configured_cameras, detect_topics, lidar_name
from occ_perception.errors import DatasetError
from occ_perception.parameters import AUTO, NONE, Parameters

_SETTLE_S = 1.0


@dataclass(frozen=True)
class SensorPlan:
    """The sensors to listen to.

    Attributes:
        cameras: sorted by name.
        lidar: topic of the LiDAR, "" if there is none.
    """

    cameras: tuple[CameraTopics, ...] = ()
    lidar: str = ""

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return tuple(camera.name for camera in self.cameras)

    @property
    def lidar_name(self) -> str:
        """Name of the LiDAR, "" if there is none."""
        return lidar_name(self.lidar, self.camera_names) if self.lidar else ""


class SensorDiscovery:
    """Watches the graph and says when there is something (more) to subscribe to.

    Starts when everything asked for is there, or after ``discovery_time`` with what there is; later finds are added.
    What was found stays, also when its publisher leaves: it may come back.

    Args:
        parameters: what is asked for.
        cameras, lidar: whether they are of any use.
        calibrated: names of cameras whose calibration is known without a topic.
    """

    def __init__(self, parameters: Parameters, cameras: bool, lidar: bool, calibrated: frozenset[str]) -> None:
        self._parameters = parameters
        self._wants_cameras = parameters.wants_cameras and (cameras or bool(parameters.camera_names))
        self._wants_lidar = lidar and parameters.lidar != NONE
        self._calibrated = calibrated
        self._found: dict[str, CameraTopics] = {}
        self._lidar = ""
        self._adopted = SensorPlan()
        self._candidate = SensorPlan()
        self._candidate_since_s = 0.0
        self._started_s: float | None = None
        self.missing = ""

    def update(self, topics: Iterable[tuple[str, str]], now_s: float) -> SensorPlan | None:
        """The plan to adopt now, or None to leave things as they are.

        Args:
            topics: (name, type) of the graph, without this node's own.
            now_s: any steady clock, seconds.
        """
        topics = list(topics)
        self._started_s = now_s if self._started_s is None else self._started_s
        self._look(topics)
        plan = SensorPlan(tuple(sorted(self._found.values(), key=lambda c: c.name)), self._lidar)
        if plan != self._candidate:
            self._candidate, self._candidate_since_s = plan, now_s
        if plan == self._adopted or plan == SensorPlan():
            return None
        waited_long_enough = now_s - self._started_s >= self._parameters.discovery_time
        settled = bool(self._parameters.image_topics) or now_s - self._candidate_since_s >= _SETTLE_S
        if (settled and not self.missing) or waited_long_enough:
            self._adopted = plan
            return plan
        return None

    def _look(self, topics: list[tuple[str, str]]) -> None:
        missing = []
        if self._wants_cameras:
            missing += self._look_for_cameras(topics)
        if self._wants_lidar and not self._lidar:
            missing += self._look_for_lidar(topics)
        listed = ", ".join(f"{name} [{kind}]" for name, kind in sorted(topics)) or "no topics"
        self.missing = f"waiting for {'; '.join(missing)}; the graph has {listed}" if missing else ""

    def _look_for_cameras(self, topics: list[tuple[str, str]]) -> list[str]:
        if self._parameters.image_topics:
            settings = self._parameters
            names, images, infos = settings.camera_names, settings.image_topics, settings.camera_info_topics
            cameras = configured_cameras(names, images, infos, dict(topics), self._calibrated)
            self._found = {camera.name: camera for camera in cameras}
            return []
        found = detect_topics(topics, lidar="", calibrated=tuple(self._calibrated))
        wanted = self._parameters.camera_names
        for camera in found.cameras:
            if not wanted or camera.name in wanted or camera.image in wanted:
                self._found.setdefault(camera.name, camera)
        have = {name for camera in self._found.values() for name in (camera.name, camera.image)}
        absent = [name for name in wanted if name not in have]
        if absent:
            return [f"cameras {absent} with CameraInfo"]
        return [] if self._found else ["any camera with CameraInfo"]

    def _look_for_lidar(self, topics: list[tuple[str, str]]) -> list[str]:
        wanted = self._parameters.lidar
        try:
            self._lidar = detect_topics(topics, lidar=None if wanted == AUTO else wanted).lidar or ""
        except DatasetError:
            return [f"LiDAR {wanted}"]
        return [] if self._lidar or self._wants_cameras else ["a LiDAR's PointCloud2"]
