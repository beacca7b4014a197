"""Sampling, warping, pooling and matching agree with their plain references."""

import pytest
import torch
from torch.nn import functional as F

from occ_perception.ops.correlation import local_cosine_similarity, window_values
from occ_perception.ops.cost_volume import INVALID_CHANNEL, INVALID_PENALTY, stereo_cost_volume, sweep_coordinates
from occ_perception.ops.frustum import CameraTensors, frustum, image_to_ego, inverse_intrinsics
from occ_perception.ops.grid_warp import metres_from_index, warp, warp_taps
from occ_perception.ops.interpolation import bilinear_taps, interpolate_rows, trilinear_taps, volume_to_rows
from occ_perception.ops.lidar_depth import depth_bins, lidar_depth_map
from occ_perception.ops.upsampled_conv import conv3x3_of_upsampled
from occ_perception.ops.voxel_pooling import GridSpec, soft_filling_taps, voxel_pooling, voxel_pooling_reference


def _normalised(position, length):
    return position / (length - 1) * 2 - 1


def test_bilinear_taps_equal_grid_sample_inside_and_outside():
    torch.manual_seed(0)
    x, y = torch.rand(500) * 14 - 3, torch.rand(500) * 11 - 3
    image = torch.randn(1, 5, 6, 9)
    grid = torch.stack([_normalised(x, 9), _normalised(y, 6)], dim=-1).view(1, 1, -1, 2)
    expected = F.grid_sample(image, grid, align_corners=True)[0, :, 0].T
    rows = interpolate_rows(volume_to_rows(image), bilinear_taps(x, y, 9, 6))
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_trilinear_taps_equal_grid_sample():
    torch.manual_seed(0)
    x, y, z = torch.rand(400) * 9 - 2, torch.rand(400) * 8 - 2, torch.rand(400) * 7 - 2
    volume = torch.randn(1, 4, 5, 6, 3)  # [B, C, Y, X, Z]
    grid = torch.stack([_normalised(z, 3), _normalised(x, 6), _normalised(y, 5)], dim=-1).view(1, 1, 1, -1, 3)
    expected = F.grid_sample(volume, grid, align_corners=True)[0, :, 0, 0].T
    rows = interpolate_rows(volume_to_rows(volume), trilinear_taps(x, y, z, (6, 5, 3)))
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_far_and_infinite_positions_are_outside():
    far = torch.tensor([1e30, -1e30, float("inf")])
    taps = bilinear_taps(far, far, 4, 4)
    assert torch.equal(taps.weights, torch.zeros(3, 4))


def test_interpolation_is_differentiable():
    table = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    taps = bilinear_taps(torch.tensor([0.3, 2.7]), torch.tensor([1.2, 0.1]), 4, 3)
    assert torch.autograd.gradcheck(lambda t: interpolate_rows(t, taps), (table,))


@pytest.mark.parametrize("size", [(7, 9), (7, 9, 5)])
def test_warp_moves_content_by_the_ego_motion(size):
    metres = metres_from_index((-2.0, -1.5, -1.0), 0.5, planar=len(size) == 2)
    motion = torch.eye(4)[None].clone()
    motion[0, 0, 3] = 1.0  # the vehicle drove two cells along x
    eye = torch.eye(3)[None]
    frame = torch.randn(1, *size, 3)
    warped = warp(frame, warp_taps(motion, eye, eye, metres, size))
    torch.testing.assert_close(warped[:, :, :-2], frame[:, :, 2:], atol=1e-5, rtol=1e-5)
    assert torch.equal(warped[:, :, -2:], torch.zeros_like(warped[:, :, -2:]))


def test_warp_undoes_the_augmentation_of_both_frames():
    metres = metres_from_index((-2.0, -2.0, 0.0), 1.0, planar=True)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))[None]
    frame = torch.randn(1, 5, 5, 2)
    taps = warp_taps(torch.eye(4)[None], flip, torch.eye(3)[None], metres, (5, 5))
    torch.testing.assert_close(warp(frame, taps), frame.flip(2), atol=1e-5, rtol=1e-5)


