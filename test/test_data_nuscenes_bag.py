"""nuScenes to rosbag2: bytes, stamps, calibration and transforms arrive unchanged; damage and choices."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from nuscenes_tree import write_tree

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.drive_bag import PROFILES
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.data.point_clouds import points_from_message
from occ_perception.data.sensor_messages import camera_from_message, image_from_message, stamp_to_ns
from occ_perception.data.topics import detect_topics
from occ_perception.data.workspace import Workspace
from occ_perception.errors import DatasetError
from occ_perception.geometry import TransformTree

SMALL = (64, 36)
KEYFRAMES = ["nuscenes_keyframe", "nuscenes_keyframe2"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("nuscenes")
    return write_tree(root, {"scene-0001": 3, "scene-0002": 2}, SMALL, sweeps=True, labels=False)


@pytest.fixture
def small_tree(tmp_path):
    """A tree of one scene that may be damaged."""
    return write_tree(tmp_path / "data", {"scene-0001": 2}, SMALL, sweeps=True, labels=False)


def convert(root, output, *scenes, workers=1, overwrite=False, **settings):
    settings = SceneBagSettings(**settings)
    return from_nuscenes(root, None, scenes, output, settings, workers=workers, overwrite=overwrite, progress=False)


def transform_tree(bag):
    tree = TransformTree(history_s=1e6, max_samples=10**6)
    for message in bag.messages(["/tf", "/tf_static"]):
        for t in bag.decode(message).transforms:
            v, q = t.transform.translation, t.transform.rotation
            pose = ((v.x, v.y, v.z), (q.x, q.y, q.z, q.w))
            static = message.topic == "/tf_static"
            tree.set(t.header.frame_id, t.child_frame_id, stamp_to_ns(t.header.stamp), *pose, static=static)
    return tree


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("folder", KEYFRAMES)
def test_real_keyframes_arrive_unchanged(shared, tmp_path, folder, storage):
    source = NuScenes(shared / "data" / folder)
    scene = source.scene(source.scene_names[0])
    (path,) = convert(source.root, tmp_path, storage=storage)
    assert path.name == f"nuscenes-v1.0-mini-{scene.name}"
    with BagReader(path) as bag:
        assert "CC BY-NC-SA 4.0" in bag.custom_data["licence"]
        tree = transform_tree(bag)
        for channel, (record,) in scene.records.items():
            frame = channel.lower()
            # The pose chain to the global frame is that of the tables, at the sensor's own stamp.
            global_from_ego = record.odom_from_ego(np.zeros(3))
            np.testing.assert_allclose(tree.lookup("map", "base_link", record.stamp_ns), global_from_ego, atol=1e-9)
            mount = tree.lookup("base_link", frame, record.stamp_ns)
            np.testing.assert_allclose(mount, record.mount.ego_from_sensor, atol=1e-9)
            if record.mount.modality == "camera":
                (image,) = bag.messages([f"/{frame}/image_raw/compressed"])
                (info,) = bag.messages([f"/{frame}/camera_info"])
                decoded, calibration = bag.decode(image), bag.decode(info)
                assert image_from_message(decoded) == record.path.read_bytes()
                assert decoded.header.frame_id == calibration.header.frame_id == frame
                stamps = {stamp_to_ns(decoded.header.stamp), stamp_to_ns(calibration.header.stamp)}
                assert stamps == {image.log_time_ns, info.log_time_ns} == {record.stamp_ns}
                camera = camera_from_message(calibration, record.mount.ego_from_sensor)
                np.testing.assert_array_equal(camera.intrinsics, record.mount.intrinsics)
                np.testing.assert_array_equal(calibration.r, np.eye(3).ravel())
                assert (camera.width, camera.height) == (1600, 900)
            else:
                (cloud,) = bag.messages(["/lidar_top/points"])
                decoded = bag.decode(cloud)
                assert [f.name for f in decoded.fields] == ["x", "y", "z", "intensity", "ring", "time_offset"]
                raw = np.fromfile(record.path, "<f4").reshape(-1, 5)
                names = ("x", "y", "z", "intensity", "ring")
                np.testing.assert_array_equal(points_from_message(decoded, names), raw)


def test_transforms_reach_beyond_both_ends(keyframe, tmp_path):
    (path,) = convert(keyframe, tmp_path)
    with BagReader(path) as bag:
        tree = transform_tree(bag)
        stamps = [m.log_time_ns for m in bag.messages([t.name for t in bag.topics if "image" in t.name])]
        first, last = tree.coverage("odom", "base_link")
        assert first <= min(stamps) - 90_000_000
        assert last >= max(stamps) + 90_000_000
        gaps = np.diff([m.log_time_ns for m in bag.messages(["/tf"])])
        assert gaps.max() <= 10_000_000


def test_static_transforms_are_one_latched_message(keyframe, tmp_path):
    (path,) = convert(keyframe, tmp_path)
    with BagReader(path) as bag:
        topics = {t.name: t for t in bag.topics}
        (message,) = bag.messages(["/tf_static"])
        assert message.log_time_ns == bag.start_ns
        assert len(bag.decode(message).transforms) == 8  # map -> odom, six cameras, LiDAR
    assert topics["/tf_static"].qos[0].durability.name == "TRANSIENT_LOCAL"
    assert topics["/tf"].qos[0].durability.name == "VOLATILE"
    assert all(q.reliability.name == "RELIABLE" for t in topics.values() for q in t.qos)
    assert "transient_local" in (path / "metadata.yaml").read_text()


def test_official_mcap_reader_opens_it(keyframe, tmp_path):
    (path,) = convert(keyframe, tmp_path)
    with (path / f"{path.name}.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        summary = reader.get_summary()
        decoded = {channel.topic: message for _, channel, _, message in reader.iter_decoded_messages()}
        stamps = [message.log_time for _, _, message in reader.iter_messages()]
        assert reader.get_header().profile == "ros2"
    assert len(summary.channels) == len(decoded) == 17
    assert stamps == sorted(stamps)
    image = next((keyframe / "samples/CAM_FRONT").iterdir()).read_bytes()
    assert bytes(decoded["/cam_front/image_raw/compressed"].data) == image
    assert decoded["/lidar_top/points"].width == 34688
    assert decoded["/odom"].child_frame_id == "base_link"


def test_odometry_has_the_speed_of_the_car(keyframe, tmp_path):
    (path,) = convert(keyframe, tmp_path)
    with BagReader(path) as bag:
        twists = [bag.decode(m).twist.twist for m in bag.messages(["/odom"])]
    speeds = [np.linalg.norm([t.linear.x, t.linear.y, t.linear.z]) for t in twists]
    np.testing.assert_allclose(speeds, 9.24, atol=0.05)  # measured in specs/datasets.md
    assert all(t.linear.x > 9 for t in twists)


def test_keyframe_marker_names_the_tokens(keyframe, tmp_path):
    (path,) = convert(keyframe, tmp_path)
    with BagReader(path) as bag:
        (message,) = bag.messages(["/nuscenes/sample"])
        content = json.loads(bag.decode(message).data)
    assert message.log_time_ns == 1532402927647951000
    assert content["sample_token"] == "ca9a282c9e77460f8360f564131a8af5"
    assert content["sample_data"]["cam_back"]["token"] == "03bea5763f0f4722933508d5999c5fd8"


def test_whole_scenes_with_sweeps(tree, tmp_path):
    source = NuScenes(tree.root)
    paths = convert(tree.root, tmp_path)
    assert [p.name for p in paths] == [f"nuscenes-v1.0-mini-{name}" for name in source.scene_names]
    for index, (path, name) in enumerate(zip(paths, source.scene_names, strict=True)):
        scene = source.scene(name)
        with BagReader(path) as bag:
            log = [m.log_time_ns for m in bag.messages()]
            assert log == sorted(log)
            for channel, records in scene.records.items():
                suffix = "points" if channel == "LIDAR_TOP" else "image_raw/compressed"
                stamps = [m.log_time_ns for m in bag.messages([f"/{channel.lower()}/{suffix}"])]
                assert stamps == [r.stamp_ns for r in records]
            markers = [json.loads(bag.decode(m).data) for m in bag.messages(["/nuscenes/sample"])]
            assert [m["sample_token"] for m in markers] == tree.tokens[name]
            transforms = transform_tree(bag)
            for record in scene.records["LIDAR_TOP"]:
                pose = transforms.lookup("odom", "base_link", record.stamp_ns)
                np.testing.assert_allclose(pose, record.odom_from_ego(scene.origin), atol=1e-9)
            steady = [bag.decode(m).twist.twist.linear.x for m in bag.messages(["/odom"])][10:-10]
            np.testing.assert_allclose(steady, 6.0 + index, rtol=0.03)


def test_choices(tree, tmp_path):
    (path,) = convert(tree.root, tmp_path, "scene-0002", keyframes_only=True, lidar=False, cameras=("cam_front",))
    with BagReader(path) as bag:
        counts = {t.name: t.count for t in bag.topics}
    assert counts["/cam_front/image_raw/compressed"] == 2
    assert not any("lidar" in name or "cam_back" in name for name in counts)
    (path,) = convert(tree.root, tmp_path, "scene-0001", start_s=0.5, duration_s=0.4)
    with BagReader(path) as bag:
        stamps = [m.log_time_ns for m in bag.messages(["/lidar_top/points"])]
    first = NuScenes(tree.root).scene("scene-0001").records["CAM_FRONT_LEFT"][0].stamp_ns
    assert len(stamps) == 8
    assert min(stamps) >= first + 500_000_000
    assert max(stamps) <= first + 900_000_000


def test_partial_installs_convert_and_say_what_is_missing(small_tree, tmp_path, caplog):
    absent = list((small_tree.root / "sweeps/CAM_BACK").iterdir())
    for path in absent:
        path.unlink()
    (bag_path,) = convert(small_tree.root, tmp_path / "bags")
    with BagReader(bag_path) as bag:
        counts = {t.name: t.count for t in bag.topics}
        assert bag.custom_data["missing_files"] == str(len(absent))
    assert counts["/cam_back/image_raw/compressed"] == 2
    assert counts["/cam_front/image_raw/compressed"] == len(absent) + 2
    assert "files are not installed" in caplog.text


def test_nothing_installed_is_an_error(small_tree, tmp_path):
    for path in [*(small_tree.root / "samples").rglob("*.*"), *(small_tree.root / "sweeps").rglob("*.*")]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"none of its \d+ files is installed"):
        convert(small_tree.root, tmp_path / "bags")


def test_a_damaged_file_leaves_no_bag(small_tree, tmp_path):
    sweep = sorted((small_tree.root / "sweeps/LIDAR_TOP").iterdir())[-1]
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(DatasetError, match=f"{sweep.name}.*truncated"):
        convert(small_tree.root, tmp_path / "bags")
    assert list((tmp_path / "bags").iterdir()) == []


def test_unknown_names_list_what_there_is(tree, tmp_path):
    with pytest.raises(DatasetError, match=r"no scene \['scene-7'\].*scene-0001"):
        convert(tree.root, tmp_path, "scene-7")
    with pytest.raises(DatasetError, match=r"no cameras \['CAM_UP'\].*CAM_FRONT"):
        convert(tree.root, tmp_path, "scene-0001", cameras=("CAM_UP",))
    with pytest.raises(DatasetError, match="nothing is chosen"):
        convert(tree.root, tmp_path, "scene-0001", start_s=100)
    assert not list(tmp_path.iterdir())


def test_bags_know_what_they_are(tree, tmp_path):
    (path,) = convert(tree.root, tmp_path, "scene-0001")
    with BagReader(path) as bag:
        known = bag.custom_data
    assert (known["scene"], known["location"], known["vehicle"]) == ("scene-0001", "made-up", "synthetic")
    assert known["version"] == "v1.0-mini"
    assert "non-commercial" in known["licence"]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles_name_topics_that_are_found_again(tree, tmp_path, profile):
    (path,) = convert(tree.root, tmp_path, "scene-0002", profile=profile, boxes=True)
    with BagReader(path) as bag:
        counts = {t.name: t.count for t in bag.topics}
        found = detect_topics(bag.topic_types, lidar="lidar_top")
    topics = PROFILES[profile]
    assert counts[topics.boxes] == 2
    assert counts[topics.odometry] > 10
    assert found.lidar == topics.points.format("lidar_top")
    assert {c.name: (c.image, c.info) for c in found.cameras} == {
        name: (topics.image.format(name), topics.camera_info.format(name))
        for name in ("cam_back", "cam_back_left", "cam_back_right", "cam_front", "cam_front_left", "cam_front_right")
    }


def made(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_finished_bags_are_left_as_they_are(tree, tmp_path):
    convert(tree.root, tmp_path)
    before = made(tmp_path)
    assert [p.name for p in convert(tree.root, tmp_path)] == sorted(before)
    assert made(tmp_path) == before
    convert(tree.root, tmp_path, "scene-0002", overwrite=True)
    changed = {name for name, stamp in made(tmp_path).items() if stamp != before[name]}
    assert changed == {"nuscenes-v1.0-mini-scene-0002"}


def test_changed_settings_are_noticed(tree, tmp_path):
    convert(tree.root, tmp_path, "scene-0002")
    before = made(tmp_path)
    for change in ({"profile": "foxglove"}, {"lidar": False}, {"boxes": True}, {"duration_s": 0.3}):
        with pytest.raises(DatasetError, match=f"exists already with other settings .*{next(iter(change))}"):
            convert(tree.root, tmp_path, "scene-0002", **change)
        assert made(tmp_path) == before
    convert(tree.root, tmp_path, "scene-0002", overwrite=True, boxes=True)
    convert(tree.root, tmp_path, "scene-0002", boxes=True)


def test_files_installed_later_are_noticed(small_tree, tmp_path):
    image = next((small_tree.root / "samples/CAM_BACK").iterdir())
    content = image.read_bytes()
    image.unlink()
    convert(small_tree.root, tmp_path / "bags")
    image.write_bytes(content)
    with pytest.raises(DatasetError, match=r"other settings .*files"):
        convert(small_tree.root, tmp_path / "bags")


def test_damaged_and_foreign_bags_are_not_taken_for_finished_ones(tree, tmp_path):
    (path,) = convert(tree.root, tmp_path, "scene-0002")
    file = path / f"{path.name}.mcap"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DatasetError, match="damaged"):
        convert(tree.root, tmp_path, "scene-0002")
    shutil.rmtree(path)
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is no bag"):
        convert(tree.root, tmp_path, "scene-0002")
    assert (path / "notes.txt").exists()


KILLED = """
import os, signal, sys
from occ_perception.data.drive_bag import DriveBag
from occ_perception.data.nuscenes_bag import from_nuscenes
write, left = DriveBag.write_points, [8]
def write_some(bag, *arguments):
    if bag.path.name.endswith("0002"):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    write(bag, *arguments)
