"""Damage done to a frame before the model sees it: pure functions `Frame` -> `Frame`, seeded, one per kind of fault.

They touch measurements and calibration only.  Ground truth, and the poses that the ground truth is tied to, stay.
What is random depends on the seed and the frame's stamp (or the sensor's name), not on the order of the calls, so any
split of the scenes over workers sees the same damage.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import CameraRig, rigid
from occ_perception.image_codec import decode_image, encode_jpeg

logger = logging.getLogger(__name__)

REFERENCE_WIDTH = 1600
"""Blur is given in pixels of an image this wide and scaled to others."""
NUSCENES_BEAMS = (32, -30.67, 10.67)
"""Beams of nuScenes' LiDAR, elevation of the lowest and the highest, degrees."""


# -- sensors that fail


def drop_cameras(frame: Frame, names: tuple[str, ...]) -> Frame:
    """Cameras that deliver nothing; they stay configured and calibrated.

    Raises:
        ConfigurationError: the vehicle has no such camera.
    """
    unknown = [name for name in names if name not in frame.rig]
    if unknown:
        raise ConfigurationError(f"cannot drop cameras {unknown}: the rig has {list(frame.rig)}")
    return replace(frame, images={name: image for name, image in frame.images.items() if name not in names})


def drop_frames(frame: Frame, share: float, seed: int) -> Frame:
    """A share (0..1) of all frames loses every image and sweep: nothing arrives at that stamp."""
    if _random(seed, frame.stamp_ns).random() >= share:
        return frame
    return replace(frame, images={}, lidar=())


def remove_beams(frame: Frame, keep_every: int, beams: tuple[int, float, float] = NUSCENES_BEAMS) -> Frame:
    """A LiDAR with fewer beams: of the rings, counted from the lowest, only every ``keep_every``-th is kept.

    Args:
        frame: the frame.
        keep_every: 1 keeps all.
        beams: number of beams, lowest and highest elevation in degrees.
    """
    return replace(frame, lidar=tuple(_with_fewer_beams(sweep, keep_every, beams) for sweep in frame.lidar))


def ring_of(sweep: LidarSweep, beams: tuple[int, float, float] = NUSCENES_BEAMS) -> np.ndarray:
    """Ring of each point, int64 [N], 0 = lowest.

    A sweep of whole columns (as many points at each time as there are beams, as nuScenes stores it, lowest first) tells
    it by the order of its points.  Otherwise it is guessed from elevation, the beams taken as evenly spread; motion
    compensation shifts near points, so that about one in ten is then off by one at 9 m/s.
    """
    count, lowest, highest = beams
    points, times = sweep.points, sweep.offsets_s
    if times is not None and len(times) > count and len(times) % count == 0:
        columns = times.reshape(-1, count)
        if (columns == columns[:, :1]).all() and (np.diff(columns[:, 0]) != 0).all():
            return np.tile(np.arange(count), len(columns))
    elevation = np.rad2deg(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    ring = np.round((elevation - lowest) / (highest - lowest) * (count - 1))
    return np.clip(np.nan_to_num(ring), 0, count - 1).astype(np.int64)


def _with_fewer_beams(sweep: LidarSweep, keep_every: int, beams: tuple[int, float, float]) -> LidarSweep:
    kept = ring_of(sweep, beams) % keep_every == 0
    offsets = None if sweep.offsets_s is None else sweep.offsets_s[kept]
    return replace(sweep, points=sweep.points[kept], offsets_s=offsets)


# -- images that are bad


def darken(frame: Frame, factor: float) -> Frame:
    """Every grey value times a factor below 1, as at dusk (values are rounded, so dark detail is lost for good)."""
    table = np.round(np.arange(256) * factor).astype(np.uint8)
    return _on_images(frame, lambda rgb: table[rgb])


def blur(frame: Frame, sigma: float) -> Frame:
    """Gaussian blur; standard deviation in pixels of an image 1600 wide."""

    def blurred(rgb: np.ndarray) -> np.ndarray:
        radius = sigma * rgb.shape[1] / REFERENCE_WIDTH
        return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius)))

    return _on_images(frame, blurred)


def compress(frame: Frame, quality: int) -> Frame:
    """JPEG compressed again at a low quality (1..100)."""
    return _on_images(frame, lambda rgb: encode_jpeg(rgb, quality))


def damage_jpeg(frame: Frame, damaged_bytes: int, seed: int) -> Frame:
    """JPEG files of which some bytes of picture data arrived wrong; they may decode to garbage or not at all."""
    images: dict[str, CameraImage] = {}
    for name, image in frame.images.items():
        camera_image = _raw(name, image)
        data = camera_image.data if isinstance(camera_image.data, bytes) else encode_jpeg(camera_image.data, 90)
        random = _random(seed, frame.stamp_ns, name)
        images[name] = replace(camera_image, data=_with_wrong_bytes(data, damaged_bytes, random))
    return replace(frame, images=images)


def _with_wrong_bytes(data: bytes, count: int, random: np.random.Generator) -> bytes:
    scan = data.rfind(b"\xff\xda")  # marker "start of scan", followed by the length of its header
    first = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    last = len(data) - 2  # the marker "end of image" stays too, so that only picture data is wrong
    if scan < 0 or first >= last:
        return data  # no picture data: broken in the recording itself, the session will report it
    wrong = np.frombuffer(data, np.uint8).copy()
    wrong[random.integers(first, last, count)] = random.integers(0, 255, count)  # never 255, which starts a marker
    return wrong.tobytes()


def _on_images(frame: Frame, change: Callable[[np.ndarray], np.ndarray | bytes]) -> Frame:
    """Apply a change to the decoded pixels, uint8 RGB [H, W, 3], of every image that can be decoded."""
    images: dict[str, CameraImage] = {}
    for name, image in frame.images.items():
        camera_image = _raw(name, image)
        try:
            images[name] = replace(camera_image, data=change(decode_image(camera_image.data)))
        except InvalidInputError as error:  # broken in the recording itself: the session will report it
            logger.warning("camera %s left as it is: %s", name, error)
            images[name] = camera_image
    return replace(frame, images=images)


def _raw(name: str, image: object) -> CameraImage:
    if not isinstance(image, CameraImage):
        raise ConfigurationError(f"camera {name}: images can only be damaged before they are prepared for the network")
    return image


# -- calibration that is wrong


def disturb_extrinsics(frame: Frame, degrees: float, seed: int) -> Frame:
    """Every camera and LiDAR turned in its mounting by an angle about a random axis that stays the same for a sensor.

    The sensors measure what they did; what the vehicle believes of their orientation is wrong.
    """
    cameras = {
        name: replace(camera, ego_from_camera=camera.ego_from_camera @ _turn(degrees, seed, name))
        for name, camera in frame.rig.items()
    }
    sweeps = (
        replace(sweep, ego_from_lidar=sweep.ego_from_lidar @ _turn(degrees, seed, f"lidar {index}"))
        for index, sweep in enumerate(frame.lidar)
    )
    return replace(frame, rig=CameraRig(cameras), lidar=tuple(sweeps))


def _turn(degrees: float, seed: int, sensor: str) -> np.ndarray:
    axis = _random(seed, 0, sensor).normal(size=3)
    half = np.deg2rad(degrees) / 2
    return rigid([0.0, 0.0, 0.0], np.array([*(np.sin(half) * axis / np.linalg.norm(axis)), np.cos(half)]))


def _random(seed: int, stamp_ns: int, sensor: str = "") -> np.random.Generator:
    return np.random.default_rng([seed, stamp_ns, zlib.crc32(sensor.encode())])