def test_batches_are_warped_independently():
    metres = metres_from_index((-2.0, -2.0, 0.0), 1.0, planar=True)
    motions = torch.eye(4).repeat(2, 1, 1)
    motions[1, 1, 3] = 1.0
    eyes = torch.eye(3).repeat(2, 1, 1)
    frames = torch.randn(2, 5, 5, 2)
    together = warp(frames, warp_taps(motions, eyes, eyes, metres, (5, 5)))
    alone = [warp(frames[i : i + 1], warp_taps(motions[i : i + 1], eyes[:1], eyes[:1], metres, (5, 5))) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("heights", [1, 4])
def test_pooling_equals_index_add(heights):
    torch.manual_seed(0)
    grid = GridSpec((-2.0, -1.0, -1.0), (0.5, 0.5, 0.5 if heights > 1 else 2.0), (9, 7, heights))
    points = torch.randn(300, 3) * 2
    features, rows, scores = torch.randn(20, 6), torch.randint(0, 20, (300,)), torch.rand(300)
    taps = soft_filling_taps(points, grid)
    fast = voxel_pooling(features, rows, scores, taps, grid.voxels)
    torch.testing.assert_close(fast, voxel_pooling_reference(features, rows, scores, taps, grid.voxels))


def test_soft_filling_is_trilinear_about_voxel_corners():
    grid = GridSpec((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4))
    taps = soft_filling_taps(torch.tensor([[1.25, 2.0, 0.5]]), grid)
    kept = {int(r): float(w) for r, w in zip(taps.rows[0], taps.weights[0], strict=True) if w > 0}
    row = lambda x, y, z: (y * 4 + x) * 4 + z  # noqa: E731
    assert kept == {row(1, 2, 0): 0.375, row(1, 2, 1): 0.375, row(2, 2, 0): 0.125, row(2, 2, 1): 0.125}


def test_a_flat_grid_weighs_by_distance_from_its_plane():
    grid = GridSpec((0.0, 0.0, -1.0), (0.4, 0.4, 6.4), (5, 5, 1))
    taps = soft_filling_taps(torch.tensor([[0.8, 0.8, 2.2], [0.8, 0.8, -2.6], [0.8, 0.8, 6.0]]), grid)
    torch.testing.assert_close(taps.weights.sum(1), torch.tensor([0.5, 0.75, 0.0]))


def test_pooling_passes_gradients_to_features_and_scores():
    grid = GridSpec((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (3, 3, 2))
    taps = soft_filling_taps(torch.rand(10, 3, dtype=torch.float64) * 2, grid)
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(10, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(0, 4, (10,))
    assert torch.autograd.gradcheck(lambda f, s: voxel_pooling(f, rows, s, taps, grid.voxels), (features, scores))


@pytest.mark.parametrize(("low", "size"), [((5, 7), (20, 28)), ((3, 3), (24, 24)), ((1, 2), (4, 8))])
def test_convolution_of_an_upsampled_map(low, size):
    x, weight = torch.randn(2, 6, *low, dtype=torch.float64), torch.randn(4, 6, 3, 3, dtype=torch.float64)
    upsampled = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(conv3x3_of_upsampled(x, weight, size), F.conv2d(upsampled, weight, padding=1))


def test_local_correlation_equals_unfolding():
    current, previous = torch.randn(2, 8, 6, 7), torch.randn(2, 8, 6, 7)
    windows = F.unfold(F.normalize(previous, dim=1), 5, dilation=2, padding=4).view(2, 8, 25, 6, 7)
    expected = (F.normalize(current, dim=1)[:, :, None] * windows).sum(1)
    torch.testing.assert_close(local_cosine_similarity(current, previous, 5, 2), expected, atol=1e-6, rtol=1e-5)
    flags = torch.rand(2, 6, 7) > 0.5
    padded = F.unfold(F.pad((~flags[:, None]).float(), (4,) * 4), 5, dilation=2).view(2, 25, 6, 7) == 0
    assert torch.equal(window_values(flags, 5, 2, fill=True), padded)


def _camera(size=(64, 96)):
    intrinsics = torch.tensor([[80.0, 0, 48], [0, 82.0, 30], [0, 0, 1]])
    eye = torch.eye(3)
    return CameraTensors(
        eye[None, None], torch.zeros(1, 1, 3), intrinsics[None, None], eye[None, None], torch.zeros(1, 1, 3), eye[None]
    )


def test_inverse_intrinsics_with_skew():
    matrix = torch.tensor([[800.0, 2.0, 320], [0, 810.0, 240], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(inverse_intrinsics(matrix), torch.inverse(matrix))


def test_sweep_projects_ego_points_into_the_moved_camera():
    cameras, size = _camera(), (64, 96)
    points = frustum(size, 4, torch.tensor([2.0, 8.0]))
    motion = torch.eye(4)
    motion[2, 3] = 0.5  # the current camera is half a metre ahead of the previous one
    x, y = sweep_coordinates(points, cameras, motion[None, None], size)
    ego = image_to_ego(points[None, None], cameras)[0, 0] + torch.tensor([0.0, 0, 0.5])
    pixel = ego @ cameras.intrins[0, 0].T
    u, v = pixel[..., 0] / pixel[..., 2], pixel[..., 1] / pixel[..., 2]
    torch.testing.assert_close(x[0, 0], u / 95 * 23, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y[0, 0], v / 63 * 15, atol=1e-4, rtol=1e-4)


def test_sweep_puts_points_behind_the_previous_camera_outside():
    motion = torch.eye(4)
    motion[2, 3] = -5.0
    x, _ = sweep_coordinates(frustum((64, 96), 4, torch.tensor([2.0])), _camera(), motion[None, None], (64, 96))
    assert float(x.max()) < -1


def test_cost_volume_equals_grid_sample():
    torch.manual_seed(0)
    current, previous = torch.randn(2, 256, 5, 6).relu(), torch.randn(2, 256, 5, 6).relu()
    x, y = torch.rand(2, 7, 5, 6) * 8 - 1, torch.rand(2, 7, 5, 6) * 7 - 1
    grid = torch.stack([_normalised(x, 6), _normalised(y, 5)], dim=-1).flatten(1, 2)
    warped = F.grid_sample(previous, grid, align_corners=True).view(2, 256, 7, 5, 6)
    cost = (warped - current[:, :, None]).abs().sum(1) + INVALID_PENALTY * (warped[:, INVALID_CHANNEL] == 0)
    torch.testing.assert_close(stereo_cost_volume(current, previous, x, y), (-cost).softmax(1), atol=1e-4, rtol=1e-3)


def test_lidar_depth_keeps_the_nearest_return_of_a_cell():
    points = torch.tensor([[0.0, 0, 10], [0.1, 0, 5.2], [0, 0, 60], [0, 0, -3], [float("nan"), 0, 4], [3, 0, 8]])
    intrinsics = torch.tensor([[80.0, 0, 40], [0, 80, 24], [0, 0, 1]])
    depth = lidar_depth_map(points, intrinsics, torch.eye(3), (48, 96), 16, (1.0, 45.0))
    assert depth.depth.count_nonzero() == 2
    assert float(depth.depth[1, 2]) == pytest.approx(5.2)
    assert int(depth.point[1, 2]) == 1
    assert int(depth.point[0, 0]) == -1


def test_depth_bins_follow_the_published_rounding():
    bins = depth_bins(torch.tensor([0.0, 1.0, 1.49, 1.5, 44.99, 45.0]), 1.0, 0.5, 88)
    assert bins.tolist() == [-1, 0, 0, 1, 87, -1]