DriveBag.write_points = write_some
from_nuscenes(sys.argv[1], None, (), sys.argv[2], progress=False)
"""


def test_an_interrupted_conversion_goes_on_where_it_was(tree, tmp_path):
    """Killed in the second scene, where nothing can be cleaned up."""
    command = [sys.executable, "-c", KILLED, str(tree.root), str(tmp_path / "bags")]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=60)
    assert done.returncode == -signal.SIGKILL
    first, second = (f"nuscenes-v1.0-mini-scene-000{n}" for n in (1, 2))
    before = made(tmp_path / "bags")
    leftover = set(before) - {first}
    assert first in before
    assert len(leftover) == 1
    assert leftover.pop().startswith(f".{second}.")
    convert(tree.root, tmp_path / "bags")
    after = made(tmp_path / "bags")
    assert set(after) == {first, second}
    assert after[first] == before[first]
    for path, whole in zip(sorted((tmp_path / "bags").iterdir()), convert(tree.root, tmp_path / "whole"), strict=True):
        assert (path / f"{path.name}.mcap").read_bytes() == (whole / f"{path.name}.mcap").read_bytes()


def test_who_is_at_work_is_not_disturbed(tmp_path):
    first = Workspace(tmp_path / "thing")
    second = Workspace(tmp_path / "thing")
    assert first.path.is_dir()
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_scenes_in_parallel_give_the_same_bags(tree, tmp_path):
    parallel = convert(tree.root, tmp_path / "parallel", workers=2)
    for path, other in zip(parallel, convert(tree.root, tmp_path / "serial"), strict=True):
        assert (path / f"{path.name}.mcap").read_bytes() == (other / f"{path.name}.mcap").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_scene_does_not_keep_the_others_from_it(tmp_path, workers):
    damaged = write_tree(tmp_path / "data", {"scene-0001": 1, "scene-0002": 1}, SMALL, labels=False)
    sweep = next((damaged.root / "samples/LIDAR_TOP").glob("scene-0001*"))
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(DatasetError, match=f"1 of 2 scenes were not converted: .*{sweep.name}"):
        convert(damaged.root, tmp_path / "bags", workers=workers)
    assert [p.name for p in (tmp_path / "bags").iterdir()] == ["nuscenes-v1.0-mini-scene-0002"]
