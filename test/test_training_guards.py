"""What stops a run: numbers that are not finite, no memory, a full disk, damaged checkpoints; and what it says."""

import errno

import pytest
import torch
from toy_training import ToyTask, toy_config, toy_trainer

from occ_perception.errors import NumericsError, OutOfResourcesError, WeightsError
from occ_perception.training import checkpoint
from occ_perception.training.guards import explained_failures
from occ_perception.training.progress import read_journal
from occ_perception.training.settings import to_mapping


def losses_of(folder):
    return {e["iteration"]: e["loss"] for e in read_journal(folder) if e["kind"] == "training"}


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


def test_damaged_checkpoints_are_refused(tmp_path):
    toy_trainer(toy_config(), tmp_path).run()
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        toy_trainer(toy_config(), tmp_path).resume()
    torch.save({"format": 1}, file)
    with pytest.raises(WeightsError, match="lacks config, processes"):
        toy_trainer(toy_config(), tmp_path).resume()
    torch.save({"format": 1, "config": ToyTask}, file)
    with pytest.raises(WeightsError, match="cannot be read"):  # nothing but plain values is unpickled
        toy_trainer(toy_config(), tmp_path).resume()


@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_and_are_saved(tmp_path, name, monkeypatch):
    trainer = toy_trainer(toy_config(task={"settings": {"explode_at": 4 if name == "loss" else -1}}), tmp_path)
    if name == "gradient":
        monkeypatch.setattr(
            trainer.learner, "_clipped", lambda: torch.tensor(torch.nan if trainer.iteration == 4 else 1)
        )
    with pytest.raises(NumericsError, match=r"iteration 4: .*loss_class .* samples .*failure_00000004_rank0.pt"):
        trainer.run()
    saved = torch.load(tmp_path / "failure_00000004_rank0.pt", weights_only=True)
    assert set(saved["losses"]) == {"loss", "loss_class", "loss_size"}
    assert len(saved["samples"]) == len(saved["batch"]["colours"]) == 2
    assert all(torch.isfinite(value).all() for value in saved["network"].values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path, error, monkeypatch):
    trainer = toy_trainer(toy_config(), tmp_path)

    def no_memory(*arguments):
        raise error

    monkeypatch.setattr(trainer.task, "losses", no_memory)
    with pytest.raises(OutOfResourcesError) as caught:
        trainer.run()
    for advice in (
        "batch_size (now 2)",
        "accumulate (now 1)",
        "compute.precision (now float32)",
        "task.settings.activation_checkpointing (now false)",
        "loader.workers (now 0)",
    ):
        assert advice in str(caught.value)


def test_other_errors_are_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), explained_failures(to_mapping(toy_config())):
        raise RuntimeError("shapes do not match")


def test_a_full_disk_keeps_the_checkpoint_and_goes_on(tmp_path, monkeypatch, caplog):
    toy_trainer(toy_config(iterations=5), tmp_path).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = toy_trainer(toy_config(iterations=12), tmp_path)
    trainer.resume()

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(OutOfResourcesError, match="disk is full"):  # the last one must be written
        trainer.run()
    assert trainer.iteration == 12
    assert "goes on without a new checkpoint" in caplog.text  # that of iteration 10
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_float16_steps_that_fail_again_and_again_stop(tmp_path, monkeypatch):
    config = toy_config(iterations=60, compute={"precision": "float16"}, guards={"max_skipped_steps": 3})
    trainer = toy_trainer(config, tmp_path)
    trainer.run()
    assert losses_of(tmp_path)[60] < 0.5 * losses_of(tmp_path)[1]

    trainer = toy_trainer(config, tmp_path / "infinite")
    clip = trainer.learner.scaler.unscale_

    def infinite(optimizer):
        trainer.learner.network.encode.weight.grad.fill_(torch.inf)
        clip(optimizer)

    monkeypatch.setattr(trainer.learner.scaler, "unscale_", infinite)
    before = trainer.learner.network.encode.weight.clone()
    with pytest.raises(NumericsError, match=r"float16: 4 steps in a row .*compute.precision=bfloat16"):
        trainer.run()
    assert torch.equal(trainer.learner.network.encode.weight, before)
