"""The query rays of RayIoU, and what they meet in a labelled and a predicted grid (benchmarks.md 2.1 to 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, inverse
from occ_perception.metrics.checks import check_ground_truth, check_prediction, check_shape
from occ_perception.ontology import FREE, Ontology
from occ_perception.ops.ray_casting import cast_rays
from occ_perception.ops.threads import one_torch_thread

MAX_ORIGINS = 8
ORIGIN_RANGE_M = 39.0
"""Origins count if |x| and |y| in the reference ego frame are below this."""


@lru_cache(maxsize=1)
def ray_directions() -> np.ndarray:
    """Unit directions of the 14 040 rays of one origin, float32 [39 * 360, 3], ego axes, pitch-major; read-only."""
    pitches = [-(np.pi / 2 - np.arctan(n)) for n in range(1, 11)]
    step = pitches[-1] - pitches[-2]
    while pitches[-1] < 0.21:
        pitches.append(pitches[-1] + step)
    pitch, azimuth = np.meshgrid(np.array(pitches), np.deg2rad(np.arange(360)), indexing="ij")
    rays = np.stack([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)], axis=-1)
    directions = rays.reshape(-1, 3).astype(np.float32)
    directions.setflags(write=False)
    return directions


def ray_origins(ego_from_lidar: np.ndarray, global_from_ego: np.ndarray, reference: int) -> np.ndarray:
    """LiDAR positions of a scene's keyframes from which the reference keyframe is looked at.

    Args:
        ego_from_lidar, global_from_ego: float64 [K, 4, 4], of the LiDAR record of every keyframe of the scene in order.
        reference: index of the keyframe to evaluate.

    Returns:
        float64 [1..8, 3], metres, reference ego frame.
    """
    ego_from_lidar, global_from_ego = (np.asarray(a, np.float64) for a in (ego_from_lidar, global_from_ego))
    check_shape("ego_from_lidar", ego_from_lidar, (len(global_from_ego), 4, 4))
    check_shape("global_from_ego", global_from_ego, (len(ego_from_lidar), 4, 4))
    if not 0 <= reference < len(global_from_ego):
        raise InvalidInputError(f"ray origins: reference {reference} is none of {len(global_from_ego)} keyframes")
    global_from_lidar = global_from_ego @ ego_from_lidar
    in_lidar = (inverse(global_from_lidar[reference]) @ global_from_lidar)[:, :3, 3].astype(np.float32)
    in_lidar[reference] = 0.0
    mount = ego_from_lidar[reference]
    in_ego = in_lidar.astype(np.float64) @ mount[:3, :3].T + mount[:3, 3]
    near = in_ego[(np.abs(in_ego[:, :2]) < ORIGIN_RANGE_M).all(axis=1)]
    if len(near) > MAX_ORIGINS:
        near = near[np.round(np.linspace(0, len(near) - 1, MAX_ORIGINS)).astype(int)]
    return near


@dataclass(frozen=True)
class EvaluationRays:
    """The rays of one frame that end on something labelled (those ending in labelled free space do not count).

    Attributes:
        shape: of the grids.
        true_label, predicted_label: uint8 [R]; label of the cell each ray ends in (FREE if it meets nothing).
        true_depth, predicted_depth: float32 [R], metres.
        true_cell, predicted_cell: int64 [R]; that cell, as C-order linear index.
    """

    shape: tuple[int, ...]
    true_label: np.ndarray
    predicted_label: np.ndarray
    true_depth: np.ndarray
    predicted_depth: np.ndarray
    true_cell: np.ndarray
    predicted_cell: np.ndarray

    def depth_error(self) -> np.ndarray:
        """|predicted - true depth|, float32 [R], metres."""
        return np.abs(self.predicted_depth - self.true_depth)


def cast_evaluation_rays(
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    origins: np.ndarray,
    ontology: Ontology,
    grid: VoxelGrid = OCC3D_GRID,
    device: str | torch.device = "cpu",
) -> EvaluationRays:
    """Cast the rays of one frame through both grids; RayIoU, RayPQ and the flow metrics share the result.

    Ground truth UNKNOWN blocks rays like a class, as in the reference evaluator.

    Args:
        ground_truth: uint8 [X, Y, Z]; classes, FREE or UNKNOWN.
        prediction: uint8 [X, Y, Z]; classes or FREE.
        origins: float64 [T, 3], metres, the grid's frame (`ray_origins`).
        ontology: label set of both.
        grid: geometry of both.
        device: where to cast; on the CPU one core is used, whatever PyTorch's number of threads.

    Raises:
        InvalidInputError: wrong shapes, dtypes, class ids or origins.
    """
    check_ground_truth(ground_truth, ontology)
    check_prediction(prediction, ontology, grid.size)
    check_shape("ground truth", ground_truth, grid.size)
    start, direction = _voxel_rays(origins, grid)
    occupied = torch.from_numpy(np.stack([ground_truth != FREE, prediction != FREE])).to(device)
    with one_torch_thread():
        hits = cast_rays(occupied, start.to(device), direction.to(device))
    cells = hits.cell.cpu().numpy().astype(np.int64)
    depths = hits.distance.cpu().numpy() * np.float32(grid.voxel_size)
    linear = grid.linear_index(cells)
    true_label = ground_truth.ravel()[linear[0]]
    kept = true_label != FREE
    return EvaluationRays(
        shape=grid.size,
        true_label=true_label[kept],
        predicted_label=prediction.ravel()[linear[1]][kept],
        true_depth=depths[0][kept],
        predicted_depth=depths[1][kept],
        true_cell=linear[0][kept],
        predicted_cell=linear[1][kept],
    )


def _voxel_rays(origins: np.ndarray, grid: VoxelGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays in voxels, float64 [T * 14040, 3], origin-major: end points rounded to float32 as the reference does."""
    origins = np.asarray(origins, np.float64)
    if origins.ndim != 2 or origins.shape[1] != 3 or not len(origins):
        raise InvalidInputError(f"ray origins: expected [T, 3] with T >= 1, got {origins.shape}")
    lower, voxel_size = grid.lower.astype(np.float32), np.float64(np.float32(grid.voxel_size))
    starts = ((origins - lower) / voxel_size).astype(np.float32).astype(np.float64)
    ends = ((origins[:, None] + ray_directions() - lower) / voxel_size).astype(np.float32).astype(np.float64)
    directions = ends - starts[:, None]
    starts = np.repeat(starts, len(ray_directions()), axis=0)
    return torch.from_numpy(starts), torch.from_numpy(directions.reshape(-1, 3))
