"""Bag reader, writer and summary: round trips, recordings that were cut off, foreign types, errors that help."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from street.drive import StreetDrive, write_street_bag

from occ_perception.bag_frames import BagFrames
from occ_perception.data import bag_messages
from occ_perception.data.bag_info import bag_info, header_stamp_ns
from occ_perception.data.bag_messages import StampedTransform
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.bag_storage import RawMessage
from occ_perception.data.bag_writer import BagWriter, reliable_qos
from occ_perception.data.point_clouds import points_from_message
from occ_perception.data.pose_track import PoseTrack
from occ_perception.errors import ConfigurationError, DatasetError, InvalidInputError
from occ_perception.geometry import TransformTree, slerp
from occ_perception.parameters import Parameters

FILES = {"mcap": "bag.mcap", "sqlite3": "bag.db3"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Folders of a short street bag of several MCAP chunks, by storage."""
    folder = tmp_path_factory.mktemp("recordings")
    for storage in FILES:
        write_street_bag(folder / storage / "bag", seconds=0.6, image_size=(160, 90), storage=storage)
    return {storage: folder / storage / "bag" for storage in FILES}


@pytest.fixture(params=sorted(FILES))
def recording(request, recordings):
    """(folder, storage)."""
    return recordings[request.param], request.param


def contents(path):
    with BagReader(path) as bag:
        return [(m.topic, m.log_time_ns, m.cdr) for m in bag.messages()], bag.damage


def cut(recording, tmp_path, size):
    """A copy of the recording whose file ends after ``size`` bytes (or that share of it)."""
    path, storage = recording
    shutil.copytree(path, tmp_path / "bag")
    file = tmp_path / "bag" / FILES[storage]
    os.truncate(file, size if isinstance(size, int) else int(file.stat().st_size * size))
    return tmp_path / "bag"


def test_messages_come_in_time_order_and_can_be_chosen(recording):
    path, _ = recording
    with BagReader(path) as bag:
        everything = list(bag.messages())
        assert [m.log_time_ns for m in everything] == sorted(m.log_time_ns for m in everything)
        assert (bag.start_ns, bag.end_ns) == (everything[0].log_time_ns, everything[-1].log_time_ns)
        sweeps = list(bag.messages(["/lidar_top/points"]))
        assert [m.log_time_ns for m in sweeps] == [m.log_time_ns for m in everything if m.topic == "/lidar_top/points"]
        middle = sweeps[5].log_time_ns
        assert next(m.log_time_ns for m in bag.messages(["/lidar_top/points"], middle)) == middle
        assert [m.log_time_ns for m in bag.messages(["/lidar_top/points"], None, middle)][-1] < middle
        assert list(bag.messages(["/no/such/topic"])) == []
        assert all(header_stamp_ns(m.cdr) == m.log_time_ns for m in sweeps)
        assert {t.name for t in bag.topics if t.latched} == {"/tf_static"}
        assert bag.damage == ""


@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_cut_off_recordings_are_read_up_to_the_damage(recording, tmp_path, share):
    whole, _ = contents(recording[0])
    read, damage = contents(cut(recording, tmp_path, share))
    assert 0 < len(read) < len(whole)
    assert set(read) <= set(whole)
    # Nothing in front of the cut is lost: about the share of the bytes that is there.
    there = sum(len(cdr) for _, _, cdr in read) / sum(len(cdr) for _, _, cdr in whole)
    assert there > share - 0.15
    assert "messages before that are read" in damage


def test_only_the_index_of_an_mcap_is_lost(recordings, tmp_path):
    path = recordings["mcap"]
    read, damage = contents(cut((path, "mcap"), tmp_path, (path / "bag.mcap").stat().st_size - 1))
    assert read == contents(path)[0]
    assert "footer" in damage


def test_recordings_without_metadata_are_read(recording, tmp_path):
    path, _ = recording
    shutil.copytree(path, tmp_path / "bag")
    (tmp_path / "bag/metadata.yaml").unlink()
    read, damage = contents(tmp_path / "bag")
    assert read == contents(path)[0]
    assert "metadata" in damage


