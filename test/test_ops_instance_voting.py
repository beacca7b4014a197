"""Voting: bit-identical to a count voxel by voxel in plain Python, its tie rules, and the edges."""

import itertools

import pytest
import torch

from occ_perception.errors import InvalidInputError
from occ_perception.ops import instance_voting
from occ_perception.ops.instance_voting import panoptic_vote, panoptic_vote_reference

THINGS, FREE = (2, 3, 4), 17
SIZE = (9, 8, 5)


def scene(seed, objects=4, size=SIZE, share=0.1, kind=torch.int16):
    """Random labels and ids; ids also lie on stuff and on free voxels, as predicted offsets do."""
    generator = torch.Generator().manual_seed(seed)
    semantics = torch.randint(0, 18, size, generator=generator, dtype=torch.uint8)
    semantics[torch.rand(size, generator=generator) < 0.4] = 3
    ids = torch.randint(1, objects + 1, size, generator=generator)
    return semantics, torch.where(torch.rand(size, generator=generator) < share, ids, 0).to(kind)


def vote_by_hand(semantics, grid, radius, object_classes=None):
    """The rule of the paper and of our docstring, with loops."""
    labels, instances = semantics.clone(), torch.zeros_like(grid)
    written = [(cell, int(grid[tuple(cell)])) for cell in grid.nonzero().tolist()]
    for cell in itertools.product(*map(range, semantics.shape)):
        label = int(semantics[cell])
        if label not in THINGS:
            continue
        votes = {}
        for other, name in written:
            near = sum(abs(a - b) for a, b in zip(cell, other, strict=True)) <= radius
            if near and (object_classes is None or int(object_classes[name - 1]) == label):
                votes[name] = votes.get(name, 0) + 1
        if not votes:
            labels[cell] = FREE
            continue
        tied = [name for name, count in votes.items() if count == max(votes.values())]
        instances[cell] = int(grid[cell]) if int(grid[cell]) in tied else min(tied)
    return labels, instances


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("version", [panoptic_vote, panoptic_vote_reference])
@pytest.mark.parametrize("radius", [0, 1, 2, 5])
@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("same_class", [False, True])
def test_equals_the_count_by_hand(version, radius, share, same_class):
    semantics, grid = scene(radius, share=share)
    classes = torch.tensor([2, 3, 3, 4]) if same_class else None
    found = version(semantics, grid, radius, things=THINGS, free=FREE, object_classes=classes)
    assert_same(found, vote_by_hand(semantics, grid, radius, classes))


@pytest.mark.parametrize("size", [(40, 30, 16), (1, 25, 3), (13, 1, 1)])
@pytest.mark.parametrize("same_class", [False, True])
def test_equals_the_dense_count_with_the_paper_s_radius(size, same_class):
    for seed in range(3):
        semantics, grid = scene(seed, objects=12, size=size, share=0.02)
        classes = torch.arange(12) % 3 + 2 if same_class else None
        arguments = {"things": THINGS, "free": FREE, "object_classes": classes}
        expected = panoptic_vote_reference(semantics, grid, **arguments)
        assert_same(panoptic_vote(semantics, grid, **arguments), expected)


def test_blocks_do_not_matter(monkeypatch):
    semantics, grid = scene(7, share=0.3)
    whole = panoptic_vote(semantics, grid, 3, things=THINGS, free=FREE)
    monkeypatch.setattr(instance_voting, "_BLOCK", 150)
    assert_same(panoptic_vote(semantics, grid, 3, things=THINGS, free=FREE), whole)


def test_only_voxels_between_objects_are_counted(monkeypatch):
    """The point of the fast version: with one object nothing is, with two what both reach."""
    counted = []
    count_votes = instance_voting._count_votes
    monkeypatch.setattr(instance_voting, "_count_votes", lambda *a: counted.append(len(a[1])) or count_votes(*a))
    row, grid = torch.full((12, 1, 1), 3), torch.zeros(12, 1, 1, dtype=torch.int16)
    grid[2] = 1
    panoptic_vote(row, grid, 3, things=(3,), free=FREE)
    grid[7] = 2
    panoptic_vote(row, grid, 3, things=(3,), free=FREE)
    assert counted == [0, 2]  # cells 4 and 5


