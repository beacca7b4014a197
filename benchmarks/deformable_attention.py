"""Deformable sampling, reference against fast versions: python -m benchmarks.deformable_attention [--stride 4].

The sizes of OffsetOcc (specs/offsetocc.md): 100 x 100 x 8 queries, 6 images of 928 x 1600 at strides 8, 16, 32,
8 heads of 16 channels, 4 points; every ``--stride``-th query.  On a GPU also the Triton kernels, in bfloat16 too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import peak_extra_mb
from benchmarks.report import measure, report
from occ_perception.geometry import VoxelGrid
from occ_perception.ops.camera_hits import camera_hits
from occ_perception.ops.deformable_attention_reference import Level, sample_levels_reference
from occ_perception.ops.deformable_attention_rows import sample_levels_rows

HEADS, CHANNELS, POINTS = 8, 16, 4
IMAGE = (928, 1600)
GRID = VoxelGrid(origin=(-40.0, -40.0, -1.0), voxel_size=0.8, size=(100, 100, 8))
Sampler = Callable[[Tensor, tuple[Level, ...], Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, tuple[Level, ...], Tensor, Tensor, Tensor]


def ring_of_cameras() -> Tensor:
    """image_from_ego [1, 6, 4, 4]: nuScenes-like, every 60 degrees, 70 degrees wide, 1.5 m up."""
    focal = IMAGE[1] / 2 / math.tan(math.radians(35))
    intrinsics = np.array([[focal, 0, IMAGE[1] / 2, 0], [0, focal, IMAGE[0] / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for yaw in np.radians(np.arange(0, 360, 60)):
        forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
        camera_from_ego = np.eye(4)
        camera_from_ego[:3, :3] = np.stack([-left, [0, 0, -1], forward])
        camera_from_ego[:3, 3] = -camera_from_ego[:3, :3] @ (0.5 * forward + np.array([0, 0, 1.5]))
        matrices.append(intrinsics @ camera_from_ego)
    return torch.from_numpy(np.stack(matrices))[None].float()


def camera_inputs(stride: int) -> Inputs:
    """What the camera cross-attention samples."""
    points = torch.from_numpy(GRID.centers()).view(1, -1, 3)[:, ::stride]
    hits = camera_hits(points, ring_of_cameras(), IMAGE)
    levels, tokens = [], 0
    for step in (8, 16, 32):
        height, width = IMAGE[0] // step, IMAGE[1] // step
        levels.append(Level(tokens, (width, height), (1, width)))
        tokens += height * width
    generator = torch.Generator().manual_seed(0)
    shape = (len(hits.maps), HEADS, len(levels), POINTS)
    sizes = torch.tensor([level.sizes for level in levels])[:, None]
    locations = hits.references[:, None, None] + 3 * torch.randn(*shape, 2, generator=generator) / sizes
    table = torch.randn(6 * tokens, HEADS, CHANNELS, generator=generator)
    return table, tuple(levels), hits.maps * tokens, locations, torch.rand(shape, generator=generator) / 12


def volume_inputs(stride: int) -> Inputs:
    """What the voxel self-attention samples."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.from_numpy(GRID.centers()).view(-1, 3)[::stride].double()
    size = torch.tensor(GRID.size)
    references = ((centers - torch.tensor(GRID.origin)) / GRID.voxel_size / size).float()
    shape = (len(references), HEADS, 1, POINTS)
    locations = references[:, None, None, None] + 3 * torch.randn(*shape, 3, generator=generator) / size
    table = torch.randn(GRID.num_voxels, HEADS, CHANNELS, generator=generator)
    level = Level(0, GRID.size, (GRID.size[1] * GRID.size[2], GRID.size[2], 1))
    return table, (level,), torch.zeros(len(references), dtype=torch.long), locations, torch.rand(shape) / 4


def rows_of(name: str, sampler: Sampler, inputs: Inputs, what: str) -> list[dict[str, object]]:
    """Forward without and with gradients, and their memory on the CPU."""
    table, levels, first_rows, locations, weights = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in (table, locations, weights)]
    synchronise = torch.cuda.synchronize if table.is_cuda else (lambda: None)

    def forward() -> None:
        with torch.no_grad():
            sampler(table, levels, first_rows, locations, weights)
        synchronise()

    def train() -> None:
        output = sampler(leaves[0], levels, first_rows, *leaves[1:])
        torch.autograd.grad(output, leaves, torch.ones_like(output))
        synchronise()

    found: list[dict[str, object]] = []
    for stage, run in (("forward", forward), ("forward + backward", train)):
        memory = None if table.is_cuda else peak_extra_mb(run)
        size = {"what": what, "outputs": len(locations), "samples_k": weights.numel() // 1000}
        found.append({**size, "version": name, "stage": stage, "peak_extra_mb": memory, **measure(run, 5, 1)})
    return found


def main() -> None:
    """Both kinds of sampling in all versions this machine can run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=4, help="every how many-th query")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, object]] = []
    for what, make in (("cameras", camera_inputs), ("volume", volume_inputs)):
        inputs = make(arguments.stride)
        rows += rows_of("row sums", sample_levels_rows, inputs, what)
        rows += rows_of("reference", sample_levels_reference, inputs, what)
        if torch.cuda.is_available():
            from occ_perception.ops.deformable_attention_triton import sample_levels_triton

            table, levels, *others = (t.cuda() if isinstance(t, Tensor) else t for t in inputs)
            rows += rows_of("CUDA row sums", sample_levels_rows, (table, levels, *others), what)
            rows += rows_of("Triton", sample_levels_triton, (table, levels, *others), what)
            rows += rows_of("Triton, bfloat16", sample_levels_triton, (table.bfloat16(), levels, *others), what)
    report("deformable_attention", rows)


if __name__ == "__main__":
    main()
