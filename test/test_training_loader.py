"""Batches are the same whatever prepares them; damage and dead workers are told; hard frames come again."""

import os
import signal

import numpy as np
import pytest
import torch
from toy_training import ToySource, ToyTask, toy_config, toy_trainer

from occ_perception.data.sharding import Shard
from occ_perception.errors import DatasetError
from occ_perception.training.active_training import ActiveTrainingSettings, Curriculum
from occ_perception.training.distributed import Ranks
from occ_perception.training.loader import BatchLoader, LoaderSettings
from occ_perception.training.order import TrainingOrder


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


def batches(workers, source=None, steps=9, **settings):
    loader = BatchLoader(source or ToySource(), ToyTask(), LoaderSettings(workers=workers, **settings), seed=3)
    order = TrainingOrder(ToySource().scene_lengths, 3, Shard(), 3)
    return list(loader.steps(order, 3, 2, steps)), loader


def test_batches_do_not_depend_on_the_number_of_workers():
    reference, _ = batches(0)
    for workers in (1, 2, 5):
        for expected, batch in zip(reference, batches(workers)[0], strict=True):
            assert (batch.starts, batch.samples) == (expected.starts, expected.samples)
            assert all(torch.equal(batch.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_batches_draw_nothing_from_the_global_generator():
    loader = BatchLoader(ToySource(), ToyTask(), LoaderSettings(workers=1), seed=3)
    order = TrainingOrder(ToySource().scene_lengths, 3, Shard(), 3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(loader.steps(order, 3, 0, 2))
    assert torch.equal(torch.rand(1), expected)


def test_streams_are_consecutive_and_share_their_draw():
    apart = [batch.tensors["apart"].tolist() for batch in batches(0)[0]]
    starts = [batch.starts for batch in batches(0)[0]]
    assert all((a == 0) == s for row, begun in zip(apart, starts, strict=True) for a, s in zip(row, begun, strict=True))
    assert {a for row in apart for a in row} == {0, 1}


def test_damaged_frames_stop_or_are_replaced(caplog):
    source = ToySource(damaged={(0, 1), (2, 4)})
    with pytest.raises(DatasetError, match=r"scene.*/data/scene\d/frame\d.npz is damaged.*loader.damaged"):
        batches(0, source)
    with pytest.raises(DatasetError, match="is damaged") as caught:
        batches(1, source)
    assert "Traceback" not in str(caught.value)  # of the worker
    kept, loader = batches(2, source, steps=12, damaged="skip")
    assert loader.damaged > 0
    assert "/data/scene0/frame1.npz is damaged" in caplog.text
    for batch in kept:
        for sample, starts in zip(batch.samples, batch.starts, strict=True):
            if sample in source.damaged or (sample[0], sample[1] - 1) in source.damaged:
                assert starts  # no stream goes on over a gap
    with pytest.raises(DatasetError, match=r"loader.max_damaged is 0"):
        batches(0, source, damaged="skip", max_damaged=0)


class DyingSource(ToySource):
    def load(self, scene, frame):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(scene, frame)


def test_a_dead_worker_ends_the_run(tmp_path):
    trainer = toy_trainer(toy_config(loader={"workers": 1}), tmp_path, DyingSource())
    with pytest.raises(DatasetError, match="loader process died"):
        trainer.run()


class BrokenSource(ToySource):
    def load(self, scene, frame):
        raise ZeroDivisionError("a bug")


def test_a_bug_in_a_worker_is_not_hidden():
    with pytest.raises(ZeroDivisionError, match="a bug"):
        batches(1, BrokenSource())


def curriculum(unit="frame", share=0.5, lengths=(4, 4)):
    settings = ActiveTrainingSettings(enabled=True, share=share, unit=unit)
    return Curriculum(settings, lengths, 2, Ranks(Shard(), torch.device("cpu")), seed=0)


def play(curriculum, losses=None):
    """One phase, and the losses [scenes, frames] after it if it wants them; the frames it trained on."""
    phase = curriculum.phase()
    seen = []
    for step in phase.order.steps(phase.first, phase.steps):
        curriculum.step()
        seen += [(r.scene, r.frame) for r in step if r.counts]
    assert curriculum.wants_losses == (losses is not None)
    curriculum.advance(None if losses is None else np.ravel(losses).astype(np.float32))
    return seen


def test_active_training_trains_the_hardest_again():
    active = curriculum()
    assert len(play(active, [[0, 1, 2, 3], [10, 11, 12, 13]])) == 8
    assert sorted(play(active)) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert len(play(active, [[0, -1, -2, np.nan], [0, -1, -2, -3]])) == 8  # and everything again
    assert sorted(play(active)) == [(0, 0), (0, 1), (0, 3), (1, 0)]
    by_half = curriculum("half")
    play(by_half, [[9, 1, 1, 1], [1, 1, 1, 5]])
    assert sorted(play(by_half)) == [(0, 0), (0, 1), (1, 2), (1, 3)]
