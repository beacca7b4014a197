"""Bags to files: formats, keyframes of nuScenes exactly, the same again left out, changes noticed, damage told."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from nuscenes_tree import write_tree
from replay_models import Hits
from street.drive import StreetDrive, write_street_bag

from occ_perception.bag_frames import BagFrames
from occ_perception.data import bag_messages
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.bag_writer import BagWriter, reliable_qos
from occ_perception.data.drive_bag import PROFILES, SAMPLE_TOPIC, DriveBag
from occ_perception.data.instance_messages import instances_from_message
from occ_perception.data.keyframe_markers import KeyframeMarkers
from occ_perception.data.labels import read_prediction
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.data.sharding import Shard
from occ_perception.data.voxel_messages import occupancy_from_message
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.models import create_model
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, OCC3D
from occ_perception.parameters import Parameters
from occ_perception.replay import replay
from occ_perception.replay_job import ReplaySettings, replay_bag, replay_bags
from occ_perception.replay_outputs import INSTANCES_TOPIC, MARKERS_TOPIC, VOXELS_TOPIC
from occ_perception.session import Session

SMALL = (64, 36)
NUSCENES = Parameters.from_file(REPOSITORY / "config/nuscenes.yaml")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    keyframes = {"scene-0001": 3, "scene-0002": 2}
    return write_tree(tmp_path_factory.mktemp("nuscenes"), keyframes, SMALL, sweeps=True, labels=False)


@pytest.fixture(scope="module")
def bags(tree, tmp_path_factory):
    return from_nuscenes(tree.root, None, (), tmp_path_factory.mktemp("bags"), progress=False)


@pytest.fixture(scope="module")
def drive_bag(tmp_path_factory):
    """A bag that is not from nuScenes."""
    return write_street_bag(tmp_path_factory.mktemp("drive") / "drive", seconds=0.4, image_size=SMALL)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.npz"))}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_frames_at_keyframes_are_the_dataset_s_own_samples(tree, bags, tmp_path, profile):
    """Between the sweeps, by stamps and config/nuscenes.yaml alone (datasets.md 6.2)."""
    source = NuScenes(tree.root)
    if profile != "default":
        bags = from_nuscenes(tree.root, None, (), tmp_path, SceneBagSettings(profile=profile), progress=False)
    for bag, name in zip(bags, source.scene_names, strict=True):
        scene = source.scene(name)
        with BagReader(bag) as reader:
            markers = KeyframeMarkers.of(reader)
            frames = list(BagFrames(reader, NUSCENES))
        keyframes = {k.token: f for f in frames if (k := markers.at(f.stamp_ns))}
        assert len(frames) > 2 * len(keyframes)
        assert list(keyframes) == tree.tokens[name]
        for token, frame in keyframes.items():
            records = scene.keyframes[token]
            got = {name.upper(): image.stamp_ns for name, image in frame.images.items()}
            assert got == {c: r.stamp_ns for c, r in records.items() if c != "LIDAR_TOP"}
            assert [s.stamp_ns for s in frame.lidar] == [records["LIDAR_TOP"].stamp_ns]
            # and so the newest of each camera that is not after the LiDAR keyframe
            for channel, stamp in got.items():
                before = [r.stamp_ns for r in scene.records[channel] if r.stamp_ns <= records["LIDAR_TOP"].stamp_ns]
                assert max(before) == stamp
            assert markers.at(frame.stamp_ns).is_exactly(frame)
            np.testing.assert_allclose(frame.odom_from_ego, records["CAM_FRONT"].odom_from_ego(scene.origin), atol=1e-9)


def test_sets_of_other_images_are_told(tree, bags):
    """Without the offsets of the cameras the nearest images are not all of the same sample."""
    report = replay_bag(bags[0], Session(Hits(images=True)), ReplaySettings(bags=bags[0].parent.parent / "inexact"))
    assert (report.keyframes, report.keyframes_met) == (3, 3)
    assert report.not_exact > 0
    assert "not of their own images" in str(report)


def test_submission_of_the_keyframes_in_the_dataset_s_ids(tree, bags, tmp_path):
    settings = ReplaySettings(tmp_path / "out", parameters=NUSCENES)
    reports = list(replay_bags(bags, Session(Hits(images=True, occ3d=True)), settings))
    assert [(r.keyframes, r.keyframes_met, r.not_exact) for r in reports] == [(3, 3, 0), (2, 2, 0)]
    tokens = [token for tokens in tree.tokens.values() for token in tokens]
    assert {path.stem for path in (tmp_path / "out").glob("*.npz")} == set(tokens)
    direct = {o.stamp_ns: o for bag in bags for o in replay(bag, Session(Hits(images=True, occ3d=True)), NUSCENES)}
    for token in tokens:
        path = tmp_path / "out" / f"{token}.npz"
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays.files == ["pred"]
            assert set(np.unique(arrays["pred"])) == {3, 17}
        expected = direct[tree.stamps_ns[token][1]].prediction
        np.testing.assert_array_equal(read_prediction(path, OCC3D), expected)


def test_a_model_without_a_dataset_s_labels_gives_all_arrays_of_the_keyframes(tree, bags, tmp_path):
    replay_bag(bags[1], Session(create_model("lidar-carving")), ReplaySettings(tmp_path, parameters=NUSCENES))
    assert {path.stem for path in tmp_path.glob("*.npz")} == set(tree.tokens["scene-0002"])
    token = tree.tokens["scene-0002"][0]
    with np.load(tmp_path / f"{token}.npz", allow_pickle=False) as arrays:
        assert (str(arrays["ontology"]), str(arrays["model"])) == ("geometry", "lidar-carving")
        assert int(arrays["stamp_ns"]) == tree.stamps_ns[token][1]
        assert (arrays["visibility"][arrays["semantics"] == FREE] == Visibility.FREE_SEEN).all()
        assert "prediction" in arrays
    with pytest.raises(ConfigurationError, match=r"geometry.*no dataset's; take 'keyframes'"):
        replay_bag(bags[1], Session(Hits()), ReplaySettings(tmp_path / "x", "submission", parameters=NUSCENES))


def test_any_bag_gives_its_frames_by_stamp(drive_bag, tmp_path):
    report = replay_bag(drive_bag, Session(Hits()), ReplaySettings(tmp_path / "out"))
    expected = list(replay(drive_bag, Session(Hits())))
    assert report.frames == len(expected) > 3
    assert {p.name for p in (tmp_path / "out/drive").iterdir()} == {f"{o.stamp_ns}.npz" for o in expected}
    for occupancy in expected:
        with np.load(tmp_path / f"out/drive/{occupancy.stamp_ns}.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["semantics"], occupancy.semantics)
            np.testing.assert_array_equal(arrays["visibility"], occupancy.visibility)
    for chosen in ("submission", "keyframes"):
        with pytest.raises(ConfigurationError, match="no keyframe markers"):
            replay_bag(drive_bag, Session(Hits(occ3d=True)), ReplaySettings(tmp_path / "x", chosen))


@pytest.mark.parametrize("encoding", ["sparse", "dense"])
def test_grids_in_a_bag_read_back_as_they_were(drive_bag, tmp_path, encoding):
    settings = ReplaySettings(bags=tmp_path, parameters=Parameters(encoding=encoding))
    report = replay_bag(drive_bag, Session(Hits()), settings)
    direct = list(replay(drive_bag, Session(Hits())))
    with BagReader(tmp_path / "drive") as out:
        messages = list(out.messages([VOXELS_TOPIC]))
        grids = [occupancy_from_message(out.decode(m)) for m in messages]
        assert json.loads(out.custom_data["settings"])["model"] == "hits"
    assert report.frames == len(grids) == len(direct)
    for message, grid, occupancy in zip(messages, grids, direct, strict=True):
        assert message.log_time_ns == grid.stamp_ns == occupancy.stamp_ns
        np.testing.assert_array_equal(grid.semantics, occupancy.semantics)
        np.testing.assert_array_equal(grid.visibility, occupancy.visibility)
        assert (grid.info.grid, grid.info.name, grid.lidar_used) == (occupancy.grid, "hits", True)
        assert grid.confidence is grid.flow is grid.instances is None


def test_objects_and_their_markers_are_in_the_bag_too(drive_bag, tmp_path):
    parameters = Parameters(connect_instances=True)

    def session():
        return Session(Hits(occ3d=True), settings=parameters.session())

    direct = list(replay(drive_bag, session(), parameters))
    replay_bag(drive_bag, session(), ReplaySettings(bags=tmp_path, parameters=parameters))
    with BagReader(tmp_path / "drive") as out:
        read = {topic: [out.decode(m) for m in out.messages([topic])] for topic in (INSTANCES_TOPIC, MARKERS_TOPIC)}
    assert len(read[INSTANCES_TOPIC]) == len(read[MARKERS_TOPIC]) == len(direct)
    for message, markers, occupancy in zip(read[INSTANCES_TOPIC], read[MARKERS_TOPIC], direct, strict=True):
        objects, labels = instances_from_message(message)
        assert len(objects) == len(occupancy.objects) > 3
        np.testing.assert_array_equal(labels, occupancy.instances)
        for item, expected in zip(objects, occupancy.objects, strict=True):
            assert (item.id, item.class_id, item.occluded) == (expected.id, expected.class_id, expected.occluded)
            np.testing.assert_allclose([*item.center, item.yaw], [*expected.center, expected.yaw], rtol=1e-6, atol=1e-6)
        assert {m.id for m in markers.markers if m.ns == "boxes"} == {item.id for item in objects}
    lasting = {item.id for item in direct[0].objects} & {item.id for item in direct[-1].objects}
    assert len(lasting) > 0.5 * len(direct[0].objects)


def test_a_model_without_objects_has_empty_lists_of_them_in_the_bag(drive_bag, tmp_path):
    replay_bag(drive_bag, Session(Hits()), ReplaySettings(bags=tmp_path))
    with BagReader(tmp_path / "drive") as out:
        for message in out.messages([INSTANCES_TOPIC]):
            assert instances_from_message(out.decode(message)) == ((), None)
        for message in out.messages([MARKERS_TOPIC]):
            assert [m.action for m in out.decode(message).markers] == [3]  # DELETEALL


def test_two_runs_give_the_same_bytes(drive_bag, tmp_path):
    for run in ("a", "b"):
        settings = ReplaySettings(tmp_path / run / "npz", bags=tmp_path / run / "bags")
        replay_bag(drive_bag, Session(create_model("lidar-carving")), settings)
    first, second = (files(tmp_path / run) for run in ("a", "b"))
    assert first == second
    assert len(first) > 3
    grids = [(tmp_path / run / "bags/drive/drive.mcap").read_bytes() for run in ("a", "b")]
    assert grids[0] == grids[1]


def test_what_is_there_is_left_and_what_is_missing_is_made(drive_bag, tmp_path):
    settings = ReplaySettings(tmp_path / "npz", bags=tmp_path / "bags")
    made = replay_bag(drive_bag, Session(Hits()), settings)
    before = stamps(tmp_path)
    again = replay_bag(drive_bag, Session(Hits(refuse=1000)), settings)  # would fail if it ran
    assert again == replace(made, was_there=True)
    assert stamps(tmp_path) == before
    gone = next((tmp_path / "npz/drive").iterdir())
    content = gone.read_bytes()
    gone.unlink()
    assert not replay_bag(drive_bag, Session(Hits()), settings).was_there
    assert gone.read_bytes() == content
    bag = tmp_path / "bags/drive/drive.mcap"
    assert bag.stat().st_mtime_ns == before[bag]


@pytest.mark.parametrize(
    ("model", "parameters", "difference"),
    [
        (Hits(weights="another"), Parameters(), "weights: 'none' there, 'another' wanted"),
        (Hits(), Parameters(tolerance=0.01), "tolerance"),
    ],
)
def test_other_settings_are_noticed_and_overwritten_only_if_told(drive_bag, tmp_path, model, parameters, difference):
    settings = ReplaySettings(tmp_path / "npz", bags=tmp_path / "bags")
    replay_bag(drive_bag, Session(Hits()), settings)
    changed = replace(settings, parameters=parameters)
    before = stamps(tmp_path)
    for only in (replace(changed, bags=None), replace(changed, folder=None)):
        with pytest.raises(DatasetError, match=difference):
            replay_bag(drive_bag, Session(model), only)
    assert stamps(tmp_path) == before
    replay_bag(drive_bag, Session(model), replace(changed, overwrite=True))
    assert replay_bag(drive_bag, Session(model), changed).was_there


def test_overwriting_removes_the_files_of_the_other_way(tree, bags, tmp_path):
    settings = ReplaySettings(tmp_path, parameters=NUSCENES)
    replay_bag(bags[0], Session(Hits()), settings)
    stranger = tmp_path / "stranger.npz"
    stranger.write_bytes(b"not ours")
    replay_bag(bags[0], Session(Hits()), replace(settings, format="frames", overwrite=True))
    assert list(tmp_path.glob("*.npz")) == [stranger]
    assert len(list((tmp_path / bags[0].name).iterdir())) > 3


def test_a_replay_that_fails_leaves_nothing(drive_bag, tmp_path):
    with pytest.raises(DatasetError, match="no frame could be perceived: not this one"):
        replay_bag(drive_bag, Session(Hits(refuse=1000)), ReplaySettings(tmp_path / "npz", bags=tmp_path / "bags"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_shards_are_all_bags_once_and_the_same_as_one_worker(bags, tmp_path):
    def run(folder, shard):
        return list(replay_bags(bags, Session(Hits()), ReplaySettings(folder, parameters=NUSCENES), shard))

    run(tmp_path / "one", None)
    reports = [run(tmp_path / "many", Shard(i, 3)) for i in range(3)]
    assert [[r.bag for r in share] for share in reports] == [[bags[0].name], [bags[1].name], []]
    assert files(tmp_path / "one") == files(tmp_path / "many")


def test_bags_of_the_same_name_are_refused(drive_bag, tmp_path):
    with pytest.raises(ConfigurationError, match="different names"):
        list(replay_bags([drive_bag, drive_bag], Session(Hits()), ReplaySettings(tmp_path)))


def test_a_bag_that_fails_does_not_keep_the_others_from_it(drive_bag, tmp_path):
    missing = Path(tmp_path / "missing")
    failure, report = replay_bags([missing, drive_bag], Session(Hits()), ReplaySettings(tmp_path / "out"))
    assert isinstance(failure, DatasetError)
    assert "missing does not exist" in str(failure)
    assert report.frames > 3


def test_damaged_bags_are_read_up_to_the_damage_and_said_to_be(drive_bag, tmp_path):
    file = tmp_path / "cut.mcap"
    file.write_bytes((drive_bag / "drive.mcap").read_bytes())
    os.truncate(file, file.stat().st_size * 2 // 3)
    settings = ReplaySettings(tmp_path / "out")
    report = replay_bag(file, Session(Hits()), settings)
    assert 0 < report.frames < len(list(replay(drive_bag, Session(Hits()))))
    assert "cut off" in report.damage
    assert "DAMAGED" in str(report)
    again = replay_bag(file, Session(Hits()), settings)
    assert (again.was_there, again.damage) == (True, report.damage)


def test_messages_that_are_unreadable_are_counted(tmp_path):
    drive = StreetDrive(0.2, image_size=SMALL)
    with DriveBag(tmp_path / "bag", drive.rig) as bag:
        bag.write_static(1, {"lidar_top": drive.ego_from_lidar})
        for stamp in drive.sweep_stamps():
            scan = drive.scan(stamp)
            bag.write_points(stamp, "lidar_top", scan.points, scan.rings, scan.offsets_s)
        bag._writer.write(bag._connections["/lidar_top/points"], stamp + 1, b"\0\1\0\0abc")
    report = replay_bag(tmp_path / "bag", Session(Hits()), ReplaySettings(tmp_path / "out"))
    assert (report.frames, report.unreadable) == (len(drive.sweep_stamps()), 1)
    assert "1 messages are unreadable" in str(report)
    assert "/lidar_top/points unreadable: 1" in report.dropped


@pytest.mark.parametrize("text", ["no json", "[]", '{"sample_token": "../../evil", "sample_data": {}}'])
def test_markers_that_are_none_are_left_out(tmp_path, caplog, text):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic(SAMPLE_TOPIC, bag_messages.TEXT, reliable_qos(1))
        bag.write(SAMPLE_TOPIC, 1, bag_messages.text(text))
    with BagReader(tmp_path / "bag") as bag:
        assert KeyframeMarkers.of(bag).tokens == ()
    assert "marker left out" in caplog.text


def test_records_that_are_none_are_an_error(drive_bag, tmp_path):
    settings = ReplaySettings(tmp_path)
    replay_bag(drive_bag, Session(Hits()), settings)
    (tmp_path / "replay/drive.json").write_text("{")
    with pytest.raises(DatasetError, match="no record of a replay"):
        replay_bag(drive_bag, Session(Hits()), settings)
    assert not replay_bag(drive_bag, Session(Hits()), replace(settings, overwrite=True)).was_there
