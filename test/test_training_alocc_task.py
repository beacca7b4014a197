"""The ALOcc task: every variant learns a tiny place by heart, and what it is fed agrees with the geometry."""

import numpy as np
import pytest
import torch
from tiny_frames import GRID, OPENOCC_SOURCE, STEP_M, TinySource, pose
from torch import nn
from toy_training import merged

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.models.alocc_config import VARIANTS
from occ_perception.models.alocc_types import ALOccOutput
from occ_perception.ontology import FREE, OCC3D
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.loop import Trainer, prepare_pytorch
from occ_perception.training.progress import read_journal
from occ_perception.training.settings import from_mapping
from occ_perception.training.sources import OpenSource
from occ_perception.training.task import Draw
from occ_perception.training.tasks import create_task

TINY = {
    "image_size": [64, 160], "resize": 0.1, "grid_origin": list(GRID.origin), "grid_size": list(GRID.size),
    "history_frames": 2,
}  # fmt: skip


def tiny_task(**settings):
    return create_task("alocc", merged(TINY, settings))


def source_of(task):
    return TinySource(**OPENOCC_SOURCE) if task.config.flow else TinySource()


def draw(seed=0):
    return Draw(np.random.default_rng(seed), np.random.default_rng(seed + 1))


def batch_of(task, frame=1, seed=None):
    """A prepared frame as a batch of one."""
    source = source_of(task)
    previous = source.load(0, frame - 1) if frame else None
    sample = task.prepare(source.load(0, frame), previous, None if seed is None else draw(seed))
    return {name: value[None] for name, value in sample.items()}


