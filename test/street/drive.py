"""A seeded drive through a made-up street: six cameras, a LiDAR and exact poses, as `Frame`s or as a bag.

    drive = StreetDrive(seconds=5, seed=0, image_size=(800, 450))
    for frame in drive.frames(): ...
    write_street_bag("drive", seconds=5)

Timing follows nuScenes: LiDAR at 20 Hz, cameras at 12 Hz, each fired when the turning LiDAR looks its way, so the
six images of a set are spread over 43 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from occ_perception.data.synthetic.drive import write_city_bag
from occ_perception.errors import ConfigurationError
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import OCC3D_GRID, CameraRig, PinholeCamera, VoxelGrid, rigid_from_rotation
from occ_perception.image_codec import encode_jpeg
from street.camera import StreetCamera
from street.lidar import PERIOD_NS, LidarScan, StreetLidar
from street.world import StreetWorld

START_NS = 1_700_000_000_000_000_000
"""Stamp at which every drive starts."""
_IMAGES_PER_SECOND, _SWEEPS_PER_SECOND = 12, 20


@dataclass(frozen=True)
class _Mount:
    """Camera mounting: position in metres (ego frame), yaw and downward pitch in degrees, focal length for 1600 px."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    focal: float


_MOUNTS = {
    "cam_front_left": _Mount(1.45, 0.48, 1.52, 55, 0.8, 1266.0),
    "cam_front": _Mount(1.70, 0.0, 1.50, 0, 0.5, 1266.0),
    "cam_front_right": _Mount(1.45, -0.48, 1.52, -55, 0.8, 1266.0),
    "cam_back_left": _Mount(1.00, 0.48, 1.55, 110, 0.6, 1266.0),
    "cam_back": _Mount(0.05, 0.0, 1.54, 180, 1.0, 809.0),
    "cam_back_right": _Mount(1.00, -0.48, 1.55, -110, 0.6, 1266.0),
}
CAMERAS = tuple(_MOUNTS)
"""Camera names in BEVDet order; what they see overlaps a little and covers all around."""


def _camera(mount: _Mount, width: int, height: int) -> PinholeCamera:
    yaw, pitch = np.deg2rad(mount.yaw), np.deg2rad(mount.pitch)
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward], 1)  # columns: optical x, y, z in ego axes
    scale = width / 1600
    intrinsics = np.array([[mount.focal * scale, 0, 812 * scale], [0, mount.focal * scale, 458 * scale], [0, 0, 1]])
    return PinholeCamera(intrinsics, rigid_from_rotation(rotation, [mount.x, mount.y, mount.z]), width, height)


