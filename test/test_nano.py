"""`nano`: layout, sensors that may be absent, flow and instances, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nano_frames import labelled_frame

from occ_perception.errors import ConfigurationError, InvalidInputError, NumericsError, WeightsError
from occ_perception.models import create_model, create_network
from occ_perception.models.base import ModelInput
from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.models.nano import Nano, class_scores, expected_velocity
from occ_perception.models.nano_adapter import NanoModel
from occ_perception.models.nano_config import FLOW_BIN_CENTRES, NanoConfig
from occ_perception.models.nano_geometry import lidar_occupancy
from occ_perception.models.nano_instances import instance_grid
from occ_perception.models.nano_types import columns_from_grid, grid_from_columns
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.session import Session
from occ_perception.training.nano_losses import _dice_loss, _sampled_voxels, sampled_cells
from occ_perception.training.nano_targets import IGNORE, nano_targets
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.targets import NO_FLIP, BevFlip
from occ_perception.training.task import Draw


def draw(seed=0):
    return Draw(np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1)))


def batch_of(task, frames, seed=0):
    """One stream's frames as batches of one."""
    samples = zip(frames, [None, *frames[:-1]], strict=True)
    prepared = [task.prepare(frame, previous, draw(seed)) for frame, previous in samples]
    return [{name: value[None] for name, value in sample.items()} for sample in prepared]


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return create_model("nano", allow_untrained=True)


def test_columns_hold_every_voxel_where_the_docstring_says():
    grid = torch.arange(8 * 6 * 3).view(1, 8, 6, 3)
    columns = columns_from_grid(grid)
    assert columns.shape == (1, 3, 4, 2, 2, 3)
    assert columns[0, 2, 1, 1, 0, 2] == grid[0, 2, 5, 2]
    assert torch.equal(grid_from_columns(columns), grid)


def test_one_convolution_gives_the_scores_of_features_and_prototypes():
    torch.manual_seed(0)
    config = NanoConfig()
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [labelled_frame()])[0]
    network = task.network.eval()
    with torch.no_grad():
        expected, _ = task.evaluate(network, batch, None, (True,))
        network.prepare_for_inference(voxel_features=True)
        prepared, _ = task.evaluate(network, batch, None, (True,))
    assert expected.shape == (1, *config.grid_size)
    assert (expected == prepared).float().mean() > 0.999  # ties of float32 only
    assert len(torch.unique(expected)) > 3


def test_a_camera_that_is_masked_contributes_nothing():
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [labelled_frame()])[0]
    batch["camera_mask"][0, 2] = False
    network = task.network.eval()
    with torch.no_grad():
        with_noise, _ = task.evaluate(network, batch, None, (True,))
        batch["images"][0, 2] = 255 - batch["images"][0, 2]
        batch["lidar_depth"][0, 2] = 7
        without, _ = task.evaluate(network, batch, None, (True,))
    assert torch.equal(with_noise, without)


def test_a_missing_camera_is_the_same_in_training_and_at_run_time(untrained):
    """The adapter leaves absent cameras out, training masks them: one result."""
    frame = labelled_frame().frame
    fewer = replace(frame, images={name: image for name, image in frame.images.items() if name != "CAM_BACK"})
    torch.manual_seed(0)
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [replace(labelled_frame(), frame=fewer)])[0]
    assert not batch["camera_mask"][0, 4]
    with torch.no_grad():
        masked, _ = task.evaluate(task.network.eval(), batch, None, (True,))
    torch.manual_seed(0)
    model = NanoModel(NanoConfig(), create_network("nano"))
    session = Session(model)
    left_out = session.step(fewer).prediction
    # Resizing differs (Pillow's in training, PyTorch's live), so images differ by a grey level here and there.
    assert (masked[0].numpy() == left_out).mean() > 0.98


def test_works_with_cameras_only_lidar_only_and_both_but_not_with_nothing(untrained):
    frame = labelled_frame().frame
    session = Session(untrained)
    both = session.step(frame)
    assert both.lidar_used
    assert len(both.cameras_used) == 6
    blind = session.step(replace(frame, images={}, stamp_ns=frame.stamp_ns + 1))
    assert blind.lidar_used
    assert not blind.cameras_used
    # A network's word for what no sensor sees does not count.
    assert (blind.semantics[blind.visibility == Visibility.UNKNOWN] == UNKNOWN).all()
    seeing = session.step(replace(frame, lidar=(), stamp_ns=frame.stamp_ns + 2))
    assert not seeing.lidar_used
    assert seeing.instances is not None
    with pytest.raises(InvalidInputError, match="usable images"):
        session.step(replace(frame, images={}, lidar=(), stamp_ns=frame.stamp_ns + 3))


