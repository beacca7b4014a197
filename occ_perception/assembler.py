"""Turns a synchronised set into a `Frame`: mountings, and where the vehicle was when each sensor measured.

Free of ROS; shared by the live node and the bag replayer.  Whatever is missing costs only what depends on it: a
camera without calibration is left out, a set without odometry goes out without a pose, and the frame's notes say so.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from occ_perception.deskew import deskew, sweep_span
from occ_perception.errors import AfterLastError, ConfigurationError, OccPerceptionError, TransformError
from occ_perception.frame import CameraImage, Frame, LidarSweep, PreparedImage
from occ_perception.geometry import CameraRig, PinholeCamera, TransformTree
from occ_perception.synchroniser import SyncedSet

logger = logging.getLogger(__name__)

_MOUNT_TOLERANCE = 1e-6
"""Mountings that differ less (metres, rotation matrix entries) are the same: they may come re-computed over /tf."""
_OLD_IN_A_ROW = 3
_WARN_EVERY_S = 5.0

_Vector = np.ndarray | list[float] | tuple[float, ...]
_Transform = tuple[str, str, int, _Vector, _Vector]
"""parent, child, stamp_ns, translation, quaternion_xyzw"""

_SWEEP_ENDS = ("start", "end")


@dataclass(frozen=True)
class AssemblerConfig:
    """Frames of reference, and patience.

    Attributes:
        base_frame: the vehicle; grids are in it.
        fixed_frame: continuous frame of the world that poses refer to.
        fallback_fixed_frame: used while nothing joins ``fixed_frame`` to the vehicle; "" = none, and that is the
            default because ``map`` jumps when localisation corrects itself.
        tf_timeout_s: how long a set waits for transforms that are late.
        tf_stale_s: transforms this much older than a set have stopped; they are not waited for, and a sensor whose
            mounting comes over /tf is left out.
        tf_jump_back_s: a transform this much older than the newest of its frame is old; several in a row mean that
            time went back.
        lidar_compensated: sweeps come motion compensated to their stamp; if not, they are compensated here.
    """

    base_frame: str = "base_link"
    fixed_frame: str = "odom"
    fallback_fixed_frame: str = ""
    tf_timeout_s: float = 0.1
    tf_stale_s: float = 1.0
    tf_jump_back_s: float = 0.5
    lidar_compensated: bool = True

    def __post_init__(self) -> None:
        if not self.base_frame or not self.fixed_frame or self.base_frame == self.fixed_frame:
            raise ConfigurationError(
                f"expected two different frames, got base_frame '{self.base_frame}', fixed_frame '{self.fixed_frame}'"
            )
        if self.tf_timeout_s < 0 or self.tf_stale_s <= 0 or self.tf_jump_back_s <= 0:
            raise ConfigurationError(f"expected tf_timeout_s >= 0, tf_stale_s and tf_jump_back_s > 0, got {self}")


@dataclass(frozen=True)
class LidarPoints:
    """A sweep as it came.

    Attributes:
        points: float32 [N, >= 3], x, y, z (metres, LiDAR frame) and optionally intensity.
        frame_id: the LiDAR's frame.
        offsets_s: float32 [N] time of each point relative to the stamp, if the driver tells: before it or after it.
    """

    points: np.ndarray
    frame_id: str
    offsets_s: np.ndarray | None = None


Measurement = CameraImage | PreparedImage | LidarPoints | OccPerceptionError
"""What a set holds: an image, a sweep, or why a message that came could not be read."""


@dataclass(frozen=True)
class Late:
    """A set whose transforms have not come yet but should; try again when more have.

    Attributes:
        reason: which, in words.
    """

    reason: str


class Assembler:
    """Calibration, transforms and the sets' way into frames; its methods may be called from several threads.

    Args:
        config: frames and patience.
        cameras: names of the configured cameras, in order.
        tree: where transforms are kept; a new one if not given.

    Attributes:
        tf_resets: how often the transforms' time went back, and all that move were forgotten.
    """

    def __init__(
        self, config: AssemblerConfig, cameras: tuple[str, ...] = (), tree: TransformTree | None = None
    ) -> None:
        self.config = config
        self.tf_resets = 0
        self._cameras = cameras
        self._tree = tree or TransformTree()
        self._lock = threading.RLock()
        self._newest_tf: dict[str, int] = {}
        self._old_tf: dict[str, list[_Transform]] = {}  # of each frame, the last ones in a row
        self._warned_s = -math.inf
        self._calibrations: dict[str, tuple[PinholeCamera, str | None]] = {}
        self._mounts: dict[str, np.ndarray] = {}
        self._lidar_mount: np.ndarray | None = None
        self._rig = CameraRig()
        self._problems: dict[str, str] = {}
        self._lidar_problems: dict[str, str] = {}
        self._outdated = True

    # -- what is known

    def use_cameras(self, names: tuple[str, ...]) -> None:
        """Change which cameras are configured, and their order; calibrations that came are kept."""
        with self._lock:
            self._cameras = names
            self._outdated = True

    def add_transform(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: np.ndarray | list[float] | tuple[float, ...],
        quaternion_xyzw: np.ndarray | list[float] | tuple[float, ...],
        static: bool = False,
    ) -> None:
        """Take ``parent_from_child`` at a stamp, as `TransformTree.set`; several that go back in time clear the tree.

        Raises:
            InvalidInputError: not a rigid transform, or it closes a cycle.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")  # ROS 1 habits live on in bags
        with self._lock:
            self._tree.set(parent, child, stamp_ns, translation, quaternion_xyzw, static)
            if static:
                self._outdated = True
            else:
                self._follow_time((parent, child, stamp_ns, translation, quaternion_xyzw))

    def _follow_time(self, transform: _Transform) -> None:
        """Notice that time went back: a frame's transforms are old several times in a row (one may just be late)."""
        _, child, stamp_ns, _, _ = transform
        newest_ns = self._newest_tf.setdefault(child, stamp_ns)
        self._newest_tf[child] = max(newest_ns, stamp_ns)
        if newest_ns - stamp_ns <= self.config.tf_jump_back_s * 1e9:
            self._old_tf.pop(child, None)
            return
        old = self._old_tf.setdefault(child, [])
        old.append(transform)
        self._warn("transforms of %s are old by %.3f s", child, (newest_ns - stamp_ns) * 1e-9)
        if len(old) >= _OLD_IN_A_ROW:
            logger.warning("transforms of %s went back by %.3f s: starting anew", child, (newest_ns - stamp_ns) * 1e-9)
            self._start_anew()

    def _start_anew(self) -> None:
        """Forget all transforms that move, but for those that showed that time went back."""
        new_turn = [transform for transforms in self._old_tf.values() for transform in transforms]
        self._tree.clear(keep_static=True)
        self._newest_tf.clear()
        self._old_tf.clear()
        self.tf_resets += 1
        for parent, child, stamp_ns, translation, quaternion_xyzw in new_turn:
            self._tree.set(parent, child, stamp_ns, translation, quaternion_xyzw)
            self._newest_tf[child] = max(self._newest_tf.get(child, stamp_ns), stamp_ns)

    def _warn(self, text: str, *values: object) -> None:
        """Warn, but not more often than a log can bear."""
        now_s = time.monotonic()
        if now_s - self._warned_s > _WARN_EVERY_S:
            self._warned_s = now_s
            logger.warning(text, *values)

    def set_camera(self, name: str, camera: PinholeCamera, frame_id: str | None) -> None:
        """Take a camera's calibration, new or changed.

        Args:
            name: one of the configured cameras.
            camera: intrinsics and size; its mounting counts only without ``frame_id``.
            frame_id: its optical frame, whose mounting is looked up in the transforms; None: as in ``camera``.
        """
        frame_id = frame_id and frame_id.lstrip("/")
        with self._lock:
            known = self._calibrations.get(name)
            if known is None or known[1] != frame_id or not _equal(known[0], camera):
                logger.info("camera %s: %s calibration", name, "changed" if known else "got its")
                self._calibrations[name] = (camera, frame_id)
                self._mounts.pop(name, None)
                self._outdated = True

    def set_lidar_mount(self, ego_from_lidar: np.ndarray) -> None:
        """Use this mounting of the LiDAR, not the one in the transforms."""
        self._lidar_mount = ego_from_lidar

    @property
    def rig(self) -> CameraRig:
        """The cameras that are calibrated and mounted, in configured order; the same object until that changes."""
        with self._lock:
            if self._outdated:
                self._update_rig({})
            return self._rig

    @property
    def problems(self) -> Mapping[str, str]:
        """Why cameras are not in the rig, and why the LiDAR was left out of the last set it was in, by name."""
        with self._lock:
            if self._outdated:
                self._update_rig({})
            return {**self._problems, **self._lidar_problems}

    def odometry_state(self, stamp_ns: int) -> str:
        """Why the vehicle's pose at a stamp is not known; "" if it is."""
        with self._lock:
            _, missing = self._pose(stamp_ns)
        return str(missing) if missing else ""

    # -- sets to frames

    def assemble(self, synced: SyncedSet[Measurement], give_up: bool = False) -> Frame | Late:
        """The frame of a set, or `Late` while transforms that should still come are missing.

        Args:
            synced: payloads are `Measurement`; see there.
            give_up: make the frame now, without what is missing.
        """
        with self._lock:
            stamps = {sensor: arrival.stamp_ns for sensor, arrival in synced.arrivals.items()}
            poses, late, notes = self._poses({"": synced.stamp_ns, **stamps, **self._sweep_ends(synced)})
            if late and not give_up:
                return Late(late)
            self._update_rig({**dict.fromkeys(self._cameras, synced.stamp_ns), **stamps})
            notes += [f"{sensor}: no message ({why.value})" for sensor, why in synced.missing.items()]
            images, lidar = self._measurements(synced, poses, notes)
            return Frame(synced.stamp_ns, self._rig, images, lidar, poses[""], tuple(notes), self._fixed_frame())

    def _measurements(
        self, synced: SyncedSet[Measurement], poses: Mapping[str, np.ndarray | None], notes: list[str]
    ) -> tuple[dict[str, CameraImage | PreparedImage], tuple[LidarSweep, ...]]:
        images: dict[str, CameraImage | PreparedImage] = {}
        lidar: tuple[LidarSweep, ...] = ()
        for sensor, arrival in synced.arrivals.items():
            measured = arrival.payload
            try:
                if isinstance(measured, OccPerceptionError):
                    raise measured
                if isinstance(measured, LidarPoints):
                    self._lidar_problems.pop(sensor, None)
                    mount = self._lidar_mount_of(measured.frame_id, arrival.stamp_ns)
                    sweep = LidarSweep(arrival.stamp_ns, measured.points, mount, poses[sensor], measured.offsets_s)
                    lidar = (self._compensated(sweep, sensor, poses, notes),)
                elif sensor in self._rig:
                    images[sensor] = replace(measured, odom_from_ego=poses[sensor])
                else:
                    notes.append(f"{sensor} left out: {self._problems.get(sensor, 'not a configured camera')}")
            except OccPerceptionError as error:
                notes.append(f"{sensor} left out: {error}")
                if isinstance(measured, LidarPoints):
                    self._lidar_problems[sensor] = f"left out: {error}"
        return images, lidar

    def _compensated(
        self, sweep: LidarSweep, sensor: str, poses: Mapping[str, np.ndarray | None], notes: list[str]
    ) -> LidarSweep:
        """The sweep as if measured at its stamp, or as it came with a note if that cannot be done."""
        if self.config.lidar_compensated:
            # Points of a compensated sweep are believed to have times only if its stamp is its end.
            ends_at_stamp = sweep.offsets_s is not None and (sweep.offsets_s <= 0).all()
            return sweep if ends_at_stamp else replace(sweep, offsets_s=None)
        if sweep.offsets_s is None:
            notes.append(
                f"{sensor}: sweep is not motion compensated and has no point times: "
                "obstacles may be off by up to speed x sweep time"
            )
            return sweep
        first, last = (poses.get(f"{sensor} ({end} of sweep)") for end in _SWEEP_ENDS)
        if sweep.odom_from_ego is None or first is None or last is None:
            notes.append(f"{sensor}: sweep is not motion compensated: no poses of the vehicle at its start and end")
            return sweep
        return deskew(sweep, first, last)

    def _sweep_ends(self, synced: SyncedSet[Measurement]) -> dict[str, int]:
        """Stamps between which sweeps were measured that are to be compensated."""
        ends: dict[str, int] = {}
        for sensor, arrival in synced.arrivals.items():
            measured = arrival.payload
            if self.config.lidar_compensated or not isinstance(measured, LidarPoints) or measured.offsets_s is None:
                continue
            for end, offset_s in zip(_SWEEP_ENDS, sweep_span(measured.offsets_s), strict=True):
                ends[f"{sensor} ({end} of sweep)"] = arrival.stamp_ns + round(offset_s * 1e9)
        return ends

    def _poses(self, stamps: Mapping[str, int]) -> tuple[dict[str, np.ndarray | None], str, list[str]]:
        """Poses of the vehicle by sensor ("": the set's own), what is late, and what to note."""
        poses: dict[str, np.ndarray | None] = {}
        late = ""
        notes: list[str] = []
        for sensor, stamp_ns in stamps.items():
            poses[sensor], missing = self._pose(stamp_ns)
            if missing is not None:
                if isinstance(missing, AfterLastError) and not self._stale(stamp_ns):
                    late = late or str(missing)
                if sensor == "" or poses[""] is not None:  # once is enough if the set itself has none
                    notes.append(f"{sensor + ': ' if sensor else ''}no pose of the vehicle: {missing}")
        return poses, late, notes

    def _fixed_frame(self) -> str:
        base, fixed, fallback = self.config.base_frame, self.config.fixed_frame, self.config.fallback_fixed_frame
        if fallback and not self._tree.has_path(fixed, base) and self._tree.has_path(fallback, base):
            return fallback
        return fixed

    def _pose(self, stamp_ns: int) -> tuple[np.ndarray | None, TransformError | None]:
        try:
            return self._tree.lookup(self._fixed_frame(), self.config.base_frame, stamp_ns), None
        except TransformError as error:
            return None, error

    def _stale(self, stamp_ns: int) -> bool:
        coverage = self._tree.coverage(self._fixed_frame(), self.config.base_frame)
        return coverage is not None and stamp_ns - coverage[1] > self.config.tf_stale_s * 1e9

    # -- mountings

    def _update_rig(self, stamps: Mapping[str, int]) -> None:
        """Look up the mountings again; the rig (and with it its fingerprint) changes only if something did."""
        changed = self._outdated
        self._outdated = False
        cameras: dict[str, PinholeCamera] = {}
        problems: dict[str, str] = {}
        for name in self._cameras:
            if name not in self._calibrations:
                problems[name] = "no calibration has come"
                continue
            camera, frame_id = self._calibrations[name]
            try:
                mount = camera.ego_from_camera if frame_id is None else self._mount(frame_id, stamps.get(name))
            except TransformError as error:
                problems[name] = f"mounting not known: {error}"
                continue
            known = self._mounts.get(name)
            if known is None or np.abs(known - mount).max() > _MOUNT_TOLERANCE:
                self._mounts[name] = mount
                changed = True
            cameras[name] = replace(camera, ego_from_camera=self._mounts[name])
        self._problems = problems
        if changed or set(cameras) != set(self._rig):
            self._rig = CameraRig(cameras)

    def _mount(self, frame_id: str, stamp_ns: int | None) -> np.ndarray:
        """``ego_from_sensor``; if it comes over /tf, at the stamp or as near to it as is known.

        Raises:
            TransformError: it is not known, or has stopped coming over /tf.
        """
        coverage = self._tree.coverage(self.config.base_frame, frame_id)
        if coverage is not None:
            first_ns, last_ns = coverage
            age_s = 0.0 if stamp_ns is None else (stamp_ns - last_ns) * 1e-9
            if age_s > self.config.tf_stale_s:
                raise AfterLastError(f"{self.config.base_frame} <- {frame_id}: stopped coming {age_s:.3f} s before")
            stamp_ns = last_ns if stamp_ns is None else min(max(stamp_ns, first_ns), last_ns)
        return self._tree.lookup(self.config.base_frame, frame_id, stamp_ns or 0)

    def _lidar_mount_of(self, frame_id: str, stamp_ns: int) -> np.ndarray:
        return self._mount(frame_id.lstrip("/"), stamp_ns) if self._lidar_mount is None else self._lidar_mount


def _equal(a: PinholeCamera, b: PinholeCamera) -> bool:
    return (
        (a.width, a.height) == (b.width, b.height)
        and np.array_equal(a.intrinsics, b.intrinsics)
        and np.array_equal(a.ego_from_camera, b.ego_from_camera)
    )
