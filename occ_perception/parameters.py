"""Every setting of the perception node and the bag replayer: one dataclass, complete defaults, checked by name.

Files in ``config/`` only override; you do not need them.  Nothing here needs ROS.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from occ_perception.assembler import AssemblerConfig
from occ_perception.errors import ConfigurationError
from occ_perception.models.lidar_carving_config import LidarCarvingConfig, OwnVehicle
from occ_perception.parameter_checks import check_at_least, check_choice, check_reasonable, checked, unknown_name
from occ_perception.session import SessionSettings
from occ_perception.synchroniser import SyncConfig
from occ_perception.tracking.settings import TrackingSettings

AUTO = "auto"
NONE = "none"

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

_SECTIONS = ("/**", "perception", "/perception")
"""Sections of a ROS parameter file that are meant for the node, least specific first."""


@dataclass(frozen=True)
class Parameters:
    """Settings of perception; times in seconds, lengths in metres.

    Attributes:
        model: which model, see ``occ_perception models``.
        weights: safetensors file for models that need weights.
        device: auto, cpu, cuda, cuda:N.
        allow_untrained: run a network with random weights, marked as untrained (for tests and speed measurements).
        fallback: when the model fails or no camera works, let lidar-carving take over while a LiDAR is there.
        fallback_after: so many frames in a row must fail first.
        retry_after: how long the fallback runs before the model is tried again.
        cameras: names (or image topics) of the cameras; auto = all that have a calibration, none = no camera.
        image_topics: topics of the images, in the order of ``cameras``; empty = found by name.
        camera_info_topics: topics of the calibrations, in the order of ``cameras``; empty = found by name.
        lidar: topic or namespace of the LiDAR; auto = the likeliest, none = no LiDAR.
        lidar_compensated: sweeps are motion compensated: yes; no = do it here, by point times; auto = yes, unchecked.
        lidar_min_range: returns nearer to the LiDAR are not believed; their voxels stay unknown.
        own_vehicle_rear: rear end (x) of the box that lidar-carving takes for the vehicle; nothing in it is ever free.
        own_vehicle_front: front end of it.
        own_vehicle_half_width: half its width; 0 = no box.
        own_vehicle_top: upper end of it.
        ground_height: of the ground that the vehicle stands on, in the base frame.
        calibration_file: YAML with intrinsics and mountings, instead of CameraInfo and transforms.
        rectified: whether images are rectified: always, never, or auto = as their topics' names say.
        discovery_time: how long to look for topics before starting with those that are there.
        anchor: sensor whose stamps are the grids' stamps; auto = the front camera, or the LiDAR if images are not used.
        offsets: usual time of each sensor's stamps relative to a common reference, by sensor name.
        tolerance: greatest distance in time of a message from where it is expected.
        deadline: how long after the anchor's message a set waits for the others.
        min_cameras: fewest cameras in a set, counted after decoding, too.
        silent_after: a sensor that sent nothing for so long is not waited for.
        base_frame: frame of the vehicle; the grids are in it.
        fixed_frame: continuous frame of the world, for fusion over time.
        fallback_fixed_frame: taken while there is no ``fixed_frame``; empty = none (map jumps, odom does not).
        tf_timeout: how long a set waits for transforms that are late.
        max_gap: longest gap between frames over which the past is kept.
        max_speed: a pose that moves faster has jumped, and the past is dropped; metres per second.
        tracking: objects keep their ids over time; otherwise they are counted anew in every grid.
        tracking_memory: how long an object that is not seen keeps its id.
        tracking_confirm: grids that must have shown an object before it is listed while it is occluded.
        connect_instances: where a model gives classes only, connected voxels of a class are taken for an object.
        encoding: of ~/voxels: sparse (occupied voxels only) or dense.
        ground_grid_min_height: lower end of the band of ~/ground_grid, above the vehicle's base frame.
        ground_grid_max_height: upper end of it; the height the vehicle needs.
        ground_grid_require_ground: a cell of ~/ground_grid is free only if ground was seen under it.
        decode_threads: images decoded in parallel.
        torch_threads: threads of one network operation; 0 = PyTorch's choice.
        diagnostics_period: time between two /diagnostics messages.
    """

    model: str = "lidar-carving"
    weights: str = ""
    device: str = AUTO
    allow_untrained: bool = False
    fallback: bool = True
    fallback_after: int = 5
    retry_after: float = 10.0
    cameras: tuple[str, ...] = (AUTO,)
    image_topics: tuple[str, ...] = ()
    camera_info_topics: tuple[str, ...] = ()
    lidar: str = AUTO
    lidar_compensated: str = AUTO
    lidar_min_range: float = 1.0
    own_vehicle_rear: float = -1.1
    own_vehicle_front: float = 4.1
    own_vehicle_half_width: float = 1.1
    own_vehicle_top: float = 2.1
    ground_height: float = 0.0
    calibration_file: str = ""
    rectified: str = AUTO
    discovery_time: float = 5.0
    anchor: str = AUTO
    offsets: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.05
    deadline: float = 0.1
    min_cameras: int = 1
    silent_after: float = 1.0
    base_frame: str = "base_link"
    fixed_frame: str = "odom"
    fallback_fixed_frame: str = ""
    tf_timeout: float = 0.1
    max_gap: float = 2.0
    max_speed: float = 80.0
    tracking: bool = True
    tracking_memory: float = 1.0
    tracking_confirm: int = 2
    connect_instances: bool = False
    encoding: str = "sparse"
    ground_grid_min_height: float = 0.2
    ground_grid_max_height: float = 2.0
    ground_grid_require_ground: bool = True
    decode_threads: int = 2
    torch_threads: int = 0
    diagnostics_period: float = 1.0

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, ("sparse", "dense"))
        check_choice("rectified", self.rectified, (AUTO, "always", "never"))
        check_choice("lidar_compensated", self.lidar_compensated, (AUTO, "yes", "no"))
        if not _DEVICE.fullmatch(self.device):
            raise ConfigurationError(f"device: expected auto, cpu, cuda or cuda:N, got '{self.device}'")
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        for name, value in {**numbers, **{f"offsets.{k}": v for k, v in self.offsets.items()}}.items():
            check_reasonable(name, value)
        for name in ("tolerance", "deadline", "silent_after", "max_gap", "max_speed", "diagnostics_period"):
            check_at_least(name, getattr(self, name), 1e-3)
        for name in ("tf_timeout", "discovery_time", "retry_after", "min_cameras", "torch_threads"):
            check_at_least(name, getattr(self, name), 0)
        for name in ("decode_threads", "fallback_after"):
            check_at_least(name, getattr(self, name), 1)
        if not self.ground_grid_min_height < self.ground_grid_max_height:
            raise ConfigurationError(
                "ground_grid_min_height must be below ground_grid_max_height, "
                f"got {self.ground_grid_min_height} and {self.ground_grid_max_height}"
            )
        for name in ("image_topics", "camera_info_topics"):
            topics = getattr(self, name)
            if topics and len(topics) != len(self.camera_names):
                raise ConfigurationError(
                    f"{name}: expected one topic for each of the cameras {list(self.camera_names)}, got {list(topics)}"
                )
        self.assembly()
        self.carving()
        self.session()

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The cameras asked for by name; empty if they are to be found, or none is wanted."""
        return () if self.cameras in ((AUTO,), (NONE,), ()) else self.cameras

    @property
    def wants_cameras(self) -> bool:
        """Whether there are to be cameras at all."""
        return self.cameras != (NONE,)

    def is_rectified(self, by_name: bool) -> bool:
        """Whether the images of a camera are rectified, given what their topic's name says."""
        return by_name if self.rectified == AUTO else self.rectified == "always"

    def synchronisation(self, cameras: tuple[str, ...], lidar: str, needs_images: bool) -> SyncConfig:
        """Rules of the synchroniser for these sensors.

        Args:
            cameras: names of the cameras there are.
            lidar: name of the LiDAR, "" if there is none.
            needs_images: whether the model uses images (otherwise the LiDAR is the default anchor).

        Raises:
            ConfigurationError: no sensor at all, or an anchor that is none of them.
        """
        anchor = self.anchor
        if anchor == AUTO:
            anchor = "" if needs_images or not lidar else lidar
        sensors = (*cameras, lidar)
        return SyncConfig(
            cameras=cameras,
            lidar=lidar,
            anchor=anchor,
            offsets_s={name: offset for name, offset in self.offsets.items() if name in sensors},
            tolerance_s=self.tolerance,
            deadline_s=self.deadline,
            min_cameras=min(self.min_cameras, len(cameras)),
            silent_after_s=self.silent_after,
        )

    def assembly(self) -> AssemblerConfig:
        """Frames and patience of the assembler."""
        return AssemblerConfig(
            base_frame=self.base_frame,
            fixed_frame=self.fixed_frame,
            fallback_fixed_frame=self.fallback_fixed_frame,
            tf_timeout_s=self.tf_timeout,
            lidar_compensated=self.lidar_compensated != "no",
        )

    def carving(self) -> LidarCarvingConfig:
        """Settings of lidar-carving."""
        box = OwnVehicle(
            self.own_vehicle_rear, self.own_vehicle_front, self.own_vehicle_half_width, self.own_vehicle_top
        )
        return LidarCarvingConfig(own_vehicle=box, min_range=self.lidar_min_range, ground_height=self.ground_height)

    def session(self) -> SessionSettings:
        """Rules of the session."""
        return SessionSettings(
            max_gap_s=self.max_gap,
            max_speed=self.max_speed,
            decode_threads=self.decode_threads,
            min_cameras=self.min_cameras,
            tracking=TrackingSettings(
                self.tracking, self.tracking_memory, self.tracking_confirm, self.connect_instances
            ),
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Parameters:
        """Defaults with these overrides; ``offsets`` may be a mapping or dotted names (``offsets.cam_front``).

        Raises:
            ConfigurationError: a name that does not exist (the message lists those that do), or a value of the wrong
                type or out of range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        values_by_name: dict[str, Any] = {}
        offsets: dict[str, float] = {}
        for name, value in values.items():
            if name == "offsets" and isinstance(value, Mapping):
                offsets |= {str(k): checked(f"offsets.{k}", v, 0.0) for k, v in value.items()}
            elif name.startswith("offsets."):
                offsets[name.removeprefix("offsets.")] = checked(name, value, 0.0)
            elif name == "lidar_compensated" and isinstance(value, bool):  # what YAML makes of yes and no
                values_by_name[name] = "yes" if value else "no"
            elif name in fields and name != "offsets":
                values_by_name[name] = checked(name, value, fields[name].default)
            else:
                raise ConfigurationError(unknown_name(name, tuple(fields)))
        return cls(**values_by_name, offsets=offsets)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Parameters:
        """Defaults with the overrides of a ROS parameter file (``/**: ros__parameters: ...``) or a plain mapping.

        Raises:
            ConfigurationError: unreadable, not YAML, or as `from_mapping`.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"parameter file {path}: {error}") from error
        if isinstance(content, Mapping) and any(name in content for name in _SECTIONS):
            sections = [content[name] for name in _SECTIONS if isinstance(content.get(name), Mapping)]
            content = {k: v for section in sections for k, v in (section.get("ros__parameters") or {}).items()}
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"parameter file {path}: expected names with values, got {content!r}")
        return cls.from_mapping({k: v for k, v in content.items() if k != "use_sim_time"})
