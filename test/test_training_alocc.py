"""Losses, targets, augmentation and schedules of ALOcc: known values, consistent geometry, gradients."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.alocc import synthetic_inputs
from occ_perception.layers.flow_head import correlation_scores
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import alocc_config
from occ_perception.models.alocc_types import Guidance
from occ_perception.ops.grid_warp import metres_from_index, warp_taps
from occ_perception.ops.lidar_depth import LidarDepth
from occ_perception.training.augmentation import ImageAugmentation, sample_bev_flip, sample_image_augmentation
from occ_perception.training.class_weights import class_counts, class_weights, sampling_weights
from occ_perception.training.flow_denoising import label_map, label_scores
from occ_perception.training.losses import ALOccLoss, depth_loss, flow_losses
from occ_perception.training.mask_loss import mask_loss, sample_cells
from occ_perception.training.schedules import ALOccSchedule, WeightAverage
from occ_perception.training.targets import (
    ALOccTargets,
    BevFlip,
    flow_target,
    lidar_image_labels,
    voxel_labels,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_class_weights_by_hand():
    counts = class_counts("occ3d")
    weights, sampling = class_weights(counts), sampling_weights(counts)
    assert weights.shape == sampling.shape == (19,)
    assert (weights[0], weights[1], sampling[0], sampling[18]) == (0, 1, 0, 1)
    assert float(weights[18]) == pytest.approx(math.log(944004.001) / math.log(1892500630.001))
    assert float(sampling[3]) == pytest.approx((1892500630 / 152386) ** 0.25, rel=1e-5)
    assert class_counts("openocc")[[0, 9, 16]].tolist() == [16957802, 1897170, 1892500630]


def test_mask_loss_of_a_certain_and_of_an_undecided_prediction():
    labels = torch.randint(1, 3, (1, 4, 5, 6))
    weights = torch.tensor([0.0, 1.0, 0.5])
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    right = mask_loss(one_hot * 60 - 30, labels, weights, torch.ones(3), 16)
    assert float(right.bce) < 1e-6
    assert float(right.dice) < 1e-6
    undecided = mask_loss(torch.zeros(1, 3, 4, 5, 6), labels, weights, torch.ones(3), 16)
    assert float(undecided.bce) == pytest.approx(5 * math.log(2), rel=1e-5)


def test_dice_of_one_row_by_hand():
    loss = mask_loss(torch.zeros(1, 2, 12), torch.ones(1, 12, dtype=torch.int64), torch.ones(2), torch.ones(2), 4)
    # Four cells of the class, probability one half each: 1 - (2 * 2 + 1) / (2 + 4 + 1).
    assert float(loss.dice) == pytest.approx(5 * 2 / 7)


def test_points_prefer_uncertain_and_valid_cells():
    label = torch.full((400,), 255)
    label[:200] = 1
    rows = torch.full((2, 400), 10.0)
    rows[:, :40] = 0.1
    cells = sample_cells(rows, label, torch.tensor([0.0, 1.0]), 40, torch.Generator().manual_seed(0))
    assert cells.shape == (2, 40)
    assert int(cells.max()) < 200  # 120 drawn of 200 valid ones
    uncertain = (cells[:, :30] < 40).float().mean()
    assert uncertain > 0.7  # 120 of 200 drawn hold 24 of the 40 uncertain ones on average, all kept


def test_sampling_fills_up_with_ignored_cells_when_few_are_valid():
    label = torch.tensor([1] * 5 + [255] * 20)
    cells = sample_cells(torch.zeros(1, 25), label, torch.tensor([0.0, 1.0]), 8)
    assert (cells[0, :6] >= 5).any() or (cells[0, 6:] < 5).all()
    assert set(range(5)) >= set(cells[0, 6:].tolist())


def test_rare_classes_are_drawn_more_often():
    label = torch.tensor([1] * 900 + [2] * 100)
    cells = sample_cells(torch.rand(1, 1000), label, torch.tensor([0.0, 1.0, 9.0]), 80)
    rare = (label[cells[0, :60]] == 2).float().mean()
    assert 0.2 < rare < 0.7


def test_a_sample_without_labels_costs_nothing_but_keeps_the_graph():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.full((1, 4, 4), 255), torch.ones(3), torch.ones(3), 4)
    (loss.bce + loss.dice).backward()
    assert float(logits.grad.abs().sum()) == 0


def test_mask_loss_gradient():
    labels = torch.randint(1, 3, (1, 12))
    logits = torch.randn(1, 3, 12, requires_grad=True)

    def loss(values):
        result = mask_loss(values, labels, torch.ones(3), torch.ones(3), 4, torch.Generator().manual_seed(3))
        return result.bce + result.dice

    loss(logits).backward()
    numeric = torch.zeros_like(logits)
    for index in range(logits.numel()):
        step = torch.zeros(logits.numel())
        step[index] = 1e-3
        step = step.view_as(logits)
        numeric.view(-1)[index] = (loss(logits.detach() + step) - loss(logits.detach() - step)) / 2e-3
    torch.testing.assert_close(logits.grad, numeric, atol=2e-3, rtol=2e-2)


def test_depth_loss_by_hand_and_gradient():
    depth = torch.full((1, 1, 4, 1, 2), 0.25, dtype=torch.float64)
    known = torch.tensor([[[[3, -1]]]])
    assert float(depth_loss(depth, known)) == pytest.approx(math.log(4), rel=1e-6)
    assert float(depth_loss(depth, torch.full_like(known, -1))) == 0
    assert torch.autograd.gradcheck(lambda d: depth_loss(d, known), (depth.requires_grad_(),))


def test_flow_losses_by_hand():
    target = torch.full((1, 1, 1, 2, 2), torch.inf)
    target[0, 0, 0, 0] = torch.tensor([3.0, -4.0])
    flow = torch.zeros(1, 1, 1, 2, 2)
    flow[0, 0, 0, 0] = torch.tensor([4.0, 3.0])
    logits = torch.zeros(1, 176, 1, 1, 2)
    losses = flow_losses(flow, logits, target)
    assert float(losses["loss_flow"]) == pytest.approx((1 + 49) / 2)
    assert float(losses["loss_flow_cosine"]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses["loss_flow_bins"]) == pytest.approx(math.log(88), rel=1e-5)
    logits[0, 50 * 2, 0, 0, 0], logits[0, 36 * 2 + 1, 0, 0, 0] = 100.0, 100.0  # v_y = 3, v_x = -4
    assert float(flow_losses(flow, logits, target)["loss_flow_bins"]) < 1e-6


def test_flow_losses_gradient():
    target = torch.randn(1, 2, 1, 2, 2, dtype=torch.float64)
    flow = torch.randn(1, 2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(1, 176, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, s: tuple(flow_losses(f, s, target).values()), (flow, logits), fast_mode=True
    )


def test_voxel_labels_shift_mask_transpose_and_flip():
    semantics = torch.arange(6).view(3, 2, 1)
    mask = torch.ones(3, 2, 1, dtype=torch.bool)
    mask[0, 0] = False
    labels = voxel_labels(semantics, mask)
    assert labels[..., 0].tolist() == [[255, 3, 5], [2, 4, 6]]
    assert voxel_labels(semantics, None, BevFlip(x=True))[..., 0].tolist() == [[5, 3, 1], [6, 4, 2]]
    assert voxel_labels(semantics, None, BevFlip(y=True))[..., 0].tolist() == [[2, 4, 6], [1, 3, 5]]


def test_flow_target_swaps_axes_and_signs():
    flow = torch.zeros(2, 2, 1, 2)
    flow[1, 0, 0] = torch.tensor([2.0, 0.5])
    semantics = torch.full((2, 2, 1), 12)
    semantics[1, 0] = 0
    plain = flow_target(flow, semantics, None)
    assert plain[0, 1, 0].tolist() == [0.5, 2.0]
    assert torch.isinf(plain[1, 0]).all()
    assert flow_target(flow, semantics, None, flip=BevFlip(x=True))[0, 0, 0].tolist() == [0.5, -2.0]
    assert flow_target(flow, semantics, None, flip=BevFlip(y=True))[1, 1, 0].tolist() == [-0.5, 2.0]
    assert not torch.isfinite(flow_target(flow, semantics, torch.zeros(2, 2, 1))).any()


def test_bev_flip_matrix_agrees_with_the_flipped_flow():
    flip = BevFlip(x=True, y=False)
    moved = flip.matrix() @ torch.tensor([2.0, 0.5, 0.0])
    assert moved.tolist() == [-2.0, 0.5, 0.0]


def test_image_labels_of_the_nearest_return():
    depth = LidarDepth(torch.tensor([[5.0, 0.0]]), torch.tensor([[2, -1]]))
    assert lidar_image_labels(depth, torch.tensor([4, 5, 9])).tolist() == [[10, 255]]


@pytest.mark.parametrize("seed", range(6))
def test_augmented_image_and_affine_agree(seed):
    augmentation = sample_image_augmentation(np.random.default_rng(seed))
    pixel = np.array([820.0, 620.0])
    image = Image.new("L", (1600, 900))
    image.paste(255, (int(pixel[0]) - 8, int(pixel[1]) - 8, int(pixel[0]) + 8, int(pixel[1]) + 8))
    result = np.asarray(augmentation.apply(image), np.float64)
    assert result.shape == (256, 704)
    u, v = (augmentation.affine() @ [*pixel, 1])[:2]
    if not (10 < u < 694 and 10 < v < 246):
        pytest.skip("the marked pixel was cropped away")
    rows, columns = np.mgrid[:256, :704]
    found = np.array([(columns * result).sum(), (rows * result).sum()]) / result.sum()
    np.testing.assert_allclose(found + 0.5, [u, v], atol=1.5)


def test_the_test_time_affine_is_the_published_one():
    affine = ImageAugmentation(0.44, (704, 256), (0, 140)).affine()
    np.testing.assert_allclose(affine, [[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]], atol=1e-12)


def test_augmentation_stays_in_its_ranges():
    random = np.random.default_rng(0)
    drawn = [sample_image_augmentation(random) for _ in range(200)]
    assert 0.38 <= min(a.resize for a in drawn) < 0.4 < 0.53 < max(a.resize for a in drawn) <= 0.55
    assert all(a.crop[1] == int(900 * a.resize) - 256 and a.crop[0] >= 0 for a in drawn)
    assert max(abs(a.rotate) for a in drawn) <= 5.4
    flips = [sample_bev_flip(random) for _ in range(200)]
    assert 60 < sum(f.x for f in flips) < 140


def test_schedules_at_their_corners():
    schedule, epoch = ALOccSchedule(), 8005
    assert [schedule.depth_mix(i * epoch) for i in (0, 3, 6, 11)] == pytest.approx([1, 0.5, 0, 0])
    assert [schedule.flow_mix(i * epoch) for i in (0, 2, 3, 4, 9)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert (schedule.keeps_history(2 * epoch - 1), schedule.keeps_history(2 * epoch)) == (False, True)


def test_weight_average_follows_the_published_decay():
    network = torch.nn.BatchNorm1d(1)
    average = WeightAverage(network)
    network.weight.data.fill_(2.0)
    network.num_batches_tracked.fill_(7)
    average.update()
    decay = 0.999 * (1 - math.exp(-10561 / 2000))
    assert average.decay() == pytest.approx(decay)
    assert float(average.average["weight"]) == pytest.approx(decay + (1 - decay) * 2)
    assert int(average.average["num_batches_tracked"]) == 7


def test_flow_denoiser_scores_label_maps():
    labels = [torch.randint(1, 18, (1, 24, 24, 16)) for _ in range(2)]
    labels[0][0, :3] = 255
    eye = torch.eye(3)[None]
    taps = warp_taps(torch.eye(4)[None], eye, eye, metres_from_index((0.0, 0.0, 0.0), 0.4, True), (24, 24))
    first = label_scores(label_map(labels[0]), None, taps, (True,))
    centre = 5 * 11 + 5
    torch.testing.assert_close(first[:, centre], torch.full((1, 12, 12), -10.0), atol=1e-4, rtol=0)
    one_hot = [torch.nn.functional.one_hot(torch.where(x == 255, 18, x), 19).float() for x in labels]
    maps = [x[..., 3:9, :].mean(dim=3) for x in one_hot]
    second = label_scores(label_map(labels[1]), label_map(labels[0]), taps, (False,))
    torch.testing.assert_close(second, correlation_scores(maps[1], maps[0], taps))


def test_a_training_step_reaches_every_parameter():
    config = dataclasses.replace(
        alocc_config("alocc-flow-2d"), image_size=(64, 160), grid_size=(24, 24, 16), grid_origin=(-4.8, -4.8, -1.0),
        history_frames=2,
    )  # fmt: skip
    network = ALOcc(config).train()
    inputs = synthetic_inputs(config, 0, torch.device("cpu"))
    labels = torch.randint(1, 18, (1, 24, 24, 16))
    taps = network.motion_taps(inputs, None, (24, 24))
    guidance = Guidance(depth_mix=0.7, flow_scores=label_scores(label_map(labels), None, taps, (True,)), flow_mix=0.5)
    bins = torch.randint(-1, config.depth_bins, (1, 6, 4, 10))
    targets = ALOccTargets(labels, bins, torch.randint(1, 18, (1, 6, 4, 10)), torch.randn(1, 24, 24, 16, 2))
    inputs = inputs._replace(lidar_depth=bins, guidance=guidance, previous_images=inputs.images.roll(3, -1))
    output, state = network(inputs)
    losses = ALOccLoss(network)(output, targets)
    assert set(losses) == {
        "loss_mask", "loss_dice", "loss_depth", "loss_mask_2d", "loss_dice_2d",
        "loss_flow", "loss_flow_cosine", "loss_flow_bins",
    }  # fmt: skip
    total = sum(losses.values())
    assert bool(torch.isfinite(total))
    total.backward()
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert not state.history.frames.requires_grad


def test_training_lowers_the_loss():
    config = dataclasses.replace(
        alocc_config("alocc-2d-mini"), image_size=(64, 160), grid_size=(24, 24, 16), grid_origin=(-4.8, -4.8, -1.0),
        history_frames=2,
    )  # fmt: skip
    network = ALOcc(config).train()
    inputs = synthetic_inputs(config, 0, torch.device("cpu"))
    labels = torch.full((1, 24, 24, 16), 18)
    labels[..., :5] = 12
    targets = ALOccTargets(labels, torch.zeros(1, 6, 4, 10, dtype=torch.int64))
    loss, optimizer = ALOccLoss(network), torch.optim.AdamW(network.parameters(), lr=2e-4)
    values = []
    for _ in range(5):
        output, _ = network(inputs)
        total = sum(loss(output, targets).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0] - 0.3
