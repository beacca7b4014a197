"""Matching of objects and voxels: equal to the paper's padded problem, proven when pruned, and the edges."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from occ_perception.errors import InvalidInputError, NumericsError
from occ_perception.training import pruned_assignment, voxel_matching
from occ_perception.training.voxel_matching import (
    focal_matching_cost,
    match_objects,
    match_voxels,
    match_voxels_of_objects,
)


def lattice(seed, count=2197, noise=0.3):
    """Predicted voxels [K, 3] around the origin, as the offsets begin, and their scores [K]."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(13) - 6) * 0.4
    points = torch.cartesian_prod(axis, axis, axis)[:count]
    return points + noise * torch.randn(points.shape, generator=generator), torch.rand(count, generator=generator) / 2


def box(seed, count, size=(16, 12, 10)):
    """``count`` true voxel centres of one object, [count, 3]."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*[torch.arange(n) - n / 2 for n in size])
    return cells[torch.randperm(len(cells), generator=generator)[:count]] * 0.4 + 0.13


def cost_of(match, predicted, scores, truth):
    """What the paper sums over the matched pairs."""
    distance = (predicted[match.predictions].double() - truth[match.truth].double()).norm(dim=1)
    return float((distance - scores[match.predictions].double()).sum())


def best_cost(predicted, scores, truth):
    cost = torch.cdist(truth.double(), predicted.double(), compute_mode="donot_use_mm_for_euclid_dist") - scores
    return float(cost[linear_sum_assignment(cost.numpy())].sum())


@pytest.mark.parametrize("count", [1, 7, 25, 40])
def test_same_loss_as_the_padded_square_problem(count):
    predicted, scores = lattice(count, 40)
    truth = box(count, count)
    square = torch.zeros(40, 40, dtype=torch.float64)  # rows: predictions; columns: true voxels, then padding
    square[:, :count] = (predicted[:, None].double() - truth.double()).norm(dim=-1) - scores[:, None]
    rows, columns = linear_sum_assignment(square.numpy())
    expected = square[rows, columns].sum()
    for mode in ("exact", "pruned"):
        match = match_voxels(predicted, scores, truth, mode)
        assert match.truth.tolist() == list(range(count))
        assert len(set(match.predictions.tolist())) == count
        assert cost_of(match, predicted, scores, truth) == pytest.approx(float(expected), abs=1e-5)


def test_cheapest_of_all_assignments_of_a_tiny_problem():
    predicted, scores, truth = *lattice(1, 6), box(1, 3)
    costs = [
        sum(float((predicted[k] - truth[j]).norm() - scores[k]) for j, k in enumerate(chosen))
        for chosen in itertools.permutations(range(6), 3)
    ]
    assert cost_of(match_voxels(predicted, scores, truth), predicted, scores, truth) == pytest.approx(min(costs))


@pytest.mark.parametrize(("count", "size"), [(300, (16, 12, 10)), (500, (9, 8, 7)), (500, (20, 6, 6))])
def test_pruned_is_within_its_tolerance(count, size, monkeypatch):
    predicted, scores = lattice(count)
    truth = box(count, count, size)
    best = best_cost(predicted, scores, truth)

    def whole_matrix(cost):
        raise AssertionError(f"fell back to the whole matrix {cost.shape}")

    monkeypatch.setattr(pruned_assignment, "linear_sum_assignment", whole_matrix)
    match = match_voxels(predicted, scores, truth, "pruned")
    assert len(set(match.predictions.tolist())) == count
    assert best - 1e-4 <= cost_of(match, predicted, scores, truth) <= best + pruned_assignment.TOLERANCE * count


def test_pruned_adds_entries_until_the_proof_holds(monkeypatch):
    """An object longer than the predictions reach: the first assignment is bad, and its prices say so."""
    predicted, scores, truth = *lattice(3), box(3, 500, (20, 6, 6))
    monkeypatch.setattr(pruned_assignment, "TOLERANCE", 1e-7)
    monkeypatch.setattr(pruned_assignment, "MARGIN", 0.6)
    rounds = []
    solve = pruned_assignment._solve
    monkeypatch.setattr(pruned_assignment, "_solve", lambda *a: rounds.append(len(a[0].costs)) or solve(*a))
    cost = cost_of(match_voxels(predicted, scores, truth, "pruned"), predicted, scores, truth)
    assert cost == pytest.approx(best_cost(predicted, scores, truth), abs=1e-3)
    assert 1 < len(rounds) <= 4
    assert rounds == sorted(rounds)


@pytest.mark.parametrize("broken", ["MARGIN", "_ROUNDS", "_STEPS"])
def test_pruned_falls_back_to_the_whole_matrix(broken, monkeypatch):
    """No complete assignment over the kept entries; no round; no prices found."""
    predicted, scores, truth = *lattice(4), box(4, 300, (8, 8, 6))
    monkeypatch.setattr(pruned_assignment, broken, 0)
    whole = []
    monkeypatch.setattr(
        pruned_assignment, "linear_sum_assignment", lambda c: whole.append(1) or linear_sum_assignment(c)
    )
    match = match_voxels(predicted, scores, truth, "pruned")
    assert whole
    assert torch.equal(match.predictions, match_voxels(predicted, scores, truth).predictions)


@pytest.mark.parametrize("mode", ["exact", "pruned"])
@pytest.mark.parametrize("entries", [1, 2**25])
def test_objects_together_equal_each_alone(mode, entries, monkeypatch):
    monkeypatch.setattr(voxel_matching, "_ENTRIES", entries)
    sizes = (30, 0, 240, 1, 110)
    predicted, scores = (torch.stack(parts) for parts in zip(*(lattice(s, 300) for s in sizes), strict=True))
    truth = [box(s, s) for s in sizes]
    together = match_voxels_of_objects(predicted, scores, truth, mode)
    for match, *each in zip(together, predicted, scores, truth, strict=True):
        alone = match_voxels(*each, mode)
        assert torch.equal(match.predictions, alone.predictions)
        assert torch.equal(match.truth, alone.truth)


def test_far_from_the_origin_a_millimetre_still_counts():
    truth = box(5, 60) + torch.tensor([40.0, -40.0, 2.0])
    predicted = torch.cat([truth + torch.tensor([0.001, 0, 0]), truth])
    assert match_voxels(predicted, torch.zeros(120), truth).predictions.tolist() == list(range(60, 120))


def test_more_true_voxels_than_predictions():
    predicted, scores = lattice(6, 20)
    truth = box(6, 50)

    def match(seed):
        return match_voxels(predicted, scores, truth, generator=torch.Generator().manual_seed(seed))

    first = match(0)
    assert first.left_out == 30
    assert sorted(first.predictions.tolist()) == list(range(20))
    assert len(set(first.truth.tolist())) == 20
    assert first.truth.tolist() == sorted(first.truth.tolist())
    assert torch.equal(first.truth, match(0).truth)
    assert not torch.equal(first.truth, match(1).truth)


def test_nothing_to_match():
    predicted, scores = lattice(7, 10)
    for mode in ("exact", "pruned"):
        match = match_voxels(predicted, scores, torch.zeros(0, 3), mode)
        assert (match.predictions.shape, match.truth.shape, match.left_out) == ((0,), (0,), 0)
        assert match.predictions.dtype == match.truth.dtype == torch.int64
        assert match_voxels_of_objects(torch.zeros(0, 10, 3), torch.zeros(0, 10), [], mode) == []
    assert match_voxels(predicted[:0], scores[:0], box(1, 4)).left_out == 4


def test_bad_input_is_refused():
    predicted, scores, truth = *lattice(8, 10), box(8, 4)
    for bad in ((predicted[:, :2], scores, truth), (predicted, scores[1:], truth), (predicted, scores, truth[:, :2])):
        with pytest.raises(InvalidInputError, match="voxel matching"):
            match_voxels(*bad)
    with pytest.raises(InvalidInputError, match="voxel matching"):
        match_voxels_of_objects(predicted[None], scores[None], [truth, truth])
    predicted[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="voxels"):
        match_voxels(predicted, scores, truth)


def test_no_gradient_flows_through_a_match():
    predicted, scores, truth = *lattice(9, 10), box(9, 4)
    match = match_voxels(predicted.requires_grad_(), scores.requires_grad_(), truth)
    (predicted[match.predictions] - truth).square().sum().backward()
    assert predicted.grad is not None


def test_focal_cost_is_the_formula():
    logits, classes = torch.tensor([[0.3, -2.0], [1.5, 4.0]]), torch.tensor([1, 0, 1])
    cost = focal_matching_cost(logits, classes)
    for query, kind in itertools.product(range(2), range(3)):
        p = 1 / (1 + math.exp(-float(logits[query, classes[kind]])))
        expected = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
        assert float(cost[query, kind]) == pytest.approx(expected, rel=1e-4)
    assert focal_matching_cost(torch.tensor([[200.0, -200.0]]), torch.tensor([0, 1])).isfinite().all()


def test_objects_go_to_the_cheapest_queries():
    generator = torch.Generator().manual_seed(1)
    logits, classes = torch.randn(7, 4, generator=generator), torch.tensor([2, 0, 2])
    centers, true_centers = 20 * torch.randn(7, 3, generator=generator), 20 * torch.randn(3, 3, generator=generator)
    cost = 0.5 * focal_matching_cost(logits, classes) + 0.02 * (centers[:, None] - true_centers).norm(dim=-1)
    best = min(sum(float(cost[q, g]) for g, q in enumerate(qs)) for qs in itertools.permutations(range(7), 3))
    match = match_objects(logits, centers, classes, true_centers)
    assert sorted(match.objects.tolist()) == [0, 1, 2]
    assert float(cost[match.queries, match.objects].sum()) == pytest.approx(best, rel=1e-4)
    assert match.queries.tolist() == sorted(match.queries.tolist())


def test_objects_without_and_beyond_queries():
    none = match_objects(torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    assert len(none.queries) == len(none.objects) == 0
    many = match_objects(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1, 2]), torch.zeros(3, 3))
    assert len(set(many.objects.tolist())) == len(set(many.queries.tolist())) == 2
    with pytest.raises(NumericsError, match="objects"):
        match_objects(torch.full((2, 3), np.nan), torch.zeros(2, 3), torch.tensor([0]), torch.zeros(1, 3))
