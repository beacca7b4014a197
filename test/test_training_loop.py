"""The training loop: it learns, resumes exactly, stops when it must and says why."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_training import TOY_CONFIG, ToySource, merged, toy_config, toy_trainer

from occ_perception.errors import ConfigurationError, DatasetError, NumericsError, OutOfResourcesError
from occ_perception.training.progress import read_journal

TOY = Path(__file__).parent / "toy_training.py"


def losses_of(folder):
    return {e["iteration"]: e["loss"] for e in read_journal(folder) if e["kind"] == "training"}


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


def test_the_loss_falls_and_everything_is_written(tmp_path):
    config = toy_config(iterations=150, validation={"every": 50})
    assert toy_trainer(config, tmp_path, validation=ToySource((4, 3))).run()
    losses = losses_of(tmp_path)
    assert losses[150] < 0.1 * losses[1]
    scores = [e for e in read_journal(tmp_path) if e["kind"] == "validation"]
    assert [e["iteration"] for e in scores] == [50, 100, 150]
    assert scores[-1]["IoU"] > 0.95
    card = json.loads((tmp_path / "final.json").read_text())
    assert card["metrics"]["mIoU"] == scores[-1]["mIoU"]
    assert (card["iterations"], card["samples"], card["mask_training"]) == (150, 300, True)
    assert card["data"]["training"]["name"] == "toy world"
    assert card["configuration"]["task"]["settings"]["channels"] == 8
    assert not card["loadable_by_name"]
    assert set(load_file(tmp_path / "best.safetensors")) == {
        f"{layer}.{kind}" for layer in ("encode", "remember", "classify") for kind in ("weight", "bias")
    }
