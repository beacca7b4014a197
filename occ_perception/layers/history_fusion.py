"""Temporal fusion of the last 16 lifted volumes, aligned by ego motion (specs/alocc.md section 6).

``fuse_history`` is the method as written; ``fuse_history_framewise`` gives the same result for inference, one frame
at a time, without the 17-frame concatenation (3-D: 1.4 GB) and with one warp per stored frame.
"""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from occ_perception.ops.grid_warp import warp
from occ_perception.ops.interpolation import Taps, rows_to_volume, volume_to_rows

HistoryUpdate = Literal["copy", "overwrite", "keep"]
"""The new state gets memory of its own; takes over that of the old one; or is not made (the old one is returned)."""


class HistoryState(NamedTuple):
    """Stored volumes, newest first, of B streams."""

    frames: Tensor  # [B, T, Y, X(, Z), C], channels last; float32 or float16
    ages: Tensor  # [B, T] in frames


def mixing_conv(in_channels: int, out_channels: int, volumetric: bool) -> nn.Sequential:
    """1x1 convolution, normalisation, ReLU over a BEV map or a volume."""
    if volumetric:
        return nn.Sequential(nn.Conv3d(in_channels, out_channels, 1), nn.BatchNorm3d(out_channels), nn.ReLU())
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU())


def start_history(current: Tensor, frames: int, dtype: torch.dtype = torch.float32) -> HistoryState:
    """The state before the first fusion: ``frames`` copies of the current volume [B, C, Y, X(, Z)], age 0."""
    last = current.detach().movedim(1, -1)
    copies = last.unsqueeze(1).expand(-1, frames, *(-1,) * (last.ndim - 1))
    return HistoryState(copies.to(dtype).contiguous(), last.new_zeros(last.shape[0], frames, dtype=torch.float32))


def restart_history(
    current: Tensor,
    state: HistoryState | None,
    starts: tuple[bool, ...],
    frames: int,
    dtype: torch.dtype = torch.float32,
) -> HistoryState:
    """The state counted up to this frame: stored frames age by one, streams that begin with this frame start anew.

    ``dtype`` is that of a new state; float16 halves its memory.

    QUIRK: with no state, a stream that does not begin here still gets copies of the current volume of age 1.
    """
    if state is None or all(starts):
        state = start_history(current, frames, dtype)
    elif any(starts):
        fresh = start_history(current, frames, state.frames.dtype)
        begun = torch.tensor(starts, device=current.device)
        begun_frames = begun.view(-1, *(1,) * (state.frames.ndim - 1))
        state = HistoryState(
            torch.where(begun_frames, fresh.frames, state.frames),
            torch.where(begun[:, None], fresh.ages, state.ages),
        )
    older = torch.tensor([0.0 if start else 1.0 for start in starts], device=current.device)
    return HistoryState(state.frames, state.ages + older[:, None])


def fuse_history(
    current: Tensor,
    state: HistoryState,
    taps: Taps,
    interval: float,
    frame_conv: nn.Sequential,
    cat_conv: nn.Sequential,
) -> tuple[Tensor, HistoryState]:
    """Warp all stored frames, give each its age as a channel, mix all 17 (training, and the reference).

    Args:
        current: lifted volume [B, C, Y, X(, Z)].
        state: stored frames and their ages, already counted up to this frame.
        taps: cell positions in the previous grid, of ``warp_taps``.
        interval: seconds per frame of age.
        frame_conv: 1x1 convolution, normalisation, ReLU on each frame and its age, [C + 1 -> C].
        cat_conv: the same on all frames, newest first, [17 C -> C].

    Returns:
        the fused volume [B, C, Y, X(, Z)] and the state for the next frame (detached).
    """
    batch, count = state.frames.shape[:2]
    warped = torch.stack([warp(frame, taps) for frame in state.frames.unbind(1)], dim=1)
    frames = torch.cat([current.movedim(1, -1).unsqueeze(1), warped], dim=1)
    ages = torch.cat([torch.zeros_like(state.ages[:, :1]), state.ages], dim=1)
    age_plane = (ages * interval).view(batch, count + 1, *(1,) * (frames.ndim - 2)).expand(*frames.shape[:-1], 1)
    stacked = torch.cat([frames, age_plane], dim=-1).movedim(-1, 2)
    mixed = frame_conv(stacked.flatten(0, 1)).unflatten(0, (batch, count + 1)).flatten(1, 2)
    kept = frames[:, :count].detach().to(state.frames.dtype)
    return cat_conv(mixed), HistoryState(kept, ages[:, :count])


def fuse_history_framewise(
    current: Tensor,
    state: HistoryState,
    taps: Taps,
    interval: float,
    frame_conv: nn.Sequential,
    cat_conv: nn.Sequential,
    update: HistoryUpdate = "copy",
) -> tuple[Tensor, HistoryState]:
    """``fuse_history`` in evaluation mode, frame by frame; ``update`` says what becomes of ``state``."""
    frame_weight, frame_bias = _affine(frame_conv)
    cat_weight, cat_bias = _affine(cat_conv)
    channels, count = current.shape[1], state.frames.shape[1]
    feature_weight, age_weight = frame_weight[:, :channels].T.contiguous(), frame_weight[:, channels]
    # The age plane is constant per frame, so it is a bias.
    ages = torch.cat([torch.zeros_like(state.ages[:, :1]), state.ages], dim=1)
    biases = frame_bias + (ages * interval)[..., None] * age_weight
    slices = cat_weight.view(channels, count + 1, channels).permute(1, 2, 0).contiguous()

    rows = volume_to_rows(current)
    batch, space = current.shape[0], tuple(current.shape[2:])
    frames = state.frames.clone() if update == "copy" else state.frames
    fused = torch.addmm(cat_bias, _mix(rows, biases[:, 0], feature_weight), slices[0])
    # Oldest first, so that each slot is read before its newer neighbour is written into it.
    for slot in range(count - 1, -1, -1):
        warped = warp(frames[:, slot], taps)
        mixed = _mix(warped.view(-1, channels), biases[:, slot + 1], feature_weight)
        fused.addmm_(mixed, slices[slot + 1])
        if slot + 1 < count and update != "keep":
            frames[:, slot + 1] = warped
    volume = rows_to_volume(fused.relu_(), batch, space)
    if update == "keep":
        return volume, state
    frames[:, 0] = rows.view(batch, *space, channels)
    return volume, HistoryState(frames, ages[:, :count])


def _mix(rows: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """relu(rows @ weight + bias of the row's sample): rows [B * V, C], bias [B, C] -> [B * V, C]."""
    samples = rows.view(bias.shape[0], -1, rows.shape[1])
    mixed = torch.baddbmm(bias[:, None], samples, weight.expand(bias.shape[0], -1, -1))
    return mixed.relu_().view(rows.shape)


def _affine(block: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out] of a 1x1 convolution and the normalisation after it, in evaluation mode."""
    convolution, norm = cast("nn.Conv2d | nn.Conv3d", block[0]), block[1]
    weight, bias = convolution.weight.flatten(1), cast("Tensor", convolution.bias)
    if not isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return weight, bias  # already folded
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return weight * scale[:, None], (bias - mean) * scale + norm.bias
