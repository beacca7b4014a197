"""The Object Module and the Panoptic Module: from queries to a grid of instances."""

import dataclasses

import pytest
import torch
from offsetocc_frames import CAR, GRID, HEAD, PEDESTRIAN

from occ_perception.errors import ConfigurationError
from occ_perception.geometry import OCC3D_GRID
from occ_perception.layers.object_grid import FoundObjects, find_objects, instance_grid, is_covered, object_cells
from occ_perception.layers.object_module import ObjectModule, ObjectPredictions
from occ_perception.models.panoptic import PanopticHead, PanopticNetwork
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.ontology import FREE, OCC3D

pytestmark = pytest.mark.usefixtures("one_thread")
ROAD = OCC3D.id_of("driveable_surface")
CAR_ROW = OCC3D.thing_ids.index(CAR)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return ObjectModule(GRID, 10, channels=32, queries=20, layers=2, heads=4, points=2, hidden=64, offsets_per_side=3)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return PanopticHead(HEAD, GRID, 6, OCC3D.thing_ids).eval()


def _predictions(logits, centres=None, channels=32):
    count = len(logits)
    scores = torch.full((1, count, 10), -9.0)
    scores[0, :, 0] = torch.tensor(logits)
    centres = torch.zeros(1, count, 3) if centres is None else centres
    return ObjectPredictions(scores, centres, torch.randn(1, count, channels))


def _objects(cells, classes=None, scores=None):
    """Objects whose points are the centres of some cells, all the same number."""
    points = torch.tensor(cells, dtype=torch.float32).add(0.5) * GRID.voxel_size + torch.tensor(GRID.origin)
    count = len(points)
    return FoundObjects(
        torch.tensor(classes or [0] * count),
        torch.tensor(scores or [0.9 - 0.1 * i for i in range(count)]),
        points.mean(dim=1),
        points,
        torch.ones(points.shape[:2], dtype=torch.bool),
    )


def test_shapes_and_ranges(module):
    predictions = module(torch.randn(2, 12, 12, 4, 32))
    assert predictions.class_logits.shape == (2, 20, 10)
    assert predictions.embeddings.shape == (2, 20, 32)
    assert bool((predictions.centres >= torch.tensor(GRID.lower)).all())
    assert bool((predictions.centres <= torch.tensor(GRID.upper)).all())
    shapes = module.shapes(predictions.embeddings[0, :3])
    assert shapes.offsets.shape == (3, 27, 3)
    assert shapes.score_logits.shape == (3, 27)


def test_objects_begin_as_cubes_of_cells_all_over_the_grid():
    torch.manual_seed(0)
    module = ObjectModule(OCC3D_GRID, 10, 32, 500, 1, 4, 2, 64, offsets_per_side=5)
    predictions = module(torch.randn(1, 10, 10, 4, 32))
    shapes = module.shapes(predictions.embeddings[0])
    axis = (torch.arange(5) - 2) * 0.4
    lattice = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    torch.testing.assert_close(shapes.offsets, lattice.expand(500, -1, -1), atol=0.05, rtol=0)
    torch.testing.assert_close(shapes.score_logits.sigmoid().mean(), torch.tensor(0.05), atol=0.005, rtol=0)
    quadrants = (predictions.centres[0, :, :2] > 0).long() @ torch.tensor([2, 1])
    assert torch.bincount(quadrants, minlength=4).min() > 80
    assert float(predictions.class_logits.detach().sigmoid().mean()) < 0.03


def test_a_query_feels_the_volume_and_the_other_queries(module):
    volume = torch.randn(1, 12, 12, 4, 32)
    before = module(volume)
    assert not torch.allclose(module(volume + 1).class_logits, before.class_logits)
    saved = module.queries.detach().clone()
    with torch.no_grad():
        module.queries[0] += 5
        after = module(volume)
        module.queries.copy_(saved)
    assert not torch.allclose(after.class_logits[:, 1:], before.class_logits[:, 1:], atol=1e-6)


