"""Time and memory of instance voting in an Occ3D grid: python -m benchmarks.instance_voting [--threads 2]."""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor

from benchmarks.memory import peak_extra_mb
from benchmarks.report import measure, report
from occ_perception.geometry.grid import OCC3D_GRID
from occ_perception.ops.instance_voting import panoptic_vote, panoptic_vote_reference

THINGS, FREE = tuple(range(1, 11)), 17


def street(objects: int, voxels_of_object: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels and ids: boxes on a road, standing ``spread`` metres around the centre; 70 % of each box is predicted.

    A tenth of the thing voxels lies where no object was predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(OCC3D_GRID.size)
    semantics = torch.full(OCC3D_GRID.size, FREE, dtype=torch.uint8)
    semantics[:, :, :3] = 11
    instances = torch.zeros(OCC3D_GRID.size, dtype=torch.int16)
    edge = max(2, round((voxels_of_object / 2) ** (1 / 3)))
    extent = torch.tensor([2 * edge, edge, edge])
    for name in range(1, objects + 1):
        center = size[:2] / 2 + torch.randn(2, generator=generator) * spread / OCC3D_GRID.voxel_size
        low = torch.cat([center, torch.tensor([3.0])]).long().clamp(min=torch.zeros(3).long(), max=size - extent)
        box = tuple(slice(int(a), int(a + n)) for a, n in zip(low, extent, strict=True))
        semantics[box] = int(torch.randint(1, 11, (), generator=generator))
        predicted = torch.rand(instances[box].shape, generator=generator) < 0.7
        instances[box] = torch.where(predicted, name, instances[box])
    lost = torch.rand(OCC3D_GRID.size, generator=generator) < 0.0005
    semantics[lost] = 4
    return semantics, instances


def main() -> None:
    """Measure three densities of traffic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--reference", action="store_true", help="also the dense count (minutes and gigabytes)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scenes = {
        "30 objects, ordinary": street(30, 266, 20.0),
        "30 objects, crowded": street(30, 266, 6.0),
        "100 objects, 34 k voxels": street(100, 400, 12.0),
    }
    rows = []
    for name, (semantics, instances) in scenes.items():
        things = torch.isin(semantics, torch.tensor(THINGS))
        vote = functools.partial(panoptic_vote, semantics, instances, things=THINGS, free=FREE)
        row = {"scene": name, "thing_voxels": int(things.sum()), "ids": len(instances.unique()) - 1}
        memory = peak_extra_mb(vote)
        rows.append({**row, "peak_extra_mb": memory, **measure(vote, repeats=10), "threads": arguments.threads})
        if arguments.reference:
            dense = functools.partial(panoptic_vote_reference, semantics, instances, things=THINGS, free=FREE)
            if not all(torch.equal(a, b) for a, b in zip(vote(), dense(), strict=True)):
                raise RuntimeError(f"{name}: the vote differs from the dense count")
            memory = peak_extra_mb(dense)
            rows.append({**row, "scene": f"{name}, dense", "peak_extra_mb": memory, **measure(dense, 1, 0)})
    report("instance_voting", rows)


if __name__ == "__main__":
    main()
