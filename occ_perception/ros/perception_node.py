"""The live node: sensor topics in, occupancy topics out. What is not ROS is done by the core.

Threads: the executor's (main) receives and synchronises; a few prepare images; one runs the model and publishes.
"""

from __future__ import annotations

import logging
import time

import torch
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from occ_perception.assembler import Assembler
from occ_perception.calibration import Calibration, load_calibration
from occ_perception.errors import ConfigurationError
from occ_perception.frame import CameraImage, PreparedImage
from occ_perception.geometry import CameraRig
from occ_perception.ground_grid import band_of
from occ_perception.models import LIDAR_CARVING, create_model, resolve_device
from occ_perception.ros.diagnostics import DiagnosticsPublisher
from occ_perception.ros.discovery import SensorDiscovery, SensorPlan
from occ_perception.ros.image_preparation import ImagePreparation
from occ_perception.ros.inference import Channel, Inference, Reading, Received
from occ_perception.ros.inputs import SensorInputs, TransformInputs
from occ_perception.ros.log_forwarding import forward_logging
from occ_perception.ros.monitor import Monitor
from occ_perception.ros.parameters import read_parameters
from occ_perception.ros.publishers import OccupancyPublishers
from occ_perception.ros.supervisor import Supervisor
from occ_perception.session import Session
from occ_perception.synchroniser import SyncConfig, Synchroniser

logger = logging.getLogger(__name__)

_LOOK_FOR_TOPICS_S = 0.25
_TOPICS_EXPECTED_WITHIN_S = 2.0
_NEVER_NS = 3600 * 10**9
_SOONEST_NS = 100_000
_STOP_TIMEOUT_S = 5.0


