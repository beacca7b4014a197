"""OffsetOcc's baseline: sizes, geometry of the attention, decoder, backbone."""

import time

import numpy as np
import pytest
import torch
from offsetocc_frames import BASELINE, RIG, SIZE
from torch.nn import functional as F

from occ_perception.checkpoints.backbones import load_resnet
from occ_perception.checkpoints.key_table import skeleton
from occ_perception.errors import ConfigurationError, WeightsError
from occ_perception.geometry import inverse
from occ_perception.layers.fpn import FPN
from occ_perception.layers.resnet import ResNet
from occ_perception.layers.voxel_encoder import VoxelDecoder
from occ_perception.layers.voxel_queries import cell_references, sinusoidal_queries
from occ_perception.models import offsetocc
from occ_perception.models.offsetocc import OffsetOccBaseline, OffsetOccInputs
from occ_perception.models.offsetocc_config import OffsetOccConfig, offsetocc_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return OffsetOccBaseline(BASELINE).eval()


def _inputs(seed=0, cameras=tuple(RIG)):
    images = torch.randn(1, len(cameras), 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    matrices = np.tile(np.eye(4), (len(cameras), 1, 1))
    for row, name in enumerate(cameras):
        matrices[row, :3, :3] = RIG[name].intrinsics
        matrices[row] = matrices[row] @ inverse(RIG[name].ego_from_camera)
    return OffsetOccInputs(images, torch.from_numpy(matrices).float()[None])


def _parameters(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_parameter_counts_are_the_papers():
    whole = skeleton("offsetocc")
    assert _parameters(whole.base) == pytest.approx(44.2, abs=0.3)
    assert _parameters(whole.head) == pytest.approx(2.3, abs=0.15)
    assert _parameters(whole.base.backbone) == pytest.approx(42.50, abs=0.01)
    assert _parameters(whole.base.neck) == pytest.approx(0.90, abs=0.01)
    assert _parameters(skeleton("offsetocc-baseline")) == _parameters(whole.base)


def test_shapes_and_one_hit_list_for_all_layers(network, monkeypatch):
    built = []
    monkeypatch.setattr(offsetocc, "camera_hits", lambda *a: built.append(1) or _camera_hits(*a))
    with torch.inference_mode():
        output = network(_inputs())
    assert output.logits.shape == (1, 18, 24, 24, 8)
    assert output.voxel_features.shape == (1, 32, 12, 12, 4)
    assert len(built) == 1
    assert len(network.encoder.layers) == 2


_camera_hits = offsetocc.camera_hits


def test_a_missing_camera_equals_leaving_it_out(network):
    inputs = _inputs()
    silenced = OffsetOccInputs(inputs.images, inputs.image_from_ego.clone())
    silenced.image_from_ego[:, 1] = 0
    with torch.inference_mode():
        left_out = network(OffsetOccInputs(inputs.images[:, :1], inputs.image_from_ego[:, :1]))
        missing, both = network(silenced), network(inputs)
    torch.testing.assert_close(missing.logits, left_out.logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(missing.logits, both.logits, atol=1e-3)


def test_images_reach_exactly_the_voxels_they_show():
    """One layer: its self-attention comes before the images, so nothing spreads."""
    torch.manual_seed(0)
    network = OffsetOccBaseline(OffsetOccConfig(**{**vars(BASELINE), "encoder_layers": 1})).eval()
    inputs = _inputs(cameras=("CAM_FRONT",))
    with torch.inference_mode():
        first = network(inputs).voxel_features
        second = network(OffsetOccInputs(inputs.images * 2, inputs.image_from_ego)).voxel_features
    changed = (first - second).abs().amax(dim=1)[0] > 1e-6
    pixels = torch.from_numpy(BASELINE.query_grid.centers()).flatten(0, 2)
    matrix = inputs.image_from_ego[0, 0]
    projected = pixels @ matrix[:3, :3].T + matrix[:3, 3]
    uv, depth = projected[:, :2] / projected[:, 2:], projected[:, 2]
    shown = (depth > 0) & ((uv > 0) & (uv < torch.tensor([SIZE[1], SIZE[0]]))).all(dim=1)
    assert torch.equal(changed.flatten(), shown)
    assert 0.05 < shown.float().mean() < 0.6


def test_decoder_equals_upsampling_the_features_first():
    torch.manual_seed(0)
    decoder, volume = VoxelDecoder(6, 4), torch.randn(2, 5, 4, 3, 6)
    upsampled = F.interpolate(volume.movedim(-1, 1), scale_factor=2, mode="trilinear", align_corners=False)
    expected = F.linear(upsampled.movedim(1, -1), decoder.weight, decoder.bias).movedim(-1, 1)
    torch.testing.assert_close(decoder(volume), expected, atol=1e-5, rtol=1e-5)


def test_voxel_queries():
    queries = sinusoidal_queries((100, 100, 8), 128)
    assert queries.shape == (100, 100, 8, 128)
    assert float(queries.abs().max()) <= 1
    # 44 channels tell x, 44 y, 40 z, and no two cells of an axis are alike.
    assert torch.equal(queries[:, 0, 0, :44], queries[:, 50, 7, :44])
    assert torch.equal(queries[3, :, 2, 44:88], queries[99, :, 6, 44:88])
    assert torch.equal(queries[5, 8, :, 88:], queries[90, 1, :, 88:])
    assert float(torch.pdist(queries[:, 0, 0, :44]).min()) > 0.5
    with pytest.raises(ConfigurationError, match="even number"):
        sinusoidal_queries((4, 4, 4), 9)


def test_references_are_the_cells_centres():
    grid = BASELINE.query_grid
    metres = grid.lower + cell_references(grid.size).numpy() * (grid.upper - grid.lower)
    np.testing.assert_allclose(metres, grid.centers().reshape(-1, 3), atol=1e-5)


def test_pyramid_adds_from_coarse_to_fine():
    torch.manual_seed(0)
    pyramid = FPN((4, 6, 8), 5)
    maps = [torch.randn(2, c, 8 // s, 12 // s) for c, s in ((4, 1), (6, 2), (8, 4))]
    outputs = pyramid(maps)
    assert [tuple(o.shape) for o in outputs] == [(2, 5, 8, 12), (2, 5, 4, 6), (2, 5, 2, 3)]
    changed = [maps[0], maps[1], maps[2] + 1]
    assert all(not torch.equal(a, b) for a, b in zip(pyramid(changed), outputs, strict=True))
    only_fine = pyramid([maps[0] + 1, *maps[1:]])
    assert [torch.equal(a, b) for a, b in zip(only_fine, outputs, strict=True)] == [False, True, True]


def test_pretrained_backbone(tmp_path):
    """A file as torchvision writes it: our names, plus the classifier."""
    torch.manual_seed(0)
    source, ours = ResNet((1, 1, 1, 1), 8), ResNet((1, 1, 1, 1), 8)
    path = tmp_path / "resnet.pth"
    torch.save({**source.state_dict(), "fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)}, path)
    load_resnet(ours, path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), source.parameters(), strict=True))
    with pytest.raises(WeightsError, match="layer3"):
        load_resnet(ResNet((1, 1, 2, 1), 8), path)


def test_frozen_beginning_and_statistics():
    backbone = ResNet((1, 1, 1, 1), 8).train()
    backbone.freeze_beginning()
    backbone.train()
    before = backbone.layer3[0].bn2.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert torch.equal(before, backbone.layer3[0].bn2.running_mean)
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.grad is not None}
    assert trained == {"layer2", "layer3", "layer4"}
    assert backbone.layer3[0].bn2.weight.grad is None


def test_folded_network_says_the_same(network):
    folded = OffsetOccBaseline(BASELINE)
    folded.load_state_dict(network.state_dict())
    folded.prepare_for_inference()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(_inputs()).logits, network(_inputs()).logits, atol=1e-3, rtol=1e-3)


def test_configurations_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="32 divides"):
        OffsetOccConfig(image_size=(900, 1600))
    with pytest.raises(ConfigurationError, match="offsetocc-small"):
        offsetocc_config("offsetocc-huge")
    assert offsetocc_config("OffsetOcc_small").name == "offsetocc-small"


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a minute, on a machine of one's own
def test_full_size_forward():
    """The published sizes on six cameras; prints time and memory."""
    import resource

    network = OffsetOccBaseline(offsetocc_config("offsetocc-baseline")).prepare_for_inference()
    matrices = torch.eye(4).repeat(1, 6, 1, 1)
    for row, yaw in enumerate(np.deg2rad([55, 0, -55, 110, 180, -110])):
        rotation = torch.tensor([[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]])
        matrices[0, row, :3, :3] = torch.tensor([[1260.0, 0, 800], [0, 1260, 446], [0, 0, 1]]) @ rotation.float()
    inputs = OffsetOccInputs(torch.randn(1, 6, 3, 896, 1600), matrices)
    start = time.perf_counter()
    with torch.inference_mode():
        output = network(inputs)
    hits = network.visible_voxels(inputs)
    print(f"full size: {time.perf_counter() - start:.1f} s, {len(hits.queries)} hits of {len(hits.counts)} voxels,")
    print(f"peak resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    assert output.logits.shape == (1, 18, 200, 200, 16)
    assert bool(torch.isfinite(output.logits).all())
    assert 0.5 < len(hits.queries) / len(hits.counts) < 2
