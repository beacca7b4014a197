"""Rigid transforms: 4x4 float64 matrices named ``dst_from_src``, quaternions in xyzw order (as in ROS)."""

from __future__ import annotations

import numpy as np

from occ_perception.errors import InvalidInputError


def rotation_from_quaternion(quaternion_xyzw: np.ndarray) -> np.ndarray:
    """Rotation matrices of quaternions [..., 4] (x, y, z, w; normalised here), float64 [..., 3, 3].

    Raises:
        InvalidInputError: a quaternion is not finite or has no length.
    """
    q = np.asarray(quaternion_xyzw, np.float64)
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    if not np.all(np.isfinite(q)) or np.any(length < 1e-6):
        raise InvalidInputError(f"quaternion: expected 4 finite numbers of non-zero length, got {q.tolist()}")
    x, y, z, w = np.moveaxis(q / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w; w >= 0) of a rotation matrix [3, 3], float64 [4] (Shepperd's method)."""
    m = np.asarray(rotation, np.float64)
    # Four ways to write 4*q*q_k; the one with the largest diagonal is well conditioned.
    candidates = np.array(
        [
            [1 + m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 - m[0, 0] - m[1, 1] + m[2, 2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    q = candidates[np.argmax(np.diagonal(candidates))]
    q = q / np.linalg.norm(q)
    return -q if q[3] < 0 else q


def rigid(translation: np.ndarray | list[float] | tuple[float, ...], quaternion_xyzw: np.ndarray) -> np.ndarray:
    """4x4 transform of a translation [3] (metres) and a quaternion [4] (x, y, z, w)."""
    return rigid_from_rotation(rotation_from_quaternion(quaternion_xyzw), translation)


def rigid_from_rotation(rotation: np.ndarray, translation: np.ndarray | list[float] | tuple[float, ...]) -> np.ndarray:
    """4x4 transform of a rotation matrix [3, 3] and a translation [3] (metres)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


def inverse(dst_from_src: np.ndarray) -> np.ndarray:
    """``src_from_dst`` of rigid transforms [..., 4, 4], float64."""
    rotation_t = np.swapaxes(dst_from_src[..., :3, :3], -1, -2)
    out = np.zeros_like(dst_from_src, dtype=np.float64)
    out[..., :3, :3] = rotation_t
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, dst_from_src[..., :3, 3])
    out[..., 3, 3] = 1.0
    return out


def transform_points(dst_from_src: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 3] of src in dst, in the points' own float type."""
    matrix = np.asarray(dst_from_src)
    rotation = matrix[:3, :3].astype(points.dtype)
    return points @ rotation.T + matrix[:3, 3].astype(points.dtype)


def slerp(start_xyzw: np.ndarray, end_xyzw: np.ndarray, fraction: float) -> np.ndarray:
    """Quaternion at ``fraction`` (0..1) of the shorter arc between two unit quaternions [4]."""
    cosine = float(np.dot(start_xyzw, end_xyzw))
    end = -end_xyzw if cosine < 0 else end_xyzw  # q and -q are the same rotation: take the near one
    cosine = min(abs(cosine), 1.0)
    angle = np.arccos(cosine)
    if angle < 1e-6:  # sin(angle) underflows; linear is exact to 1e-12 here
        blended = (1 - fraction) * start_xyzw + fraction * end
    else:
        blended = np.sin((1 - fraction) * angle) * start_xyzw + np.sin(fraction * angle) * end
    return blended / np.linalg.norm(blended)


def check_rigid(matrix: np.ndarray, name: str) -> np.ndarray:
    """Return ``matrix`` as float64 [4, 4], or raise if it is not a proper rigid transform.

    Raises:
        InvalidInputError: wrong shape, not finite, or the upper-left 3x3 is no rotation (1e-3).
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        raise InvalidInputError(f"{name}: expected a finite 4x4 transform, got shape {matrix.shape}: {matrix.tolist()}")
    rotation = matrix[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > 1e-3 or np.linalg.det(rotation) < 0 or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise InvalidInputError(f"{name}: expected a rigid transform, got (R R^T is {off:.2g} off) {matrix.tolist()}")
    return matrix
