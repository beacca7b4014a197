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


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    config = toy_config(iterations=12, task={"settings": {"dropout": 0.3}}, accumulate=2, batch_size=1)
    toy_trainer(config, tmp_path / "whole").run()
    toy_trainer(toy_config(**merged(TOY_CONFIG, changes(config, iterations=7))), tmp_path / "parts").run()
    again = toy_trainer(config, tmp_path / "parts")
    torch.manual_seed(1234)  # must not matter
    again.resume()
    again.run()
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert same_tensors(tmp_path / "parts" / "final.safetensors", tmp_path / "whole" / "final.safetensors")


def changes(config, **more):
    """A configuration's differences from the toy defaults that these tests use, and more."""
    settings = {"settings": dict(config.task.settings)}
    return {"task": settings, "accumulate": config.accumulate, "batch_size": config.batch_size, **more}


def same_tensors(first, second):
    first, second = load_file(first), load_file(second)
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def start(config, folder, *arguments):
    """The toy run in a process of its own."""
    folder.mkdir(exist_ok=True)
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOY), str(file), str(folder), *(arguments or ("fresh",))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(folder, iteration):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if max(losses_of(folder), default=0) >= iteration:
            return
        time.sleep(0.02)
    raise TimeoutError(f"iteration {iteration} was not reached")


def test_killed_in_the_middle_and_resumed(tmp_path):
    slow = merged(TOY_CONFIG, {"iterations": 30, "task": {"settings": {"dropout": 0.3, "slow_s": 0.05}}})
    whole = start(slow, tmp_path / "whole")
    killed = start(slow, tmp_path / "killed")
    wait_for(tmp_path / "killed", 12)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    interrupted = losses_of(tmp_path / "killed")
    assert 12 <= max(interrupted) < 30
    resumed = start(slow, tmp_path / "killed", "resume")
    assert resumed.wait(60) == 0, resumed.stdout.read()
    assert "going on from iteration 10" in resumed.stdout.read() or max(interrupted) >= 15
    assert whole.wait(60) == 0, whole.stdout.read()
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert interrupted.items() <= losses_of(tmp_path / "whole").items()
    assert same_tensors(tmp_path / "killed" / "final.safetensors", tmp_path / "whole" / "final.safetensors")


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, number, workers):
    settings = {"iterations": 500, "checkpoints": {"every": 0}, "loader": {"workers": workers}}
    slow = merged(TOY_CONFIG, {**settings, "task": {"settings": {"slow_s": 0.05}}})
    process = start(slow, tmp_path)
    wait_for(tmp_path, 3)
    process.send_signal(number)
    assert process.wait(30) == 0
    output = process.stdout.read()
    assert f"{number.name}: iteration " in output
    assert "Traceback" not in output
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert content["run"]["iteration"] == max(losses_of(tmp_path)) < 500


def test_other_settings_are_not_resumed(tmp_path):
    toy_trainer(toy_config(), tmp_path).run()
    other = toy_trainer(toy_config(seed=4, optimizer={"weight_decay": 0.5}, iterations=20), tmp_path)
    with pytest.raises(ConfigurationError, match=r"optimizer.weight_decay: was 0.01, is 0.5"):
        other.resume()
    with pytest.raises(ConfigurationError) as caught:
        other.resume()
    assert "seed: was 3, is 4" in str(caught.value)
    assert "iterations" not in str(caught.value)  # may change
