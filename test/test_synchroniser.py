"""Sets of arrivals: which messages, when, what is dropped and why."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.synchroniser import Drop, Missing, SyncConfig, Synchroniser, default_anchor

MS = 1_000_000
SECOND = 1_000 * MS
START = 1_000 * SECOND
CAMERAS = ("cam_front_left", "cam_front", "cam_front_right", "cam_back_right", "cam_back", "cam_back_left")
SWEEP_MS = dict(zip(CAMERAS, (-43.1, -35.5, -27.6, -20.1, -10.4, -0.5), strict=True))  # nuScenes, to the LiDAR stamp
OFFSETS = {name: ms / 1e3 for name, ms in SWEEP_MS.items()}
CAMERA_PERIOD = SECOND // 12
LIDAR_PERIOD = SECOND // 20


def rig(**changes) -> SyncConfig:
    return SyncConfig(**{"cameras": CAMERAS, "lidar": "lidar", "offsets_s": OFFSETS, **changes})


def drive(seconds=2.0, jitter_ms=0.0, delay_ms=5.0, seed=0, lidar=True):
    """(arrival, sensor, stamp) of six cameras in sweep order and a LiDAR, by arrival."""
    noise = random.Random(seed)
    messages = []
    for k in range(int(seconds * 12)):
        for name, ms in SWEEP_MS.items():
            stamp = START + k * CAMERA_PERIOD + round((ms + noise.uniform(-jitter_ms, jitter_ms)) * MS)
            messages.append((stamp + round(delay_ms * MS), name, stamp))
    for k in range(int(seconds * 20) if lidar else 0):
        stamp = START + k * LIDAR_PERIOD
        messages.append((stamp + round(delay_ms * MS), "lidar", stamp))
    return sorted(messages)


def run(config, messages, synchroniser=None):
    synchroniser = synchroniser or Synchroniser(config)
    sets = []
    for arrival, sensor, stamp in messages:
        sets += synchroniser.add(sensor, stamp, arrival, (sensor, stamp))
    return sets, synchroniser


def stamps(synced):
    return {sensor: arrival.stamp_ns for sensor, arrival in synced.arrivals.items()}


def flush(synchroniser, messages):
    return synchroniser.poll(max(m[0] for m in messages) + SECOND // 2)


def test_nuscenes_sweep_makes_one_complete_set_per_turn():
    sets, synchroniser = run(rig(tolerance_s=0.03), drive())
    assert len(sets) == 24
    for k, synced in enumerate(sets):
        assert synced.anchor == "cam_front"
        assert synced.stamp_ns == START + k * CAMERA_PERIOD + round(SWEEP_MS["cam_front"] * MS)
        assert not synced.missing
        for name, ms in SWEEP_MS.items():
            assert stamps(synced)[name] == START + k * CAMERA_PERIOD + round(ms * MS)
        # The LiDAR turns 20 times a second, so the nearest sweep is at most half a turn away.
        assert abs(stamps(synced)["lidar"] - (START + k * CAMERA_PERIOD)) <= LIDAR_PERIOD // 2
    assert synchroniser.dropped_sets == Counter()
    assert set(synchroniser.drops) <= {("lidar", Drop.SURPLUS), ("lidar", Drop.OUT_OF_WINDOW)}


def test_payloads_come_back_with_their_messages():
    sets, _ = run(rig(), drive(0.5))
    for synced in sets:
        assert all(arrival.payload == (name, arrival.stamp_ns) for name, arrival in synced.arrivals.items())


def test_offsets_may_be_unknown():
    """Without offsets a wider tolerance still finds the images of the same turn, not those of the turn before."""
    sets, _ = run(rig(offsets_s={}, tolerance_s=0.05, lidar=""), drive(lidar=False))
    assert len(sets) == 24
    for k, synced in enumerate(sets):
        for name, ms in SWEEP_MS.items():
            assert stamps(synced)[name] == START + k * CAMERA_PERIOD + round(ms * MS)


def test_sets_do_not_depend_on_how_topics_interleave():
    """Delays that differ from topic to topic reorder arrivals; the sets stay the same."""
    expected, _ = run(rig(), drive(3.0, jitter_ms=2.0, seed=1))
    for seed in range(20):
        noise = random.Random(seed)
        delay = {sensor: noise.uniform(0, 25) * MS for sensor in (*CAMERAS, "lidar")}
        messages = [(arrival + round(delay[sensor]), sensor, stamp) for arrival, sensor, stamp in
                    drive(3.0, jitter_ms=2.0, seed=1)]  # fmt: skip
        sets, _ = run(rig(), sorted(messages))
        assert [(s.stamp_ns, stamps(s)) for s in sets] == [(s.stamp_ns, stamps(s)) for s in expected]


def test_nearest_message_wins_whatever_comes_first():
    config = SyncConfig(cameras=("a", "b"), anchor="a", tolerance_s=0.05)
    history = [(START, "b", START - 140 * MS), (START, "b", START - 90 * MS)]
    for order in ([("b", -40), ("a", 0), ("b", 10)], [("a", 0), ("b", -40), ("b", 10)]):
        messages = history + [(START + i * MS, name, START + ms * MS) for i, (name, ms) in enumerate(order)]
        sets, synchroniser = run(config, messages)
        assert [stamps(s) for s in sets] == [{"a": START, "b": START + 10 * MS}], order
        flush(synchroniser, messages)
    # With no message after it, the one before is taken at the deadline.
    sets, synchroniser = run(config, [*history, (START, "b", START - 40 * MS), (START + MS, "a", START)])
    assert sets == []
    (synced,) = synchroniser.poll(START + 200 * MS)
    assert stamps(synced) == {"a": START, "b": START - 40 * MS}


def test_deadline_lets_a_partial_set_go_and_names_the_missing():
    config = rig(lidar="", deadline_s=0.08)
    synchroniser = Synchroniser(config)
    anchor = START + round(SWEEP_MS["cam_front"] * MS)
    messages = [m for m in drive(0.09, lidar=False, delay_ms=0) if m[1] != "cam_back"]
    for arrival, sensor, stamp in messages:
        assert synchroniser.add(sensor, stamp, arrival, None) == []
    assert synchroniser.next_deadline_ns == anchor + 80 * MS
    assert synchroniser.poll(anchor + 80 * MS - 1) == []
    (synced,) = synchroniser.poll(anchor + 80 * MS)
    assert synced.missing == {"cam_back": Missing.DEADLINE}
    assert synced.closed_ns == anchor + 80 * MS
    assert len(synced.arrivals) == 5
    assert synchroniser.next_deadline_ns is None


def test_late_poll_equals_punctual_poll():
    """A busy process polls late; sets are those that a punctual one would have made."""
    messages = [m for m in drive(1.0, seed=3) if m[1] != "cam_back"]
    punctual, lazy = Synchroniser(rig()), Synchroniser(rig())
    expected, sets = [], []
    for arrival, sensor, stamp in messages:
        while (deadline := punctual.next_deadline_ns) is not None and deadline <= arrival:
            expected += punctual.poll(deadline)
        expected += punctual.add(sensor, stamp, arrival, None)
        sets += lazy.add(sensor, stamp, arrival, None)
    assert sets == expected
    assert len(sets) >= 10


def test_a_lost_image_is_not_waited_for():
    lost = START + 5 * CAMERA_PERIOD + round(SWEEP_MS["cam_front_left"] * MS)
    messages = [m for m in drive(1.0) if m[2] != lost]
    sets, _ = run(rig(deadline_s=0.2), messages)
    (synced,) = [s for s in sets if s.missing]
    assert synced.missing == {"cam_front_left": Missing.LOST}
    assert synced.closed_ns < lost + CAMERA_PERIOD + 20 * MS  # when the next of that camera came
    assert len(sets) == 12


def test_fewer_cameras_than_allowed_is_no_set():
    messages = [m for m in drive(0.9, lidar=False) if m[1] in CAMERAS[:3]]
    for min_cameras, expected in ((3, True), (4, False)):
        sets, synchroniser = run(rig(lidar="", min_cameras=min_cameras), messages)
        sets += flush(synchroniser, messages)
        assert bool(sets) is expected
        assert bool(synchroniser.dropped_sets[Drop.TOO_FEW_CAMERAS]) is not expected


def test_newest_complete_set_wins():
    """A camera that catches up after a stall completes a new set while an older one still waits."""
    first, second = START, START + 80 * MS
    arrivals = [("a", first), ("a", second), ("b", second)]
    config = SyncConfig(cameras=("a", "b"), anchor="a", tolerance_s=0.02, deadline_s=0.5, jump_back_s=0.5)
    synchroniser = Synchroniser(config)
    synchroniser.add("b", START - 500 * MS, START - 500 * MS, None)
    sets = []
    for i, (sensor, stamp) in enumerate(arrivals):
        sets += synchroniser.add(sensor, stamp, START + 100 * MS + i * MS, None)
    # "b" jumped past the first window, so both sets are decided by the same message: the newest goes out.
    assert [s.stamp_ns for s in sets] == [second]
    assert synchroniser.dropped_sets == {Drop.SUPERSEDED: 1}


def test_silent_camera_costs_no_latency_after_a_while():
    config = rig(deadline_s=0.1, silent_after_s=0.5)
    died = START + SECOND
    messages = [m for m in drive(3.0) if not (m[1] == "cam_back" and m[2] > died)]
    sets, _ = run(config, messages)
    assert len(sets) >= 35
    partial = [s for s in sets if s.missing]
    assert {m for s in partial for m in s.missing} == {"cam_back"}
    waits = [s.closed_ns - s.arrivals["cam_front"].arrival_ns for s in partial]
    assert partial[0].missing["cam_back"] is Missing.DEADLINE
    assert waits[0] == 100 * MS
    assert partial[-1].missing["cam_back"] is Missing.SILENT
    assert max(waits[10:]) < 60 * MS  # waits for the sweep to end, no longer for the deadline


def test_anchor_that_stops_is_replaced_and_returns():
    config = rig(silent_after_s=0.5)
    gone = (START + SECOND, START + 2 * SECOND)
    messages = [m for m in drive(3.0) if not (m[1] == "cam_front" and gone[0] < m[2] < gone[1])]
    sets, synchroniser = run(config, messages)
    anchors = [s.anchor for s in sets]
    assert anchors[:12] == ["cam_front"] * 12
    assert "cam_front_left" in anchors
    assert anchors[-10:] == ["cam_front"] * 10
    assert synchroniser.anchor == "cam_front"
    assert all(a.stamp_ns < b.stamp_ns for a, b in pairwise(sets))


def test_lidar_takes_over_when_every_camera_is_silent():
    messages = [m for m in drive(3.0) if m[1] == "lidar" or m[2] < START + SECOND]
    sets, synchroniser = run(rig(min_cameras=3), messages)
    assert synchroniser.anchor == "lidar"
    assert set(sets[-1].arrivals) == {"lidar"}
    assert set(sets[-1].missing.values()) == {Missing.SILENT}
    lidar_only = [s for s in sets if s.anchor == "lidar"]
    assert len(lidar_only) >= 15


def test_lidar_only_operation():
    messages = [m for m in drive(1.0) if m[1] == "lidar"]
    sets, synchroniser = run(SyncConfig(lidar="lidar"), messages)
    assert [s.stamp_ns for s in sets] == [START + k * LIDAR_PERIOD for k in range(20)]
    assert all(s.closed_ns == s.arrivals["lidar"].arrival_ns for s in sets)  # no waiting
    assert not synchroniser.drops


@pytest.mark.parametrize("seconds", [5.0, 0.3, 0.09])
def test_looping_bag_starts_anew(seconds):
    """Stamps jump back at every turn of the loop while the clock goes on, however short the bag."""
    one_turn = drive(seconds, delay_ms=0)
    length = max(m[0] for m in one_turn) - min(m[0] for m in one_turn) + 20 * MS
    turns = max(2, int(4 * SECOND / length))
    messages = [(arrival + t * length, s, stamp) for t in range(turns) for arrival, s, stamp in one_turn]
    sets, synchroniser = run(rig(), messages)
    assert synchroniser.resets >= 1
    last_turn_that_reset = [s for s in sets if not s.missing and s.closed_ns > START + SECOND]
    assert last_turn_that_reset
    for synced in sets:
        spread = [stamp for name, stamp in stamps(synced).items() if name != "lidar"]
        assert max(spread) - min(spread) < 60 * MS  # never mixes turns


def test_clock_that_jumps_back_restarts_everything():
    """With /clock from a looping bag both stamps and clock go back."""
    one_turn = drive(1.0)
    sets, synchroniser = run(rig(), [*one_turn, *one_turn, *one_turn])
    assert synchroniser.resets == 2
    assert len(sets) == 36
    assert [stamps(s) for s in sets[:12]] == [stamps(s) for s in sets[12:24]] == [stamps(s) for s in sets[24:]]


def test_stray_stamps_of_one_camera_do_not_disturb_the_others():
    """A broken driver that alternates good and absurd stamps loses its own place in sets, nothing else."""
    noise = random.Random(0)
    messages = []
    for arrival, sensor, stamp in drive(2.0):
        broken = sensor == "cam_back" and noise.random() < 0.5
        messages.append((arrival, sensor, stamp + noise.choice([-100, 100]) * SECOND if broken else stamp))
    sets, synchroniser = run(rig(), messages)
    assert len(sets) >= 22
    for synced in sets:
        assert set(synced.missing) <= {"cam_back"}
        assert len(synced.arrivals) >= 6
    assert synchroniser.resets == 0


def test_bad_stamps_are_counted():
    synchroniser = Synchroniser(SyncConfig(cameras=("a",), lidar="lidar", tolerance_s=0.01))
    for stamp in (0, START, START, START - 100 * MS, START + 50 * MS):
        synchroniser.add("lidar", stamp, START, None)
    assert synchroniser.drops == {
        ("lidar", Drop.NO_STAMP): 1,
        ("lidar", Drop.DUPLICATE): 1,
        ("lidar", Drop.OUT_OF_ORDER): 1,
    }


def test_late_and_out_of_window_messages_are_told_apart():
    config = SyncConfig(cameras=("a", "b"), anchor="a", tolerance_s=0.02, deadline_s=0.05)
    synchroniser = Synchroniser(config)
    synchroniser.add("a", START, START, None)
    synchroniser.add("b", START + 2 * MS, START + 90 * MS, None)  # after the deadline
    synchroniser.add("b", START + 50 * MS, START + 95 * MS, None)  # belongs to no anchor
    for k in (1, 2):
        synchroniser.add("a", START + k * 100 * MS, START + k * 100 * MS, None)
        synchroniser.add("b", START + k * 100 * MS, START + k * 100 * MS, None)
    assert synchroniser.drops == {("b", Drop.LATE): 1, ("b", Drop.OUT_OF_WINDOW): 1}


def test_memory_is_bounded():
    """An anchor that never comes, a flood, and wild stamps: nothing piles up."""
    synchroniser = Synchroniser(rig(anchor="cam_front", silent_after_s=1e6))
    noise = random.Random(0)
    for k in range(20_000):
        wild = noise.random() < 0.1
        stamp = START + k * MS + (noise.randrange(-10_000, 10_000) * SECOND // 10 if wild else 0)
        synchroniser.add(noise.choice([c for c in CAMERAS if c != "cam_front"]), stamp, START + k * MS, None)
    kept = sum(len(s.arrivals) for s in synchroniser._streams.values())
    assert kept <= 5 * 256
    synchroniser = Synchroniser(SyncConfig(cameras=("a", "b"), anchor="a"))
    for k in range(20_000):
        synchroniser.add("a", START + k * MS // 10, START + k * MS // 10, None)
    assert len(synchroniser._open) <= 8
    assert len(synchroniser._streams["a"].arrivals) <= 256


def test_every_message_is_accounted_for():
    """Whatever happens, each message is in a set, counted as dropped, or still waiting; none is counted twice."""
    noise = random.Random(5)
    messages = []
    for arrival, sensor, stamp in drive(6.0, jitter_ms=8.0, seed=5):
        if noise.random() > 0.1:
            slip = noise.choice([0, 0, 0, 0, 0, -50, 30, -3_000, 3_000]) * MS
            messages.append((arrival + noise.randrange(40) * MS, sensor, stamp + slip))
    messages.sort()
    sets, synchroniser = run(rig(), messages)
    used = {(sensor, id(a)) for s in sets for sensor, a in s.arrivals.items()}
    waiting = sum(a.fate is not None for s in synchroniser._streams.values() for a in s.arrivals)
    waiting += len(synchroniser._open)
    dropped = sum(synchroniser.drops.values()) + sum(synchroniser.dropped_sets.values())
    assert len(used) + dropped + waiting == len(messages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": (), "lidar": ""}, "at least one sensor"),
        ({"cameras": ("a", "a")}, "no name twice"),
        ({"anchor": "nose"}, "'nose' is none of the sensors"),
        ({"offsets_s": {"nose": 0.1}}, "unknown sensors"),
        ({"tolerance_s": 0.0}, "tolerance_s must be > 0"),
        ({"min_cameras": 7}, r"min_cameras in 0\.\.6"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        SyncConfig(**{"cameras": CAMERAS, "lidar": "lidar", **changes})


def test_unknown_sensor_is_refused():
    with pytest.raises(InvalidInputError, match="no sensor 'nose'"):
        Synchroniser(rig()).add("nose", START, START, None)


def test_default_anchor_looks_forward():
    assert default_anchor(CAMERAS) == "cam_front"
    assert default_anchor(("left", "right")) == "left"
    assert default_anchor(("rear", "FRONT_WIDE", "front_left")) == "FRONT_WIDE"
    assert SyncConfig(lidar="top").preferred_anchor == "top"