def test_a_tie_goes_to_the_id_already_there_then_to_the_lower():
    row = torch.full((7, 1, 1), 3)
    grid = torch.tensor([5, 0, 0, 4, 0, 0, 0]).view(7, 1, 1)
    vote = panoptic_vote(row, grid, 2, things=(3,), free=FREE)
    assert vote.instances.flatten().tolist() == [5, 4, 4, 4, 4, 4, 0]  # cells 1 and 2: one vote each
    grid = torch.tensor([4, 5, 0, 0, 0, 0, 0]).view(7, 1, 1)
    vote = panoptic_vote(row, grid, 1, things=(3,), free=FREE)
    assert vote.instances.flatten().tolist() == [4, 5, 5, 0, 0, 0, 0]
    assert vote.semantics.flatten().tolist() == [3, 3, 3, 17, 17, 17, 17]


def test_stuff_is_untouched_and_inputs_stay_as_they_are():
    semantics, grid = scene(3)
    copies = semantics.clone(), grid.clone()
    vote = panoptic_vote(semantics, grid, 2, things=THINGS, free=FREE)
    stuff = ~torch.isin(semantics, torch.tensor(THINGS))
    assert torch.equal(vote.semantics[stuff], semantics[stuff])
    assert (vote.instances[stuff] == 0).all()
    assert torch.equal(semantics, copies[0])
    assert torch.equal(grid, copies[1])


def test_radius_0_keeps_what_an_object_covers():
    semantics, grid = scene(4, share=0.4)
    vote = panoptic_vote(semantics, grid, 0, things=THINGS, free=FREE)
    thing = torch.isin(semantics, torch.tensor(THINGS))
    assert torch.equal(vote.instances, torch.where(thing, grid, 0))
    assert (vote.semantics[thing & (grid == 0)] == FREE).all()


@pytest.mark.parametrize("same_class", [False, True])
def test_scenes_with_nothing_to_decide(same_class):
    def vote(semantics, grid, objects):
        classes = torch.full((objects,), 3) if same_class else None
        return panoptic_vote(semantics, grid, 3, things=THINGS, free=FREE, object_classes=classes)

    cars, nothing = torch.full(SIZE, 3, dtype=torch.uint8), torch.zeros(SIZE, dtype=torch.int16)
    free = torch.full_like(cars, FREE)
    assert (vote(cars, nothing, 0).semantics == FREE).all()
    no_objects = vote(cars, nothing, 0)
    assert_same(no_objects, (free, nothing))
    assert_same(vote(free, nothing, 0), (free, nothing))
    assert_same(vote(free, scene(1)[1], 4), (free, nothing))
    assert_same(vote(cars, nothing + 1, 1), (cars, nothing + 1))


@pytest.mark.parametrize(("kind", "top"), [(torch.uint8, 200), (torch.int16, 32767), (torch.int32, 65535)])
def test_high_ids(kind, top):
    semantics, grid = scene(5)
    high = torch.where(grid > 0, grid.long() + top - 4, 0).to(kind)
    low = panoptic_vote(semantics, grid, 3, things=THINGS, free=FREE)
    found = panoptic_vote(semantics, high, 3, things=THINGS, free=FREE)
    assert found.instances.dtype == kind
    assert torch.equal(found.instances.long(), torch.where(low.instances > 0, low.instances.long() + top - 4, 0))


def test_what_does_not_fit_is_refused():
    semantics, grid = scene(6)
    too_high, negative = grid.int(), grid.clone()
    too_high[0, 0, 0], negative[0, 0, 0] = 65536, -1
    bad = [
        ((semantics[1:], grid), {}),
        ((semantics[None], grid[None]), {}),
        ((semantics[:0], grid[:0]), {}),
        ((semantics.float(), grid), {}),
        ((semantics, grid.float()), {}),
        ((semantics, grid > 0), {}),
        ((semantics, grid.to(torch.uint16)), {}),
        ((semantics, grid, -1), {}),
        ((semantics, too_high), {}),
        ((semantics, negative), {}),
        ((semantics, grid), {"object_classes": torch.tensor([2])}),
    ]
    for arguments, options in bad:
        with pytest.raises(InvalidInputError, match="panoptic vote"):
            panoptic_vote(*arguments, things=THINGS, free=FREE, **options)
