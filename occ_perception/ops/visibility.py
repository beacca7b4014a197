"""Which voxels cameras and LiDAR can see, given what is occupied: free-seen, occupied-seen, occluded, or unknown."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

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
        visibility = torch.where(free, FREE_SEEN, visibility)
        visibility = torch.where(occupied & beside(free), OCCUPIED_SEEN, visibility)
    return torch.where(hits, torch.where(occupied, OCCUPIED_SEEN, OCCLUDED), visibility).to(torch.uint8)


def _all_but_first(voxels: torch.Tensor, axis: int) -> torch.Tensor:
    return voxels.narrow(axis, 1, voxels.shape[axis] - 1)


def _all_but_last(voxels: torch.Tensor, axis: int) -> torch.Tensor:
    return voxels.narrow(axis, 0, voxels.shape[axis] - 1)


class CameraVisibility:
    """Visibility of a voxel grid from fixed cameras.

    For every camera the voxels along a fan of rays are tabulated once per calibration (sampled every half voxel, so
    no voxel on a ray is skipped except where the ray cuts less than half a voxel off a corner); a frame then costs
    one gather and one scatter per camera.  An occupied voxel is seen if a ray ends there, or if it has a face towards
    free space that is seen.  The mounting pose is used, without the few decimetres the vehicle moves
    between the images of one set.

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
        self._tables: OrderedDict[Hashable, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def __call__(
        self, occupied: torch.Tensor, cameras: list[tuple[Hashable, torch.Tensor, torch.Tensor, int, int]]
    ) -> torch.Tensor:
        """Visibility of every voxel.

        Args:
            occupied: bool [X, Y, Z].
            cameras: of those that delivered an image: (cache key that changes with the calibration, intrinsics of
                the network input [3, 3], ego_from_camera [4, 4], width, height of the network input).

        Returns:
            uint8 [X, Y, Z] on the device of `occupied`, numbered as `occupancy.Visibility`.
        """
        # One cell more than the grid: where samples outside the grid point to.
        padded = torch.zeros(self.num_voxels + 1, dtype=torch.uint8, device=self.device)
        padded[:-1] = occupied.reshape(-1)
        seen = torch.zeros_like(padded)
        in_view = torch.zeros_like(padded)
        for key, intrinsics, ego_from_camera, width, height in cameras:
            cells, covered = self._table(key, intrinsics, ego_from_camera, width, height)
            self._mark_seen(padded, cells, seen)
            in_view |= covered
        seen, in_view = (marks[:-1].view(self.size).bool() for marks in (seen, in_view))
        # Rays that graze a surface meet it many voxels apart; what they passed tells where it is in between.
        seen |= occupied & in_view & beside(seen & ~occupied)
        visible = torch.where(occupied, OCCUPIED_SEEN, FREE_SEEN)
        return torch.where(seen, visible, torch.where(in_view, OCCLUDED, SEEN_BY_NO_CAMERA)).to(torch.uint8)

    def _mark_seen(self, occupied: torch.Tensor, cells: torch.Tensor, seen: torch.Tensor) -> None:
        """Mark the samples up to and including each ray's first occupied one.

        On a CPU the rays go in blocks of steps and those that hit something drop out (most end in the ground within
        a few metres); on a GPU all steps go at once, since dropping rays would need a host synchronisation.
        """
        block = self.steps_per_block or cells.shape[1]
        for start in range(0, cells.shape[1], block):
            part = cells[:, start : start + block].long()
            hits = occupied[part]
            blocked_before = torch.cumsum(hits, dim=1, dtype=torch.int16) - hits
            seen[torch.where(blocked_before == 0, part, self.num_voxels).reshape(-1)] = 1
            if start + block < cells.shape[1]:
                # A ray that is outside at the end of a block has left the grid, or its camera is outside and it has
                # not entered yet; only the first kind could be dropped, so both go on.
                cells = cells[hits.sum(dim=1) == 0]

    def _table(
        self, key: Hashable, intrinsics: torch.Tensor, ego_from_camera: torch.Tensor, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(linear voxel index of each ray sample int32 [R, S], voxels any sample touches uint8 [V + 1])."""
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
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
        cells = torch.where(inside, linear, self.num_voxels)
        # Rays leave the grid early (into the ground or the sky): drop the columns that no ray uses.
        used = inside.any(dim=0).nonzero()
        cells = cells[:, : int(used[-1]) + 1] if used.numel() else cells[:, :1]
        cells = cells.contiguous().to(self.device)
        covered = torch.zeros(self.num_voxels + 1, dtype=torch.uint8, device=self.device)
        covered[cells.reshape(-1).long()] = 1
        self._tables[key] = (cells, covered)
        while len(self._tables) > self._MAX_CACHED_CAMERAS:
            self._tables.popitem(last=False)
        return self._tables[key]
