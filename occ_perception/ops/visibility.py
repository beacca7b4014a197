"""Which voxels cameras and LiDAR can see, given what is occupied: free-seen, occupied-seen, occluded, or unknown."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

import torch

from occ_perception.ops.relabel import relabel

SEEN_BY_NO_CAMERA, FREE_SEEN, OCCUPIED_SEEN, OCCLUDED = 0, 1, 2, 3


def camera_rays(intrinsics: torch.Tensor, width: int, height: int, stride: float) -> torch.Tensor:
    """Unit directions of rays through a regular pixel lattice, float32 [R, 3], camera optical frame.

    Args:
        intrinsics: [3, 3] of the image the model sees (after resize and crop), pixels.
        width, height: size of that image.
        stride: pixels between rays.
    """
    u = torch.arange(stride / 2, width, stride, dtype=torch.float64)
    v = torch.arange(stride / 2, height, stride, dtype=torch.float64)
    vv, uu = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([uu, vv, torch.ones_like(uu)], dim=-1).reshape(-1, 3)
    rays = pixels @ torch.linalg.inv(intrinsics.double()).T
    return torch.nn.functional.normalize(rays, dim=1).float()


def beside(voxels: torch.Tensor) -> torch.Tensor:
    """Voxels that share a face with a marked one, bool [X, Y, Z] from bool [X, Y, Z]."""
    touching = torch.zeros_like(voxels)
    for axis in range(3):
        lower, upper = (part(voxels, axis) for part in (_all_but_last, _all_but_first))
        _all_but_first(touching, axis).logical_or_(lower)
        _all_but_last(touching, axis).logical_or_(upper)
    return touching


def with_lidar(
    visibility: torch.Tensor, occupied: torch.Tensor, hits: torch.Tensor, passed: torch.Tensor | None
) -> torch.Tensor:
    """The cameras' visibility together with what a LiDAR measured.

    A return in a voxel that is said to be free contradicts it; such a voxel is not seen to be free.

    Args:
        visibility: uint8 [X, Y, Z], see `CameraVisibility`.
        occupied: bool [X, Y, Z], what is said to be.
        hits: bool [X, Y, Z], voxels with a return.
        passed: bool [X, Y, Z], voxels that beams went through; None = not known.
    """
    if passed is not None:
        free = passed & ~occupied
        visibility = relabel(visibility, free, FREE_SEEN)
        visibility = relabel(visibility, occupied & beside(free), OCCUPIED_SEEN)
    return relabel(relabel(visibility, hits, OCCLUDED), hits & occupied, OCCUPIED_SEEN)


def _all_but_first(voxels: torch.Tensor, axis: int) -> torch.Tensor:
    return voxels.narrow(axis, 1, voxels.shape[axis] - 1)


def _all_but_last(voxels: torch.Tensor, axis: int) -> torch.Tensor:
    return voxels.narrow(axis, 0, voxels.shape[axis] - 1)


class RayTable(NamedTuple):
    """The voxels along the rays of one camera."""

    blocks: tuple[torch.Tensor, ...]
    """Voxels in the order in which each ray meets them, int32 linear indices [rays, steps]: one block after the other.
    The rays that end earlier come last, and later blocks are without them; V fills up the rows."""
    covered: torch.Tensor
    """uint8 [V + 1], 1 for voxels that any ray meets."""


class CameraVisibility:
    """Visibility of a voxel grid from fixed cameras.

    For every camera the voxels along a fan of rays are tabulated once per calibration (sampled every half voxel, so
    no voxel on a ray is skipped except where the ray cuts less than half a voxel off a corner); a frame then costs
    a gather and a scatter of those up to the first that is occupied.  An occupied voxel is seen if a ray ends there, or
    if it has a face towards free space that is seen.  The mounting pose is used, without the few decimetres the
    vehicle moves between the images of one set.

    Args:
        lower: minimum corner of the grid, metres; voxel_size: metres; size: cells along x, y, z.
        device: where the tables live.
    """

    _MAX_CACHED_CAMERAS = 32
    _STRIDES = (2.0, 8.0)  # pixels between rays: finer costs memory, coarser skips voxels near the camera

    def __init__(
        self,
        lower: tuple[float, float, float],
        voxel_size: float,
        size: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self.lower = torch.tensor(lower, dtype=torch.float32)
        self.voxel_size = voxel_size
        self.size = size
        self.device = device
        self.num_voxels = size[0] * size[1] * size[2]
        self.steps_per_block = 16 if device.type == "cpu" else None
        self._tables: OrderedDict[Hashable, RayTable] = OrderedDict()

    def __call__(
        self, occupied: torch.Tensor, cameras: list[tuple[Hashable, torch.Tensor, torch.Tensor, int, int]]
    ) -> torch.Tensor:
        """Visibility of every voxel.

        Args:
            occupied: bool [X, Y, Z].
            cameras: of those that delivered an image: (cache key that changes with the calibration, intrinsics of
                the network input [3, 3], ego_from_camera [4, 4], width, height of the network input).

        Returns:
            uint8 [X, Y, Z], numbered as `occupancy.Visibility`, on this object's device, where `occupied` must be too.
        """
        # One cell more than the grid: where samples outside the grid point to.
        padded = torch.zeros(self.num_voxels + 1, dtype=torch.uint8, device=self.device)
        padded[:-1] = occupied.reshape(-1)
        seen = torch.zeros_like(padded)
        in_view = torch.zeros_like(padded)
        for key, intrinsics, ego_from_camera, width, height in cameras:
            table = self._table(key, intrinsics, ego_from_camera, width, height)
            self._mark_seen(padded, table.blocks, seen)
            in_view |= table.covered
        seen, in_view = (marks[:-1].view(self.size).bool() for marks in (seen, in_view))
        # Rays that graze a surface meet it many voxels apart; what they passed tells where it is in between.
        seen |= occupied & in_view & beside(seen & ~occupied)
        visibility = torch.full(self.size, SEEN_BY_NO_CAMERA, dtype=torch.uint8, device=self.device)
        visibility = relabel(relabel(visibility, in_view, OCCLUDED), seen, FREE_SEEN)
        return relabel(visibility, seen & occupied, OCCUPIED_SEEN)

    def _mark_seen(self, occupied: torch.Tensor, blocks: tuple[torch.Tensor, ...], seen: torch.Tensor) -> None:
        """Mark the voxels up to and including each ray's first occupied one.

        On a CPU the rays go in blocks of steps and those that hit something drop out (most end in the ground within
        a few metres); on a GPU all steps are one block, since dropping rays would need a host synchronisation.
        """
        going_on = torch.arange(len(blocks[0]), device=self.device) if len(blocks) > 1 else None
        for block in blocks:
            if going_on is not None:
                going_on = going_on[: int(torch.searchsorted(going_on, len(block)))]
                block = block.index_select(0, going_on)
            cells = block.flatten()
            hits = occupied.index_select(0, cells).view(block.shape)
            hits_so_far = torch.cumsum(hits, dim=1, dtype=torch.int16)
            hidden = (hits_so_far != hits).flatten()  # behind a hit; before it both are 0, and at it both are 1
            seen.index_fill_(0, cells.masked_fill(hidden, self.num_voxels).long(), 1)
            if going_on is not None:
                going_on = going_on[hits_so_far[:, -1] == 0]

    def _table(
        self, key: Hashable, intrinsics: torch.Tensor, ego_from_camera: torch.Tensor, width: int, height: int
    ) -> RayTable:
        if key not in self._tables:
            rays = self._voxels_of_rays(self._samples(intrinsics, ego_from_camera, width, height))
            covered = torch.zeros(self.num_voxels + 1, dtype=torch.uint8, device=self.device)
            covered[rays.flatten().long()] = 1
            lengths = (rays < self.num_voxels).sum(dim=1)
            block = self.steps_per_block or rays.shape[1]
            starts = range(0, rays.shape[1], block)
            blocks = tuple(rays[: int((lengths > at).sum()), at : at + block].contiguous() for at in starts)
            self._tables[key] = RayTable(blocks, covered)
        self._tables.move_to_end(key)
        while len(self._tables) > self._MAX_CACHED_CAMERAS:
            self._tables.popitem(last=False)
        return self._tables[key]

    def _samples(
        self, intrinsics: torch.Tensor, ego_from_camera: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        """Linear voxel index of each ray's sample every half voxel, int32 [R, S]; V outside of the grid."""
        origin = ego_from_camera[:3, 3].float()
        upper = self.lower + self.voxel_size * torch.tensor(self.size)
        reach = float(torch.maximum((upper - origin).abs(), (self.lower - origin).abs()).norm())
        # Neighbouring rays are one voxel apart at the far corner of the grid.
        stride = min(max(float(intrinsics[0, 0]) * self.voxel_size / reach, self._STRIDES[0]), self._STRIDES[1])
        rays = camera_rays(intrinsics, width, height, stride) @ ego_from_camera[:3, :3].float().T
        distance = torch.arange(0.5, reach / self.voxel_size, 0.5)
        start = (origin - self.lower) / self.voxel_size
        linear = torch.zeros((rays.shape[0], distance.numel()), dtype=torch.int32)
        inside = torch.ones(linear.shape, dtype=torch.bool)
        for axis in range(3):  # x, y, z; in one tensor the temporaries would be three times as large
            index = torch.floor(start[axis] + distance * rays[:, axis, None]).to(torch.int32)
            inside &= (index >= 0) & (index < self.size[axis])
            linear = linear * self.size[axis] + index
        return torch.where(inside, linear, self.num_voxels)

    def _voxels_of_rays(self, samples: torch.Tensor) -> torch.Tensor:
        """Each voxel once, without those outside, int32 [R, steps] filled up with V; rays of many voxels first."""
        enters = samples != self.num_voxels
        enters[:, 1:] &= samples[:, 1:] != samples[:, :-1]
        lengths = enters.sum(dim=1)
        steps = max(int(lengths.max()), 1)
        voxels = torch.full((len(samples), steps), self.num_voxels, dtype=torch.int32)
        voxels.masked_scatter_(torch.arange(steps) < lengths[:, None], samples[enters])
        return voxels[lengths.argsort(descending=True, stable=True)].to(self.device)
