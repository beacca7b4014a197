"""The verb ``world`` and its datasets: whole, reproducible, resumable, read by the ordinary readers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image
from small_scenes import car

from occ_perception import cli
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.labels import Occ3DPanopticLabels
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.synthetic import dataset_writer
from occ_perception.data.synthetic.command import image_size_of
from occ_perception.data.synthetic.dataset_scene import point_label_arrays
from occ_perception.data.synthetic.dataset_writer import SPLITS, WorldSettings, scene_name, write_world
from occ_perception.data.synthetic.lidar import LidarScan
from occ_perception.data.synthetic.stream import WorldSource
from occ_perception.errors import ConfigurationError, DatasetError, InvalidInputError
from occ_perception.evaluation.point_truth import PointTruth
from occ_perception.evaluation.splits import split_scenes
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.ontology import FREE, LIDARSEG, OCC3D, OPENOCC
from occ_perception.training.nuscenes_source import NuScenesSource

SETTINGS = WorldSettings(scenes=2, frames=2, seed=3, image_size=(176, 64))
ARGUMENTS = ("--scenes", "2", "--frames", "2", "--seed", "3", "--image-size", "176x64")


def world(*arguments):
    return cli.main(["world", *map(str, arguments)])


def digest(root):
    """Of all files' names and bytes."""
    sha = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock"):
        sha.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return sha.hexdigest()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two scenes of two keyframes, written by one process."""
    root = tmp_path_factory.mktemp("world") / "dataset"
    assert write_world(root, SETTINGS, workers=1, progress=False) == 4
    return root


# -- what is written


def test_the_ordinary_readers_read_all_of_it(dataset):
    nuscenes = NuScenes(dataset)
    assert nuscenes.version == "v1.0-trainval"
    assert nuscenes.scene_names == tuple(scene_name(seed) for seed in SETTINGS.scene_seeds())
    assert split_scenes("train", dataset / "gts") == nuscenes.scene_names
    assert split_scenes("train", dataset / "openocc_v2") == nuscenes.scene_names
    with pytest.raises(DatasetError, match="val_split: expected scenes, it lists none"):
        split_scenes("val", dataset / "gts")  # no names would mean every scene: those of train
    for labels, ontology in (("occ3d", OCC3D), ("openocc", OPENOCC)):
        truth = GroundTruth(labels, dataset)
        assert truth.scenes(nuscenes) == nuscenes.scene_names
        for name in nuscenes.scene_names:
            scene = nuscenes.scene(name)
            assert not scene.missing_files()
            assert truth.samples(scene) == tuple(token for token, _ in scene.samples)
            label = truth.read(scene, scene.samples[1][0])
            assert label.ontology is ontology
            assert 0.02 < np.mean(label.semantics < FREE) < 0.3
    assert len(Occ3DPanopticLabels(dataset / "gts").scenes()) == 2


def test_every_lidar_point_has_its_class_and_instance(dataset):
    nuscenes = NuScenes(dataset)
    truth, source = PointTruth(nuscenes), WorldSource(SETTINGS.scene_seeds(), 2, SETTINGS.image_size)
    assert truth.packs == ("lidarseg", "panoptic")
    scene = nuscenes.scene(nuscenes.scene_names[1])
    for index, (token, _) in enumerate(scene.samples):
        points, label = truth.read(scene, token), source.load(1, index).label
        returned = np.abs(points.lidar).max(1) > 0
        assert not points.classes[~returned].any()
        assert np.array_equal(points.classes, points.panoptic // 1000)
        cells, inside = label.grid.cells_of(points.in_grid("base_link", None))
        inside &= returned & (points.classes > 0)
        voxels = tuple(cells[inside].T)
        same = OCC3D.map_to(LIDARSEG)[label.semantics[voxels]] == points.classes[inside]
        assert same.mean() > 0.8  # a voxel that two classes share has one
        # One instance in the voxels is one instance among the points.
        ids, numbers = label.instances[voxels][same], points.panoptic[inside][same]
        for number in np.unique(numbers[numbers % 1000 > 0]):
            of_object = ids[numbers == number]
            assert len(of_object) < 5 or np.bincount(of_object).max() > 0.6 * len(of_object)


def test_more_actors_than_panoptic_labels_hold_are_refused():
    scan = LidarScan(
        np.zeros((0, 4), np.float32), *(np.zeros(0, t) for t in (np.uint16, np.float32, np.uint8, np.uint16))
    )
    actors = [car(number, None) for number in range(1, 1001)]
    with pytest.raises(InvalidInputError, match="1000 actors of class car; panoptic labels hold 999"):
        point_label_arrays(scan, actors)
    assert not point_label_arrays(scan, actors[:999])[1].any()


def test_annotations_have_tracks_and_velocities(dataset):
    nuscenes = NuScenes(dataset)
    for name in nuscenes.scene_names:
        first, second = (
            {box.instance_token: box for box in nuscenes.annotations(token)}
            for token, _ in nuscenes.scene(name).samples
        )
        both = first.keys() & second.keys()
        assert len(both) > 5
        for token in both:
            moved = second[token].global_from_box[:2, 3] - first[token].global_from_box[:2, 3]
            np.testing.assert_allclose(first[token].velocity[:2], moved / 0.5, atol=1e-6)
        assert any(box.num_lidar_points > 20 for box in first.values())


def test_what_is_read_is_what_is_streamed(dataset):
    read, streamed = NuScenesSource(dataset), WorldSource(SETTINGS.scene_seeds(), 2, SETTINGS.image_size)
    assert read.scene_lengths == streamed.scene_lengths == [2, 2]
    for scene, frame in ((0, 1), (1, 0)):
        one, other = read.load(scene, frame), streamed.load(scene, frame)
        for name in ("semantics", "mask_lidar", "mask_camera", "instances"):
            assert np.array_equal(getattr(one.label, name), getattr(other.label, name)), name
        np.testing.assert_allclose(one.label.flow, other.label.flow, rtol=1e-3, atol=1e-3)  # half precision on disk
        assert one.frame.images.keys() == other.frame.images.keys()
        for name, image in one.frame.images.items():
            assert image.data == other.frame.images[name].data
            camera, expected = one.frame.rig[name], other.frame.rig[name]
            np.testing.assert_allclose(camera.intrinsics, expected.intrinsics, atol=1e-9)
            np.testing.assert_allclose(camera.ego_from_camera, expected.ego_from_camera, atol=1e-9)
        assert one.image_labels.keys() == other.image_labels.keys() == one.frame.images.keys()
        for name, labels in one.image_labels.items():
            assert np.array_equal(labels.depth, other.image_labels[name].depth)
            assert np.array_equal(labels.classes, other.image_labels[name].classes)
            assert labels.depth.shape == (16, 44)
        returned = np.abs(one.frame.lidar[0].points[:, :3]).max(1) > 0
        points = one.frame.lidar[0].points[returned]
        assert np.array_equal(np.sort(points, axis=0), np.sort(other.frame.lidar[0].points, axis=0))
        np.testing.assert_allclose(one.ego_from_grid, other.ego_from_grid, atol=1e-9)
        by_place, expected = np.lexsort(one.boxes[:, :3].T), np.lexsort(other.boxes[:, :3].T)
        np.testing.assert_allclose(one.boxes[by_place, :7], other.boxes[expected, :7], atol=1e-6)
        assert np.array_equal(one.box_classes[by_place], other.box_classes[expected])
        found = one.box_ids[by_place] > 0
        assert np.array_equal(one.box_ids[by_place][found], other.box_ids[expected][found])
        assert found.mean() > 0.9


def test_openocc_labels_come_with_masks_and_instances_of_occ3d(dataset):
    occ3d, openocc = (NuScenesSource(dataset, labels=labels).load(0, 0).label for labels in ("occ3d", "openocc"))
    assert openocc.ontology is OPENOCC
    for name in ("mask_lidar", "mask_camera", "instances", "flow"):
        assert np.array_equal(getattr(occ3d, name), getattr(openocc, name)), name
    known = (occ3d.semantics != OCC3D.id_of("others")) & (occ3d.semantics != FREE)
    assert np.array_equal(OCC3D.map_to(OPENOCC)[occ3d.semantics[known]], openocc.semantics[known])


def test_a_source_gives_what_a_dataset_has(synthetic_nuscenes):
    """Labels without instances, cars only: boxes come without ids."""
    source = NuScenesSource(synthetic_nuscenes.root)
    assert source.scene_lengths == [2, 3, 1]
    frame = source.load(1, 2)
    token = synthetic_nuscenes.tokens["scene-0002"][2]
    assert np.array_equal(frame.label.semantics, synthetic_nuscenes.truth[token])
    assert (frame.label.stamp_ns, frame.frame.stamp_ns) == synthetic_nuscenes.stamps_ns[token]
    assert frame.label.flow is not None
    assert frame.label.instances is None
    assert frame.box_ids is None
    assert len(frame.boxes) > 0
    assert set(frame.box_classes) == {OCC3D.id_of("car")}
    travelled = frame.ego_from_grid[0, 3] / ((frame.label.stamp_ns - frame.frame.stamp_ns) * 1e-9)
    assert travelled == pytest.approx(7.0, abs=0.1)  # m/s


def test_a_source_names_what_is_not_there(dataset, tmp_path):
    with pytest.raises(ConfigurationError, match="known: occ3d, openocc"):
        NuScenesSource(dataset, labels="cityscapes")
    with pytest.raises(DatasetError, match="scene-x"):
        NuScenesSource(dataset, scenes=["scene-x"])
    with pytest.raises(DatasetError, match="no frame 2 of scene 0"):
        NuScenesSource(dataset).load(0, 2)
    os.symlink(dataset / "v1.0-trainval", tmp_path / "v1.0-trainval")
    with pytest.raises(DatasetError, match="no occ3d labels"):
        NuScenesSource(tmp_path)


# -- again, and after interruptions


@pytest.mark.slow
def test_equal_settings_give_equal_bytes_in_any_number_of_processes(dataset, tmp_path):
    assert write_world(tmp_path / "again", SETTINGS, workers=2, progress=False) == 4
    assert digest(tmp_path / "again") == digest(dataset)


def test_what_is_finished_is_not_made_again_and_more_can_be_added(dataset, tmp_path, monkeypatch, capsys):
    root = tmp_path / "grown"
    one = WorldSettings(1, 2, 3, image_size=(176, 64))
    write_world(root, one, workers=1, progress=False)
    assert NuScenes(root).scene_names == (scene_name(30_000),)
    stray = root / "samples" / "CAM_FRONT" / ".half.jpg.x1y2"
    stray.write_bytes(b"part of a file")
    assert world(*ARGUMENTS, "-o", root, "--workers", 1) == 0
    assert "2 frames in" in (said := capsys.readouterr().out)
    assert "2 were there already" in said
    assert digest(root) == digest(dataset)
    monkeypatch.setattr(dataset_writer, "_write_scene", lambda *_: pytest.fail("made again"))
    assert write_world(root, SETTINGS, workers=1, progress=False) == 0


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_files_and_the_next_one_goes_on(dataset, tmp_path):
    root = tmp_path / "killed"
    command = [sys.executable, "-m", "occ_perception.cli", "world", *ARGUMENTS, "-o", str(root), "--workers", "1"]
    writer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(list(root.glob("gts/*/*/labels.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not (root / "v1.0-trainval").exists()
    for path in root.glob("gts/*/*/labels.npz"):
        assert np.load(path)["semantics"].shape == (200, 200, 16)
    assert write_world(root, SETTINGS, workers=1, progress=False) == 2
    assert digest(root) == digest(dataset)


# -- the command


def test_bag_preview_and_figures(tmp_path, capsys):
    root = tmp_path / "world"
    settings = ("--scenes", 1, "--frames", 1, "--image-size", "176x64", "--split", "val", "--workers", 1)
    assert world(*settings, "-o", root, "--bag", "--preview") == 0
    assert "frames/s" in capsys.readouterr().out
    seed = SPLITS["val"]
    with BagReader(root / "bags" / scene_name(seed)) as bag:
        assert {topic.name: topic.count for topic in bag.topics}["/lidar_top/points"] == 10
    sheet = Image.open(root / "preview" / f"{seed}.png")
    assert sheet.height >= 900
    assert len({color for _, color in sheet.getcolors(1 << 24)}) > 1000
    assert Image.open(root / "preview" / f"{seed}.webp").n_frames == 6
    assert split_scenes("val", root / "gts") == (scene_name(seed),)


def test_splits_have_no_seed_in_common():
    seeds = [
        set(WorldSettings(dataset_writer.MAX_SCENES, 1, seed, split).scene_seeds())
        for split in SPLITS
        for seed in (0, 1, dataset_writer.MAX_SEED)
    ]
    assert len(set().union(*seeds)) == sum(map(len, seeds))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenes", "0"), "scenes: expected 1 to"),
        (("--frames", "-3"), "frames: expected 1 to"),
        (("--seed", "-1"), "seed: expected 0 to"),
        (("--workers", "0"), "workers: expected 1"),
        (("--image-size", "wide"), "expected WIDTHxHEIGHT"),
        (("--image-size", "704x500", "--workers", "1"), "9/16"),
    ],
)
def test_bad_numbers_are_one_clear_line(tmp_path, capsys, arguments, message):
    assert world("-o", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_image_sizes():
    assert image_size_of("1600x900") == (1600, 900)
    for text in ("1600", "1600x", "-3x4", "axb", "3x4x5"):
        with pytest.raises(ConfigurationError):
            image_size_of(text)


def test_a_folder_with_something_else_is_left_alone(dataset, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("important")
    assert world(*ARGUMENTS, "-o", tmp_path) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert world("--frames", 5, "-o", dataset) == 2
    assert "holds a dataset made with" in capsys.readouterr().err


def test_a_full_disk_is_told_before_anything_is_made(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(dataset_writer.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    assert world("-o", tmp_path / "out", "--scenes", 100) == 2
    assert "GB are needed, 0.0 GB are free" in capsys.readouterr().err
    assert not (tmp_path / "out" / "samples").exists()


def test_two_writers_do_not_meet(tmp_path, monkeypatch):
    """The second is told of the first, before and after it says what it makes, and leaves the folder to it."""
    root = tmp_path / "world"
    other = WorldSettings(scenes=1, frames=5, seed=8, image_size=(176, 64))
    with dataset_writer._alone(root):  # the first has the lock and has written nothing yet
        for settings in (SETTINGS, other):
            with pytest.raises(DatasetError, match="another process"):
                write_world(root, settings, workers=1, progress=False)
        assert [path.name for path in root.rglob("*")] == [".world", ".lock"]
        dataset_writer._claim(root, other)
        with pytest.raises(DatasetError, match="another process"):
            write_world(root, SETTINGS, workers=1, progress=False)
    monkeypatch.setattr(dataset_writer, "_write_scene", lambda *_: pytest.fail("made in a folder of another dataset"))
    with pytest.raises(DatasetError, match=r"holds a dataset made with .*'frames': 5"):
        write_world(root, SETTINGS, workers=1, progress=False)


def test_a_writer_that_died_with_nothing_but_the_lock_is_no_hindrance(tmp_path):
    root = tmp_path / "world"
    with dataset_writer._alone(root):
        pass
    with dataset_writer._alone(root):
        dataset_writer._claim(root, SETTINGS)
    assert json.loads((root / ".world" / "settings.json").read_text()) == SETTINGS.identity()
    (root / ".world" / "settings.json").unlink()
    (root / "thesis.tex").write_text("important")
    with pytest.raises(DatasetError, match="not empty"):
        write_world(root, SETTINGS, workers=1, progress=False)