def test_points_that_are_not_finite_or_on_the_own_car_are_left_out(untrained):
    frame = labelled_frame().frame
    sweep = frame.lidar[0]
    junk = np.array([[np.nan, 0, 0], [np.inf, 1, 1], [0, 0, -1.0]], np.float32)
    dirty = replace(sweep, points=np.concatenate([sweep.points, junk]))
    clean_result = Session(untrained).step(frame).semantics
    assert np.array_equal(clean_result, Session(untrained).step(replace(frame, lidar=(dirty,))).semantics)


def test_nan_in_the_state_is_an_error_that_names_the_stage(untrained):
    session = Session(untrained)
    frame = labelled_frame(0).frame
    session.step(frame)
    with torch.inference_mode():
        session._past.state.network.fused[0, 50, 50] = float("nan")
    with pytest.raises(NumericsError, match="history"):
        session.step(labelled_frame(1).frame)


def test_weights_that_are_not_finite_are_refused():
    network = create_network("nano")
    with torch.no_grad():
        network.image_backbone.stem[0].conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match="image_backbone"):
        NanoModel(NanoConfig(), network)


def test_state_of_another_model_is_refused(untrained):
    with pytest.raises(InvalidInputError, match="expected nano"):
        untrained.step(None, object(), None)


def test_history_changes_the_answer_and_a_start_forgets_it():
    torch.manual_seed(0)
    task = NanoTask(NanoTaskSettings(augment=False))
    first, second = batch_of(task, [labelled_frame(0), labelled_frame(1)])
    network = task.network.eval()
    with torch.no_grad():
        _, state = task.evaluate(network, first, None, (True,))
        alone, _ = task.evaluate(network, second, None, (True,))
        continued, _ = task.evaluate(network, second, state, (False,))
        started, _ = task.evaluate(network, second, state, (True,))
    assert not torch.equal(alone, continued)
    assert torch.equal(alone, started)


def test_the_previous_map_moves_with_the_vehicle():
    """A mark 8 m ahead is 4 m ahead after 4 m."""
    config = NanoConfig()
    network = Nano(config).eval()
    task = NanoTask(NanoTaskSettings(augment=False))
    from occ_perception.models.nano_types import NanoState
    from occ_perception.training.nano_task import _network_inputs

    batch = batch_of(task, [labelled_frame(0, speed=8.0), labelled_frame(1, speed=8.0)])[1]
    fused = torch.zeros(1, 100, 100, 64)
    column = int((8.0 + 40) / 0.8)
    fused[0, 50, column] = 1.0
    state = NanoState(fused, torch.zeros(1, 100, 100, config.matching_channels), torch.eye(3)[None])
    moved, _ = network.previous_maps(_network_inputs(batch, (False,)), state, torch.zeros(1, 64, 100, 100))
    assert int(moved[0, 0, 50].argmax()) == column - 5
    assert moved[0, 0, 50, column - 5] == pytest.approx(1.0, abs=1e-3)


def test_velocity_is_the_expectation_over_the_bins():
    logits = torch.full((1, 2, len(FLOW_BIN_CENTRES), 1, 1), -30.0)
    logits[0, 0, FLOW_BIN_CENTRES.index(3.0)] = logits[0, 0, FLOW_BIN_CENTRES.index(4.0)] = 30
    logits[0, 1, FLOW_BIN_CENTRES.index(-7.0)] = 30
    assert expected_velocity(logits).flatten().tolist() == pytest.approx([3.5, -7.0], abs=1e-4)


@pytest.mark.parametrize("flip", [NO_FLIP, BevFlip(True, False), BevFlip(False, True), BevFlip(True, True)])
def test_targets_follow_the_flip(flip):
    sample = labelled_frame(1)
    targets = nano_targets(sample.label, 17, flip)
    classes = grid_from_columns(targets.classes[None])[0].numpy()
    axes = [axis for axis, wanted in ((0, flip.x), (1, flip.y)) if wanted]
    truth = np.where(sample.label.semantics == FREE, 17, sample.label.semantics)
    assert np.array_equal(np.flip(classes, axes), truth)
    moving = targets.velocity[..., 0].nan_to_num().abs().max()
    assert moving == 6
    assert targets.velocity[..., 0][targets.velocity[..., 0].nan_to_num() != 0].sign().unique() == (-1 if flip.x else 1)