class StreetDrive:
    """A vehicle that follows its lane, with everything its sensors measure; computed when asked for.

    Args:
        seconds: length of the drive.
        seed: equal seeds give equal bytes.
        image_size: width, height; the field of view stays that of 1600x900.
        speed: of the vehicle, m/s.
        cameras: which of `CAMERAS` it has.

    Raises:
        ConfigurationError: unknown camera, or a length, size or speed that makes no sense.
    """

    ego_from_lidar = rigid_from_rotation(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), [0.95, 0.0, 1.85])
    """LiDAR mounting; its axes are nuScenes' (x right, y forward)."""

    def __init__(
        self,
        seconds: float = 10.0,
        seed: int = 0,
        image_size: tuple[int, int] = (800, 450),
        speed: float = 8.0,
        cameras: tuple[str, ...] = CAMERAS,
    ) -> None:
        unknown = set(cameras) - set(CAMERAS)
        if unknown:
            raise ConfigurationError(f"unknown cameras {sorted(unknown)}; there are {CAMERAS}")
        if not 0 < seconds <= 3600 or not 0 <= speed <= 40 or min(image_size) < 16:
            raise ConfigurationError(f"street drive: {seconds} s at {speed} m/s with images {image_size}")
        self.seconds, self.speed = seconds, speed
        self.source = f"occ_perception's test street, seed {seed}, {seconds} s"
        self.world = StreetWorld(seed, length=speed * seconds + 120)
        self.rig = CameraRig({name: _camera(_MOUNTS[name], *image_size) for name in cameras})
        self._lidar = StreetLidar(self.world, self.ego_from_lidar, self._poses, self.time_s, seed)

    @cached_property
    def _renderers(self) -> dict[str, StreetCamera]:
        """Made when first needed: their rays take 20 bytes per pixel."""
        return {name: StreetCamera(self.world, camera) for name, camera in self.rig.items()}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, thread_name_prefix="render")

    @staticmethod
    def time_s(stamp_ns: int) -> float:
        """Seconds since the start."""
        return (stamp_ns - START_NS) * 1e-9

    def _poses(self, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vehicle (x, y, heading) in the world at stamps [T]: in its lane, right of the centre line."""
        time_s = (np.asarray(stamps_ns, np.int64) - START_NS) * 1e-9
        return self.world.road.at(self.speed * time_s, -1.75)

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray:
        """Exact pose of the vehicle, float64 [4, 4]; odom is the world frame."""
        x, y, heading = (float(v[0]) for v in self._poses(np.array([stamp_ns])))
        c, s = np.cos(heading), np.sin(heading)
        return rigid_from_rotation(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), [x, y, 0.0])

    def sweep_stamps(self) -> list[int]:
        """Stamps of the LiDAR sweeps (their ends), 20 Hz."""
        return [START_NS + (k + 1) * PERIOD_NS for k in range(int(self.seconds * _SWEEPS_PER_SECOND + 1e-9))]

    def set_stamps(self) -> list[int]:
        """Stamps of those sweeps during which the cameras fire: 12 of 20, as evenly as possible."""
        sweeps = self.sweep_stamps()
        chosen = [k * _SWEEPS_PER_SECOND // _IMAGES_PER_SECOND for k in range(len(sweeps))]
        return [sweeps[k] for k in chosen if k < len(sweeps)]

    def image_stamp(self, camera: str, set_stamp_ns: int) -> int:
        """When a camera fires in the sweep that ends at ``set_stamp_ns``: 2 ms after the beam crossed its axis."""
        fraction = ((90 - _MOUNTS[camera].yaw) % 360) / 360
        return set_stamp_ns - PERIOD_NS + int(fraction * PERIOD_NS) + 2_000_000

    def render(self, camera: str, stamp_ns: int) -> np.ndarray:
        """What a camera sees at a stamp, uint8 RGB [H, W, 3]."""
        return self._renderers[camera].render(self.odom_from_ego(stamp_ns), self.time_s(stamp_ns))

    def jpeg(self, camera: str, stamp_ns: int, quality: int = 90) -> bytes:
        """`render` as JPEG."""
        return encode_jpeg(self.render(camera, stamp_ns), quality)

    def jpegs(self, set_stamp_ns: int) -> list[tuple[int, str, bytes]]:
        """(stamp, camera, JPEG) of a set, in the order in which they are taken; rendered on two threads."""
        shots = sorted((self.image_stamp(name, set_stamp_ns), name) for name in self.rig)
        jpegs = self._pool.map(lambda shot: self.jpeg(shot[1], shot[0]), shots)
        return [(stamp, name, jpeg) for (stamp, name), jpeg in zip(shots, jpegs, strict=True)]

    def scan(self, stamp_ns: int, noise: bool = True) -> LidarScan:
        """The LiDAR turn that ends at a stamp, in the LiDAR frame at the stamp."""
        return self._lidar.scan(stamp_ns, noise)

    def lidar_sweep(self, stamp_ns: int) -> LidarSweep:
        """`scan` as the project's sweep, with the exact pose."""
        scan = self.scan(stamp_ns)
        return LidarSweep(stamp_ns, scan.points, self.ego_from_lidar, self.odom_from_ego(stamp_ns), scan.offsets_s)

    def frame(self, set_stamp_ns: int, images: bool = True) -> Frame:
        """One synchronised set; its stamp is that of the front camera (else of the sweep)."""
        shots = self.jpegs(set_stamp_ns) if images else []
        pictures = {name: CameraImage(stamp, jpeg, self.odom_from_ego(stamp)) for stamp, name, jpeg in shots}
        anchor = pictures["cam_front"].stamp_ns if "cam_front" in pictures else set_stamp_ns
        sweep = self.lidar_sweep(set_stamp_ns)
        return Frame(anchor, self.rig, pictures, (sweep,), self.odom_from_ego(anchor))

    def frames(self, images: bool = True) -> Iterator[Frame]:
        """All sets in order, 12 Hz."""
        for stamp in self.set_stamps():
            yield self.frame(stamp, images)

    def ground_truth(self, stamp_ns: int, grid: VoxelGrid = OCC3D_GRID) -> np.ndarray:
        """What every voxel of the vehicle's grid holds, uint8 [X, Y, Z]: Occ3D class or FREE, whether seen or not."""
        return self.world.occupancy(self.time_s(stamp_ns), self.odom_from_ego(stamp_ns), grid)


def write_street_bag(
    path: str | os.PathLike[str],
    seconds: float = 5.0,
    seed: int = 0,
    image_size: tuple[int, int] = (800, 450),
    storage: str = "mcap",
    overwrite: bool = False,
    cameras: tuple[str, ...] = CAMERAS,
) -> Path:
    """Write a `StreetDrive` with the product's own writer, which asks of a drive what a street's answers too.

    Raises:
        DatasetError: the path exists (and not ``overwrite``) or cannot be written.
        ConfigurationError: see `StreetDrive`.
    """
    return write_city_bag(path, StreetDrive(seconds, seed, image_size, cameras=cameras), storage, overwrite)
