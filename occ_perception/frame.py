"""One synchronised set of measurements: what goes into a `Session`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import CameraRig

if TYPE_CHECKING:
    import torch  # a second to import, which whoever only reads or converts data is spared


@dataclass(frozen=True)
class CameraImage:
    """One image as it came.

    Attributes:
        stamp_ns: exposure stamp, nanoseconds.
        data: JPEG (or PNG) bytes, or uint8 RGB [H, W, 3].
        odom_from_ego: pose of the vehicle at this image's stamp, float64 [4, 4]; None if not known.
    """

    stamp_ns: int
    data: bytes | np.ndarray
    odom_from_ego: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedImage:
    """An image that is already network input (decoded, resized, cropped; see `preprocessing.ImagePipeline`).

    Attributes:
        stamp_ns: exposure stamp, nanoseconds.
        pixels: uint8 RGB [3, h, w] at the network's input size.
        odom_from_ego: as in `CameraImage`.
    """

    stamp_ns: int
    pixels: torch.Tensor
    odom_from_ego: np.ndarray | None = None


@dataclass(frozen=True)
class LidarSweep:
    """One LiDAR sweep, already motion compensated to its stamp (nuScenes is; raw drivers: see `deskew`).

    Attributes:
        stamp_ns: stamp the points refer to, nanoseconds.
        points: float32 [N, >= 3], x, y, z (metres, LiDAR frame) and optionally intensity.
        ego_from_lidar: mounting pose, float64 [4, 4].
        odom_from_ego: pose of the vehicle at the sweep's stamp, float64 [4, 4]; None if not known.
        offsets_s: float32 [N] time at which each point was measured, relative to the stamp (negative: before it), when
            the driver gives it; then the beam's origin moved with the vehicle and carving accounts for it.
    """

    stamp_ns: int
    points: np.ndarray
    ego_from_lidar: np.ndarray
    odom_from_ego: np.ndarray | None = None
    offsets_s: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] < 3:
            raise InvalidInputError(f"LiDAR sweep: expected points [N, >= 3], got shape {self.points.shape}")


@dataclass(frozen=True)
class Frame:
    """One synchronised set.

    Attributes:
        stamp_ns: anchor stamp, nanoseconds; the published grid is ``base_link`` at this stamp.
        rig: every camera that is configured and calibrated, present in this set or not.
        images: the images that really came, by camera name.
        lidar: sweeps of this set (newest last), empty when there is no LiDAR.
        odom_from_ego: pose of the vehicle at the anchor stamp; None means no temporal fusion.
        fixed_frame: name of the frame that poses refer to; when it changes, poses before and after do not compare.
        notes: what the assembler of the set had to say (late tf, a camera dropped and why), for diagnostics.
    """

    stamp_ns: int
    rig: CameraRig = field(default_factory=CameraRig)
    images: Mapping[str, CameraImage | PreparedImage] = field(default_factory=dict)
    lidar: tuple[LidarSweep, ...] = ()
    odom_from_ego: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    fixed_frame: str = "odom"

    def __post_init__(self) -> None:
        uncalibrated = [name for name in self.images if name not in self.rig]
        if uncalibrated:
            raise InvalidInputError(f"frame: images of cameras without calibration: {uncalibrated}")
