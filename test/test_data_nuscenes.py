"""The nuScenes reader on real keyframes and on a made-up tree with sweeps, velocities and damage."""

import json

import numpy as np
import pytest
from nuscenes_tree import token_of, write_tree
from street.drive import StreetDrive

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_lidar import read_lidar
from occ_perception.errors import DatasetError
from occ_perception.geometry import inverse, transform_points

SMALL = (64, 36)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("nuscenes")
    return write_tree(root, {"scene-0001": 3, "scene-0002": 2}, SMALL, sweeps=True, labels=False)


@pytest.mark.parametrize(
    ("folder", "scene", "boxes"), [("nuscenes_keyframe", "scene-0061", 69), ("nuscenes_keyframe2", "scene-unknown", 37)]
)
def test_boxes_of_real_keyframes_hold_their_recorded_points(shared, folder, scene, boxes):
    """The whole chain (tables, calibration, poses, LiDAR file) is right only if every box agrees."""
    source = NuScenes(shared / "data" / folder)
    drive = source.scene(scene)
    (token, _), frame = drive.samples[0], next(source.frames(drive))
    sweep = frame.lidar[0]
    odom = transform_points(sweep.odom_from_ego @ sweep.ego_from_lidar, sweep.points[:, :3].astype(np.float64))
    annotations = source.annotations(token)
    exact = 0
    for box in annotations:
        odom_from_box = box.global_from_box.copy()
        odom_from_box[:3, 3] -= drive.origin
        local = transform_points(inverse(odom_from_box), odom)
        inside = (np.abs(local) <= np.array(box.size) / 2).all(1).sum()
        exact += int(inside == box.num_lidar_points)
    assert (exact, len(annotations)) == (boxes, boxes)


@pytest.mark.parametrize("folder", ["nuscenes_keyframe", "nuscenes_keyframe2"])
def test_real_lidar_projects_into_every_image(shared, folder):
    """Each camera sees its part of the sweep, and the parts together are most of the points ahead of a camera."""
    source = NuScenes(shared / "data" / folder)
    frame = next(source.frames(source.scene(source.scene_names[0])))
    sweep = frame.lidar[0]
    points = sweep.points[np.linalg.norm(sweep.points[:, :3], axis=1) > 3, :3].astype(np.float64)
    odom = transform_points(sweep.odom_from_ego @ sweep.ego_from_lidar, points)
    seen = np.zeros(len(points), int)
    for name, camera in frame.rig.items():
        camera_from_odom = inverse(frame.images[name].odom_from_ego @ camera.ego_from_camera)
        _, depth, visible = camera.project(transform_points(camera_from_odom, odom))
        assert visible.sum() > 1500, name
        assert np.median(depth[visible]) > 3
        seen += visible
    assert np.mean(seen > 0) > 0.6
    assert seen.max() <= 2


def test_real_keyframe_as_a_frame(keyframe):
    source = NuScenes(keyframe)
    scene = source.scene("scene-0061")
    assert (scene.location, scene.vehicle) == ("singapore-onenorth", "n015")
    frame = next(source.frames(scene))
    assert frame.stamp_ns == 1532402927612460000
    assert frame.images["CAM_FRONT"].data == next((keyframe / "samples/CAM_FRONT").iterdir()).read_bytes()
    assert frame.rig["CAM_BACK"].width == 1600
    moved = frame.lidar[0].odom_from_ego[:3, 3] - frame.odom_from_ego[:3, 3]
    assert np.linalg.norm(moved) == pytest.approx(0.328, abs=1e-3)
    assert frame.lidar[0].points.shape == (34688, 4)
    offsets = frame.lidar[0].offsets_s
    assert offsets[-1] == 0
    assert offsets[0] == pytest.approx(-1083 * 0.05 / 1084)


def test_scenes_keep_apart_and_in_time_order(tree):
    source = NuScenes(tree.root, "v1.0-mini")
    assert source.scene_names == ("scene-0001", "scene-0002")
    for name, tokens in tree.tokens.items():
        scene = source.scene(name)
        assert [token for token, _ in scene.samples] == tokens
        assert scene.channels("lidar") == ("LIDAR_TOP",)
        assert len(scene.channels("camera")) == 6
        lidar = scene.records["LIDAR_TOP"]
        assert np.diff([r.stamp_ns for r in lidar]).tolist() == [50_000_000] * (10 * (len(tokens) - 1))
        assert [r.token for r in lidar if r.is_keyframe] == [scene.keyframes[t]["LIDAR_TOP"].token for t in tokens]
        assert all(r.sample_token in tokens for records in scene.records.values() for r in records)


def test_poses_are_those_of_the_drive(tree):
    """Relative to the scene's first pose, since the scene lies turned and shifted in the global frame."""
    for index, name in enumerate(tree.tokens):
        drive = StreetDrive(seed=index, speed=6.0 + index)
        scene = NuScenes(tree.root).scene(name)
        records = scene.records["CAM_FRONT"]
        shift = scene.records["LIDAR_TOP"][0].stamp_ns - drive.sweep_stamps()[0]
        start = records[0].odom_from_ego(scene.origin), drive.odom_from_ego(records[0].stamp_ns - shift)
        assert np.linalg.norm(start[0][:3, 3]) < 1
        for record in records:
            moved = inverse(start[0]) @ record.odom_from_ego(scene.origin)
            expected = inverse(start[1]) @ drive.odom_from_ego(record.stamp_ns - shift)
            np.testing.assert_allclose(moved, expected, atol=1e-9)