def test_unseen_voxels_are_ignored():
    sample = labelled_frame()
    mask = np.zeros(sample.label.semantics.shape, bool)
    mask[100:110] = True
    targets = nano_targets(replace(sample.label, mask_camera=mask, mask_lidar=None), 17, NO_FLIP)
    assert ((grid_from_columns(targets.classes[None])[0].numpy() != IGNORE) == mask).all()


def test_perfect_centres_and_offsets_give_the_objects_back():
    """Targets, decoded as if they were predictions, are the ground truth's objects."""
    sample = labelled_frame(1)
    targets = nano_targets(sample.label, 17, NO_FLIP)
    heat = grid_from_columns(targets.heatmap[None, ..., None])[0, ..., 0].clamp(min=0)
    offsets = grid_from_columns(targets.offsets[None, ..., None, :])[0, ..., 0, :].nan_to_num()
    things = torch.from_numpy(sample.label.instances.astype(np.int32)) > 0
    ids = instance_grid(things, torch.logit(heat, eps=1e-6), offsets, 0.4).numpy()
    truth = sample.label.instances
    assert ids.dtype == np.int32
    assert (ids > 0).sum() == (truth > 0).sum()
    pairs = {(int(a), int(b)) for a, b in zip(ids[truth > 0], truth[truth > 0], strict=True)}
    assert len(pairs) == 2
    assert len({a for a, _ in pairs}) == 2


def test_no_things_no_objects():
    things = torch.zeros(200, 200, 16, dtype=torch.bool)
    assert not instance_grid(things, torch.zeros(200, 200), torch.zeros(200, 200, 2), 0.4).any()


