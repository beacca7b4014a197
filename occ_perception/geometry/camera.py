"""Pinhole cameras, the image-plane affine of resize and crop, and rigs of named cameras."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry.transforms import check_rigid


@dataclass(frozen=True)
class ImageAffine:
    """Where a pixel of the original image lands in the network's input: ``p' = scale * p - offset``.

    Attributes:
        scale: resize factors (u, v).
        offset: upper-left corner of the crop in the resized image, pixels (u, v).
    """

    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> np.ndarray:
        """The affine as a 3x3 matrix on homogeneous pixels, float64."""
        (su, sv), (ou, ov) = self.scale, self.offset
        return np.array([[su, 0.0, -ou], [0.0, sv, -ov], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class PinholeCamera:
    """An undistorted pinhole camera (optical axes: x right, y down, z forward).

    Attributes:
        intrinsics: float64 [3, 3], pixels of the original image.
        ego_from_camera: float64 [4, 4], mounting pose in the vehicle frame (base_link).
        width, height: size of the original image, pixels.
    """

    intrinsics: np.ndarray
    ego_from_camera: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        intrinsics = np.asarray(self.intrinsics, np.float64)
        if intrinsics.shape != (3, 3) or not np.all(np.isfinite(intrinsics)):
            raise InvalidInputError(f"intrinsics: expected finite 3x3, got shape {intrinsics.shape}")
        if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0 or abs(intrinsics[2, 2] - 1) > 1e-9:
            raise InvalidInputError(f"intrinsics: focal lengths must be > 0 and K[2,2] = 1, got {intrinsics.tolist()}")
        if self.width < 1 or self.height < 1:
            raise InvalidInputError(f"camera: expected a positive image size, got {self.width}x{self.height}")
        object.__setattr__(self, "intrinsics", intrinsics)
        object.__setattr__(self, "ego_from_camera", check_rigid(self.ego_from_camera, "ego_from_camera"))

    def project(self, points_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project points given in the camera's optical frame.

        Args:
            points_camera: [N, 3] metres.

        Returns:
            (pixels [N, 2] of the original image, depth [N] metres, visible bool [N]: in front and inside the image).
        """
        depth = points_camera[:, 2]
        safe = np.where(depth > 1e-3, depth, 1.0)
        pixels = (points_camera / safe[:, None]) @ self.intrinsics[:2].T
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < self.width) & (pixels[:, 1] < self.height)
        return pixels, depth, inside & (depth > 1e-3)


@dataclass(frozen=True)
class CameraRig(Mapping[str, PinholeCamera]):
    """Calibrated cameras by name, in a fixed order; what depends only on calibration is cached by `fingerprint`."""

    cameras: Mapping[str, PinholeCamera] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PinholeCamera:
        return self.cameras[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names, order, sizes, intrinsics and extrinsics: the key of every per-calibration cache."""
        digest = hashlib.sha256()
        for name, camera in self.cameras.items():
            digest.update(f"{name}/{camera.width}x{camera.height}/".encode())
            digest.update(camera.intrinsics.tobytes() + camera.ego_from_camera.tobytes())
        return digest.hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.fingerprint)
