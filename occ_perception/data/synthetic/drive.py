"""A drive through a synthetic city: what every sensor measures, exact poses and ground truth, with nuScenes' timing.

    drive = CityDrive(seed=3, seconds=10)
    for frame in drive.frames(): ...

LiDAR turns at 20 Hz, cameras fire at 12 Hz, each when the turning LiDAR looks its way, so the six images of a set are
spread over 43 ms; every tenth sweep is a keyframe (2 Hz) with ground truth.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from occ_perception.data import image_labels
from occ_perception.data.drive_bag import DriveBag, TimedWrite, transform_stamps
from occ_perception.data.synthetic.beams import Beams, CameraViews, lidar_beams
from occ_perception.data.synthetic.city import make_scene
from occ_perception.data.synthetic.labels import SceneLabels, SceneTruth, moving_instances, surface_returns
from occ_perception.data.synthetic.lidar import LidarScan, SceneLidar
from occ_perception.data.synthetic.renderer import RenderedImage, SceneRenderer
from occ_perception.data.synthetic.rig import CAMERAS, MOUNTS, TRAINING_SIZE, city_rig, lidar_mount
from occ_perception.data.synthetic.scene import Scene
from occ_perception.errors import ConfigurationError
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.image_codec import encode_jpeg

START_NS = 1_700_000_000_000_000_000
"""Stamp at which every synthetic drive starts."""
PERIOD_NS = 50_000_000
"""Of the turning LiDAR."""
SWEEPS_PER_KEYFRAME = 10
JPEG_QUALITY = 90
_IMAGES_PER_SECOND, _SWEEPS_PER_SECOND = 12, 20
_NEIGHBOURS_NS = 500_000_000  # sweeps of the keyframes so far away also tell what the LiDAR saw
_NEIGHBOURS_STEP = 3  # one in so many of their beams
_SCANS_KEPT = 8

Shot = tuple[int, str, bytes]
"""Stamp, camera and JPEG."""


@dataclass(frozen=True)
class CityKeyframe:
    """Everything of one keyframe.

    Attributes:
        frame: the synchronised set as sensors deliver it: JPEG images, one noisy sweep, exact poses.
        shots: stamp, camera and JPEG of its images.
        rendered: the images by camera with depth, classes and instances.
        scan: the sweep with rings, classes and instances.
        truth: ground truth at the LIDAR stamp.
    """

    frame: Frame
    shots: list[Shot]
    rendered: Mapping[str, RenderedImage]
    scan: LidarScan
    truth: SceneTruth

    def image_labels(self) -> dict[str, image_labels.ImageLabels]:
        """Depth and class behind the pixels, by nuScenes' channel names."""
        return {
            name.upper(): image_labels.reduced(image.depth, image.class_ids) for name, image in self.rendered.items()
        }


