"""The training loop: it learns, resumes exactly, stops when it is told, and publishes what it learnt."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_training import TOY_CONFIG, ToySource, ToyTask, merged, toy_config, toy_trainer

from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError, WeightsError
from occ_perception.models import create_model, create_network
from occ_perception.training.distributed import Ranks
from occ_perception.training.frame_ranking import without_chance
from occ_perception.training.learner import Learner
from occ_perception.training.loop import Trainer
from occ_perception.training.model_card import export_weights, has_other_settings
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.order import validation_order
from occ_perception.training.progress import read_journal
from occ_perception.training.sources import OpenSource
from occ_perception.training.task import PanopticAnswer, TaskDescription
from occ_perception.training.validation import Validator

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


def test_the_last_checkpoint_holds_the_final_validation(tmp_path):
    config = toy_config(iterations=5, checkpoints={"every": 5})  # a checkpoint is due at the very last step
    assert toy_trainer(config, tmp_path, validation=ToySource((2,))).run()
    run = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["run"]
    assert run["scores"]["iteration"] == run["best"]["iteration"] == 5


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    config = toy_config(
        iterations=12, task={"settings": {"dropout": 0.3}}, accumulate=2, batch_size=1, loader={"workers": 1}
    )
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


PATIENCE_S = 240  # of tests with processes; on a quiet machine they take seconds


@pytest.fixture
def start():
    """Starts the toy run in a process of its own; whatever is left of it ends with the test."""
    processes = []

    def launch(config, folder, mode="fresh"):
        folder.mkdir(exist_ok=True)
        file = folder / "toy.yaml"
        file.write_text(yaml.safe_dump(config))
        processes.append(
            subprocess.Popen(
                [sys.executable, str(TOY), str(file), str(folder), mode],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
        return processes[-1]

    yield launch
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(folder, iteration):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if max(losses_of(folder), default=0) >= iteration:
            return
        time.sleep(0.02)
    raise TimeoutError(f"iteration {iteration} was not reached")


def test_killed_in_the_middle_and_resumed(tmp_path, start):
    slow = merged(TOY_CONFIG, {"iterations": 30, "task": {"settings": {"dropout": 0.3, "slow_s": 0.05}}})
    whole = start(slow, tmp_path / "whole")
    killed = start(slow, tmp_path / "killed")
    wait_for(tmp_path / "killed", 12)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    interrupted = losses_of(tmp_path / "killed")
    assert 12 <= max(interrupted) < 30
    resumed = start(slow, tmp_path / "killed", "resume")
    assert resumed.wait(PATIENCE_S) == 0, resumed.stdout.read()
    assert "going on from iteration 1" in resumed.stdout.read()  # 10, or 15 if the kill came late
    assert whole.wait(PATIENCE_S) == 0, whole.stdout.read()
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert interrupted.items() <= losses_of(tmp_path / "whole").items()
    assert same_tensors(tmp_path / "killed" / "final.safetensors", tmp_path / "whole" / "final.safetensors")


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, start, number, workers):
    settings = {"iterations": 500, "checkpoints": {"every": 0}, "loader": {"workers": workers}}
    slow = merged(TOY_CONFIG, {**settings, "task": {"settings": {"slow_s": 0.05}}})
    process = start(slow, tmp_path)
    wait_for(tmp_path, 3)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
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


def test_accumulated_parts_are_the_big_batch(tmp_path):
    for name, parts in (("big", {"batch_size": 4}), ("parts", {"batch_size": 1, "accumulate": 4})):
        toy_trainer(toy_config(iterations=20, **parts), tmp_path / name).run()
    big, parts = losses_of(tmp_path / "big"), losses_of(tmp_path / "parts")
    # Sums of four float32 means in another order, over 20 steps.
    np.testing.assert_allclose(list(big.values()), list(parts.values()), rtol=1e-4)


def test_weight_average_is_validated_and_published(tmp_path):
    trainer = toy_trainer(toy_config(iterations=30), tmp_path, validation=ToySource((4,)))
    trainer.run()
    published = load_file(tmp_path / "final.safetensors")
    own = trainer.learner.network.state_dict()
    assert not any(torch.equal(published[name], own[name]) for name in own)  # the network has its own back
    assert all(torch.equal(published[name], trainer.learner.average.average[name]) for name in own)


def test_bfloat16_trains_on_the_cpu(tmp_path):
    toy_trainer(toy_config(iterations=100, compute={"precision": "bfloat16"}), tmp_path).run()
    losses = losses_of(tmp_path)
    assert losses[100] < 0.3 * losses[1]


@pytest.mark.parametrize("compute", [{"channels_last": True}, {"deterministic": True}])
def test_other_ways_to_compute_give_the_same(tmp_path, compute):
    toy_trainer(toy_config(), tmp_path / "plain").run()
    toy_trainer(toy_config(compute=compute), tmp_path / "other").run()
    torch.use_deterministic_algorithms(False)
    first, second = losses_of(tmp_path / "plain"), losses_of(tmp_path / "other")
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-5)


def test_validation_scores_every_frame_once(tmp_path):
    trainer = toy_trainer(toy_config(validation={"batch_size": 2}), tmp_path, validation=ToySource((4, 1, 3)))
    assert trainer._validator.run(trainer.learner).frames == 8
    before = trainer.learner.network.encode.weight.clone()
    assert trainer._validator.run(trainer.learner, lambda: True) is None  # a signal came
    assert trainer.learner.network.training
    assert torch.equal(trainer.learner.network.encode.weight, before)
    order = validation_order((4, 1, 3), (0, 1, 2), 2, Shard())
    counted = [r for step in order.steps(0, order.length) for r in step if r.counts]
    assert sorted((r.scene, r.frame) for r in counted) == [(s, f) for s, n in enumerate((4, 1, 3)) for f in range(n)]
    alone = [
        [r.counts for step in validation_order((4,), (0,), 1, Shard(i, 2)).steps(0, 4) for r in step] for i in (0, 1)
    ]
    assert alone == [[True] * 4, [False] * 4]


def test_active_training_resumes_in_the_middle_of_a_phase(tmp_path):
    settings = {"active_training": {"enabled": True, "share": 0.5}, "iterations": 40}
    toy_trainer(toy_config(**settings), tmp_path / "whole").run()
    for iterations in (15, 27, 40):  # 11 steps over all frames, about 6 over the hardest
        trainer = toy_trainer(toy_config(**merged(settings, {"iterations": iterations})), tmp_path / "parts")
        if iterations > 15:
            trainer.resume()
        trainer.run()
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


def losses_by_hand(trainer, lengths):
    """Of every frame, scene after scene, by the network in evaluation mode."""
    task, source, found = trainer.task, trainer._source.frames, []
    trainer.learner.network.eval()
    for scene, length in enumerate(lengths):
        state, previous = None, None
        for frame in range(length):
            sample = source.load(scene, frame)
            batch = {name: value[None] for name, value in task.prepare(sample, previous, None).items()}
            with torch.no_grad():
                losses, state = task.losses(trainer.learner.network, batch, state, (frame == 0,), 0)
            found.append(float(sum(value.mean() for value in losses.values())))
            previous = sample
    trainer.learner.network.train()
    return found


def test_frames_are_ranked_by_their_own_loss_whatever_the_batch(tmp_path):
    lengths = (5, 3)
    settings = {"dropout": 0.3, "scalar_losses": True}
    trainer = toy_trainer(toy_config(task={"settings": settings}), tmp_path, ToySource(lengths))
    weights = trainer.learner.network.encode.weight.clone()
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    table = trainer._ranking.losses(trainer.learner, 0, lambda: False)
    assert torch.equal(torch.rand(3), drawn)  # training goes on as if nothing had been measured
    assert torch.equal(trainer.learner.network.encode.weight, weights)
    assert all(module.training for module in trainer.learner.network.modules())
    np.testing.assert_allclose(table, losses_by_hand(trainer, lengths), rtol=1e-5)
    assert len({round(float(loss), 4) for loss in table}) > 2
    assert trainer._ranking.losses(trainer.learner, 0, lambda: True) is None  # a signal came


def test_active_training_chooses_the_same_frames_for_losses_of_batches_and_of_samples(tmp_path):
    active = {"active_training": {"enabled": True, "share": 0.4}, "iterations": 20}
    for name, scalar in (("samples", False), ("batches", True)):
        toy_trainer(toy_config(**active, task={"settings": {"scalar_losses": scalar}}), tmp_path / name).run()
    first, second = losses_of(tmp_path / "samples"), losses_of(tmp_path / "batches")
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-5)


def test_measuring_neither_drops_out_nor_moves_batch_statistics():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.BatchNorm1d(4).eval())
    rows = torch.arange(12.0).view(3, 4)
    with without_chance(network):
        assert network.training  # some outputs that losses want are made in training mode only
        assert torch.allclose(network(rows), rows, atol=1e-3)
    assert [module.training for module in network] == [True, True, False]
    assert torch.equal(network[0].running_mean, torch.zeros(4))


def test_a_signal_while_frames_are_ranked_ends_the_run_and_it_goes_on_exactly(tmp_path, monkeypatch):
    settings = toy_config(active_training={"enabled": True, "share": 0.5}, iterations=20)
    toy_trainer(settings, tmp_path / "whole").run()
    stopped = toy_trainer(settings, tmp_path / "parts")
    measure = stopped._ranking.losses

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    monkeypatch.setattr(stopped._ranking, "losses", interrupted)
    assert not stopped.run()
    assert stopped.iteration == 11  # the pass over all frames
    again = toy_trainer(settings, tmp_path / "parts")
    again.resume()
    assert again.run()
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


class TwoCars(ToySource):
    """The toy world with its car in two instances."""

    def load(self, scene, frame):
        sample = super().load(scene, frame)
        instances = np.zeros(sample.label.semantics.shape, np.uint16)
        instances[:2, 0, 0], instances[2:, 0, 0] = 1, 2
        return replace(sample, label=replace(sample.label, instances=instances))


class Oracle(ToyTask):
    """Says the truth, but takes the two cars for one in some of its answers."""

    def __init__(self, answers_with_one_car):
        super().__init__()
        self._one_car, self._answers = answers_with_one_car, 0

    def evaluate_instances(self, network, batch, state, starts):
        instances = batch["validation_instances"]
        self._answers += 1
        merged = instances.clamp(max=1) if self._answers in self._one_car else instances
        return PanopticAnswer(batch["validation_classes"], merged, None)


@pytest.mark.parametrize(("one_car", "best"), [({1, 3}, 2), ({2, 3}, 1)])
def test_objects_told_apart_make_the_best_weights(tmp_path, one_car, best):
    config = toy_config(iterations=3, validation={"every": 1, "metric": "PQ"})
    training, validation = OpenSource(ToySource(), {"name": "toy", "split": "all"}), OpenSource(TwoCars((1,)), {})
    Trainer(config, Oracle(one_car), training, validation, tmp_path, Ranks.join("cpu")).run()
    scores = [e for e in read_journal(tmp_path) if e["kind"] == "validation"]
    assert [e["PQ_things"] for e in scores] == [0.0 if i in one_car else 1.0 for i in (1, 2, 3)]
    assert [e["mIoU"] for e in scores] == [1.0] * 3
    card = json.loads((tmp_path / "best.json").read_text())
    assert (card["iterations"], card["metrics"]["PQ"]) == (best, 1.0)


def test_objects_that_nobody_tells_apart_are_not_scored(tmp_path):
    config = toy_config(validation={"metric": "PQ"})
    with pytest.raises(ConfigurationError, match="PQ needs a task with instances"):
        toy_trainer(config, tmp_path, validation=TwoCars((1,)))
    validator = Validator(ToySource((1,)), Oracle(set()), config, Ranks.join("cpu"))
    with pytest.raises(ConfigurationError, match=r"PQ needs instances, the labels \(toy\) have none"):
        validator.run(Learner(ToyTask(), config, Ranks.join("cpu")))


def test_a_run_that_goes_on_may_choose_its_best_by_another_figure(tmp_path):
    config = toy_config(iterations=2, validation={"metric": "IoU"})
    trainer = toy_trainer(config, tmp_path, validation=ToySource((2,)))
    trainer._best = {"iteration": 1, "mIoU": 1.0}  # of a checkpoint
    assert trainer.run()
    assert json.loads((tmp_path / "best.json").read_text())["iterations"] == 2


def test_tensorboard_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = toy_config(log={"tensorboard": True}, validation={"pictures": 1})
    toy_trainer(config, tmp_path, validation=ToySource((4,))).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"training/loss", "training/learning_rate", "validation/mIoU"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/0"]
    assert len(events.Scalars("training/loss")) == 12


def test_without_tensorboard_training_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert toy_trainer(toy_config(log={"tensorboard": True}), tmp_path).run()
    assert "tensorboard is not installed" in caplog.text


def test_published_weights_load_by_name(tmp_path):
    from occ_perception.checkpoints.key_table import skeleton

    network = skeleton("alocc-2d-mini").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    entries = {name: torch.rand(value.shape, generator=generator) for name, value in network.state_dict().items()}
    description = TaskDescription("alocc-2d-mini", "occ3d", True)
    card = export_weights(tmp_path / "w.safetensors", description, entries, {"trained_on": "a made-up place"})
    assert card["loadable_by_name"]
    model = create_model("alocc-2d-mini", tmp_path / "w.safetensors")
    assert model.info.trained_on == "a made-up place"
    smaller = {**entries, "alocc_head.query_feat.weight": torch.zeros(3, 32)}
    assert not export_weights(tmp_path / "x.safetensors", description, smaller, {})["loadable_by_name"]
    with pytest.raises(WeightsError):
        create_model("alocc-2d-mini", tmp_path / "x.safetensors")


def test_a_setting_that_no_shape_shows_makes_another_model(tmp_path):
    task = NanoTask(NanoTaskSettings(adaptive_lifting=False))
    assert has_other_settings("nano", task.network)
    assert not has_other_settings("nano", create_network("nano"))
    entries = task.network.state_dict()
    assert not export_weights(tmp_path / "w.safetensors", task.description, entries, {}, changed=True)[
        "loadable_by_name"
    ]
    assert export_weights(tmp_path / "w.safetensors", task.description, entries, {})["loadable_by_name"]


def test_initial_weights(tmp_path):
    from occ_perception.training.command import load_initial_weights
    from occ_perception.training.configuration import TaskChoice

    toy_trainer(toy_config(), tmp_path).run()
    choice = TaskChoice(initial_weights=str(tmp_path / "final.safetensors"))
    network = ToyTask().network
    load_initial_weights(network, choice)
    assert torch.equal(network.encode.weight, load_file(tmp_path / "final.safetensors")["encode.weight"])
    other = torch.nn.ModuleDict({"encode": torch.nn.Conv3d(3, 8, 1), "more": torch.nn.Linear(1, 1)})
    with pytest.raises(WeightsError, match="2 parameters are missing"):
        load_initial_weights(other, choice)
    load_initial_weights(other, replace(choice, initial_match="some"))
