"""A training task small enough for tests of the loop: a recurrent 1x1x1 network that learns classes from colours.

Run as a program it trains with the settings of a YAML file, as ``occ_perception train`` would: for tests that kill it.
"""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from occ_perception.data.labels import GridLabel
from occ_perception.errors import DatasetError
from occ_perception.frame import Frame
from occ_perception.geometry import VoxelGrid
from occ_perception.ontology import FREE, OCC3D
from occ_perception.training.configuration import TrainingConfig, read_config
from occ_perception.training.distributed import Ranks
from occ_perception.training.loop import Trainer, prepare_pytorch
from occ_perception.training.settings import from_mapping
from occ_perception.training.sources import OpenSource
from occ_perception.training.task import LabelledFrame, TaskDescription

GRID = VoxelGrid((-2.0, -2.0, -1.0), 1.0, (4, 4, 2))


class ToySource:
    """Scenes of labels that repeat one of two patterns; ``damaged`` frames cannot be loaded."""

    def __init__(self, scene_lengths=(5, 6, 7, 4), damaged=()):
        self.scene_lengths = scene_lengths
        self.damaged = damaged

    def load(self, scene, frame):
        if (scene, frame) in self.damaged:
            raise DatasetError(f"/data/scene{scene}/frame{frame}.npz is damaged")
        semantics = np.full(GRID.size, FREE, np.uint8)
        semantics[: 1 + (scene + frame) % 2] = 11
        semantics[:, 0, 0] = 4
        label = GridLabel(
            semantics, OCC3D, GRID, "base_link", None, None, np.ones(GRID.size, bool), None, None, Path("toy")
        )
        return LabelledFrame(Frame(1000 * scene + frame), label, np.eye(4))


@dataclass(frozen=True)
class ToySettings:
    channels: int = 8
    dropout: float = 0.0
    slow_s: float = 0.0
    explode_at: int = -1
    activation_checkpointing: bool = False
    scalar_losses: bool = False  # one for the whole batch, as most tasks have them


class ToyNetwork(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.encode = nn.Conv3d(3, settings.channels, 1)
        self.remember = nn.Conv3d(settings.channels, settings.channels, 1)
        self.drop = nn.Dropout(settings.dropout)
        self.classify = nn.Conv3d(settings.channels, 18, 1)

    def forward(self, colours, memory):
        features = torch.relu(self.encode(colours) + self.remember(memory))
        return self.classify(self.drop(features)), features


class ToyTask:
    needs_previous = True
    description = TaskDescription("toy", "occ3d", True)

    def __init__(self, settings=None):
        self.settings = settings or ToySettings()
        self.network = ToyNetwork(self.settings)

    def prepare(self, sample, previous, draw):
        semantics = torch.from_numpy(sample.label.semantics).long()
        classes = torch.where(semantics == FREE, 17, semantics)
        colours = torch.stack([classes / 17, (classes - 9).abs() / 9, (classes % 3) / 3])
        if draw is not None:
            colours = colours + 0.05 * torch.from_numpy(draw.frame.normal(size=colours.shape)).float()
            colours = colours + 0.05 * float(draw.stream.normal())
        apart = 0 if previous is None else sample.frame.stamp_ns - previous.frame.stamp_ns
        return {"colours": colours, "classes": classes, "apart": torch.tensor(apart)}

    def losses(self, network, batch, state, starts, iteration):
        if self.settings.slow_s:
            time.sleep(self.settings.slow_s)
        logits, features = network(batch["colours"], self._memory(batch, state, starts))
        if iteration == self.settings.explode_at:
            logits = logits * torch.inf
        loss = nn.functional.cross_entropy(logits, batch["classes"], reduction="none").mean(dim=(1, 2, 3))
        size = 1e-3 * logits.square().mean(dim=(1, 2, 3, 4))
        if self.settings.scalar_losses:
            loss, size = loss.mean(), size.mean()
        return {"loss_class": loss, "loss_size": size}, (features.detach(), iteration)

    def _memory(self, batch, state, starts):
        if state is None:
            return torch.zeros(len(starts), self.settings.channels, *GRID.size)
        begun = torch.tensor(starts).view(-1, 1, 1, 1, 1)
        return torch.where(begun, 0.0, 0.1 * state[0])

    def parameter_groups(self):
        return [
            {"params": list(self.network.encode.parameters()), "lr_scale": 0.5},
            {"params": [*self.network.remember.parameters(), *self.network.classify.parameters()]},
        ]

    def evaluate(self, network, batch, state, starts):
        logits, features = network(batch["colours"], self._memory(batch, state, starts))
        classes = logits.argmax(dim=1)
        return torch.where(classes == 17, FREE, classes).to(torch.uint8), (features, 0)


TOY_CONFIG = {
    "device": "cpu", "iterations": 12, "batch_size": 2, "seed": 3,
    "compute": {"threads": 1},
    "learning_rate": {"peak": 0.02, "warmup_iterations": 2},
    "loader": {"workers": 0},
    "checkpoints": {"every": 5},
    "validation": {"every": 0, "pictures": 0},
    "log": {"every": 1, "tensorboard": False},
    "average": {"decay": 0.9, "ramp": 5.0},
}  # fmt: skip


def merged(values, changes):
    """Nested mappings, the second over the first."""
    result = dict(values)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def toy_config(**changes):
    return from_mapping(TrainingConfig, merged(TOY_CONFIG, changes))


def toy_trainer(config, folder, source=None, validation=None, ranks=None):
    """A trainer of the toy task, seeded as the command does."""
    ranks = ranks or Ranks.join(config.device)
    prepare_pytorch(config)
    task = ToyTask(from_mapping(ToySettings, config.task.settings))
    source = OpenSource(source or ToySource(), {"name": "toy world", "split": "all", "labels": "occ3d"})
    if validation is not None:
        validation = OpenSource(validation, {"name": "toy world", "split": "validation"})
    return Trainer(config, task, source, validation, Path(folder), ranks)


def main(config_file, folder, resume):
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    config = read_config(config_file)
    ranks = Ranks.join(config.device)
    trainer = toy_trainer(config, folder, validation=ToySource((4, 3)), ranks=ranks)
    if resume == "resume":
        trainer.resume()
    trainer.run()
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
