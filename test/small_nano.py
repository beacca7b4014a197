"""nano small enough to train in seconds: few channels, the tiny place's images and grid.

Run as a program it trains with the settings of a YAML file, as ``occ_perception train`` would: for tests with several
processes.  Its losses are then made over all cells: those it draws at random differ from process to process.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_frames import GRID, TinySource

from occ_perception.models.nano import Nano
from occ_perception.models.nano_config import NanoConfig
from occ_perception.ontology import OCC3D
from occ_perception.training import nano_losses
from occ_perception.training.configuration import read_config
from occ_perception.training.distributed import Ranks
from occ_perception.training.loop import Trainer, prepare_pytorch
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.settings import from_mapping
from occ_perception.training.sources import OpenSource

SMALL = NanoConfig(
    image_size=(64, 160),
    resize=0.1,
    grid_origin=GRID.origin,
    grid_size=GRID.size,
    depth_bins=16,
    image_channels=(8, 16, 16, 24),
    feature_channels=16,
    context_channels=8,
    bev_channels=(16, 24, 32),
    neck_channels=16,
)

NANO_CONFIG = {
    "device": "cpu", "iterations": 4, "seed": 3,
    "compute": {"threads": 1}, "learning_rate": {"peak": 0.001, "warmup_iterations": 1}, "loader": {"workers": 0},
    "checkpoints": {"every": 0, "minutes": 0}, "validation": {"every": 0, "pictures": 0},
    "log": {"every": 1, "tensorboard": False}, "average": {"enabled": False},
}  # fmt: skip


class SmallNanoSource(TinySource):
    """The tiny place with a car that moves and has an instance."""

    def load(self, scene, frame):
        sample = super().load(scene, frame)
        cars = (sample.label.semantics == OCC3D.id_of("car")).astype(np.uint16)
        return replace(sample, label=replace(sample.label, instances=cars))


def small_nano_task(settings=None):
    """A nano task whose network is small."""
    task = NanoTask(settings or NanoTaskSettings())
    task.config = replace(SMALL, adaptive_lifting=task.settings.adaptive_lifting, use_history=task.settings.use_history)
    task.network = Nano(task.config)
    return task


def small_nano_source(lengths=(4, 4)):
    """What it trains on."""
    return SmallNanoSource(lengths, flow=True)


def train(config, folder, ranks):
    """One run in a folder, seeded as the command does."""
    prepare_pytorch(config)
    task = small_nano_task(from_mapping(NanoTaskSettings, config.task.settings))
    source = OpenSource(small_nano_source(), {"name": "tiny place", "split": "all"})
    Trainer(config, task, source, None, Path(folder), ranks).run()


def main(config_file, folder):
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    config = read_config(config_file)
    ranks = Ranks.join(config.device)
    nano_losses._CELL_SHARE = nano_losses._FREE_SHARE = 1.0
    train(config, folder, ranks)
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:3])