class PerceptionNode(Node):
    """See the package's README for topics, and `parameters.Parameters` for parameters.

    Raises:
        ConfigurationError, WeightsError: a parameter, the model or its weights are not as they should be.
    """

    def __init__(self) -> None:
        super().__init__("perception", automatically_declare_parameters_from_overrides=True)
        forward_logging(self.get_logger())
        self.settings = read_parameters(self)
        if self.settings.torch_threads:
            torch.set_num_threads(self.settings.torch_threads)
        self.session = self._make_session(self.settings.model, self.settings.weights or None)
        model = self.session.model
        self.monitor = Monitor()
        self.supervisor = Supervisor(self.settings)
        self.assembler = Assembler(self.settings.assembly())
        calibration = self._load_calibration()
        self._calibrated = frozenset(calibration.rig)
        band_of(model.info.grid, self.settings.ground_grid_min_height, self.settings.ground_grid_max_height)
        self._outputs = OccupancyPublishers(self, self.settings, self.monitor)
        self._inference = Inference(self.assembler, self.supervisor, self.monitor, self._outputs.publish, self._now_ns)
        self._images = self._make_image_preparation()
        self._transforms = TransformInputs(self, self.assembler, self.monitor, self._inference.transforms_arrived)

        self._expected_by_s = time.monotonic() + _TOPICS_EXPECTED_WITHIN_S
        self.plan = SensorPlan()
        self._wanted_plan: SensorPlan | None = None  # found, and not listened to yet
        self.model_channel: Channel | None = None
        self.fallback_channel: Channel | None = None
        self._fallback_session: Session | None = None
        self._inputs: SensorInputs | None = None
        wants_lidar = model.uses_lidar or self.settings.fallback
        self._discovery = SensorDiscovery(self.settings, self.session.needs_images, wants_lidar, self._calibrated)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_LOOK_FOR_TOPICS_S, self._look_for_topics, clock=steady)
        self._deadline_timer = self.create_timer(3600.0, self._on_deadline)  # on the node's clock, which may be /clock
        self._diagnostics = DiagnosticsPublisher(self)
        self.create_timer(self.settings.diagnostics_period, self._diagnostics.publish, clock=steady)
        logger.info("model %s, weights %s, on %s", model.info.name, model.info.weights, self.session.device)

    @property
    def waiting_for(self) -> str:
        """Which topics are missing, in words; "" if none is."""
        return self._discovery.missing

    def destroy_node(self) -> None:
        """Stop the threads, then the node."""
        if not self._inference.stop(_STOP_TIMEOUT_S):
            logger.warning("the model did not finish its frame within %s s", _STOP_TIMEOUT_S)
        if self._images is not None:
            self._images.close()
        for session in (self.session, self._fallback_session):
            if session is not None:
                session.close()
        super().destroy_node()

    # -- set up

    def _make_session(self, name: str, weights: str | None) -> Session:
        device = resolve_device(self.settings.device)
        model = create_model(name, weights, device, self.settings.allow_untrained, self.settings.carving())
        return Session(model, device, self.settings.session())

    def _load_calibration(self) -> Calibration:
        if not self.settings.calibration_file:
            return Calibration(CameraRig(), None)
        calibration = load_calibration(self.settings.calibration_file)
        for name, camera in calibration.rig.items():
            self.assembler.set_camera(name, camera, None)
        if calibration.ego_from_lidar is not None:
            self.assembler.set_lidar_mount(calibration.ego_from_lidar)
        return calibration

    def _make_image_preparation(self) -> ImagePreparation | None:
        if not self.session.needs_images:
            return None

        def prepare(camera: str, image: CameraImage) -> CameraImage | PreparedImage:
            rig = self.assembler.rig
            return self.session.prepare(camera, image, rig) if camera in rig else image

        return ImagePreparation(prepare, self.settings.decode_threads, self.monitor)

    def _look_for_topics(self) -> None:
        """Adopt the sensors that have been found; what fails is said and tried again at the next tick."""
        try:
            self._adopt_sensors()
        except ConfigurationError as error:  # what was asked for does not fit the sensors that are there
            self.monitor.problem("configuration", str(error))
        except Exception as error:  # a fault of the middleware, a bug: a timer must go on
            self.monitor.problem("looking for topics failed", f"{type(error).__name__}: {error}", traceback=True)

    def _adopt_sensors(self) -> None:
        own = f"{self.get_fully_qualified_name()}/"
        graph = [(t, kind) for t, kinds in self.get_topic_names_and_types() for kind in kinds if not t.startswith(own)]
        self._wanted_plan = self._discovery.update(graph, time.monotonic()) or self._wanted_plan
        if self._wanted_plan is not None:
            self.listen_to(self._wanted_plan)
            self._wanted_plan = None
        elif self.plan == SensorPlan() and self._discovery.missing and time.monotonic() > self._expected_by_s:
            self.monitor.problem("topics", self._discovery.missing)

    def listen_to(self, plan: SensorPlan) -> None:
        """Subscribe to the sensors of a plan, and synchronise those that the model uses."""
        lidar = plan.lidar_name
        cameras = ", ".join(f"{c.name} ({c.image})" for c in plan.cameras) or "none"
        logger.info("cameras: %s; LiDAR: %s", cameras, f"{lidar} ({plan.lidar})" if lidar else "none")
        used_lidar = lidar if self.session.model.uses_lidar else ""
        channel = None
        if plan.cameras or used_lidar:
            rules = self.settings.synchronisation(plan.camera_names, used_lidar, self.session.needs_images)
            channel = Channel(self.session, Synchroniser(rules))
        if self._inputs is not None:
            self._inputs.close()
        self.plan, self.model_channel, self.fallback_channel = plan, channel, None
        self.assembler.use_cameras(plan.camera_names)
        self._outputs.lidars = (lidar,) if lidar else ()
        self.supervisor.possible = self.session.needs_images and bool(plan.lidar)
        self._inputs = SensorInputs(
            self,
            plan,
            self.assembler,
            self._images,
            self.monitor,
            self._take,
            self.settings,
            self._calibrated,
        )

    # -- from messages to sets

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _channels(self) -> list[Channel]:
        return [channel for channel in (self.model_channel, self.fallback_channel) if channel is not None]

    def _take(self, sensor: str, stamp_ns: int, reading: Reading) -> None:
        now_ns = self._now_ns()
        if now_ns == 0:
            self.monitor.problem("clock", "use_sim_time is set but no /clock has come: messages are ignored")
            return
        self._update_fallback(now_ns)
        if self._inference.wants_preparation:
            reading.begin()
        received = Received(reading, time.monotonic())
        for channel in self._channels():
            synchroniser = channel.synchroniser
            takes_part = sensor in synchroniser.config.sensors
            # Time goes on for a synchroniser that gets nothing, too: it has to notice.
            ready = synchroniser.add(sensor, stamp_ns, now_ns, received) if takes_part else synchroniser.poll(now_ns)
            for synced in ready:
                self._inference.submit(channel, synced)
        self._set_deadline(now_ns)

    def _update_fallback(self, now_ns: int) -> None:
        """Begin or end the LiDAR fallback as the supervisor wants."""
        if self.session.needs_images:
            silent = self.model_channel.synchroniser.silent_sensors(now_ns) if self.model_channel else ()
            if set(self.plan.camera_names) <= set(silent):
                self.supervisor.no_camera_works()
        if not self.supervisor.reason:
            self.fallback_channel = None
        elif self.fallback_channel is None:
            self._fallback_session = self._new_fallback_session()
            rules = SyncConfig(lidar=self.plan.lidar_name)
            self.fallback_channel = Channel(self._fallback_session, Synchroniser(rules), is_fallback=True)

    def _new_fallback_session(self) -> Session:
        """One that remembers nothing; never the last one, which the model's thread may still be running."""
        last = self._fallback_session
        if last is None:
            return self._make_session(LIDAR_CARVING, None)
        last.close()
        return Session(last.model, last.device, self.settings.session())

    def _on_deadline(self) -> None:
        now_ns = self._now_ns()
        for channel in self._channels():
            for synced in channel.synchroniser.poll(now_ns):
                self._inference.submit(channel, synced)
        self._set_deadline(now_ns)

    def _set_deadline(self, now_ns: int) -> None:
        """Let the timer fire at the next deadline."""
        deadlines = [channel.synchroniser.next_deadline_ns for channel in self._channels()]
        deadline_ns = min((d for d in deadlines if d is not None), default=now_ns + _NEVER_NS)
        self._deadline_timer.timer_period_ns = max(deadline_ns - now_ns, _SOONEST_NS)
        self._deadline_timer.reset()
