"""Identities through a session: exact worlds in, stable ids out, and nothing published that contradicts itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from moving_objects import (
    SMALL_GRID,
    Body,
    Continuous,
    KnownObjects,
    MovingObjects,
    Snapshot,
    merged_and_split,
    straight,
    street,
    voxels_dropped,
)

from occ_perception.errors import NumericsError
from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import CameraRig, PinholeCamera, rigid
from occ_perception.metrics.tracking import TrackedFrame, TrackingScore
from occ_perception.models.base import ImageSpec, ModelOutput
from occ_perception.occupancy import Instance, ModelInfo, Occupancy
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, UNKNOWN
from occ_perception.session import Session, SessionSettings
from occ_perception.tracking.settings import TrackingSettings

CAR = OCC3D.id_of("car")
STREET = street(6.0)
"""Its snapshots are made once for all tests."""


def drive(model: KnownObjects, seconds: float, hz: float = 10.0, **settings) -> Iterator[Occupancy]:
    session = Session(model, settings=SessionSettings(tracking=TrackingSettings(**settings)))
    for k in range(round(seconds * hz)):
        occupancy = session.step(model.frame(k / hz))
        check(occupancy)
        yield occupancy


def check(occupancy: Occupancy) -> None:
    """What must be so in every frame."""
    seen = {item.id for item in occupancy.objects if not item.occluded}
    hidden = {item.id for item in occupancy.objects if item.occluded}
    assert set(np.unique(occupancy.instances).tolist()) - {0} == seen
    assert not seen & hidden
    assert len(occupancy.objects) == len(seen) + len(hidden)
    labelled = occupancy.instances > 0
    assert np.isin(occupancy.semantics[labelled], OCC3D.thing_ids).all()
    for item in occupancy.objects:
        assert 1 <= item.id <= 65_535
        assert 0 <= item.score <= 1
        assert np.isfinite([*item.center, *item.size, item.yaw]).all()
        assert len(occupancy.instance_voxels(item.id)) > 0 or item.occluded


def score(model: KnownObjects, seconds: float, hz: float = 10.0, as_known: bool = True) -> TrackingScore:
    """How well the identities of the world are kept; ``as_known``: see `Continuous`."""
    known, frames = Continuous(), []
    for occupancy in drive(model, seconds, hz):
        truth = known(model.last) if as_known else model.last.identities
        frames.append(TrackedFrame.of_grids(occupancy.stamp_ns, truth, occupancy.instances))
    result = TrackingScore()
    result.update(frames)
    return result


# --- Known identities


@pytest.mark.parametrize("flow", [True, False], ids=["flow", "no flow"])
def test_perfect_instances_keep_their_ids_through_traffic(flow: bool) -> None:
    """A vehicle that drives and swerves, cars parked and in both directions, people, a bus, what comes and goes, and
    what is hidden for up to a second."""
    result = score(KnownObjects(STREET, flow), 6.0)
    values = result.compute().values
    assert result.counts["object_ms"][0] > 100_000
    assert values["switches per object and minute"] < 0.5
    assert values["IDF1"] > 0.995
    assert values["MOTA"] > 0.995


def test_hidden_for_long_is_another_and_the_score_says_so() -> None:
    """The same without the exception for what is hidden for more than a second."""
    known, all_of_it = (score(KnownObjects(STREET), 6.0, as_known=known) for known in (True, False))
    assert known.counts["switches"][0] == 0
    assert 0 < all_of_it.counts["switches"][0] < 10


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("flow", [True, False], ids=["flow", "no flow"])
def test_perfect_instances_at_two_frames_a_second(flow: bool, seed: int) -> None:
    """Oncoming cars move by their own length from frame to frame."""
    result = score(KnownObjects(street(8.0, seed), flow), 8.0, 2.0)
    assert result.counts["object_ms"][0] > 120_000
    assert result.compute().values["switches per object and minute"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("hz", "flow"), [(20, True), (20, False), (2, True), (2, False)])
def test_perfect_instances_at_other_rates(hz: float, flow: bool) -> None:
    values = score(KnownObjects(street(15.0), flow), 15.0, hz).compute().values
    assert values["switches per object and minute"] < 0.5


@pytest.mark.parametrize("seconds", [0.5, 0.8, 1.0])
def test_an_id_survives_occlusion(seconds: float) -> None:
    walker = Body(1, "pedestrian", (0.6, 0.6, 1.7), straight(6.0, -4.0, 1.4, np.pi / 2), gone=(1.0, 1.0 + seconds))
    car = Body(2, "car", (4.4, 1.8, 1.5), straight(-10.0, 5.0, 8.0), gone=(0.6, 0.6 + seconds))
    model = KnownObjects(MovingObjects([walker, car], straight(0.0, 0.0, 3.0)), flow=False)
    ids, listed = {CAR: set(), OCC3D.id_of("pedestrian"): set()}, 0
    for occupancy in drive(model, 2.5):
        for item in occupancy.objects:
            ids[item.class_id].add(item.id)
            listed += item.occluded
    assert all(len(numbers) == 1 for numbers in ids.values()), ids
    assert listed == 0  # their places are seen to be free


def test_what_passes_behind_something_is_listed_where_it_is() -> None:
    """The place is not seen to be free, so the object is told as occluded, near to where it really is."""
    van = Body(1, "truck", (6.0, 2.2, 3.0), straight(6.0, 4.0))
    walker = Body(2, "pedestrian", (0.6, 0.6, 1.7), straight(4.0, 7.2, 1.5))
    model = KnownObjects(MovingObjects([van, walker]), flow=True)
    hidden = []
    for occupancy in drive(model, 6.0):
        place = walker.path((occupancy.stamp_ns - 10**9) * 1e-9)
        for item in occupancy.objects:
            if item.occluded:
                hidden.append(np.hypot(item.center[0] - place[0], item.center[1] - place[1]))
    assert len(hidden) >= 8
    assert max(hidden) < 0.5


def test_damaged_instances_cost_no_more_than_what_is_missing() -> None:
    """IDF1 can at best be what is right for single frames; tracking must not lose much on top of it."""
    for damage, switches in ((voxels_dropped(0.3, 0.0), 0.5), (voxels_dropped(0.1, 0.1), 1.0)):
        values = score(KnownObjects(STREET, damage=damage), 6.0).compute().values
        assert values["switches per object and minute"] < switches
        best = 2 * values["recall"] * values["precision"] / (values["recall"] + values["precision"])
        assert values["IDF1"] > 0.98 * best
    values = score(KnownObjects(STREET, damage=merged_and_split(0.05)), 6.0).compute().values
    best = 2 * values["recall"] * values["precision"] / (values["recall"] + values["precision"])
    assert values["IDF1"] > 0.93 * best


# --- Discontinuities


def parked() -> MovingObjects:
    bodies = [Body(i + 1, "car", (4.4, 1.8, 1.5), straight(-8.0 + 8 * i, 5.0)) for i in range(3)]
    return MovingObjects(bodies)


def ids_of(occupancy: Occupancy) -> set[int]:
    return {item.id for item in occupancy.objects}


def test_a_looping_bag_begins_anew_with_other_ids() -> None:
    model = KnownObjects(parked())
    session = Session(model)
    rounds = []
    for _ in range(3):
        frames = [session.step(model.frame(k / 10)) for k in range(4)]
        assert frames[0].temporal.reset
        assert not any(frame.temporal.reset for frame in frames[1:])
        assert all(ids_of(frame) == ids_of(frames[0]) for frame in frames)
        assert not any(item.occluded for frame in frames for item in frame.objects)
        rounds.append(ids_of(frames[0]))
    assert rounds == [{1, 2, 3}, {4, 5, 6}, {7, 8, 9}]


def fails(model: KnownObjects, session: Session) -> None:
    step, model.step = model.step, lambda *_: (_ for _ in ()).throw(NumericsError("NaN"))
    with pytest.raises(NumericsError):
        session.step(model.frame(0.4))
    model.step = step


@pytest.mark.parametrize(
    ("between", "frame", "reason"),
    [
        (None, {"time_s": 0.4}, ""),
        (None, {"time_s": 2.0}, ""),
        (None, {"time_s": 2.5}, "gap"),
        (None, {"time_s": 0.2}, "time went back"),
        (None, {"time_s": 0.4, "odom_from_ego": rigid([30.0, 0, 0], [0, 0, 0, 1])}, "pose jumped"),
        (None, {"time_s": 0.4, "odom_from_ego": None}, "no pose"),
        (None, {"time_s": 0.4, "fixed_frame": "map"}, "'map' now"),
        (lambda _, session: session.step(parked_frame(0.35, odom_from_ego=None)), {"time_s": 0.4}, "with a pose"),
    ],
    ids=["next", "late", "gap", "back", "jump", "no pose", "other frame", "pose again"],
)
def test_ids_are_dropped_exactly_with_time_and_poses(between, frame: dict, reason: str) -> None:
    model = KnownObjects(parked())
    session = Session(model, settings=SessionSettings(tracking=TrackingSettings(memory_s=3.0)))
    before = [session.step(model.frame(k / 10)) for k in range(4)][-1]
    if between:
        between(model, session)
    after = session.step(model.frame(**frame))
    check(after)
    assert reason in after.temporal.reset
    assert bool(after.temporal.reset) == bool(reason)
    if reason:
        assert not ids_of(after) & ids_of(before)
    else:
        assert ids_of(after) == ids_of(before)


def parked_frame(time_s: float, **change) -> Frame:
    return KnownObjects(parked()).frame(time_s, **change)


def test_one_failed_frame_renames_nobody_though_the_state_is_lost() -> None:
    model = KnownObjects(parked())
    session = Session(model)
    before = [session.step(model.frame(k / 10)) for k in range(4)][-1]
    fails(model, session)
    after = session.step(model.frame(0.5))
    assert "the model failed" in after.temporal.reset
    assert ids_of(after) == ids_of(before)
    fails(model, session)  # at 0.4, and then nothing for long
    assert not ids_of(session.step(model.frame(3.0))) & ids_of(before)


def test_many_failed_frames_in_a_row_are_a_gap() -> None:
    model = KnownObjects(parked())
    session = Session(model)
    before = session.step(model.frame(0.0))
    step, model.step = model.step, lambda *_: (_ for _ in ()).throw(NumericsError("NaN"))
    for k in range(1, 30):
        with pytest.raises(NumericsError):
            session.step(model.frame(k / 10))
    model.step = step
    assert not ids_of(session.step(model.frame(3.0))) & ids_of(before)


def test_another_calibration_renames_nobody() -> None:
    model = Says(shot(), shot())
    model.image_spec = ImageSpec(16, 16, optional=True)  # only models that use cameras are told of their calibration
    session = Session(model)
    sweep = (LidarSweep(0, np.zeros((0, 3), np.float32), np.eye(4)),)
    before = session.step(parked_frame(0.0, lidar=sweep))
    camera = PinholeCamera(np.array([[8.0, 0, 8], [0, 8, 8], [0, 0, 1]]), np.eye(4), 16, 16)
    after = session.step(parked_frame(0.1, lidar=sweep, rig=CameraRig({"front": camera})))
    assert after.temporal.reset == "calibration changed"
    assert ids_of(after) == ids_of(before) == {1, 2, 3}


def test_another_stream_begins_at_one() -> None:
    model = KnownObjects(parked())
    session = Session(model)
    for _ in range(2):
        assert ids_of(session.step(model.frame(0.0))) == {1, 2, 3}
        assert ids_of(session.step(model.frame(0.1))) == {1, 2, 3}
        session.reset()


def test_without_poses_no_id_lasts_and_none_is_another_s() -> None:
    model = KnownObjects(parked())
    session = Session(model)
    given = [ids_of(session.step(model.frame(k / 10, odom_from_ego=None))) for k in range(20)]
    assert len(set().union(*given)) == 60


# --- What a model may say


class Says:
    """A model that says what it is told, frame by frame."""

    image_spec = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, *outputs: ModelOutput, info: ModelInfo | None = None) -> None:
        self.info = info or ModelInfo("says", OCC3D, SMALL_GRID)
        self.outputs = iter(outputs)

    def step(self, inputs, state, prev_ego_from_ego) -> ModelOutput:
        return next(self.outputs)


def answers(*outputs: ModelOutput, info: ModelInfo | None = None, **settings) -> list[Occupancy]:
    session = Session(Says(*outputs, info=info), settings=SessionSettings(tracking=TrackingSettings(**settings)))
    return [session.step(parked_frame(k / 10)) for k in range(len(outputs))]


def shot(change: Callable[[Snapshot], None] = lambda shot: None, instances: bool = True, **more) -> ModelOutput:
    """The three parked cars, changed."""
    snapshot = parked().at(0.0)  # a new world every time, so it may be changed
    snapshot = replace(snapshot, identities=snapshot.identities.astype(np.int64))
    change(snapshot)
    arrays = {"visibility": snapshot.visibility, "flow": snapshot.flow, "instances": snapshot.identities}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if instances or name != "instances"}
    return ModelOutput(torch.from_numpy(snapshot.semantics), **{**tensors, **more})


def test_a_model_without_instances_has_none() -> None:
    (plain,) = answers(shot(instances=False))
    assert plain.instances is plain.predicted_instances is None
    assert plain.objects == ()


def test_connected_voxels_if_wanted() -> None:
    first, second = answers(shot(instances=False), shot(instances=False), connect_voxels=True)
    check(first)
    assert ids_of(first) == ids_of(second) == {1, 2, 3}
    truth = parked().at(0.0).identities
    np.testing.assert_array_equal(first.instances > 0, truth > 0)
    geometry = shot(lambda s: s.semantics.__setitem__(s.semantics < FREE, 0), instances=False)
    (plain,) = answers(geometry, info=ModelInfo("says", GEOMETRY, SMALL_GRID), connect_voxels=True)
    assert plain.instances is None


def test_without_tracking_every_frame_counts_from_one() -> None:
    def large(snapshot: Snapshot) -> None:
        snapshot.identities[snapshot.identities > 0] += 70_000

    frames = answers(shot(), shot(large), shot(), enabled=False)
    for occupancy in frames:
        check(occupancy)
        assert [item.id for item in occupancy.objects] == [1, 2, 3]


def test_ids_beyond_uint16_are_as_good_as_any() -> None:
    def large(snapshot: Snapshot) -> None:
        snapshot.identities *= 65_536

    first, second = answers(shot(), shot(large))
    check(second)
    assert ids_of(first) == ids_of(second)
    assert second.predicted_instances.max() == 3


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        (torch.full(SMALL_GRID.size, -3, dtype=torch.int16), "got -3"),
        (torch.ones((2, 2, 2), dtype=torch.int16), "expected integers"),
        (torch.ones(SMALL_GRID.size), "got float32"),
        (torch.arange(SMALL_GRID.num_voxels).reshape(SMALL_GRID.size) + 1, "at most 65535 objects"),
    ],
    ids=["negative", "shape", "float", "too many"],
)
def test_ids_that_are_none_cost_the_objects_of_their_frame_only(instances: torch.Tensor, says: str) -> None:
    session = Session(Says(shot(), replace(shot(fill_with_cars), instances=instances), shot()))
    before = session.step(parked_frame(0.0))
    without = session.step(parked_frame(0.1))
    assert any(says in note for note in without.notes)
    assert (without.objects, without.instances, without.predicted_instances) == ((), None, None)
    assert (without.semantics == CAR).any()
    after = session.step(parked_frame(0.2))
    check(after)
    assert ids_of(after) == ids_of(before)


def fill_with_cars(snapshot: Snapshot) -> None:
    snapshot.semantics[:] = CAR


def test_voxels_nobody_saw_belong_to_no_object() -> None:
    def half_unseen(snapshot: Snapshot) -> None:
        snapshot.visibility[snapshot.identities == 1] = 0
        second = np.argwhere(snapshot.identities == 2)
        snapshot.visibility[tuple(second[: len(second) // 2].T)] = 0

    (occupancy,) = answers(shot(half_unseen))
    check(occupancy)
    truth = parked().at(0.0).identities
    assert len(occupancy.objects) == 2
    assert (occupancy.instances[truth == 1] == 0).all()
    assert 0 < (occupancy.instances[truth == 2] > 0).mean() < 0.6
    assert (occupancy.semantics[truth == 1] == UNKNOWN).all()
    np.testing.assert_array_equal(occupancy.predicted_instances, truth)  # what the model said everywhere


def test_all_free_and_back() -> None:
    def nothing(snapshot: Snapshot) -> None:
        snapshot.semantics[:], snapshot.identities[:], snapshot.visibility[:] = FREE, 0, 1

    frames = answers(shot(nothing), shot(), shot(), shot(nothing), shot())
    for occupancy in frames:
        check(occupancy)
    assert [len(frame.objects) for frame in frames] == [0, 3, 3, 0, 3]
    assert ids_of(frames[4]) == ids_of(frames[1])


def test_an_object_of_one_voxel_and_flow_that_is_no_number() -> None:
    def lost(snapshot: Snapshot) -> None:
        first = np.argwhere(snapshot.identities == 1)[1:]
        snapshot.semantics[tuple(first.T)], snapshot.identities[tuple(first.T)] = FREE, 0
        snapshot.flow[:] = np.nan
        snapshot.flow[snapshot.identities == 2] = np.inf

    for occupancy in answers(shot(lost), shot(lost)):
        check(occupancy)
        assert len(occupancy.objects) == 3


def test_what_the_model_says_of_ids_that_are_not_there_is_left_out() -> None:
    said = tuple(Instance(i, CAR, 0.125, (0, 0, 0), (1, 1, 1), 0.0, (0, 0, 0)) for i in (2, 77))
    (occupancy,) = answers(shot(objects=said))
    check(occupancy)
    assert sorted(item.score for item in occupancy.objects) == [0.125, 1.0, 1.0]


def test_a_model_that_gives_boxes_only() -> None:
    item = Instance(500, CAR, 0.5, (5.0, 0.0, 0.8), (4.4, 1.8, 1.5), 0.0, (np.nan,) * 3)
    frames = answers(*[shot(instances=False, objects=(item,))] * 3, shot(instances=False))
    assert [[(o.id, o.occluded) for o in frame.objects] for frame in frames] == [[(1, False)]] * 3 + [[(1, True)]]
    assert frames[0].instances is None
    assert frames[0].objects[0].center == item.center


BOX = Instance(500, CAR, 0.5, (5.0, 0.0, 0.8), (4.4, 1.8, 1.5), 0.0, (np.nan,) * 3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"center": (np.nan, 0.0, 0.0)}, "centre"),
        ({"center": (0.0, np.inf, 0.0)}, "centre"),
        ({"center": (0.0, 0.0, 1e30)}, "centre"),
        ({"size": (4.0, 0.0, 1.5)}, "size"),
        ({"size": (4.0, np.nan, 1.5)}, "size"),
        ({"size": (np.inf, 2.0, 1.5)}, "size"),
        ({"yaw": np.nan}, "yaw"),
        ({"score": 1.5}, "score"),
        ({"score": np.nan}, "score"),
        ({"class_id": OCC3D.num_classes}, "class"),
        ({"class_id": -1}, "class"),
    ],
    ids=str,
)
def test_objects_that_cannot_be_are_left_out_with_a_note_and_the_next_frame_is_fine(wrong: dict, says: str) -> None:
    said = [(BOX,), (BOX, replace(BOX, **wrong)), (BOX,)]
    frames = answers(*(shot(instances=False, objects=objects) for objects in said))
    assert [[item.id for item in frame.objects] for frame in frames] == [[1], [], [1]]
    assert any("model: object 500: expected" in note and says in note for note in frames[1].notes)
    assert (frames[1].semantics == CAR).any()
    assert not any(frame.temporal.reset for frame in frames[1:])


def test_thousands_of_objects_cost_the_objects_only() -> None:
    crowd = tuple(replace(BOX, center=(0.01 * k, 0.0, 0.8)) for k in range(2500))
    frames = answers(*(shot(instances=False, objects=objects) for objects in ((BOX,), crowd, (BOX,))))
    assert [[item.id for item in frame.objects] for frame in frames] == [[1], [], [1]]
    assert any("at most 2000 objects" in note for note in frames[1].notes)


def test_objects_left_out_for_long_are_forgotten() -> None:
    wrong = replace(BOX, score=2.0)
    said = [BOX, *[wrong] * 12, BOX]
    frames = answers(*(shot(instances=False, objects=(item,)) for item in said))
    assert [item.id for item in frames[-1].objects] == [2]


@pytest.mark.parametrize("speed", [3e38, 150.0, np.inf])
def test_what_is_faster_than_anything_has_no_known_velocity(speed: float) -> None:
    def absurd(snapshot: Snapshot) -> None:
        snapshot.flow[snapshot.identities == 1] = (speed, 0.0)
        snapshot.flow[snapshot.identities == 2] = (90.0, 0.0)

    for occupancy in answers(shot(absurd), shot(), shot(absurd)):
        check(occupancy)
        assert len(occupancy.objects) == 3
        speeds = [np.hypot(*item.velocity[:2]) for item in occupancy.objects]
        assert not any(s > 100 for s in speeds)
    fast = replace(BOX, velocity=(speed, 0.0, 0.0))
    (occupancy,) = answers(shot(instances=False, objects=(fast,)))
    assert np.isnan(occupancy.objects[0].velocity).all()
