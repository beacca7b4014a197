"""Plane-sweep stereo between the current and the previous image of one moving camera (specs/alocc.md section 4.1)."""

import torch
from torch import Tensor

from occ_perception.ops.frustum import CameraTensors, inverse_intrinsics
from occ_perception.ops.interpolation import Taps, bilinear_taps, interpolate_rows

INVALID_PENALTY = 5.0
# QUIRK: a sample counts as outside when this one channel (first of the last group of four) is exactly zero.
INVALID_CHANNEL = 252
_PIXELS_PER_BLOCK = 64


def sweep_coordinates(
    points: Tensor, cameras: CameraTensors, previous_from_current: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where frustum points of the current image appear in the previous one.

    Args:
        points: (u, v, d) [D, h, w, 3] in network-image pixels and metres.
        cameras: calibration of the current frame, used for both views.
        previous_from_current: camera motion [B, N, 4, 4].
        image_size: (H, W) of the network image.

    Returns:
        x, y [B, N, D, h, w] in index units of a [h, w] feature map.
    """
    depth, height, width, _ = points.shape
    uvd = points.view(-1, 3).T
    undo_image_affine = torch.inverse(cameras.post_rots)
    combined = previous_from_current[..., :3, :3] @ inverse_intrinsics(cameras.intrins)
    views = [
        _sweep_one_camera(uvd, image_size, (width, height), *matrices)
        for matrices in zip(
            undo_image_affine.flatten(0, 1),
            combined.flatten(0, 1),
            previous_from_current[..., :3, 3].flatten(0, 1),
            cameras.intrins.flatten(0, 1),
            cameras.post_rots.flatten(0, 1),
            cameras.post_trans.flatten(0, 1),
            strict=True,
        )
    ]
    shape = (*cameras.trans.shape[:2], depth, height, width)
    return torch.stack([view[0] for view in views]).view(shape), torch.stack([view[1] for view in views]).view(shape)


def _sweep_one_camera(
    uvd: Tensor,
    image_size: tuple[int, int],
    map_size: tuple[int, int],
    undo_image_affine: Tensor,
    combined: Tensor,
    translation: Tensor,
    intrins: Tensor,
    post_rot: Tensor,
    post_tran: Tensor,
) -> tuple[Tensor, Tensor]:
    # Written out in the published order of float32 operations: at zero motion the samples fall exactly on pixels or
    # one rounding error beside them, and the exact-zero test on INVALID_CHANNEL sees the difference.
    u, v, d = _rotate(undo_image_affine, *(uvd - post_tran[:, None]))
    moved = _rotate(combined, u * d, v * d, d)
    moved = tuple(axis + shift for axis, shift in zip(moved, translation, strict=True))
    behind = moved[2] < 1e-3
    u, v, d = _rotate(intrins, *moved)
    u, v = u / d, v / d
    x = post_rot[0, 0] * u + post_rot[0, 1] * v + post_tran[0]
    y = post_rot[1, 0] * u + post_rot[1, 1] * v + post_tran[1]
    x, y = (
        (pixel / (image - 1.0) * 2.0 - 1.0).masked_fill_(behind, -2.0).add_(1).mul_((cells - 1) / 2)
        for pixel, image, cells in zip((x, y), reversed(image_size), map_size, strict=True)
    )
    return x, y


def _rotate(matrix: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """3x3 matrix times the point (x, y, z), each coordinate a flat tensor."""
    rows = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
    return tuple(rows)


def stereo_cost_volume(current: Tensor, previous: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Matching probability over depth for M image pairs.

    Args:
        current, previous: feature maps [M, C, h, w].
        x, y: sample positions [M, D, h, w] in index units of ``previous``.

    Returns:
        softmax over depth of minus the L1 matching cost, [M, D, h, w] float32, channels-last memory.
    """
    probabilities = [_matching_probability(*pair) for pair in zip(current, previous, x, y, strict=True)]
    return torch.stack(probabilities).unflatten(1, current.shape[-2:]).movedim(-1, 1)


def _matching_probability(current: Tensor, previous: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Softmax of one image pair [h * w, D], computed for a block of pixels at a time so that it stays in cache."""
    channels, height, width = current.shape
    depth = x.shape[0]
    table = previous.movedim(0, -1).reshape(-1, channels).float()
    own = current.movedim(0, -1).reshape(-1, 1, channels).float()
    taps = bilinear_taps(x.flatten(1).T, y.flatten(1).T, width, height)
    cost = own.new_empty(height * width, depth)
    block = _PIXELS_PER_BLOCK if not own.is_cuda else 4096
    for start in range(0, height * width, block):
        stop = min(start + block, height * width)
        rows = slice(start * depth, stop * depth)
        warped = interpolate_rows(table, Taps(taps.rows[rows], taps.weights[rows])).view(-1, depth, channels)
        outside = warped[..., INVALID_CHANNEL] == 0
        cost[start:stop] = torch.cdist(own[start:stop], warped, p=1).squeeze(1) + INVALID_PENALTY * outside
    return torch.softmax(-cost, dim=1)
