"""Camera hits: the list against a loop over points and cameras, what is seen, and the mean over a query's hits."""

import pytest
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.ops.camera_hits import camera_hits, hits_per_anchor, mean_over_hits

IMAGE = (40, 60)  # height, width


def cameras(batch=2):
    """image_from_ego [B, 3, 4, 4]: looking along +x, -x and +y, each sample's mounted elsewhere."""
    intrinsics = torch.tensor([[30.0, 0, 30, 0], [0, 30, 20, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    axes = [
        [(0, -1, 0), (0, 0, -1), (1, 0, 0)],
        [(0, 1, 0), (0, 0, -1), (-1, 0, 0)],
        [(1, 0, 0), (0, 0, -1), (0, 1, 0)],
    ]
    matrices = torch.zeros(batch, 3, 4, 4)
    for sample in range(batch):
        for number, rotation in enumerate(axes):
            camera_from_ego = torch.eye(4)
            camera_from_ego[:3, :3] = torch.tensor(rotation, dtype=torch.float32)
            camera_from_ego[:3, 3] = torch.tensor([0.1, 0.2, 0.3]) * sample
            matrices[sample, number] = intrinsics @ camera_from_ego
    return matrices


def around(batch=2, queries=30, anchors=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, queries, anchors, 3, generator=generator) * torch.tensor([6.0, 6.0, 2.0])


def projected(point, matrix):
    u, v, depth, _ = (matrix @ torch.cat([point, torch.ones(1)])).tolist()
    return (u / depth / IMAGE[1], v / depth / IMAGE[0]) if depth > 1e-5 else (-1.0, -1.0)


def is_seen(point, matrix):
    return all(0 < coordinate < 1 for coordinate in projected(point, matrix))


def test_list_equals_a_loop_over_cameras_and_queries():
    points, matrices = around(), cameras()
    hits = camera_hits(points, matrices, IMAGE)
    expected = [
        (sample * 30 + query, sample * 3 + camera)
        for sample in range(2)
        for camera in range(3)
        for query in range(30)
        if any(is_seen(point, matrices[sample, camera]) for point in points[sample, query])
    ]
    assert 10 < len(expected) < 180
    assert list(zip(hits.queries.tolist(), hits.maps.tolist(), strict=True)) == expected
    assert hits.counts.tolist() == [sum(query == q for q, _ in expected) for query in range(60)]
    for row, (query, camera) in enumerate(expected):
        for anchor, point in enumerate(points.flatten(0, 1)[query]):
            matrix = matrices.flatten(0, 1)[camera]
            if is_seen(point, matrix):
                assert hits.references[row, anchor].tolist() == pytest.approx(projected(point, matrix), abs=1e-5)
            else:
                inside = (hits.references[row, anchor] > 0) & (hits.references[row, anchor] < 1)
                assert not inside.all()


def test_every_anchor_on_its_own():
    points, matrices = around(), cameras()
    hits = hits_per_anchor(points, matrices, IMAGE)
    expected = [
        (sample * 30 + query, sample * 3 + camera)
        for sample in range(2)
        for camera in range(3)
        for query in range(30)
        for point in points[sample, query]
        if is_seen(point, matrices[sample, camera])
    ]
    assert list(zip(hits.queries.tolist(), hits.maps.tolist(), strict=True)) == expected
    assert hits.references.shape == (len(expected), 1, 2)
    assert ((hits.references > 0) & (hits.references < 1)).all()
    assert hits.counts.tolist() == [sum(query == q for q, _ in expected) for query in range(60)]


def test_what_is_seen_and_what_is_not():
    at = {
        "ahead": (5.0, 0, 0),
        "behind": (-5.0, 0, 0),
        "in the camera": (0.0, 0, 0),
        "left edge": (5.0, 5, 0),
        "just inside": (5.0, 4.99, 0),
        "upper edge": (3.0, 0, 2),
        "nowhere": (float("nan"), 0, 0),
        "endless": (float("inf"), 0, 0),
    }
    points = torch.tensor(list(at.values()))[None]
    hits = camera_hits(points, cameras(1)[:, :1], IMAGE)
    assert [list(at)[query] for query in hits.queries.tolist()] == ["ahead", "just inside"]
    assert hits.references[0, 0].tolist() == pytest.approx([0.5, 0.5])
    double = camera_hits(points.double(), cameras(1)[:, :1].double(), IMAGE)
    assert torch.equal(double.queries, hits.queries)


def test_mean_over_the_hits_of_a_query():
    points, matrices = around(anchors=2), cameras()
    hits = hits_per_anchor(points, matrices, IMAGE)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(len(hits.queries), 5, generator=generator)
    weights = torch.rand(len(hits.queries), generator=generator) + 0.1
    even, weighted = mean_over_hits(features, hits), mean_over_hits(features, hits, weights)
    assert (hits.counts == 0).any()
    assert (hits.counts > 1).any()
    for query in range(60):
        own = hits.queries == query
        if own.any():
            torch.testing.assert_close(even[query], features[own].mean(dim=0))
            expected = (features[own] * weights[own, None]).sum(dim=0) / weights[own].sum()
            torch.testing.assert_close(weighted[query], expected)
        else:
            assert (even[query] == 0).all()
            assert (weighted[query] == 0).all()


def test_mean_of_short_floats_is_formed_in_float32():
    hits = hits_per_anchor(torch.tensor([5.0, 0, 0]).expand(1, 1, 1000, 3), cameras(1)[:, :1], IMAGE)
    mean = mean_over_hits(torch.ones(1000, 1, dtype=torch.bfloat16), hits)
    assert mean.dtype == torch.bfloat16
    assert mean.item() == 1  # a sum in bfloat16 stays at 256


def test_mean_is_differentiable():
    hits = hits_per_anchor(around(1, 4), cameras(1), IMAGE)
    features = torch.randn(len(hits.queries), 2, dtype=torch.float64, requires_grad=True)
    weights = (torch.rand(len(hits.queries), dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: mean_over_hits(f, hits, w), (features, weights))


def test_nobody_sees_anything():
    hits = camera_hits(torch.tensor([[[0.0, 0, 50]]]), cameras(1), IMAGE)
    assert len(hits.queries) == len(hits.maps) == 0
    assert hits.references.shape == (0, 1, 2)
    assert mean_over_hits(torch.zeros(0, 3), hits).tolist() == [[0, 0, 0]]
    empty = camera_hits(torch.zeros(2, 0, 3), cameras(), IMAGE)
    assert mean_over_hits(torch.zeros(0, 3), empty).shape == (0, 3)


def test_what_does_not_fit_is_refused():
    points, matrices = around(), cameras()
    for bad in (
        (points[..., :2], matrices),
        (points[0, 0], matrices),
        (points, matrices[:, 0]),
        (points[:1], matrices),
    ):
        with pytest.raises(InvalidInputError, match="camera hits"):
            camera_hits(*bad, IMAGE)
    with pytest.raises(InvalidInputError, match="camera hits"):
        hits_per_anchor(points[:, :, 0], matrices, IMAGE)
