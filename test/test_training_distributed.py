"""Several processes train as one would, resume, and stop together (real processes, gloo on loopback)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_nano import NANO_CONFIG, train
from toy_training import TOY_CONFIG, merged

from occ_perception.errors import WeightsError
from occ_perception.layers.history_fusion import HistoryState
from occ_perception.training import nano_losses
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.progress import read_journal
from occ_perception.training.settings import from_mapping
from occ_perception.training.state_codec import decode, encode

TOY = Path(__file__).parent / "toy_training.py"
SMALL_NANO = Path(__file__).parent / "small_nano.py"

PATIENCE_S = 240


@pytest.fixture
def launch():
    """Starts a small run under torchrun; whatever is left of it ends with the test."""
    launched = []

    def start(processes, folder, changes, mode="fresh", program=TOY, config=TOY_CONFIG):
        folder.mkdir(exist_ok=True)
        file = folder / "run.yaml"
        file.write_text(yaml.safe_dump(merged(config, changes)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        run += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        launched.append(
            subprocess.Popen(
                [*run, str(program), str(file), str(folder), mode], start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
        return launched[-1]

    yield start
    for process in launched:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finished(process):
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def figures(folder, kind, name):
    return {e["iteration"]: e[name] for e in read_journal(folder) if e["kind"] == kind}


def test_two_processes_agree_with_one_and_resume_exactly(tmp_path, launch):
    # Six steps over all 22 frames, then three over the hardest, then all again.
    active = {"enabled": True, "share": 0.5}
    settings = {"iterations": 12, "checkpoints": {"every": 7}, "active_training": active}
    one = launch(1, tmp_path / "one", merged(settings, {"batch_size": 4}))
    accumulated = launch(2, tmp_path / "two", merged(settings, {"batch_size": 1, "accumulate": 2}))
    finished(one)
    finished(accumulated)
    first, second = figures(tmp_path / "one", "training", "loss"), figures(tmp_path / "two", "training", "loss")
    assert len(first) == 12
    # The same four samples; their float32 gradients are summed in another order, over twelve steps.
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-4)
    weights = [load_file(tmp_path / name / "final.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
    assert figures(tmp_path / "one", "validation", "mIoU") == pytest.approx(
        figures(tmp_path / "two", "validation", "mIoU"), abs=0.02
    )

    short = merged(settings, {"batch_size": 1, "accumulate": 2, "iterations": 7})
    finished(launch(2, tmp_path / "parts", short))
    finished(launch(2, tmp_path / "parts", merged(short, {"iterations": 12}), "resume"))
    assert figures(tmp_path / "parts", "training", "loss") == second
    assert sorted(p.name for p in (tmp_path / "parts").glob("checkpoint*")) == [
        "checkpoint.pt",
        "checkpoint_rank1_00000012.pt",
    ]

    alone = launch(1, tmp_path / "parts", merged(short, {"iterations": 14}), "resume")
    output, _ = alone.communicate(timeout=PATIENCE_S)
    assert alone.returncode != 0
    assert "was trained by 2 processes, these are 1" in output


def test_two_processes_train_nano_as_one_does(tmp_path, launch, one_thread, monkeypatch):
    """Two samples per step, each a forward pass of its own: batch statistics and losses are over one sample."""
    together = launch(2, tmp_path / "two", {}, program=SMALL_NANO, config=NANO_CONFIG)
    for share in ("_CELL_SHARE", "_FREE_SHARE"):
        monkeypatch.setattr(nano_losses, share, 1.0)
    train(from_mapping(TrainingConfig, {**NANO_CONFIG, "accumulate": 2}), tmp_path / "one", Ranks.join("cpu"))
    finished(together)
    first, second = ([e for e in read_journal(tmp_path / name) if e["kind"] == "training"] for name in ("one", "two"))
    assert len(first) == NANO_CONFIG["iterations"]
    names = [name for name in first[0] if name.startswith("loss") or name == "gradient_norm"]
    assert {"loss_classes", "loss_depth", "loss_flow", "loss_centres"} <= set(names)
    for expected, step in zip(first, second, strict=True):
        assert {name: step[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)
    assert any(step["loss_depth"] > 0 for step in first)  # not all streams lack the LiDAR
    weights = [load_file(tmp_path / name / "final.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        # Running statistics are those of the main process' own samples: PyTorch has no synchronised ones for CPUs.
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, weights[1][name], rtol=1e-2, atol=2e-4)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, launch):
    process = launch(
        2, tmp_path, {"iterations": 400, "checkpoints": {"every": 0}, "task": {"settings": {"slow_s": 0.05}}}
    )
    deadline = time.monotonic() + PATIENCE_S
    while max(figures(tmp_path, "training", "loss"), default=0) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGTERM)
    finished(process)
    stopped = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["run"]["iteration"]
    assert stopped == max(figures(tmp_path, "training", "loss")) < 400
    assert (tmp_path / f"checkpoint_rank1_{stopped:08d}.pt").is_file()


def test_temporal_state_survives_without_pickled_classes():
    state = (HistoryState(torch.ones(2, 3), torch.zeros(2)), None, 3, (0.5, "a", True))
    stored = encode(state)
    assert isinstance(stored, dict)
    back = decode(stored)
    assert isinstance(back[0], HistoryState)
    assert torch.equal(back[0].frames, state[0].frames)
    assert back[1:] == state[1:]
    with pytest.raises(TypeError, match="list"):
        encode([1])
    for kind in ("os:system", "occ_perception.errors:WeightsError", "occ_perception.nothing:Here"):
        with pytest.raises(WeightsError, match="of a kind that is not here"):
            decode({"tuple": [1], "kind": kind})
