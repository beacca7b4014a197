"""The deformable attention layers against the papers' sums written out with grid_sample, and their edges."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.layers.deformable_attention import (
    CameraDeformableAttention,
    VolumeDeformableAttention,
    image_tokens,
)
from occ_perception.ops.camera_hits import CameraHits, hits_per_anchor

CHANNELS, HEADS, POINTS = 8, 2, 4
QUERIES, IMAGES = 6, 3


def trained(layer):
    """Weights as after training: nothing is zero or constant any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return layer


def pyramid():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(IMAGES, CHANNELS, *size, generator=generator) for size in ((5, 7), (3, 4))]


def hit_list(anchors=1):
    """Query 0 in images 0 and 2, queries 1 and 4 in image 1, the others nowhere."""
    generator = torch.Generator().manual_seed(3)
    references = torch.rand(4, anchors, 2, generator=generator)
    counts = torch.tensor([2, 1, 0, 0, 1, 0])
    return CameraHits(torch.tensor([0, 1, 4, 0]), torch.tensor([0, 1, 1, 2]), references, counts)


def queries():
    return torch.randn(1, QUERIES, CHANNELS, generator=torch.Generator().manual_seed(4))


def one_hit(layer, query, features, reference):
    """W_o of the sum over heads, levels and points for one query in one image (specs/offsetocc.md 2.1)."""
    offsets = layer.sampling_offsets(query).view(HEADS, len(features), POINTS, 2)
    weights = layer.attention_weights(query).view(HEADS, -1).softmax(-1).view(HEADS, len(features), POINTS)
    heads = torch.zeros(HEADS, CHANNELS // HEADS)
    for level, feature in enumerate(features):
        height, width = feature.shape[1:]
        value = layer.value_projection(feature.permute(1, 2, 0)).permute(2, 0, 1)
        for head, part in enumerate(value.split(CHANNELS // HEADS)):
            for point in range(POINTS):
                anchor = reference[point % len(reference)]
                location = anchor + offsets[head, level, point] / torch.tensor([width, height])
                sampled = F.grid_sample(part[None], 2 * location.view(1, 1, 1, 2) - 1, align_corners=False)
                heads[head] += weights[head, level, point] * sampled.view(-1)
    return layer.output_projection(heads.flatten())


@pytest.mark.parametrize("anchors", [1, 2])
def test_camera_attention_is_the_mean_over_hit_cameras(anchors):
    layer = trained(CameraDeformableAttention(CHANNELS, 2, HEADS, POINTS, anchors))
    features, hits, query = pyramid(), hit_list(anchors), queries()
    with torch.no_grad():
        update = layer(query, image_tokens(features), hits)[0]
        single = [
            one_hit(layer, query[0, q], [level[m] for level in features], reference)
            for q, m, reference in zip(hits.queries, hits.maps, hits.references, strict=True)
        ]
    torch.testing.assert_close(update[0], (single[0] + single[3]) / 2)
    torch.testing.assert_close(update[1], single[1])
    torch.testing.assert_close(update[4], single[2])
    assert (update[[2, 3, 5]] == 0).all()


def test_weighted_hits():
    layer = trained(CameraDeformableAttention(CHANNELS, 2, HEADS, POINTS))
    features, hits, query = pyramid(), hit_list(), queries()
    with torch.no_grad():
        update = layer(query, image_tokens(features), hits, torch.tensor([3.0, 1, 1, 1]))[0]
        first, second = (
            one_hit(layer, query[0, 0], [f[m] for f in features], hits.references[r]) for r, m in ((0, 0), (3, 2))
        )
    torch.testing.assert_close(update[0], 0.75 * first + 0.25 * second)


def test_unseen_queries_get_the_bias_if_asked():
    layer = trained(CameraDeformableAttention(CHANNELS, 2, HEADS, POINTS, silent_without_hit=False))
    update = layer(queries(), image_tokens(pyramid()), hit_list())[0]
    torch.testing.assert_close(update[2], layer.output_projection.bias)


def test_volume_attention_is_the_sum_over_points():
    layer = trained(VolumeDeformableAttention(CHANNELS, HEADS, POINTS))
    generator = torch.Generator().manual_seed(5)
    volume = torch.randn(2, 4, 5, 3, CHANNELS, generator=generator)
    query, references = torch.randn(2, 3, CHANNELS, generator=generator), torch.rand(2, 3, 3, generator=generator)
    with torch.no_grad():
        update = layer(query, references, volume)
        for sample, number in ((0, 0), (1, 2)):
            offsets = layer.sampling_offsets(query[sample, number]).view(HEADS, POINTS, 3)
            weights = layer.attention_weights(query[sample, number]).view(HEADS, POINTS).softmax(-1)
            value = layer.value_projection(volume[sample]).permute(3, 2, 1, 0)  # grid_sample has x last
            heads = []
            for head, part in enumerate(value.split(CHANNELS // HEADS)):
                location = references[sample, number] + offsets[head] / torch.tensor([4, 5, 3])
                sampled = F.grid_sample(part[None], 2 * location.view(1, 1, 1, POINTS, 3) - 1, align_corners=False)
                heads.append((sampled.view(-1, POINTS) * weights[head]).sum(-1))
            torch.testing.assert_close(update[sample, number], layer.output_projection(torch.cat(heads)))
        shared = layer(query, references[0], volume)
    torch.testing.assert_close(shared[0], update[0])


def test_first_samples_lie_on_rays_of_growing_length():
    camera = CameraDeformableAttention(CHANNELS, 3, heads=8, points=4)
    bias = camera.sampling_offsets.bias.view(8, 3, 4, 2)
    torch.testing.assert_close(bias.abs().amax(-1), torch.tensor([1.0, 2, 3, 4]).expand(8, 3, 4))
    assert len(bias[:, 0, 0].detach().sign().unique(dim=0)) >= 4
    volume = VolumeDeformableAttention(CHANNELS, heads=8, points=4).sampling_offsets.bias.view(8, 4, 3)
    assert len(volume[:, 0].detach().unique(dim=0)) == 8
    torch.testing.assert_close(volume.abs()[:, :, 0], torch.tensor([1.0, 2, 3, 4]).expand(8, 4))


def test_everything_learns():
    camera, volume = (
        trained(CameraDeformableAttention(CHANNELS, 2, HEADS)),
        trained(VolumeDeformableAttention(CHANNELS, HEADS)),
    )
    features, query = [f.requires_grad_() for f in pyramid()], queries().requires_grad_()
    grid = torch.randn(1, 3, 3, 3, CHANNELS, requires_grad=True)
    seen = camera(query, image_tokens(features), hit_list())
    (seen + volume(seen, torch.rand(1, QUERIES, 3), grid)).square().sum().backward()
    for tensor in (*camera.parameters(), *volume.parameters(), *features, query, grid):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_under_autocast_places_stay_exact():
    """In bfloat16 an image has about 256 places; weights and values may be short, places not."""
    layer = trained(CameraDeformableAttention(CHANNELS, 2, HEADS, POINTS))
    exact = layer(queries(), image_tokens(pyramid()), hit_list())
    with torch.autocast("cpu", torch.bfloat16):
        short = layer(queries(), image_tokens(pyramid()), hit_list())
        volume = trained(VolumeDeformableAttention(CHANNELS, HEADS))
        assert volume(queries(), torch.rand(QUERIES, 3), torch.randn(1, 4, 4, 4, CHANNELS)).dtype == torch.bfloat16
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short.float(), exact, rtol=0.05, atol=0.05)


def test_a_first_call_for_inference_does_not_spoil_training():
    """Sizes are kept on the device between calls; what inference mode creates cannot be trained through."""
    features = [torch.randn(IMAGES, CHANNELS, *size) for size in ((6, 11), (2, 13))]  # sizes of no other test
    layer = CameraDeformableAttention(CHANNELS, 2, HEADS)
    with torch.inference_mode():
        layer(queries(), image_tokens(features), hit_list())
    layer(queries(), image_tokens(features), hit_list()).sum().backward()


def test_no_hits_and_no_queries():
    layer = CameraDeformableAttention(CHANNELS, 2, HEADS)
    nowhere = hits_per_anchor(torch.full((1, QUERIES, 1, 3), torch.nan), torch.eye(4).expand(1, IMAGES, 4, 4), (10, 10))
    update = layer(queries(), image_tokens(pyramid()), nowhere)
    assert (update == 0).all()
    update.sum().backward()
    assert VolumeDeformableAttention(CHANNELS, HEADS)(
        torch.zeros(2, 0, CHANNELS), torch.zeros(0, 3), torch.zeros(2, 3, 3, 3, CHANNELS)
    ).shape == (2, 0, CHANNELS)


def test_what_does_not_fit_is_refused():
    for bad in ({"heads": 3}, {"points": 4, "anchors": 3}):
        with pytest.raises(ConfigurationError):
            CameraDeformableAttention(CHANNELS, 2, **bad)
    with pytest.raises(ConfigurationError):
        VolumeDeformableAttention(CHANNELS, 3)
    layer = CameraDeformableAttention(CHANNELS, 2, HEADS)
    with pytest.raises(InvalidInputError, match="camera attention"):
        layer(queries(), image_tokens(pyramid()[:1]), hit_list())
    with pytest.raises(InvalidInputError, match="camera attention"):
        layer(queries(), image_tokens(pyramid()), hit_list(anchors=2))
    with pytest.raises(InvalidInputError, match="camera attention"):
        layer(queries()[:, 1:], image_tokens(pyramid()), hit_list())


def test_parameters_of_the_paper():
    """A layer of the OffsetOcc encoder has about 0.19 M with a feed-forward of 256 (specs/offsetocc.md section 2)."""
    camera, volume = CameraDeformableAttention(128, levels=3), VolumeDeformableAttention(128)
    rest = nn.ModuleList([nn.Linear(128, 256), nn.Linear(256, 128), *(nn.LayerNorm(128) for _ in range(3))])
    count = sum(p.numel() for module in (camera, volume, rest) for p in module.parameters())
    assert count == pytest.approx(0.187e6, rel=0.01)
