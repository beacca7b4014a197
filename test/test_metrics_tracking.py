"""MOTA and IDF1 on cases small enough to count by hand."""

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.report import Report
from occ_perception.metrics.tracking import TrackedFrame, TrackingScore

A, B = 1, 2


def sequence(*frames: dict[int, int | None], invented: dict[int, list[int]] | None = None, seconds: float = 0.1):
    """Frames that say which predicted id each true object has (None = missed); ``invented`` by number of the frame."""
    result = []
    for number, pairs in enumerate(frames):
        true = np.array(list(pairs), np.int64)
        extra = (invented or {}).get(number, [])
        predicted = np.array([p for p in pairs.values() if p is not None] + extra, np.int64)
        similarity = np.array([[float(pairs[t] == p) for p in predicted.tolist()] for t in true.tolist()])
        stamp = round(number * seconds * 1e9)
        result.append(TrackedFrame(stamp, true, predicted, similarity.reshape(len(true), len(predicted))))
    return result


def scored(*sequences, **settings) -> tuple[dict[str, float], dict[str, int]]:
    score = TrackingScore(**settings)
    for frames in sequences:
        score.update(frames)
    return dict(score.compute().values), {name: int(value[0]) for name, value in score.counts.items()}


def test_perfect():
    values, counts = scored(sequence(*[{A: 7, B: 9}] * 5))
    assert values["MOTA"] == values["IDF1"] == values["MOTP"] == 1.0
    assert (counts["true"], counts["switches"], counts["object_ms"]) == (10, 0, 800)
    assert values["switches per object and minute"] == 0.0


def test_one_missed_one_invented():
    values, counts = scored(sequence({A: 7, B: 9}, {A: 7, B: None}, {A: 7, B: 9}, invented={2: [5]}))
    assert (counts["missed"], counts["invented"], counts["switches"]) == (1, 1, 0)
    assert values["MOTA"] == pytest.approx(1 - 2 / 6)
    assert values["IDF1"] == pytest.approx(2 * 5 / (6 + 6))


def test_a_switch_counts_once_for_mota_and_for_its_whole_rest_in_idf1():
    values, counts = scored(sequence(*[{A: 7}] * 6, *[{A: 8}] * 4))
    assert counts["switches"] == 1
    assert values["MOTA"] == pytest.approx(0.9)
    assert values["IDF1"] == pytest.approx(0.6)  # the best single identity is right for 6 of 10
    assert values["IDP"] == values["IDR"] == pytest.approx(0.6)


def test_objects_that_exchange_their_identities():
    values, counts = scored(sequence(*[{A: 7, B: 8}] * 2, *[{A: 8, B: 7}] * 3))
    assert counts["switches"] == 2
    assert values["IDF1"] == pytest.approx(6 / 10)


def test_a_gap_is_no_switch_if_the_identity_comes_back_and_one_if_not():
    assert scored(sequence({A: 7}, {A: None}, {A: 7}))[1]["switches"] == 0
    assert scored(sequence({A: 7}, {A: None}, {A: 8}))[1]["switches"] == 1


def test_identities_are_assigned_for_all_together_not_greedily():
    """A is 7 for 3 frames and 8 for 2; B is 7 for 2: 7 for A and nothing for B would be 3, 8 for A and 7 for B is 4."""
    frames = sequence(*[{A: 7}] * 3, *[{A: 8, B: 7}] * 2)
    assert scored(frames)[1]["identified"] == 4


def test_what_was_matched_stays_matched_though_another_is_nearer():
    """CLEAR MOT keeps a pair as long as it is possible at all, so that no switch is counted where none is."""
    first = TrackedFrame(0, np.array([A]), np.array([7, 8]), np.array([[0.9, 0.6]]))
    second = TrackedFrame(1, np.array([A]), np.array([7, 8]), np.array([[0.6, 0.9]]))
    values, counts = scored([first, second])
    assert (counts["switches"], counts["invented"]) == (0, 2)
    assert values["MOTP"] == pytest.approx((0.9 + 0.6) / 2)


def test_as_many_pairs_as_possible_before_the_most_similar():
    frame = TrackedFrame(0, np.array([A, B]), np.array([7, 8]), np.array([[0.9, 0.55], [0.6, 0.0]]))
    assert scored([frame])[1]["matched"] == 2


def test_an_identity_taken_over_from_one_that_is_back_is_kept_by_one_of_them():
    """8 was A's, then B's: in the last frame both could keep it."""
    true, predicted = np.array([A, B]), np.array([8])
    frames = [
        TrackedFrame(0, true, predicted, np.array([[1.0], [0.0]])),
        TrackedFrame(1, true, predicted, np.array([[0.0], [1.0]])),
        TrackedFrame(2, true, predicted, np.array([[0.6], [0.6]])),
    ]
    counts = scored(frames)[1]
    assert (counts["matched"], counts["missed"], counts["invented"]) == (3, 3, 0)