def test_augmentation_is_a_function_of_its_draw():
    task = NanoTask()
    once, again, other = (batch_of(task, [labelled_frame()], seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(once[name].nan_to_num(), again[name].nan_to_num()) for name in once)
    assert not torch.equal(once["images"], other["images"])


def test_sensors_are_dropped_as_often_as_asked():
    task = NanoTask(NanoTaskSettings(camera_only=0.5, lidar_only=0.2, lidar_dropout=0.0, camera_dropout=0.0))
    sample = labelled_frame()
    drawn = [task._draw_sensors(sample, draw(seed)) for seed in range(400)]
    lidar = np.array([sensors.lidar for sensors in drawn])
    blind = np.array([not sensors.cameras.any() for sensors in drawn])
    assert abs((~lidar).mean() - 0.5) < 0.08
    assert abs(blind.mean() - 0.2) < 0.07
    assert not (blind & ~lidar).any()  # never both


def test_what_nobody_saw_teaches_nothing_of_objects_either():
    sample = labelled_frame()
    nothing = np.zeros(sample.label.semantics.shape, bool)
    targets = nano_targets(replace(sample.label, mask_camera=nothing, mask_lidar=nothing), 17, NO_FLIP)
    assert (targets.classes == IGNORE).all()
    assert (targets.heatmap == -1).all()
    assert not torch.isfinite(targets.offsets).any()
    assert not torch.isfinite(targets.velocity).any()


def test_every_parameter_learns():
    """A parameter without a gradient stays random, and stops training on several processes."""
    torch.manual_seed(0)
    task = NanoTask(NanoTaskSettings(augment=False))
    first, second = batch_of(task, [labelled_frame(0), labelled_frame(1)])
    _, state = task.losses(task.network, first, None, (True,), 0)
    losses, _ = task.losses(task.network, second, state, (False,), 1)
    sum(losses.values()).backward()
    assert not [name for name, p in task.network.named_parameters() if p.requires_grad and p.grad is None]
    assert float(task.network.matching.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("missing", ["points", "images"])
def test_frames_without_points_or_without_images_can_be_trained_on(missing):
    sample = labelled_frame()
    empty = {"points": {"lidar": (replace(sample.frame.lidar[0], points=np.zeros((0, 3), np.float32)),)}}
    frame = replace(sample.frame, **empty.get(missing, {"images": {}}))
    task = NanoTask(NanoTaskSettings(augment=False))
    (batch,) = batch_of(task, [replace(sample, frame=frame)])
    losses, _ = task.losses(task.network, batch, None, (True,), 0)
    assert all(bool(torch.isfinite(value)) for value in losses.values())


@pytest.mark.parametrize("wrong", [{"camera_only": 7.0}, {"lidar_only": -3.0}, {"class_weight_power": -1e9}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="expected"):
        NanoTaskSettings(**wrong)


@pytest.mark.slow
def test_learns_one_frame_by_heart():
    torch.manual_seed(0)
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [labelled_frame()])[0]
    optimiser = torch.optim.AdamW(task.network.parameters(), 2e-3)
    totals = []
    for iteration in range(60):
        losses, _ = task.losses(task.network.train(), batch, None, (True,), iteration)
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.15 * totals[0]
    with torch.no_grad():
        predicted, _ = task.evaluate(task.network, batch, None, (True,))
    truth = labelled_frame().label.semantics
    occupied = truth != FREE
    assert (predicted[0].numpy()[occupied] == truth[occupied]).mean() > 0.95


def test_scores_need_something_to_come_from():
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [labelled_frame()])[0]
    from occ_perception.training.nano_task import _network_inputs

    with torch.no_grad():
        output, _ = task.network.eval()(_network_inputs(batch, (True,)))
    with pytest.raises(InvalidInputError, match="neither"):
        class_scores(output._replace(voxel_features=None))


def test_sampled_voxels_stand_for_all_and_come_in_few_sizes():
    """Rare classes all, others by a sample with more weight: the sums are those of all voxels but for chance."""
    torch.manual_seed(0)
    task = NanoTask(NanoTaskSettings(augment=False))
    targets = task.prepare(labelled_frame(), None, None)
    classes, weight = targets["classes"][None], task._class_weight
    cells = sampled_cells(classes, weight)
    assert len(cells.rows) % 512 == 0
    labels = classes.flatten(3).flatten(0, 2)
    free = len(weight) - 1
    voxels, counted = _sampled_voxels(labels[cells.rows].flatten(), cells.stands_for, free)
    assert len(voxels) % 8192 == 0
    truth = labels[cells.rows].flatten()[voxels].long()
    sums = torch.zeros(256).index_add(0, truth, counted)
    for class_id in labels.unique().tolist():
        everything = float((labels == class_id).sum())
        rare = class_id < free and weight[class_id] > 4 * weight[free]
        chance = 1e-6 if rare else 0.1 if everything > 10_000 else 0.5
        assert sums[class_id] == pytest.approx(everything, rel=chance), class_id


def test_nothing_labelled_is_no_loss():
    task = NanoTask(NanoTaskSettings(augment=False))
    batch = batch_of(task, [labelled_frame()])[0]
    batch["classes"] = torch.full_like(batch["classes"], IGNORE)
    losses, _ = task.losses(task.network.train(), batch, None, (True,), 0)
    assert losses["loss_classes"].item() == losses["loss_dice"].item() == 0.0
    sum(losses.values()).backward()


@pytest.mark.parametrize("cameras", ["all", "all but one", "none"])
def test_what_a_lidar_measured_rules(cameras):
    """A voxel with a return is never free; without all cameras, what beams went through may be."""
    sample = labelled_frame()
    torch.manual_seed(0)
    network = Nano(NanoConfig())
    with torch.no_grad():
        network.prototypes[-1] *= 3  # free wins every other time
    model = NanoModel(NanoConfig(), network, weights="untrained")
    images = dict(sample.frame.images) if cameras != "none" else {}
    if cameras == "all but one":
        del images["CAM_BACK"]
    result = Session(model).step(replace(sample.frame, images=images))
    returns = lidar_occupancy(ModelInput(sample.frame), NanoConfig(), OwnVehicle()).numpy()
    free = result.semantics == FREE
    assert returns.sum() > 500
    assert ((result.prediction == FREE) & returns).any()  # it was said, and is not published
    assert not (free & returns).any()
    assert (result.visibility[free] == Visibility.FREE_SEEN).all()
    occupied = (result.prediction < FREE) & returns
    assert (result.visibility[occupied] == Visibility.OCCUPIED_SEEN).all()
    unseen = result.visibility == Visibility.UNKNOWN
    assert (result.semantics[unseen] == UNKNOWN).all()
    if cameras == "none":
        assert 1_000 < (~unseen).sum() < 300_000


def test_arithmetic_that_autocast_must_not_round():
    """Velocities and the sums of Dice stay float32; half a million voxels do not fit float16."""
    logits = torch.randn(1, 2, len(FLOW_BIN_CENTRES), 3, 3)
    probability = torch.full((400_000, 2), 0.5)
    truth, counted = torch.zeros(400_000, dtype=torch.int64), torch.ones(400_000)
    plain = expected_velocity(logits), _dice_loss(probability, probability[:, 0], truth, counted)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            rounded = expected_velocity(logits), _dice_loss(probability, probability[:, 0], truth, counted)
        for one, other in zip(plain, rounded, strict=True):
            assert other.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
