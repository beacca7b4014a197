"""What the cameras of one frame give a network: checked images, calibration, and every camera's own pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame
from occ_perception.geometry import check_rigid, inverse
from occ_perception.models.base import ModelInput


@dataclass(frozen=True)
class CameraPoses:
    """Where the cameras that delivered an image were.

    Attributes:
        names: in network order.
        anchor_from_camera: camera to the ego frame at the anchor stamp, float64 [n, 4, 4].
        odom_from_camera: float64 [n, 4, 4]; None when the vehicle's pose is not known.
    """

    names: tuple[str, ...]
    anchor_from_camera: np.ndarray
    odom_from_camera: np.ndarray | None


def camera_poses(inputs: ModelInput) -> CameraPoses:
    """Poses of the present cameras, each at its own exposure.

    The working frame is the ego frame at the anchor stamp, which for published weights is the CAM_FRONT exposure
    (specs/alocc.md section 1).  A camera whose image has no pose of its own is taken as exposed at the anchor.
    """
    frame = inputs.frame
    names = tuple(name for name, here in zip(inputs.cameras, inputs.present, strict=True) if here)
    mounts = np.stack([check_rigid(frame.rig[name].ego_from_camera, f"{name}: ego_from_camera") for name in names])
    if frame.odom_from_ego is None:
        return CameraPoses(names, mounts, None)
    odom_from_anchor = check_rigid(frame.odom_from_ego, "odom_from_ego")
    odom_from_camera = np.stack(
        [_pose_of_image(frame, name, odom_from_anchor) @ mount for name, mount in zip(names, mounts, strict=True)]
    )
    return CameraPoses(names, inverse(odom_from_anchor) @ odom_from_camera, odom_from_camera)


def _pose_of_image(frame: Frame, name: str, default: np.ndarray) -> np.ndarray:
    pose = frame.images[name].odom_from_ego
    return default if pose is None else check_rigid(pose, f"{name}: odom_from_ego")


def image_affines(inputs: ModelInput, poses: CameraPoses) -> np.ndarray:
    """Original pixels to network pixels of the present cameras, float64 [n, 3, 3]."""
    if inputs.image_affines is None:
        raise InvalidInputError("images came without their affines (original to network pixels)")
    rows = [inputs.cameras.index(name) for name in poses.names]
    return inputs.image_affines.numpy()[rows]


def checked_intrinsics(frame: Frame, name: str) -> np.ndarray:
    """Camera matrix of the original image, float64 [3, 3]; InvalidInputError if it is no pinhole's."""
    matrix = frame.rig[name].intrinsics
    upright = np.abs(matrix[[1, 2, 2], [0, 0, 1]]).max() < 1e-9
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0 and upright):
        raise InvalidInputError(f"{name}: expected a pinhole matrix with positive focal lengths, got {matrix.tolist()}")
    return matrix


def image_from_anchor(inputs: ModelInput, poses: CameraPoses) -> np.ndarray:
    """Ego frame at the anchor stamp to (u d, v d, d, 1) of each present camera's network image, float64 [n, 4, 4]."""
    projections = np.tile(np.eye(4), (len(poses.names), 1, 1))
    intrinsics = np.stack([checked_intrinsics(inputs.frame, name) for name in poses.names])
    projections[:, :3, :3] = image_affines(inputs, poses) @ intrinsics
    return projections @ inverse(poses.anchor_from_camera)


def check_images(inputs: ModelInput, model: str, stride: int) -> Tensor:
    """The image tensor [N, 3, H, W], after checking number, size and type for the model of that name.

    Raises:
        InvalidInputError: what was expected and what came.
    """
    images = inputs.images
    if images is None or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = "none" if images is None else f"{images.dtype} {tuple(images.shape)}"
        raise InvalidInputError(f"{model}: expected float images [N, 3, H, W], got {got}")
    if not images.shape[0] == len(inputs.cameras) == len(inputs.present):
        raise InvalidInputError(
            f"{model}: {images.shape[0]} images for {len(inputs.cameras)} cameras {list(inputs.cameras)}"
        )
    if not any(inputs.present):
        raise InvalidInputError(f"{model}: no camera of {list(inputs.cameras)} delivered an image")
    height, width = images.shape[-2:]
    if height % stride or width % stride or min(height, width) < 2 * stride:
        raise InvalidInputError(f"{model}: image sides must be multiples of {stride}, got {width}x{height}")
    return images