def test_frames_follow_the_keyframes(tree):
    source = NuScenes(tree.root)
    stamps = [tree.stamps_ns[token] for token in tree.tokens["scene-0001"]]
    frames = list(source.frames(source.scene("scene-0001")))
    assert [(f.lidar[0].stamp_ns, f.stamp_ns) for f in frames] == stamps
    assert all(f.stamp_ns == f.images["CAM_FRONT"].stamp_ns and len(f.images) == 6 for f in frames)
    lidar_anchored = source.frames(source.scene("scene-0001"), anchor="LIDAR_TOP")
    assert [f.stamp_ns for f in lidar_anchored] == [lidar for lidar, _ in stamps]


def test_velocities_come_from_neighbouring_samples(tree):
    source = NuScenes(tree.root)
    boxes = StreetDrive(seconds=1.5, seed=0, speed=6.0).world.boxes(0)  # as the tree has it
    numbers = {token_of("scene-0001", "instance", b): b for b in range(len(boxes))}
    speeds = []
    for token in tree.tokens["scene-0001"]:  # first and last are one-sided, the middle one is centred
        for box in source.annotations(token):
            speed = np.linalg.norm(boxes.velocities[numbers[box.instance_token]])
            if not np.isnan(box.velocity).any():
                np.testing.assert_allclose(box.velocity, speed * box.global_from_box[:3, 0], atol=0.4)
                speeds.append(speed)
            assert box.size[0] > box.size[1]
            assert box.category == "vehicle.car"
    assert {0.0, 7.0} <= {round(s, 6) for s in speeds}


def test_velocity_is_unknown_without_a_neighbour_near_in_time(tree, tmp_path):
    root = tree.root
    rows = json.loads((root / "v1.0-mini/sample.json").read_text())
    folder = tmp_path / "v1.0-mini"
    folder.mkdir()
    for path in (root / "v1.0-mini").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for i, row in enumerate(rows):
        row["timestamp"] += i * 2_000_000
    (folder / "sample.json").write_text(json.dumps(rows))
    source = NuScenes(tmp_path)
    boxes = [box for token in tree.tokens["scene-0001"] for box in source.annotations(token)]
    assert len(boxes) > 3
    assert all(np.isnan(box.velocity).all() for box in boxes)


def test_missing_files_are_counted_and_frames_do_without(tmp_path):
    write_tree(tmp_path, {"scene-0001": 2}, SMALL, sweeps=True, labels=False)
    source = NuScenes(tmp_path)
    scene = source.scene("scene-0001")
    assert scene.missing_files() == {}
    for path in (tmp_path / "samples/CAM_BACK").iterdir():
        path.unlink()
    for path in (tmp_path / "sweeps/LIDAR_TOP").iterdir():
        path.unlink()
    assert scene.missing_files() == {"CAM_BACK": 2, "LIDAR_TOP": 9}
    frame = next(source.frames(scene))
    assert "CAM_BACK" not in frame.images
    assert "CAM_BACK" in frame.rig
    assert "CAM_BACK" in frame.notes[0]


def test_unknown_scene_lists_the_scenes(tree):
    with pytest.raises(DatasetError, match=r"no scene 'scene-9'.*scene-0001.*scene-0002"):
        NuScenes(tree.root).scene("scene-9")


def test_unknown_version_lists_the_versions(tree):
    with pytest.raises(DatasetError, match=r"v1.0-trainval.*v1.0-mini"):
        NuScenes(tree.root, "v1.0-trainval")


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("sensor", None, "sensor.json is missing"),
        ("log", "[{", "log.json is not valid JSON"),
        ("sample", "{}", "sample.json: expected a list"),
        ("ego_pose", '[{"token": "x"}]', r"ego_pose.json: row 0 lacks \['rotation', 'timestamp', 'translation'\]"),
        ("calibrated_sensor", "[]", "calibrated_sensor.json: no row with token '"),
        ("sample_data", "[3]", "sample_data.json: row 0 lacks everything"),
    ],
)
def test_damaged_tables_are_named(tree, tmp_path, table, content, message):
    folder = tmp_path / "v1.0-mini"
    folder.mkdir()
    for path in (tree.root / "v1.0-mini").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if content is None:
        (folder / f"{table}.json").unlink()
    else:
        (folder / f"{table}.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        NuScenes(tmp_path).scene("scene-0001")


def test_truncated_lidar_file_is_refused(tmp_path):
    path = tmp_path / "sweep.pcd.bin"
    path.write_bytes(bytes(20 * 32 + 7))
    with pytest.raises(DatasetError, match=r"sweep.pcd.bin: expected 20 bytes per point, got 647"):
        read_lidar(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_lidar(tmp_path / "none.pcd.bin")


def test_point_times_are_not_invented_for_files_without_whole_columns(tmp_path):
    path = tmp_path / "sweep.pcd.bin"
    points = np.ones((40, 5), "<f4")
    points.tofile(path)
    assert read_lidar(path).offsets_s is None
