"""Image points with depth to vehicle coordinates and back, for batches of cameras (specs/alocc.md 4.1, 5.4)."""

from typing import NamedTuple

import torch
from torch import Tensor


class CameraTensors(NamedTuple):
    """Calibration of B x N cameras as the networks take it, float32.

    A pixel of the network's image is ``post_rots @ (u, v, 1) + post_trans`` of the original pixel; ``rots`` and
    ``trans`` take camera to ego coordinates; ``bda`` is the bird's-eye-view augmentation (identity at test time).
    """

    rots: Tensor  # [B, N, 3, 3]
    trans: Tensor  # [B, N, 3]
    intrins: Tensor  # [B, N, 3, 3]
    post_rots: Tensor  # [B, N, 3, 3]
    post_trans: Tensor  # [B, N, 3]
    bda: Tensor  # [B, 3, 3]


def frustum(image_size: tuple[int, int], stride: int, depths: Tensor) -> Tensor:
    """Points (u, v, d) [D, H / stride, W / stride, 3]: pixels span the image corner to corner, d in metres."""
    height, width = image_size
    v = torch.linspace(0, height - 1, height // stride, device=depths.device)
    u = torch.linspace(0, width - 1, width // stride, device=depths.device)
    grid = torch.meshgrid(depths, v, u, indexing="ij")
    return torch.stack([grid[2], grid[1], grid[0]], dim=-1)


def depth_values(start: float, step: float, bins: int, device: torch.device | None = None) -> Tensor:
    """Depth of each bin in metres, float32 [bins]."""
    return start + step * torch.arange(bins, dtype=torch.float32, device=device)


def inverse_intrinsics(intrins: Tensor) -> Tensor:
    """Inverse of upper triangular camera matrices [..., 3, 3] whose last row is (0, 0, 1).

    In closed form, so that the last bit does not depend on the machine's LAPACK; the stereo match feels that bit
    (see ``cost_volume``), and products with the reciprocal focal length reproduce the published outputs exactly.
    """
    inverse = torch.zeros_like(intrins)
    fx, fy = 1 / intrins[..., 0, 0], 1 / intrins[..., 1, 1]
    skew = -(intrins[..., 0, 1] * fx) * fy
    inverse[..., 0, 0], inverse[..., 1, 1], inverse[..., 2, 2] = fx, fy, 1
    inverse[..., 0, 1] = skew
    inverse[..., 0, 2] = -(intrins[..., 0, 2] * fx) - intrins[..., 1, 2] * skew
    inverse[..., 1, 2] = -(intrins[..., 1, 2] * fy)
    return inverse


def image_to_ego(points: Tensor, cameras: CameraTensors) -> Tensor:
    """Points (u, v, d) [B, N, ..., 3] of each camera's network image -> ego coordinates after ``bda``, same shape."""
    shape = points.shape
    flat = points.reshape(shape[0], shape[1], -1, 3)
    flat = (flat - cameras.post_trans[:, :, None]) @ torch.inverse(cameras.post_rots).mT
    rays = torch.cat([flat[..., :2] * flat[..., 2:], flat[..., 2:]], dim=-1)
    ego_from_ray = cameras.rots @ inverse_intrinsics(cameras.intrins)
    ego = rays @ ego_from_ray.mT + cameras.trans[:, :, None]
    return (ego @ cameras.bda[:, None].mT).view(shape)
