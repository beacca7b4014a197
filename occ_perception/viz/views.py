"""Cameras to look at a grid with, and the rays of their pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from occ_perception.geometry import ImageAffine, PinholeCamera, rigid_from_rotation


def look_at(
    eye: tuple[float, float, float],
    target: tuple[float, float, float],
    width: int,
    height: int,
    horizontal_fov_deg: float = 60.0,
) -> PinholeCamera:
    """A camera at ``eye`` looking at ``target`` (metres, grid frame) with the z axis upward in the picture."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    focal = 0.5 * width / np.tan(np.radians(horizontal_fov_deg) / 2)
    intrinsics = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return PinholeCamera(intrinsics, rigid_from_rotation(rotation, eye), width, height)


def resized(camera: PinholeCamera, width: int) -> PinholeCamera:
    """The same camera with an image of another width, in proportion."""
    height = round(camera.height * width / camera.width)
    affine = ImageAffine((width / camera.width, height / camera.height))
    return replace(camera, intrinsics=affine.matrix() @ camera.intrinsics, width=width, height=height)


def pixel_rays(camera: PinholeCamera) -> np.ndarray:
    """Unit directions through the pixel centres in row order, in the frame the camera is mounted in, float64 [R, 3]."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    directions = pixels @ np.linalg.inv(camera.intrinsics).T @ camera.ego_from_camera[:3, :3].T
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def project_points(camera: PinholeCamera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of points [N, 3] given in the frame the camera is mounted in.

    Returns:
        (pixels [N, 2], in_front bool [N]); pixels of points behind the camera are meaningless.
    """
    rotation, translation = camera.ego_from_camera[:3, :3], camera.ego_from_camera[:3, 3]
    pixels, depth, _ = camera.project((np.asarray(points, np.float64) - translation) @ rotation)
    return pixels, depth > 1e-3