def test_single_files_are_read(recording):
    path, storage = recording
    assert contents(path / FILES[storage])[0] == contents(path)[0]


@pytest.mark.parametrize("size", [0, 7, 60])
def test_nothing_left_is_an_error(recording, tmp_path, size):
    with pytest.raises(DatasetError, match="cannot be read"):
        BagReader(cut(recording, tmp_path, size))


def test_flipped_bytes_in_an_mcap_end_the_messages_with_a_note(recordings, tmp_path):
    path = recordings["mcap"]
    shutil.copytree(path, tmp_path / "bag")
    file = tmp_path / "bag/bag.mcap"
    data = bytearray(file.read_bytes())
    at = len(data) // 2
    data[at : at + 4000] = b"\xff" * 4000
    file.write_bytes(data)
    with BagReader(tmp_path / "bag") as bag:
        read = [(m.topic, m.log_time_ns, m.cdr) for m in bag.messages()]
        good = set(contents(path)[0])
        assert len(set(read) & good) > len(good) // 4
        assert len(read) == len(good) or bag.damage


def test_what_is_no_bag_is_named(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        BagReader(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"no bag: expected a folder with, or a file of, .mcap or .db3"):
        BagReader(tmp_path)
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0")
    with pytest.raises(DatasetError, match="is no bag"):
        BagReader(tmp_path / "drive.bag")


def test_compressed_chunks_are_salvaged(tmp_path):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    from occ_perception.data.message_definitions import message_store

    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    rng = np.random.default_rng(0)
    with writer:
        connection = writer.add_connection("/text", bag_messages.TEXT, typestore=message_store())
        for i in range(40):
            letters = "".join(rng.choice(list("abcdef"), 60_000))
            message = message_store().serialize_cdr(bag_messages.text(letters), bag_messages.TEXT)
            writer.write(connection, i, message)
    whole, _ = contents(tmp_path / "bag")
    file = tmp_path / "bag/bag.mcap"
    os.truncate(file, file.stat().st_size * 3 // 4)
    read, damage = contents(tmp_path / "bag")
    assert 15 < len(read) < 40
    assert read == whole[: len(read)]
    assert "cut off" in damage


def test_bytes_that_are_no_message(recording):
    with BagReader(recording[0]) as bag:
        with pytest.raises(InvalidInputError, match=r"/tf: 3 bytes are no tf2_msgs/msg/TFMessage"):
            bag.decode(RawMessage("/tf", "tf2_msgs/msg/TFMessage", 0, b"abc"))
        with pytest.raises(InvalidInputError, match="not known"):
            bag.decode(RawMessage("/tf", "foreign_msgs/msg/Thing", 0, b"abc"))


def test_foreign_types_are_learnt_from_the_bag(tmp_path):
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("int32 answer\nstring why", "foreign_msgs/msg/Thing"))
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/thing", "foreign_msgs/msg/Thing", typestore=store)
        thing = store.types["foreign_msgs/msg/Thing"](answer=42, why="because")
        writer.write(connection, 5, store.serialize_cdr(thing, "foreign_msgs/msg/Thing"))
    with BagReader(tmp_path / "bag") as bag:
        (message,) = bag.messages()
        assert (bag.decode(message).answer, bag.decode(message).why) == (42, "because")


def write_text(path, text, fail=False):
    with BagWriter(path, overwrite=True) as bag:
        bag.add_topic("/text", bag_messages.TEXT, reliable_qos(1))
        bag.write("/text", 1, bag_messages.text(text))
        if fail:
            raise RuntimeError("in the middle")


def test_a_bag_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="in the middle"):
        write_text(tmp_path / "bag", "half", fail=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", sorted(FILES))
def test_a_full_disk_leaves_nothing_behind(tmp_path, storage):
    """The limit of this process on file sizes stands in for the disk."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(REPOSITORY / "test")!r})
from street.drive import write_street_bag
from occ_perception.errors import DatasetError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    write_street_bag({str(tmp_path / "bag")!r}, seconds=0.5, image_size=(64, 36), storage={storage!r})
except DatasetError as error:
    sys.exit(f"refused: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert "refused: cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_overwriting_keeps_the_old_bag_until_the_new_one_is_whole(tmp_path):
    def read():
        with BagReader(tmp_path / "bag") as bag:
            return [bag.decode(m).data for m in bag.messages()]

    write_text(tmp_path / "bag", "old")
    with pytest.raises(RuntimeError):
        write_text(tmp_path / "bag", "half", fail=True)
    assert read() == ["old"]
    write_text(tmp_path / "bag", "new")
    assert read() == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_writer_errors_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unknown bag storage 'zip'.*mcap"):
        BagWriter(tmp_path / "bag", storage="zip")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match="cannot write bag"):
        BagWriter(tmp_path / "file" / "bag")
    with BagWriter(tmp_path / "bag") as bag:
        with pytest.raises(DatasetError, match="/other was not added"):
            bag.write("/other", 1, bag_messages.text(""))
        bag.add_topic("/text", bag_messages.TEXT, reliable_qos(1))
        with pytest.raises(DatasetError, match="/text is std_msgs/msg/String"):
            bag.add_topic("/text", bag_messages.IMAGE, reliable_qos(1))


def test_point_cloud_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    columns = {n: rng.normal(size=50).astype(np.float32) for n in ("x", "y", "z")}
    columns["ring"] = rng.integers(0, 32, 50).astype(np.uint16)
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/points", bag_messages.POINT_CLOUD, reliable_qos(1))
        bag.write("/points", 7, bag_messages.point_cloud(7, "lidar", columns))
    with BagReader(tmp_path / "bag") as bag:
        (message,) = bag.messages()
        points = points_from_message(bag.decode(message), tuple(columns))
    np.testing.assert_array_equal(points, np.stack(list(columns.values()), 1).astype(np.float32))


def test_our_own_messages_are_known(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/perception/voxels", bag_messages.VOXEL_GRID, reliable_qos(1))
    with BagReader(tmp_path / "bag") as bag:
        assert "ENCODING_SPARSE" in bag.topics[0].definition


def test_info_of_a_complete_bag(recording):
    info = bag_info(recording[0])
    assert info.missing == ()
    assert (info.base_frame, info.fixed_frame, info.anchor) == ("base_link", "odom", "cam_front")
    assert len(info.cameras) == 6
    assert info.lidar.rate_hz == pytest.approx(20)
    assert info.cameras["cam_back_left"].offset_ms == pytest.approx(34.7, abs=0.1)
    assert info.sync_spread_ms[0] == pytest.approx(42.4, abs=0.1)
    assert all(s.in_tf and s.tf_coverage == 1 for s in (*info.cameras.values(), info.lidar))
    assert "nothing is missing" in str(info)
    assert info.to_dict()["cameras"]["cam_front"]["messages"] == 8


def test_info_gives_the_offsets_that_make_sets_of_images_fired_together(recording):
    info = bag_info(recording[0])
    drive = StreetDrive(0.6, image_size=(160, 90))
    with BagReader(recording[0]) as bag:
        frames = list(BagFrames(bag, Parameters.from_mapping(info.parameters)))
    assert len(frames) == len(drive.set_stamps())
    for frame, set_stamp in zip(frames, drive.set_stamps(), strict=True):
        expected = {name: drive.image_stamp(name, set_stamp) for name in drive.rig}
        assert {name: image.stamp_ns for name, image in frame.images.items()} == expected
    # The nearest sweep of 20 Hz; before the first there is none.
    assert all(abs(frame.lidar[0].stamp_ns - frame.stamp_ns) <= 25_000_000 for frame in frames[1:])


def test_info_of_a_bag_with_other_frames_and_a_cloud_that_is_no_lidar(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/radar/points", bag_messages.POINT_CLOUD, reliable_qos(1))
        cloud = bag_messages.point_cloud(5, "camera", {n: np.zeros(1, np.float32) for n in "xyz"})
        bag.write("/radar/points", 5, cloud)
        bag.add_topic("/left/image_raw", bag_messages.COMPRESSED_IMAGE, reliable_qos(1))
        bag.write("/left/image_raw", 5, bag_messages.compressed_image(5, "camera", b"\xff\xd8\xff"))
        for topic, parent, child in (("/tf_static", "base_footprint", "camera"), ("/tf", "map", "base_footprint")):
            bag.add_topic(topic, bag_messages.TRANSFORMS, reliable_qos(1))
            edge = StampedTransform.of(6, parent, child, np.eye(4))
            bag.write(topic, 6, bag_messages.transforms([edge]))
    info = bag_info(tmp_path / "bag")
    assert info.parameters == {"base_frame": "base_footprint", "fallback_fixed_frame": "map"}
    missing = " ".join(info.missing)
    assert "not taken for one: /radar/points; name it with the parameter lidar" in missing
    assert "calibration_file" in missing
    assert "'map' is there: set fallback_fixed_frame" in missing


def test_info_names_what_is_missing(tmp_path):
    identity = StampedTransform.of(1, "base_link", "lidar", np.eye(4))
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/front/image_raw/compressed", bag_messages.COMPRESSED_IMAGE, reliable_qos(1))
        bag.write("/front/image_raw/compressed", 1, bag_messages.compressed_image(1, "front", b"\xff\xd8\xff"))
        bag.add_topic("/tf_static", bag_messages.TRANSFORMS, reliable_qos(1, latched=True))
        bag.write("/tf_static", 1, bag_messages.transforms([identity]))
    text = str(bag_info(tmp_path / "bag"))
    assert "calibration of front" in text
    assert "LiDAR" in text
    assert "/tf: how the vehicle moves" in text


def test_pose_track_equals_the_transform_tree_between_poses_and_holds_beyond():
    rng = np.random.default_rng(2)
    stamps = np.sort(rng.choice(10**9, 20, replace=False)).tolist()
    start, end = np.array([0, 0, 0, 1.0]), np.array([0, 0, 0.6, 0.8])
    poses = [(t, rng.normal(size=3), slerp(start, end, t / 1e9)) for t in stamps]
    track, tree = PoseTrack(poses[::-1]), TransformTree(history_s=1e3)
    for t, translation, quaternion in poses:
        tree.set("odom", "base", t, translation, quaternion)
        assert track.at(t)[0].tolist() == translation.tolist()
    for t in np.linspace(stamps[0], stamps[-1], 50).astype(np.int64).tolist():
        edge = track.transform(t, "odom", "base")
        single = TransformTree()
        single.set("odom", "base", t, edge.translation, edge.quaternion_xyzw)
        np.testing.assert_allclose(single.lookup("odom", "base", t), tree.lookup("odom", "base", t), atol=1e-12)
    np.testing.assert_array_equal(track.at(stamps[0] - 10**8)[0], poses[0][1])
    np.testing.assert_array_equal(track.at(stamps[-1] + 10**8)[0], poses[-1][1])


def test_twist_of_a_circle_and_of_too_few_poses():
    def pose(t):
        angle = 0.5 * t
        return (
            round(t * 1e9),
            10 * np.array([np.sin(angle), 1 - np.cos(angle), 0]),
            [0, 0, np.sin(angle / 2), np.cos(angle / 2)],
        )

    linear, angular = PoseTrack([pose(t) for t in np.arange(0, 1, 0.007)]).twists([300_000_000, 500_000_000])
    np.testing.assert_allclose(linear, [[5, 0, 0]] * 2, atol=1e-2)
    np.testing.assert_allclose(angular, [[0, 0, 0.5]] * 2, atol=1e-3)
    with pytest.raises(InvalidInputError, match="twist"):
        PoseTrack([pose(0.0), pose(0.001)]).twists([0])
