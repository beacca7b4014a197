"""What the training loop costs beside the network: time per step, batches, checkpoints, weight average.

    python -m benchmarks.training --threads 1

The "network" of the first rows is nearly nothing (a linear layer), so that a step is the loop's own work; the others
are the update of all parameters of a real network, without its forward and backward pass.  CPU time (of the training
process) is what a busy machine does not distort.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import measure, report
from occ_perception.data.labels import GridLabel
from occ_perception.data.sharding import Shard
from occ_perception.frame import Frame
from occ_perception.geometry import VoxelGrid
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import alocc_config
from occ_perception.ontology import OCC3D
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.learner import Learner
from occ_perception.training.loader import Batch
from occ_perception.training.loop import Trainer
from occ_perception.training.settings import from_mapping
from occ_perception.training.sources import OpenSource
from occ_perception.training.task import Draw, LabelledFrame, TaskDescription

_GRID = VoxelGrid((0.0, 0.0, 0.0), 1.0, (4, 4, 4))


@dataclass(frozen=True)
class _NoSettings:
    """There are none."""


class _Source:
    """Frames of nothing."""

    scene_lengths = (40,) * 8

    def load(self, scene: int, frame: int) -> LabelledFrame:
        semantics = np.zeros(_GRID.size, np.uint8)
        label = GridLabel(semantics, OCC3D, _GRID, "base_link", None, None, None, None, None, Path("none"))
        return LabelledFrame(Frame(frame), label, np.eye(4))


class _Task:
    """A network of ``parameters`` parameters whose step costs next to nothing."""

    settings = _NoSettings()
    description = TaskDescription("nothing", "occ3d", False)
    needs_previous = False

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        return {"x": torch.ones(4)}

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        total = torch.stack([p.view(-1)[0] for p in network.parameters() if p.requires_grad]).square().sum()
        return {"loss": total * batch["x"].mean()}, ()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        return torch.zeros(len(starts), *_GRID.size, dtype=torch.uint8), ()


def _config(**changes: Any) -> TrainingConfig:
    quiet = {"log": {"every": 100, "tensorboard": False}, "checkpoints": {"every": 0, "minutes": 0}}
    return from_mapping(
        TrainingConfig, {"device": "cpu", "batch_size": 2, "loader": {"workers": 0}, **quiet, **changes}
    )


def loop_row(workers: int, steps: int = 1000) -> dict[str, object]:
    """Milliseconds per step of the whole loop around a network of five parameters."""
    config = _config(iterations=steps, loader={"workers": workers})
    ranks = Ranks(Shard(), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        task = _Task(nn.Linear(4, 1))
        trainer = Trainer(config, task, OpenSource(_Source(), {"name": "none", "split": ""}), None, Path(folder), ranks)
        begun, begun_cpu = time.perf_counter(), time.process_time()
        trainer.run()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    figures = {"ms": round(1e3 * seconds / steps, 2), "cpu_ms": round(1e3 * cpu / steps, 2)}
    return {"what": f"whole loop, {workers} workers", "parameters": 5, **figures}


def update_rows(variant: str, repeats: int) -> list[dict[str, object]]:
    """Optimiser, weight average and checkpoint of a real network."""
    rows: list[dict[str, object]] = []
    network = ALOcc(alocc_config(variant))
    parameters = sum(p.numel() for p in network.parameters())
    batch = Batch({"x": torch.ones(2, 4)}, (True, True), ((0, 0), (0, 0)), (True, True))
    for averaged in (False, True):
        config = _config(average={"enabled": averaged})
        learner = Learner(_Task(network), config, Ranks(Shard(), torch.device("cpu")))
        figures = measure(lambda learner=learner: learner.step(batch, 0), repeats)  # type: ignore[misc]
        what = "clip, AdamW, average" if averaged else "clip, AdamW"
        rows.append({"what": what, "parameters": parameters, "ms": figures["median_ms"], "cpu_ms": figures["cpu_ms"]})
    return rows


def main() -> None:
    """Print the table and write it to benchmarks/out/training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="alocc-2d-mini")
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [loop_row(workers) for workers in (0, 1)]
    rows += update_rows(arguments.variant, arguments.repeats)
    report("training", [{**row, "threads": arguments.threads} for row in rows])


if __name__ == "__main__":
    main()