class CityDrive:
    """A vehicle on its way through a made-up city; measurements are computed when asked for.

    Args:
        seed: equal seeds give equal bytes.
        seconds: length of the drive.
        image_size: width and height; see `rig.city_rig`.
        cameras: which of `rig.CAMERAS` it has.
        device: that renders, "cpu" or "cuda...".
        scene: drive through this one instead of the city of the seed.

    Raises:
        ConfigurationError: unknown camera, or a length or size that makes no sense.
    """

    def __init__(
        self,
        seed: int = 0,
        seconds: float = 10.0,
        image_size: tuple[int, int] = TRAINING_SIZE,
        cameras: tuple[str, ...] = CAMERAS,
        device: str = "cpu",
        scene: Scene | None = None,
    ) -> None:
        if not PERIOD_NS * 1e-9 <= seconds <= 3600 or seed < 0:
            raise ConfigurationError(f"city drive: {seconds} s from seed {seed}; expected 0.05 to 3600 s, a seed >= 0")
        self.rig = city_rig(seed, image_size, cameras)
        self.ego_from_lidar = lidar_mount(seed)
        self.seconds = seconds
        self.source = f"occ_perception city drive, seed {seed}, {seconds} s"
        self.scene = make_scene(seed, seconds + PERIOD_NS * 1e-9) if scene is None else scene
        self._device = device
        self._exact_scan = lru_cache(_SCANS_KEPT)(partial(self.scan, noise=False))

    @cached_property
    def _renderer(self) -> SceneRenderer:
        return SceneRenderer(self.scene, self._device)

    @cached_property
    def _lidar(self) -> SceneLidar:
        return SceneLidar(self.scene, self.ego_from_lidar, self._device)

    @cached_property
    def _labels(self) -> SceneLabels:
        return SceneLabels(self.scene)

    # -- time

    @staticmethod
    def time_s(stamp_ns: int) -> float:
        """Seconds since the start."""
        return (stamp_ns - START_NS) * 1e-9

    def sweep_stamps(self) -> list[int]:
        """Stamps of the LiDAR sweeps (their ends), 20 Hz."""
        return [START_NS + (k + 1) * PERIOD_NS for k in range(int(self.seconds * _SWEEPS_PER_SECOND + 1e-9))]

    def set_stamps(self) -> list[int]:
        """Stamps of those sweeps during which the cameras fire: 12 of 20, as evenly as possible, keyframes too."""
        sweeps = self.sweep_stamps()
        chosen = [k * _SWEEPS_PER_SECOND // _IMAGES_PER_SECOND for k in range(len(sweeps))]
        return [sweeps[k] for k in chosen if k < len(sweeps)]

    def keyframe_stamps(self) -> list[int]:
        """Stamps of every tenth sweep, from the first on."""
        return self.sweep_stamps()[::SWEEPS_PER_KEYFRAME]

    def image_stamp(self, camera: str, set_stamp_ns: int) -> int:
        """When a camera fires in the sweep that ends at ``set_stamp_ns``: 2 ms after the beam crossed its axis; whole
        microseconds, as nuScenes counts."""
        fraction = ((90 - MOUNTS[camera].yaw) % 360) / 360
        return (set_stamp_ns - PERIOD_NS + int(fraction * PERIOD_NS) + 2_000_000) // 1000 * 1000

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray:
        """Exact pose of the vehicle, float64 [4, 4]; odom is the world frame."""
        return self.scene.ego.pose(self.time_s(stamp_ns))

    # -- measurements

    def rendered(self, set_stamp_ns: int) -> dict[str, RenderedImage]:
        """What the cameras see in a set, by camera."""
        stamps = {name: self.image_stamp(name, set_stamp_ns) for name in self.rig}
        poses = {name: self.odom_from_ego(stamp) for name, stamp in stamps.items()}
        return self._renderer.render_rig(self.rig, poses, {name: self.time_s(t) for name, t in stamps.items()})

    def jpegs(self, set_stamp_ns: int) -> list[Shot]:
        """(stamp, camera, JPEG) of a set, in the order in which they are taken."""
        return self._shots(set_stamp_ns, self.rendered(set_stamp_ns))

    def _shots(self, set_stamp_ns: int, rendered: Mapping[str, RenderedImage]) -> list[Shot]:
        shots = sorted((self.image_stamp(name, set_stamp_ns), name) for name in rendered)
        return [(stamp, name, encode_jpeg(rendered[name].rgb, JPEG_QUALITY)) for stamp, name in shots]

    def scan(self, stamp_ns: int, noise: bool = True) -> LidarScan:
        """The LiDAR turn that ends at a stamp, in the LiDAR frame at the stamp."""
        return self._lidar.scan(self.time_s(stamp_ns), noise)

    def lidar_sweep(self, stamp_ns: int) -> LidarSweep:
        """`scan` as the project's sweep, with the exact pose."""
        return self._sweep(stamp_ns, self.scan(stamp_ns))

    def _sweep(self, stamp_ns: int, scan: LidarScan) -> LidarSweep:
        return LidarSweep(stamp_ns, scan.points, self.ego_from_lidar, self.odom_from_ego(stamp_ns), scan.offsets_s)

    def frame(self, set_stamp_ns: int, images: bool = True) -> Frame:
        """One synchronised set; its stamp is that of the front camera (else of the sweep)."""
        return self._frame(set_stamp_ns, self.jpegs(set_stamp_ns) if images else [], self.scan(set_stamp_ns))

    def _frame(self, set_stamp_ns: int, shots: list[Shot], scan: LidarScan) -> Frame:
        images = {name: CameraImage(stamp, jpeg, self.odom_from_ego(stamp)) for stamp, name, jpeg in shots}
        anchor = images["cam_front"].stamp_ns if "cam_front" in images else set_stamp_ns
        return Frame(anchor, self.rig, images, (self._sweep(set_stamp_ns, scan),), self.odom_from_ego(anchor))

    def frames(self, images: bool = True) -> Iterator[Frame]:
        """All sets in order, 12 Hz."""
        for stamp in self.set_stamps():
            yield self.frame(stamp, images)

    # -- truth

    def truth(self, stamp_ns: int) -> SceneTruth:
        """Ground truth of any moment, without masks."""
        return self._labels.at(self.time_s(stamp_ns), stamp_ns=stamp_ns)

    def ground_truth(self, stamp_ns: int) -> np.ndarray:
        """What every voxel of the Occ3D grid holds, uint8 [200, 200, 16]: Occ3D class or FREE, seen or not."""
        return self.truth(stamp_ns).label.semantics

    def keyframe(self, stamp_ns: int) -> CityKeyframe:
        """Images, sweep and ground truth of one of `keyframe_stamps`."""
        rendered, scan = self.rendered(stamp_ns), self.scan(stamp_ns)
        poses = {name: self.odom_from_ego(self.image_stamp(name, stamp_ns)) for name in self.rig}
        time_s, exact = self.time_s(stamp_ns), self._exact_scan(stamp_ns)
        truth = self._labels.at(
            time_s,
            surface_returns(exact, time_s, self.scene, self.ego_from_lidar),
            CameraViews(self.rig, rendered, poses),
            self.lidar_beams_around(stamp_ns),
            stamp_ns,
        )
        shots = self._shots(stamp_ns, rendered)
        return CityKeyframe(self._frame(stamp_ns, shots, scan), shots, rendered, scan, truth)

    def lidar_beams_around(self, stamp_ns: int) -> Beams:
        """Of the keyframe's sweep and its neighbours', as Occ3D looks through several sweeps.

        What moves was elsewhere in the neighbours' sweeps, so it counts as seen only in the keyframe's own.
        """
        moving = moving_instances(self.scene)
        parts = []
        for stamp in self.keyframe_stamps():
            if abs(stamp - stamp_ns) <= _NEIGHBOURS_NS:
                own = stamp == stamp_ns
                scan, hidden = self._exact_scan(stamp), moving[:0] if own else moving
                beams = lidar_beams(scan, self.time_s(stamp), self.scene.ego, self.ego_from_lidar, hidden)
                parts.append(beams if own else beams.every(_NEIGHBOURS_STEP))
        return Beams.joined(parts)


def write_city_bag(
    path: str | os.PathLike[str],
    drive: CityDrive,
    storage: str = "mcap",
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write a drive as a rosbag2 in the layout of the nuScenes bags (see `drive_bag`).

    Args:
        path, storage, overwrite: see `BagWriter`.
        drive: what to write.
        progress: show a progress bar.

    Returns:
        The path.

    Raises:
        DatasetError: the path exists (and not ``overwrite``) or cannot be written.
        ConfigurationError: NVIDIA Warp, which renders, is not installed.
    """
    sweep_stamps = drive.sweep_stamps()
    image_stamps = [drive.image_stamp(name, stamp) for stamp in drive.set_stamps() for name in drive.rig]
    pose_stamps = transform_stamps(image_stamps + sweep_stamps)
    with (
        DriveBag(path, drive.rig, storage, {"source": drive.source}, overwrite) as bag,
        tqdm(total=len(sweep_stamps), unit="sweep", disable=not progress) as bar,
    ):
        bag.write_static(pose_stamps[0], {"lidar_top": drive.ego_from_lidar})
        poses = (TimedWrite(t, partial(bag.write_pose, t, drive.odom_from_ego(t))) for t in pose_stamps)
        sweeps = (TimedWrite(t, partial(_write_scan, bag, drive, t, bar)) for t in sweep_stamps)
        for event in heapq.merge(poses, _image_writes(bag, drive), sweeps):
            event.write()
    return bag.path


def _write_scan(bag: DriveBag, drive: CityDrive, stamp_ns: int, bar: tqdm) -> None:
    scan = drive.scan(stamp_ns)
    bag.write_points(stamp_ns, "lidar_top", scan.points, scan.rings, scan.offsets_s)
    bar.update()


def _image_writes(bag: DriveBag, drive: CityDrive) -> Iterator[TimedWrite]:
    for set_stamp in drive.set_stamps():
        for stamp, name, jpeg in drive.jpegs(set_stamp):
            yield TimedWrite(stamp, partial(bag.write_image, stamp, name, jpeg))