class Spy(nn.Module):
    """A network that keeps what it was called with."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, inputs, state):
        self.calls.append((inputs, state))
        return self.network(inputs, state)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    torch.manual_seed(0)
    return one_thread


def trained(folder, settings, iterations, **more):
    """The journal of a run on the tiny place."""
    values = {
        "task": {"name": "alocc", "settings": merged(TINY, settings)},
        "device": "cpu", "iterations": iterations, "batch_size": 1,
        "learning_rate": {"peak": 1e-3, "warmup_iterations": 2}, "loader": {"workers": 0},
        "checkpoints": {"every": 0, "minutes": 0}, "log": {"every": 1, "tensorboard": False},
        "validation": {"every": 0, "pictures": 0}, "average": {"decay": 0.9, "ramp": 1.0},
    }  # fmt: skip
    config = from_mapping(TrainingConfig, merged(values, more))
    prepare_pytorch(config)
    task = create_task("alocc", config.task.settings)
    source = OpenSource(source_of(task), {"name": "tiny", "split": "all"})
    validation = source if iterations > 20 else None
    Trainer(config, task, source, validation, folder, Ranks.join("cpu")).run()
    return read_journal(folder)


def losses_of(journal):
    return [e for e in journal if e["kind"] == "training"]


def test_the_loss_falls(tmp_path):
    losses = losses_of(trained(tmp_path, {"augment": False}, 8))
    assert losses[-1]["loss_mask"] < 0.75 * losses[0]["loss_mask"]
    assert losses[-1]["loss_dice"] < 0.95 * losses[0]["loss_dice"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["alocc-2d-mini", "alocc-flow-2d"])
def test_two_frames_are_learnt_by_heart(tmp_path, variant):
    settings = {"variant": variant, "augment": False, "iterations_per_epoch": 20}
    journal = trained(tmp_path, settings, 200, learning_rate={"shape": "cosine"})
    losses, scores = losses_of(journal), [e for e in journal if e["kind"] == "validation"][-1]
    assert losses[-1]["loss_mask"] < 0.05 * losses[0]["loss_mask"]
    assert losses[-1]["loss_dice"] < 0.1 * losses[0]["loss_dice"]
    assert losses[-1]["loss_depth"] < 0.2 * losses[0]["loss_depth"]
    assert scores["IoU"] > 0.95


STEPPED = ["alocc-2d-mini", "alocc-flow-2d"]


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in STEPPED else pytest.mark.slow) for name in VARIANTS]
)
def test_every_variant_takes_two_steps(variant):
    if variant == "alocc-3d-surroundocc":
        pytest.skip("there is no reader of its labels yet")
    task = tiny_task(variant=variant)
    optimizer = torch.optim.SGD(task.network.parameters(), lr=1e-5)
    state = None
    for frame in range(2):
        losses, state = task.losses(task.network, batch_of(task, frame, seed=3), state, (frame == 0,), 20_000)
        expected = {"loss_mask", "loss_dice", "loss_depth", "loss_mask_2d", "loss_dice_2d"}
        if task.config.flow:
            expected |= {"loss_flow", "loss_flow_cosine", "loss_flow_bins"}
        assert set(losses) == expected
        sum(losses.values()).backward()
        optimizer.step()
    without = [name for name, p in task.network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert not any(t.requires_grad for t in tensors_of(state))
    task.network.eval()
    with torch.no_grad():
        classes, _ = task.evaluate(task.network, batch_of(task), None, (True,))
    assert classes.shape == (1, *GRID.size)
    assert classes.dtype == torch.uint8


def tensors_of(state):
    if isinstance(state, torch.Tensor):
        return [state]
    return [t for item in state for t in tensors_of(item)] if isinstance(state, tuple) else []


def test_motion_between_frames():
    batch = batch_of(tiny_task(variant="alocc-2d"))
    expected = pose(translation=(STEP_M, 0.0, 0.0))
    np.testing.assert_allclose(batch["ego_motion"][0], expected, atol=1e-12)
    front = batch["camera_motion"][0, 1].numpy()  # optical z looks ahead
    np.testing.assert_allclose(front, pose(translation=(0.0, 0.0, STEP_M)), atol=1e-6)
    assert batch["stereo_known"].all()
    assert not torch.equal(batch["images"], batch["previous_images"])


def test_a_stream_that_starts_is_its_own_stereo_partner():
    task = tiny_task(variant="alocc-2d")
    inputs = task._samples.network_inputs(batch_of(task), (True,))
    torch.testing.assert_close(inputs.previous_from_current_camera[0], torch.eye(4).expand(6, 4, 4))
    first = batch_of(task, frame=0)
    assert not first["stereo_known"].any()
    assert torch.equal(first["images"], first["previous_images"])


def test_labels_flip_with_the_augmentation():
    task = tiny_task()
    plain = batch_of(task)["voxel_labels"][0]
    label = source_of(task).load(0, 1).label
    car = OCC3D.id_of("car")
    assert torch.equal(plain == car + 1, torch.from_numpy(label.semantics == car).transpose(0, 1))
    assert (plain[:, :2] == 255).all()  # behind the mask
    seeds = {}
    for seed in range(20):
        batch = batch_of(task, seed=seed)
        seeds[tuple(batch["bda"][0].diagonal().tolist())] = batch["voxel_labels"][0]
    assert torch.equal(seeds[-1.0, 1.0, 1.0], plain.flip(1))
    assert torch.equal(seeds[1.0, -1.0, 1.0], plain.flip(0))
    assert torch.equal(seeds[-1.0, -1.0, 1.0], plain.flip(0, 1))


def test_validation_is_not_augmented():
    task = tiny_task()
    assert torch.equal(batch_of(task)["bda"][0], torch.eye(3))
    affine = batch_of(task)["post_rots"][0, 0]
    torch.testing.assert_close(affine, torch.eye(3))
    assert not torch.equal(batch_of(task, seed=1)["post_rots"][0, 0], affine)


def test_depth_and_image_labels_come_from_the_same_returns():
    task = tiny_task()
    batch = batch_of(task, seed=4)
    hit, labelled = batch["depth_bins"] >= 0, batch["image_labels"] != 255
    assert hit.sum() > 20
    assert (hit >= labelled).all()
    assert labelled.sum() > 0.8 * hit.sum()
    names = {"driveable_surface", "manmade", "car"}
    assert set(batch["image_labels"][labelled].tolist()) <= {OCC3D.id_of(name) + 1 for name in names}


def test_schedules_reach_the_network():
    task = tiny_task(iterations_per_epoch=10)
    spy = Spy(task.network)
    state = None
    for frame, iteration in ((0, 0), (1, 30), (0, 20), (1, 19)):
        _, state = task.losses(spy, batch_of(task, frame), state, (False,), iteration)
    mixes = [inputs.guidance.depth_mix for inputs, _ in spy.calls]
    assert mixes == pytest.approx([1.0, 0.5, 0.75, 0.5 + 0.5 * np.cos(np.pi * 19 / 60)])
    kept = [None if before is None else before.history is not None for _, before in spy.calls]
    assert kept == [None, True, True, False]  # history from epoch 2


def test_answers_are_in_the_axes_and_classes_of_the_label():
    task = tiny_task()
    label = source_of(task).load(0, 0).label
    classes = torch.from_numpy(np.where(label.semantics == FREE, 17, label.semantics)).long()

    class Oracle(nn.Module):
        def forward(self, inputs, state):
            scores = nn.functional.one_hot(classes.transpose(0, 1) + 1, 19).movedim(-1, 0)[None].float()
            return ALOccOutput(scores, None, None, None, None), None

    answer, _ = task.evaluate(Oracle(), batch_of(task, 0), None, (True,))
    np.testing.assert_array_equal(answer[0].numpy(), label.semantics)


def test_activation_checkpointing_changes_no_loss():
    values = []
    for saving in (False, True):
        torch.manual_seed(0)
        task = tiny_task(activation_checkpointing=saving, augment=False)
        torch.manual_seed(1)
        losses, _ = task.losses(task.network, batch_of(task, 0), None, (True,), 0)
        sum(losses.values()).backward()
        values.append((float(sum(losses.values()).detach()), task.network.img_backbone.conv1.weight.grad))
    assert values[0][0] == values[1][0]
    torch.testing.assert_close(values[0][1], values[1][1])


def test_what_cannot_be_trained_on_is_refused():
    task = tiny_task()
    sample = TinySource().load(0, 0)
    with pytest.raises(InvalidInputError, match="trains on occ3d labels"):
        task.prepare(TinySource(**OPENOCC_SOURCE).load(0, 0), None, None)
    images = {name: image for name, image in sample.frame.images.items() if name != "CAM_BACK"}
    blind = type(sample)(type(sample.frame)(0, sample.frame.rig, images), sample.label, sample.ego_from_grid)
    with pytest.raises(InvalidInputError, match="CAM_BACK"):
        task.prepare(blind, None, None)
    with pytest.raises(ConfigurationError, match=r"task.settings.*depth_mix_epochs"):
        create_task("alocc", {"depth_mix_epoch": 3})
    with pytest.raises(ConfigurationError, match="alocc-3d"):
        create_task("alocc", {"variant": "alocc-4d"})
