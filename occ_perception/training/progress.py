"""What a run shows and records: one line and one JSON line every few iterations, TensorBoard if it is installed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.files import write_whole
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.host_memory import resident_memory

logger = logging.getLogger(__name__)

JOURNAL = "progress.jsonl"


class Journal:
    """The run's figures as JSON lines, and in TensorBoard if wanted; only the main process has one.

    Args:
        folder: of the run.
        tensorboard: whether to write its files too.
        iteration: what was recorded beyond it belongs to a run that was interrupted, and is dropped.
    """

    def __init__(self, folder: Path, tensorboard: bool, iteration: int) -> None:
        path = folder / JOURNAL
        kept = [entry for entry in read_journal(folder) if entry["iteration"] <= iteration]
        write_whole(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
        self._file = path.open("a", buffering=1)
        self._board = _summary_writer(folder / "tensorboard", iteration) if tensorboard else None

    def scalars(self, kind: str, iteration: int, values: dict[str, float]) -> None:
        """Record figures of one iteration."""
        self._file.write(json.dumps({"kind": kind, "iteration": iteration, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, iteration)

    def picture(self, name: str, iteration: int, rgb: np.ndarray) -> None:
        """Record a picture, uint8 [H, W, 3]."""
        if self._board is not None:
            self._board.add_image(name, rgb, iteration, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """What a run recorded; a last line that was not written to its end is left out."""
    path = folder / JOURNAL
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: a line was not written to its end and is left out", path)
    return entries


def _summary_writer(folder: Path, iteration: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed (pip install 'occ-perception[train]'); training without it")
        return None
    return SummaryWriter(str(folder), purge_step=iteration + 1)


class Meter:
    """Collects what the steps measured, without waiting for the device, until a line is due."""

    def __init__(self, config: TrainingConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._reports: list[dict[str, Tensor]] = []
        self._begun = self._interval_begun = time.perf_counter()
        self._waited = self._elsewhere = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent waiting for data."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Time that is not training: validation, checkpoints."""
        begun = time.perf_counter()
        yield
        self._elsewhere += time.perf_counter() - begun

    def add(self, losses: dict[str, Tensor], gradient_norm: Tensor) -> None:
        """One step's figures, still on the device."""
        self._reports.append({**losses, "gradient_norm": gradient_norm})
        self._steps += 1

    def line(self, iteration: int, learning_rate: float, damaged: int) -> dict[str, float]:
        """Means over the steps since the last line, over all processes, and how fast it goes."""
        names = list(self._reports[0])
        means = torch.stack([torch.stack([r[name] for name in names]) for r in self._reports]).float().mean(dim=0).cpu()
        values = dict(zip(names, self._ranks.mean(means).tolist(), strict=True))
        now = time.perf_counter()
        seconds = max(now - self._interval_begun - self._elsewhere, 1e-9)
        samples = len(self._reports) * self._config.slots * self._ranks.shard.count
        values["learning_rate"] = learning_rate
        values["samples_per_second"] = samples / seconds
        values["data_wait"] = self._waited / seconds
        values["memory_gb"] = resident_memory() / 1e9
        if self._ranks.device.type == "cuda":
            values["gpu_peak_gb"] = torch.cuda.max_memory_allocated(self._ranks.device) / 1e9
        values["eta_s"] = (self._config.iterations - iteration) * seconds / len(self._reports)
        if damaged:
            values["damaged_batches"] = float(damaged)
        self._reports.clear()
        self._interval_begun, self._waited, self._elsewhere = now, 0.0, 0.0
        return values


_NO_LOSS = frozenset(
    ("loss", "gradient_norm", "learning_rate", "samples_per_second", "data_wait", "memory_gb", "gpu_peak_gb", "eta_s",
     "damaged_batches")
)  # fmt: skip


def line_text(iteration: int, iterations: int, values: dict[str, float]) -> str:
    """One line for the screen."""
    losses = " ".join(f"{name.removeprefix('loss_')} {v:.4g}" for name, v in values.items() if name not in _NO_LOSS)
    memory = f"{values['memory_gb']:.1f} GB"
    if "gpu_peak_gb" in values:
        memory += f", GPU peak {values['gpu_peak_gb']:.1f} GB"
    damaged = f" | {values['damaged_batches']:.0f} batches with damaged frames" if "damaged_batches" in values else ""
    return (
        f"{iteration}/{iterations} loss {values['loss']:.4g} ({losses}) | norm {values['gradient_norm']:.3g} "
        f"lr {values['learning_rate']:.3g} | {values['samples_per_second']:.2f} samples/s, "
        f"{values['data_wait']:.0%} waiting for data | {memory} | {_duration(values['eta_s'])} left{damaged}"
    )


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
