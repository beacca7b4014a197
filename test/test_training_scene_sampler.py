"""The training order of section 10.1: halves of scenes in time order, shuffled, each once per round, seeded."""

from itertools import islice, pairwise

import pytest

from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError
from occ_perception.training.scene_sampler import SceneHalvesSampler, scene_halves

LENGTHS = [4, 5, 1, 6, 4]


def _slots(batches, slots, **options):
    """The frames of every slot in the order they are played."""
    rows = list(islice(SceneHalvesSampler(LENGTHS, slots, **options), batches))
    return [[row[slot] for row in rows] for slot in range(slots)]


def test_halves_cover_every_frame_once():
    halves = scene_halves(LENGTHS)
    assert len(halves) == 9  # a scene of one frame has one half
    assert (1, range(0, 2)) in halves
    assert (1, range(2, 5)) in halves
    frames = [(scene, frame) for scene, part in halves for frame in part]
    assert sorted(frames) == [(scene, frame) for scene, length in enumerate(LENGTHS) for frame in range(length)]


def test_a_slot_plays_each_half_in_time_order_and_marks_its_start():
    for stream in _slots(60, slots=3):
        assert stream[0].starts
        for before, after in pairwise(stream):
            follows = (after.scene, after.frame) == (before.scene, before.frame + 1)
            assert after.starts or follows
            if after.starts:
                assert after.frame in (0, LENGTHS[after.scene] // 2)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_every_half_is_played_once_per_round(slots):
    starts = [[f for f in stream if f.starts] for stream in _slots(400, slots)]
    halves = len(scene_halves(LENGTHS))
    dealt = [starts[i % slots][i // slots] for i in range(3 * halves)]
    rounds = [{(f.scene, f.frame) for f in dealt[k * halves : (k + 1) * halves]} for k in range(3)]
    assert all(len(played) == halves for played in rounds)
    assert dealt[:halves] != dealt[halves : 2 * halves]


def test_the_seed_decides_the_order():
    assert _slots(30, 2, seed=3) == _slots(30, 2, seed=3)
    assert _slots(30, 2, seed=3) != _slots(30, 2, seed=4)


def test_workers_together_play_what_one_worker_with_all_slots_plays():
    alone = _slots(40, 4)
    first, second = (_slots(40, 2, shard=Shard(i, 2)) for i in range(2))
    assert [first[0], second[0], first[1], second[1]] == alone


@pytest.mark.parametrize(("lengths", "slots"), [([], 1), ([4], 3), ([4], 0)])
def test_more_slots_than_halves_are_refused(lengths, slots):
    with pytest.raises(ConfigurationError, match="slots"):
        SceneHalvesSampler(lengths, slots)
