"""Time of the voxel matching for K = 2197 predictions: python -m benchmarks.voxel_matching.

exact: rectangular n x K; pruned: the same within a proven 1 mm per voxel; square: the paper's padded K x K.  The
predictions are the lattice the offsets begin as, moved by noise; the objects are solid boxes.  One thread.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.report import measure, report
from occ_perception.ops.threads import one_torch_thread
from occ_perception.training.pruned_assignment import pruned_assignment
from occ_perception.training.voxel_matching import MatchingMode, match_voxels, match_voxels_of_objects

EDGE, PITCH = 13, 0.4
K = EDGE**3
SIZES = {100: (8, 4, 4), 300: (12, 6, 5), 800: (18, 8, 6), 1500: (25, 8, 8)}
FRAME = (20, 25, 30, 30, 40, 40, 50, 60, 60, 70, 80, 80, 90, 100, 120, 130, 150, 160, 180, 200, 220, 250, 300, 350, 800)


def predictions(seed: int, noise: float) -> tuple[Tensor, Tensor]:
    """Voxels [K, 3], metres around the object's centre, and scores [K]."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(EDGE) - EDGE // 2) * PITCH
    points = torch.cartesian_prod(axis, axis, axis)
    return points + noise * torch.randn(K, 3, generator=generator), torch.rand(K, generator=generator) / 2


def solid(cells: tuple[int, int, int], count: int, seed: int = 0) -> Tensor:
    """``count`` of the voxels of a box, [count, 3], metres around its centre."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.cartesian_prod(*[torch.arange(n) - n / 2 + 0.5 for n in cells]) * PITCH
    return points[torch.randperm(len(points), generator=generator)[:count]]


def square_assignment(cost: np.ndarray) -> np.ndarray:
    """The paper's problem: the true voxels padded with K - n that cost nothing."""
    padded = np.zeros((cost.shape[1], cost.shape[1]), cost.dtype)
    padded[: len(cost)] = cost
    return linear_sum_assignment(padded)[1][: len(cost)]


def one_object(count: int, noise: float) -> dict[str, object]:
    """Solvers on one cost matrix, and the whole call; medians of CPU time in ms."""
    predicted, scores = predictions(count, noise)
    truth = solid(SIZES[count], count)
    cost = (torch.cdist(truth, predicted, compute_mode="donot_use_mm_for_euclid_dist") - scores).numpy()
    row: dict[str, object] = {"n": count, "noise_m": noise}
    solvers = {"exact": lambda: linear_sum_assignment(cost)[1], "pruned": lambda: pruned_assignment(cost)}
    solvers["square"] = lambda: square_assignment(cost)
    totals = {}
    for name, solve in solvers.items():
        totals[name] = float(cost[np.arange(count), solve()].sum(dtype=np.float64))
        row[f"{name}_ms"] = measure(solve, repeats=5, warm_up=1)["cpu_ms"]
    row["pruned_excess_m_per_voxel"] = round((totals["pruned"] - totals["exact"]) / count, 6)
    row["square_minus_exact"] = round(totals["square"] - totals["exact"], 6)
    for mode in ("exact", "pruned"):
        call = functools.partial(match_voxels, predicted, scores, truth, mode)
        row[f"whole_call_{mode}_ms"] = measure(call, repeats=5, warm_up=1)["cpu_ms"]
    return row


def one_frame(mode: MatchingMode) -> dict[str, object]:
    """All objects of one crowded frame together."""
    parts = [predictions(seed, 0.3) for seed in range(len(FRAME))]
    predicted, scores = torch.stack([p for p, _ in parts]), torch.stack([s for _, s in parts])
    truth = [solid((18, 8, 6), count, seed) for seed, count in enumerate(FRAME)]
    call = functools.partial(match_voxels_of_objects, predicted, scores, truth, mode)
    return {"n": f"frame of {len(FRAME)}, {sum(FRAME)} voxels", f"whole_call_{mode}_ms": measure(call, 5, 1)["cpu_ms"]}


def main() -> None:
    """Objects of four sizes at the start of training (0.02 m) and with spread-out predictions, and a frame."""
    with one_torch_thread():
        rows = [one_object(count, noise) for count in SIZES for noise in (0.02, 0.5)]
        rows += [one_frame("exact"), one_frame("pruned")]
    report("voxel_matching", rows)


if __name__ == "__main__":
    main()
