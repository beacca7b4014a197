"""Scores of voxel columns a few at a time are what all scores at once are."""

import pytest
import torch
from torch import nn

from occ_perception.layers import column_scores
from occ_perception.layers.column_scores import ColumnScores

CLASSES, VOXELS, CHANNELS = 5, 8, 6


@pytest.fixture
def scores():
    torch.manual_seed(0)
    head = nn.Linear(CHANNELS, CLASSES * VOXELS).requires_grad_(False)
    return ColumnScores.of(head, torch.randn(2, CHANNELS, 3, 7), CLASSES)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_the_best_class_and_its_probability_are_those_of_all_scores(scores, monkeypatch, chunk):
    monkeypatch.setattr(column_scores, "_COLUMNS_PER_CHUNK", chunk)
    every, best = scores.all(), scores.best()
    assert every.shape == (2, 3, 7, CLASSES, VOXELS)
    highest, index = every.max(dim=3)
    assert torch.equal(best.classes, index.to(torch.uint8))
    torch.testing.assert_close(best.scores, highest)
    probability = torch.softmax(every, dim=3).amax(dim=3)
    assert (best.confidence.double() - 255 * probability.double()).abs().max() <= 0.5 + 1e-3


def test_of_equal_scores_the_first_class_is_best():
    bias = torch.tensor([1.0, 3.0, 3.0, 2.0]).repeat_interleave(2)
    tied = ColumnScores(torch.zeros(1, 1), torch.zeros(8, 1), bias, classes=4).best()
    assert tied.classes.tolist() == [[1, 1]]
    total = 2 + torch.exp(torch.tensor([-1.0, -2.0])).sum()
    assert tied.confidence.tolist() == [[round(255 / float(total))] * 2]


def test_what_is_not_a_number_shows_in_the_scores(scores):
    scores.features[0, 1, 2] = float("nan")
    assert torch.isnan(scores.best().scores[0, 1, 2]).all()
