"""Warping a bird's-eye-view map or volume from an earlier ego frame into the current one (specs/alocc.md section 6)."""

import torch
from torch import Tensor

from occ_perception.ops.interpolation import Taps, bilinear_taps, interpolate_rows, trilinear_taps


def metres_from_index(origin: tuple[float, float, float], cell: float, planar: bool) -> Tensor:
    """4x4 float64 matrix from grid index (x, y, z) to metres, voxel i lying at origin + i * cell.

    QUIRK: a planar grid keeps z in metres (scale 1, no offset), and its plane is taken at z = 1 m.
    """
    matrix = torch.eye(4, dtype=torch.float64)
    axes = 2 if planar else 3
    for axis in range(axes):
        matrix[axis, axis] = cell
        matrix[axis, 3] = origin[axis]
    return matrix


def warp_taps(
    previous_from_current: Tensor,
    current_bda: Tensor,
    previous_bda: Tensor,
    metres: Tensor,
    size: tuple[int, ...],
) -> Taps:
    """Where every cell of the current grid lies in the previous grid, as taps over all B grids together.

    Args:
        previous_from_current: ego motion [B, 4, 4].
        current_bda, previous_bda: bird's-eye-view augmentation [B, 3, 3] of the two frames (identity at test time).
        metres: 4x4 index-to-metre matrix of ``metres_from_index``.
        size: (Y, X) of a map or (Y, X, Z) of a volume.
    """
    to_source = _index_transform(previous_from_current, current_bda, previous_bda, metres)
    batch, cells = to_source.shape[0], size[0] * size[1] * (size[2] if len(size) == 3 else 1)
    source = _cell_indices(size, to_source.device) @ to_source[:, :3, :3].mT + to_source[:, None, :3, 3]
    source = source.float()
    if len(size) == 2:
        taps = bilinear_taps(source[..., 0], source[..., 1], size[1], size[0])
    else:
        taps = trilinear_taps(source[..., 0], source[..., 1], source[..., 2], (size[1], size[0], size[2]))
    first_row = torch.arange(batch, dtype=torch.int32, device=to_source.device).repeat_interleave(cells) * cells
    return Taps(taps.rows + first_row[:, None], taps.weights)


def _index_transform(motion: Tensor, current_bda: Tensor, previous_bda: Tensor, metres: Tensor) -> Tensor:
    """previous index <- current index, [B, 4, 4] float64."""
    metres = metres.to(motion.device)
    undo_current = torch.linalg.inv(_homogeneous(current_bda))
    return torch.linalg.inv(metres) @ _homogeneous(previous_bda) @ motion.double() @ undo_current @ metres


def _homogeneous(rotation: Tensor) -> Tensor:
    matrix = torch.zeros(rotation.shape[0], 4, 4, dtype=torch.float64, device=rotation.device)
    matrix[:, :3, :3] = rotation
    matrix[:, 3, 3] = 1
    return matrix


def _cell_indices(size: tuple[int, ...], device: torch.device) -> Tensor:
    """Index (x, y, z) of every cell in row order, [cells, 3] float64; planar cells have z = 1 (see the quirk above)."""
    y, x = (torch.arange(n, dtype=torch.float64, device=device) for n in size[:2])
    depth = torch.arange(size[2], device=device) if len(size) == 3 else torch.ones(1, device=device)
    grid = torch.meshgrid(y, x, depth.double(), indexing="ij")
    return torch.stack([grid[1], grid[0], grid[2]], dim=-1).view(-1, 3)


def warp(frame: Tensor, taps: Taps) -> Tensor:
    """Channels-last frame [B, Y, X(, Z), C] of any float type -> the warped frame, float32, same shape."""
    return interpolate_rows(frame.reshape(-1, frame.shape[-1]), taps).view(frame.shape)
