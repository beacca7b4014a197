"""Each stage of ALOcc alone: the fast form equals the published formula; hand-checked values; gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from occ_perception.errors import NumericsError
from occ_perception.layers.depth_transfer import (
    OUTSIDE,
    inter_object_transfer,
    intra_object_transfer,
    mix_known_depth,
)
from occ_perception.layers.flow_head import FlowHead, bev_summary, correlation_scores, expected_flow, flow_bin_centres
from occ_perception.layers.folding import fold_batch_norms
from occ_perception.layers.history_fusion import fuse_history, fuse_history_framewise, restart_history
from occ_perception.layers.prototype_head import PrototypeHead
from occ_perception.layers.residual_blocks import ResidualStages
from occ_perception.layers.stage_monitor import FiniteMonitor, ignore_stages
from occ_perception.layers.voxel_neck import BevNeck, HeightExpansion, VolumeNeck, scores_from_columns
from occ_perception.ops.frustum import frustum
from occ_perception.ops.fused_conv import conv_relu
from occ_perception.ops.grid_warp import metres_from_index, warp_taps


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _trained(module):
    """Evaluation mode with statistics that are not the identity."""
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.5, 2)
            nn.init.normal_(child.weight, 1, 0.2)
            nn.init.normal_(child.bias)
    return module.eval()


def test_intra_object_transfer_is_a_toeplitz_product():
    depth, weights = torch.rand(2, 9, 3, 4), torch.rand(2, 5, 3, 4)
    expected = depth.clone()
    for c in range(9):
        for k in range(1, 6):
            if c >= k:
                expected[:, c] += weights[:, k - 1] * depth[:, c - k]
    torch.testing.assert_close(intra_object_transfer(depth, weights), expected)


def test_intra_object_transfer_gradient():
    depth = torch.rand(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(intra_object_transfer, (depth, weights))


def test_inter_object_transfer_of_one_pixel():
    geometry = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.5]).view(1, 5, 1, 1)
    weight = torch.full((1, 3, 3, 3, 1, 1), 0.5)
    offset = torch.arange(18.0).view(1, 3, 3, 2, 1, 1)
    points = frustum((16, 16), 16, torch.tensor([1.0, 2, 3, 4, 5]))
    extra = inter_object_transfer(geometry, weight, offset, points, depth_index_bins=3)
    scores = extra.scores.view(3, 3, 3)
    # The peak is bin 3; bins 2, 3, 4 are clamped to the last of the first three bins.
    torch.testing.assert_close(scores[0, 0], torch.full((3,), 0.15))
    assert torch.equal(scores[1, 1], torch.zeros(3))
    first = extra.points.view(3, 3, 3, 3)
    torch.testing.assert_close(first[0, 1, 0], torch.tensor([2.0, 3.0, 3.0]))
    assert torch.equal(first[1, 1], torch.full((3, 3), OUTSIDE))


def test_inter_object_transfer_discards_the_bin_before_the_first():
    geometry = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)
    extra = inter_object_transfer(
        geometry, torch.ones(1, 3, 3, 3, 1, 1), torch.zeros(1, 3, 3, 2, 1, 1), frustum((16, 16), 16, torch.ones(3)), 3
    )
    scores = extra.scores.view(9, 3)
    assert torch.equal(scores[:, 0], torch.zeros(9))
    torch.testing.assert_close(scores[0, 1:], torch.tensor([0.9, 0.2]))


def test_known_depth_replaces_or_blends_where_there_is_a_hit():
    depth = torch.full((1, 1, 4, 1, 2), 0.25)
    known = torch.tensor([[[[2, -1]]]])
    assert mix_known_depth(depth, known, 1.0)[0, 0, :, 0, 0].tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(mix_known_depth(depth, known, 0.5)[0, 0, 2, 0, 0], torch.tensor(0.625))
    torch.testing.assert_close(mix_known_depth(depth, known, 1.0)[..., 1], depth[..., 1])


def _mixing(channels, frames, volumetric):
    conv, norm = (nn.Conv3d, nn.BatchNorm3d) if volumetric else (nn.Conv2d, nn.BatchNorm2d)
    frame = nn.Sequential(conv(channels + 1, channels, 1), norm(channels), nn.ReLU())
    cat = nn.Sequential(conv(channels * (frames + 1), channels, 1), norm(channels), nn.ReLU())
    return _trained(frame), _trained(cat)


@pytest.mark.parametrize("size", [(6, 7), (6, 7, 4)])
@pytest.mark.parametrize("update", ["copy", "overwrite"])
def test_framewise_history_equals_the_method_as_written(size, update):
    convs = _mixing(5, 3, len(size) == 3)
    metres = metres_from_index((-3.0, -3.0, -1.0), 1.0, planar=len(size) == 2)
    motion = torch.eye(4).repeat(2, 1, 1)
    motion[0, 0, 3], motion[1, 1, 3] = 0.7, -1.3
    eyes = torch.eye(3).repeat(2, 1, 1)
    taps = warp_taps(motion, eyes, eyes, metres, size)
    plain = fast = None
    with torch.no_grad():
        for step in range(3):
            current = torch.randn(2, 5, *size)
            starts = (step == 0, step in (0, 2))
            plain, fast = (restart_history(current, state, starts, 3) for state in (plain, fast))
            expected, plain = fuse_history(current, plain, taps, 0.5, *convs)
            result, fast = fuse_history_framewise(current, fast, taps, 0.5, *convs, update=update)
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(fast.frames, plain.frames)
            torch.testing.assert_close(fast.ages, plain.ages)


def test_history_ages_follow_the_published_sequence():
    convs = _mixing(2, 3, False)
    eye = torch.eye(3)[None]
    taps = warp_taps(torch.eye(4)[None], eye, eye, metres_from_index((0.0, 0.0, 0.0), 1.0, True), (3, 3))
    state, seen = None, []
    for step in range(4):
        current = torch.randn(1, 2, 3, 3)
        state = restart_history(current, state, (step == 0,), 3)
        seen.append(state.ages[0].tolist())
        with torch.no_grad():
            _, state = fuse_history_framewise(current, state, taps, 0.5, *convs)
    assert seen == [[0, 0, 0], [1, 1, 1], [1, 2, 2], [1, 2, 3]]
    without_start = restart_history(torch.randn(1, 2, 3, 3), None, (False,), 3)
    assert without_start.ages.tolist() == [[1, 1, 1]]


def test_keeping_the_history_returns_the_old_state():
    convs = _mixing(2, 3, False)
    eye = torch.eye(3)[None]
    taps = warp_taps(torch.eye(4)[None], eye, eye, metres_from_index((0.0, 0.0, 0.0), 1.0, True), (3, 3))
    state = restart_history(torch.randn(1, 2, 3, 3), None, (True,), 3)
    before = state.frames.clone()
    with torch.no_grad():
        _, after = fuse_history_framewise(torch.randn(1, 2, 3, 3), state, taps, 0.5, *convs, update="keep")
    assert torch.equal(after.frames, before)


def test_bev_neck_equals_upsample_and_concatenate():
    neck = _trained(BevNeck((3, 4, 5, 6), 7)).double()
    stages = [torch.randn(2, c, 24 // s, 16 // s, dtype=torch.float64) for c, s in ((3, 1), (4, 2), (5, 4), (6, 8))]
    full = [F.interpolate(x, size=(24, 16), mode="bilinear", align_corners=True) for x in stages]
    torch.testing.assert_close(neck(stages), neck.conv(torch.cat(full, dim=1)))


def test_volume_neck_equals_upsample_and_concatenate():
    neck = _trained(VolumeNeck((3, 4, 5), 6)).double()
    stages = [torch.randn(2, c, 8 // s, 12 // s, 4 // s, dtype=torch.float64) for c, s in ((3, 1), (4, 2), (5, 4))]
    full = [F.interpolate(x, size=(8, 12, 4), mode="trilinear", align_corners=True) for x in stages]
    torch.testing.assert_close(neck(stages), F.relu(neck.conv(torch.cat(full, dim=1))))


def test_height_expansion_unfolds_the_published_channel_order():
    expansion = HeightExpansion(3, voxel_channels=2, heights=4)
    x = torch.randn(1, 3, 5, 6)
    plain = F.conv2d(x, expansion.weight, expansion.bias, padding=1)
    torch.testing.assert_close(expansion(x), plain.view(1, 2, 4, 5, 6).permute(0, 1, 3, 4, 2))


def test_scores_from_columns_equals_expansion_then_head():
    expansion, head = HeightExpansion(3, 8, 4), PrototypeHead(5, 8, 6)
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(scores_from_columns(expansion, head)(x), head(expansion(x)), atol=1e-5, rtol=1e-4)


def test_folding_batch_norms_changes_no_output():
    for volumetric, shape in ((False, (1, 4, 8, 8)), (True, (1, 4, 8, 8, 4))):
        stages = _trained(ResidualStages(4, [4, 8], [1, 2], [1, 2], volumetric)).double()
        x = torch.randn(shape, dtype=torch.float64)
        before = stages(x)
        folded = fold_batch_norms(stages)
        assert not any(isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d)) for m in folded.modules())
        for a, b in zip(before, folded(x), strict=True):
            torch.testing.assert_close(a, b)


def test_flow_head_equals_the_published_formula():
    head = _trained(FlowHead(5, 8, 6))
    features, cost = torch.randn(1, 8, 16, 12, 10), torch.rand(1, 121, 8, 6)
    up = F.interpolate(head.cost_volum_net(cost), size=(16, 12), mode="bilinear", align_corners=True)
    columns = up.unsqueeze(-1).expand(-1, -1, -1, -1, 10)
    hidden = head.flow_post_conv(torch.cat([columns, features], dim=1))
    with torch.no_grad():
        flow, logits = head.flow(features, cost, ignore_stages)
    assert logits is None
    torch.testing.assert_close(flow, expected_flow(head.flow_predicter(hidden)), atol=2e-4, rtol=1e-4)


def test_expected_flow_of_one_certain_bin():
    logits = torch.zeros(1, 176, 1, 1, 1)
    logits[0, 10 * 2], logits[0, 50 * 2 + 1] = 100.0, 100.0
    assert expected_flow(logits).flatten().tolist() == [-17.0, 3.0]
    assert flow_bin_centres()[[0, -1]].tolist() == [-22.0, 21.5]


def test_flow_correlation_prefers_the_cell_things_came_from():
    previous = torch.zeros(1, 40, 40, 6)
    previous[:] = torch.randn(6) * 0.1
    previous[0, 20:22, 10:12] = torch.randn(6) * 5
    current = torch.roll(previous, 4, dims=2)  # moved by 4 cells along x, 2 on the halved map
    eye = torch.eye(3)[None]
    taps = warp_taps(torch.eye(4)[None], eye, eye, metres_from_index((0.0, 0.0, 0.0), 0.4, True), (40, 40))
    scores = correlation_scores(current, previous, taps)[0, :, 10, 7]
    assert int(scores.argmin()) == 5 * 11 + 4


def test_bev_summary_averages_the_middle_heights():
    features = torch.zeros(1, 2, 3, 3, 16)
    features[..., 3:9] = 1.0
    assert torch.equal(bev_summary(features), torch.ones(1, 3, 3, 2))


def test_finite_monitor_names_the_first_bad_stage():
    monitor = FiniteMonitor()
    for name, value in (("good", 1.0), ("bad", float("nan")), ("worse", float("inf"))):
        monitor(name, torch.tensor([value, 2.0]))
    with pytest.raises(NumericsError, match="'bad'"):
        monitor.raise_if_not_finite()


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("added", [False, True])
def test_the_fused_convolution_equals_its_parts(dimensions, added):
    torch.manual_seed(0)
    kind = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
    conv = kind(6, 8, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 6, *(12, 10, 8)[:dimensions])
    with torch.inference_mode():
        y = conv(x)
        identity = torch.randn_like(y) if added else None
        expected = torch.relu(y + identity if added else y)
        kept = x.clone()
        result = conv_relu(conv, nn.Identity(), x, identity)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(x, kept)