def test_only_queries_above_the_threshold_are_objects_best_first(module):
    decoded = []
    shapes = module.shapes
    module.shapes = lambda rows: decoded.append(len(rows)) or shapes(rows)
    try:
        objects = find_objects(module, _predictions([-2.0, 1.0, 3.0, -5.0, 0.0]), 0, 0.4, 0.5)
        nothing = find_objects(module, _predictions([-2.0, -3.0]), 0, 0.4, 0.5)
    finally:
        del module.shapes
    assert decoded == [3, 0]
    torch.testing.assert_close(objects.scores, torch.tensor([3.0, 1.0, 0.0]).sigmoid())
    assert objects.points.shape == (3, 27, 3)
    assert nothing.points.shape == (0, 27, 3)


def test_points_lie_at_centre_plus_offset(module):
    predictions = _predictions([4.0], torch.tensor([[[1.0, -2.0, 0.5]]]))
    objects = find_objects(module, predictions, 0, 0.3, 0.0)
    offsets = module.shapes(predictions.embeddings[0]).offsets
    torch.testing.assert_close(objects.points, predictions.centres[0][:, None] + offsets)
    assert bool(objects.belongs.all())
    assert not bool(find_objects(module, predictions, 0, 0.3, 0.99).belongs.any())


def test_cells_of_points():
    objects = _objects([[[0, 0, 0], [23, 23, 7], [5, 6, 2]]])
    expected = [(x * 24 + y) * 8 + z for x, y, z in ([0, 0, 0], [23, 23, 7], [5, 6, 2])]
    assert object_cells(objects, GRID).tolist() == [expected]
    outside = objects.points.clone()
    outside[0, 0, 0] -= 0.5  # a step below the grid
    outside[0, 1, 2] += 0.5  # above it
    outside[0, 2] = float("nan")
    assert object_cells(objects._replace(points=outside), GRID).tolist() == [[-1, -1, -1]]
    assert object_cells(objects._replace(belongs=~objects.belongs), GRID).tolist() == [[-1, -1, -1]]


def test_the_best_object_has_a_voxel_that_two_claim():
    cells = torch.tensor([[5, 6, -1], [6, 7, 8], [8, 9, 5]])
    grid = instance_grid(cells, (2, 3, 4)).flatten()
    assert {i: int(grid[i]) for i in (5, 6, 7, 8, 9)} == {5: 1, 6: 1, 7: 2, 8: 2, 9: 3}
    assert int((grid > 0).sum()) == 5


def test_many_objects_keep_their_ids():
    cells = torch.arange(900)[:, None]
    assert torch.equal(instance_grid(cells, (10, 10, 10)).flatten()[:900], torch.arange(1, 901, dtype=torch.int32))
    assert int(instance_grid(torch.zeros(0, 4, dtype=torch.long), (4, 4, 4)).sum()) == 0


def test_covered_objects():
    cells = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 4], [1, 2, 9, 10, 11], [1, 2, 3, 4, 5], [-1, -1, -1, -1, -1]])
    classes = torch.tensor([0, 0, 0, 1, 0])
    # The second lies within the first; the third shares two of five; the fourth is of another class; one is empty.
    assert is_covered(cells, classes, 0.8).tolist() == [False, True, False, False, False]
    assert is_covered(cells, classes, 0.3).tolist() == [False, True, True, False, False]
    assert is_covered(cells[:0], classes[:0], 0.8).tolist() == []


def test_covered_objects_of_many_cells():
    cells = torch.arange(40_000).expand(2, -1).clone()
    cells[1, :5000] = -1
    assert is_covered(cells, torch.zeros(2), 0.99).tolist() == [False, True]
    cells[1, 5000:6000] += 50_000
    assert is_covered(cells, torch.zeros(2), 0.99).tolist() == [False, False]


def _semantics(*filled):
    semantics = torch.full(GRID.size, FREE, dtype=torch.uint8)
    semantics[:, :, 1] = ROAD
    for class_id, cell in filled:
        semantics[cell] = class_id
    return semantics


def test_things_go_to_the_objects_near_them(head):
    semantics = _semantics((CAR, (5, 5, 3)), (CAR, (6, 5, 3)), (PEDESTRIAN, (20, 20, 4)), (CAR, (6, 4, 3)))
    objects = _objects([[[5, 5, 3], [5, 4, 3]], [[12, 12, 3], [12, 13, 3]]], classes=[CAR_ROW, CAR_ROW])
    scene = head.merge(semantics, objects)
    assert int(scene.instances[5, 5, 3]) == int(scene.instances[6, 5, 3]) == int(scene.instances[6, 4, 3]) == 1
    assert int(scene.semantics[20, 20, 4]) == FREE
    assert int((scene.instances > 0).sum()) == 3
    assert bool((scene.semantics[:, :, 1] == ROAD).all())
    # The second object has no voxel of a thing class around it: it is not listed.
    assert [(item.id, item.class_id) for item in scene.objects] == [(1, CAR)]
    assert scene.objects[0].center == pytest.approx(objects.centres[0].tolist())
    assert scene.objects[0].score == pytest.approx(0.9)