def test_threshold():
    frame = TrackedFrame(0, np.array([A]), np.array([7]), np.array([[0.5]]))
    assert scored([frame])[1]["matched"] == 1
    assert scored([frame], threshold_percent=51)[1]["matched"] == 0


def test_nothing_there_and_nothing_said():
    values, counts = scored(sequence({}, {}), [])
    assert np.isnan([values["MOTA"], values["IDF1"], values["MOTP"]]).all()
    assert counts["true"] == 0
    values, counts = scored(sequence({}, invented={0: [3]}))
    assert (counts["invented"], values["IDF1"]) == (1, 0.0)


def test_frames_from_grids():
    true, predicted = np.zeros((4, 4, 2), np.uint16), np.zeros((4, 4, 2), np.int32)
    true[0], true[3, 0, 0] = 5, 2
    predicted[0, :3], predicted[2] = 9, 4
    frame = TrackedFrame.of_grids(3, true, predicted)
    assert frame.true_ids.tolist() == [2, 5]
    assert frame.predicted_ids.tolist() == [4, 9]
    np.testing.assert_allclose(frame.similarity, [[0, 0], [0, 6 / 8]])
    empty = TrackedFrame.of_grids(4, true, np.zeros_like(true))
    assert empty.similarity.shape == (2, 0)


def test_objects_of_different_classes_are_not_the_same_if_classes_are_given():
    ids, similarity = np.array([A, B]), np.array([[0.9, 0.0], [0.0, 0.8]])
    plain = TrackedFrame(0, ids, np.array([7, 8]), similarity)
    classed = TrackedFrame(0, ids, np.array([7, 8]), similarity, np.array([3, 4]), np.array([3, 5]))
    assert scored([plain])[1]["matched"] == 2
    values, counts = scored([classed])
    assert (counts["matched"], counts["missed"], counts["invented"]) == (1, 1, 1)
    assert values["IDF1"] == 0.5


def test_classes_of_objects_in_grids():
    true = np.zeros((4, 4, 2), np.uint16)
    true[0], true[3] = 5, 2
    frame = TrackedFrame.of_grids(0, true, true, {5: 1, 2: 1, 99: 0}, {5: 1, 2: 0})
    np.testing.assert_array_equal(frame.similarity, [[0, 0], [0, 1]])
    with pytest.raises(InvalidInputError, match=r"got none of \[2\]"):
        TrackedFrame.of_grids(0, true, true, {5: 1}, {5: 1, 2: 0})
    with pytest.raises(InvalidInputError, match=r"all \(2, 2\) objects, got \(2, None\)"):
        TrackedFrame.of_grids(0, true, true, {5: 1, 2: 1})


def test_identities_of_sequences_are_their_own_and_workers_add_up():
    parts = [sequence(*[{A: 7}] * 4), sequence(*[{A: 8}] * 4, {A: 7})]
    together, first, second = TrackingScore(), TrackingScore(), TrackingScore()
    for part in parts:
        together.update(part)
    first.update(parts[0])
    second.update(parts[1])
    first.merge(Accumulator.from_json(second.to_json()))
    assert first.compute() == together.compute()
    assert together.compute().values["IDF1"] == pytest.approx(8 / 9)
    assert "IDF1" in Report.of(together, "any", "test").to_text()


def test_wrong_input_is_named():
    with pytest.raises(InvalidInputError, match="ascending stamps"):
        scored([*sequence({A: 7}), *sequence({A: 7})])
    with pytest.raises(InvalidInputError, match="each once in a frame"):
        TrackedFrame(0, np.array([A, A]), np.array([7]), np.zeros((2, 1)))
    with pytest.raises(InvalidInputError, match=r"finite \(1, 1\)"):
        TrackedFrame(0, np.array([A]), np.array([7]), np.full((1, 1), np.nan))
    with pytest.raises(InvalidInputError, match="expected"):
        TrackedFrame.of_grids(0, np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int))


def test_centres_within_two_metres_may_be_the_same():
    true, predicted = np.zeros((40, 40, 4), np.uint16), np.zeros((40, 40, 4), np.uint16)
    true[10:12, 10:12, 0], true[30, 30, :] = 7, 9
    predicted[10:12, 14:16, 2], predicted[30, 36, 1], predicted[0, 0, 0] = 3, 4, 5
    frame = TrackedFrame.of_centres(1, true, predicted, 0.4)
    assert frame.true_ids.tolist() == [7, 9]
    assert frame.predicted_ids.tolist() == [3, 4, 5]
    np.testing.assert_allclose(frame.similarity, [[1 - 1.6 / 4, 0, 0], [0, 1 - 2.4 / 4, 0]], atol=1e-12)
    score = TrackingScore()
    score.update([frame])
    assert score.compute().values["recall"] == 0.5  # 1.6 m is near enough, 2.4 m is not
    empty = TrackedFrame.of_centres(2, true, np.zeros_like(true), 0.4)
    assert empty.similarity.shape == (2, 0)
    with pytest.raises(InvalidInputError):
        TrackedFrame.of_centres(3, true, predicted[:-1], 0.4)