def test_an_object_may_be_asked_to_vote_for_its_own_class_only():
    strict = PanopticHead(dataclasses.replace(HEAD, same_class=True), GRID, 6, OCC3D.thing_ids)
    semantics = _semantics((CAR, (5, 5, 3)), (PEDESTRIAN, (6, 5, 3)))
    scene = strict.merge(semantics, _objects([[[5, 5, 3]]], classes=[CAR_ROW]))
    assert int(scene.instances[5, 5, 3]) == 1
    assert int(scene.semantics[6, 5, 3]) == FREE


def test_covered_objects_do_not_vote():
    config = dataclasses.replace(HEAD, covered_share=0.8, voting_radius=0)
    strict = PanopticHead(config, GRID, 6, OCC3D.thing_ids)
    semantics = _semantics((CAR, (5, 5, 3)), (CAR, (5, 6, 3)))
    objects = _objects([[[5, 5, 3], [5, 6, 3]], [[5, 6, 3], [5, 6, 3]]], classes=[CAR_ROW, CAR_ROW])
    assert [item.id for item in strict.merge(semantics, objects).objects] == [1]


def test_scenes_without_objects_or_things(head):
    nothing = FoundObjects(
        torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, 8, 3),
        torch.zeros(0, 8, dtype=torch.bool),
    )  # fmt: skip
    lonely = head.merge(_semantics((CAR, (5, 5, 3))), nothing)
    assert int(lonely.semantics[5, 5, 3]) == FREE
    assert lonely.objects == ()
    all_free = torch.full(GRID.size, FREE, dtype=torch.uint8)
    scene = head.merge(all_free, _objects([[[5, 5, 3]]]))
    assert torch.equal(scene.semantics, all_free)
    assert int(scene.instances.sum()) == 0
    assert scene.objects == ()


def test_features_of_another_size_are_projected_and_pooled():
    torch.manual_seed(0)
    config = dataclasses.replace(HEAD, feature_stride=2)
    head = PanopticHead(config, GRID, 5, OCC3D.thing_ids)
    features = torch.randn(2, 5, 24, 24, 8)
    fine = head(features)
    coarse = PanopticHead(dataclasses.replace(config, feature_stride=1), GRID, 5, OCC3D.thing_ids)
    coarse.load_state_dict(head.state_dict())
    means = features.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).mean(dim=(-1, -2, -3))
    torch.testing.assert_close(coarse(means).class_logits, fine.class_logits, atol=1e-4, rtol=1e-4)
    assert isinstance(PanopticHead(HEAD, GRID, 32, OCC3D.thing_ids).projection, torch.nn.Identity)


def test_the_base_stays_in_evaluation_mode():
    base = torch.nn.Sequential(torch.nn.Conv3d(2, 6, 1), torch.nn.BatchNorm3d(6))
    network = PanopticNetwork(base, PanopticHead(HEAD, GRID, 6, OCC3D.thing_ids)).train()
    assert network.head.training
    assert not any(module.training for module in network.base.modules())
    assert not any(p.requires_grad for p in network.base.parameters())
    assert all(p.requires_grad for p in network.head.parameters())


@pytest.mark.parametrize(
    "changes", [{"queries": 0}, {"queries": 40000}, {"voting_radius": -1}, {"feature_stride": 0}, {"hidden": 0}]
)
def test_sizes_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigurationError, match="panoptic modules"):
        PanopticConfig(**changes)


@pytest.mark.parametrize("name", ["score_threshold", "offset_threshold", "covered_share"])
@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_thresholds_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        PanopticConfig(**{name: value})
    assert getattr(PanopticConfig(**{name: 1.0}), name) == 1.0


def test_channels_that_the_heads_do_not_divide_are_refused():
    with pytest.raises(ConfigurationError, match="heads must divide channels, got 7 heads, 128 channels"):
        PanopticConfig(heads=7)
