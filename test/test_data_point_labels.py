"""lidarseg and Panoptic nuScenes files: classes as the benchmark maps them, segments kept apart, damage named."""

import io
import json
import zipfile

import numpy as np
import pytest
from nuscenes_tree import VERSION, write_tree

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.point_labels import (
    CHALLENGE_FROM_GENERAL,
    LIDAR,
    LidarsegLabels,
    PanopticLabels,
)
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.geometry import OCC3D_GRID, inverse, transform_points
from occ_perception.metrics.lidarseg_iou import LidarsegIoU
from occ_perception.metrics.panoptic import PanopticQuality
from occ_perception.metrics.points_from_voxels import border_cells, point_labels
from occ_perception.ontology import LIDARSEG, OCC3D

# benchmarks.md 7, "mapping general index -> challenge", written out
OFFICIAL = {
    9: 1, 14: 2, 15: 3, 16: 3, 17: 4, 18: 5, 21: 6, 2: 7, 3: 7, 4: 7, 6: 7, 12: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 30: 16, **dict.fromkeys([0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31], 0),
}  # fmt: skip
GENERAL = {challenge: general for general, challenge in sorted(OFFICIAL.items(), reverse=True)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> NuScenes:
    """Two scenes; the second is not labelled, and of the first only the keyframes 0 and 2."""
    root = tmp_path_factory.mktemp("nuscenes")
    write_tree(root, {"scene-0001": 3, "scene-0002": 1}, (64, 36), sweeps=True, labels=False)
    return NuScenes(root)


@pytest.fixture
def tokens(dataset) -> list[str]:
    scene = dataset.scene("scene-0001")
    return [scene.keyframes[token][LIDAR].token for token, _ in scene.samples]


def save_lidarseg(folder, token, general):
    folder.mkdir(parents=True, exist_ok=True)
    np.asarray(general, np.uint8).tofile(folder / f"{token}_lidarseg.bin")


def save_panoptic(folder, token, values):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{token}_panoptic.npz", data=np.asarray(values, np.uint16))


def test_every_general_class_is_what_the_benchmark_says():
    assert sorted(OFFICIAL) == list(range(32))
    assert CHALLENGE_FROM_GENERAL.tolist() == [OFFICIAL[general] for general in range(32)]


def test_scenes_and_samples_are_those_with_files(dataset, tokens, tmp_path):
    for token in (tokens[2], tokens[0], "ab" * 16):  # the last is of another dataset
        save_lidarseg(tmp_path, token, [24])
        save_panoptic(tmp_path, token, [24000])
    for reader in (LidarsegLabels(dataset, tmp_path), PanopticLabels(dataset, tmp_path)):
        assert reader.scenes() == ("scene-0001",)
        assert reader.samples("scene-0001") == (tokens[0], tokens[2])
        assert reader.samples("scene-0002") == ()


def test_usual_folders_under_the_dataset(dataset, tokens):
    with pytest.raises(DatasetError, match=f"no folder .*lidarseg/{VERSION}; is the lidarseg pack installed"):
        LidarsegLabels(dataset)
    save_panoptic(dataset.root / "panoptic" / VERSION, tokens[0], [17003])
    assert PanopticLabels(dataset).read("scene-0001", tokens[0]).panoptic.tolist() == [4003]


def test_lidarseg_classes(dataset, tokens, tmp_path):
    save_lidarseg(tmp_path, tokens[0], [24, 0, 17, 31, 3, 2])
    label = LidarsegLabels(dataset, tmp_path).read("scene-0001", tokens[0], 5)
    assert [LIDARSEG.class_names[c] for c in label.classes] == [
        *("driveable_surface", "others", "car", "others", "pedestrian", "pedestrian"),
    ]
    assert (label.classes.dtype, label.panoptic, label.stamp_ns) == (np.uint8, None, 5)
    metric = LidarsegIoU()
    metric.update(label.classes, np.array([11, 1, 4, 1, 7, 4], np.uint8))
    assert metric.compute().values["mIoU"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_panoptic_values(dataset, tokens, tmp_path):
    save_panoptic(tmp_path, tokens[0], [17003, 17003, 17999, 24000, 0, 31007, 9002])
    label = PanopticLabels(dataset, tmp_path).read("scene-0001", tokens[0])
    assert label.panoptic.tolist() == [4003, 4003, 4999, 11000, 0, 0, 1002]
    assert label.classes.tolist() == [4, 4, 4, 11, 0, 0, 1]
    assert label.panoptic.dtype == np.uint16


def test_first_adult_and_first_child_stay_two_persons(dataset, tokens, tmp_path):
    values = np.repeat([2001, 3001, 2002, 16001, 15001], 20)
    save_panoptic(tmp_path, tokens[0], values)
    label = PanopticLabels(dataset, tmp_path).read("scene-0001", tokens[0])
    pairs = set(zip(values.tolist(), label.panoptic.tolist(), strict=True))
    assert len(pairs) == len({p for _, p in pairs}) == 5
    assert (label.panoptic // 1000).tolist() == [7] * 60 + [3] * 40
    metric = PanopticQuality()
    metric.update(label.panoptic, label.panoptic)
    persons = metric.compute().per_class["true positive"][LIDARSEG.id_of("pedestrian") - 1]
    assert persons == 3


def test_official_numbers_from_files(shared, dataset, tokens, tmp_path):
    """The golden scans, written as nuScenes writes them, read and scored."""
    arrays = np.load(shared / "golden" / "metrics_panoptic.npz")
    expected = json.loads((shared / "golden" / "metrics_panoptic.json").read_text())
    case = next(name for name in sorted(expected) if f"pred_panoptic_{name}_scan0" in arrays and name != "perfect")
    official = next(v for k, v in expected[case].items() if k == "PQ")
    metric = PanopticQuality()
    reader = None
    for scan in (0, 1):
        truth = arrays[f"gt_panoptic_scan{scan}"]
        general = np.vectorize(GENERAL.get)(truth // 1000) * 1000 + truth % 1000
        save_panoptic(tmp_path, tokens[scan], general)
        reader = reader or PanopticLabels(dataset, tmp_path)
        label = reader.read("scene-0001", tokens[scan])
        np.testing.assert_array_equal(label.classes, truth // 1000)
        metric.update(label.panoptic, arrays[f"pred_panoptic_{case}_scan{scan}"])
    assert metric.compute().values["PQ"] == pytest.approx(official, abs=1e-9)


def test_from_the_grid_of_a_frame_to_a_score(dataset, tokens, tmp_path):
    """Points go into the frame of the grid, which stands where the front image was taken, not where the sweep was."""
    scene = dataset.scene("scene-0001")
    semantics = np.random.default_rng(0).integers(1, 17, OCC3D_GRID.size, dtype=np.uint8)
    scores = {}
    for anchor in ("LIDAR_TOP", "CAM_FRONT"):
        for token, frame in zip(tokens, dataset.frames(scene, anchor), strict=True):
            sweep = frame.lidar[0]
            grid_from_lidar = inverse(frame.odom_from_ego) @ sweep.odom_from_ego @ sweep.ego_from_lidar
            points = transform_points(grid_from_lidar, sweep.points[:, :3].astype(np.float64))
            save_lidarseg(tmp_path, token, [GENERAL[c] for c in semantics.ravel()[border_cells(points, OCC3D_GRID)]])
            in_ego = transform_points(sweep.ego_from_lidar, sweep.points[:, :3].astype(np.float64))
            for name, where in (("grid", points), ("ego", in_ego)):
                metric = scores.setdefault((anchor, name), LidarsegIoU())
                label = LidarsegLabels(dataset, tmp_path).read("scene-0001", token)
                metric.update(label.classes, point_labels(semantics, where, OCC3D_GRID, OCC3D))
    mean = {key: metric.compute().values["mIoU"] for key, metric in scores.items()}
    assert mean["LIDAR_TOP", "grid"] == mean["CAM_FRONT", "grid"] == 1.0
    assert mean["LIDAR_TOP", "ego"] > 0.999  # rounding may move a point over the border of its cell
    assert mean["CAM_FRONT", "ego"] < 0.8  # the frames are about 0.2 m apart


# -- damage


def test_unknown_classes_are_named(dataset, tokens, tmp_path):
    save_lidarseg(tmp_path, tokens[0], [1, 2, 32, 255])
    with pytest.raises(InvalidInputError, match=r"_lidarseg.bin: expected classes 0..31, got \[32, 255\] for 2 points"):
        LidarsegLabels(dataset, tmp_path).read("scene-0001", tokens[0])
    save_panoptic(tmp_path, tokens[0], [40001])
    with pytest.raises(InvalidInputError, match=r"_panoptic.npz: expected classes 0..31, got \[40\]"):
        PanopticLabels(dataset, tmp_path).read("scene-0001", tokens[0])


def test_missing_and_damaged_files_are_named(dataset, tokens, tmp_path):
    with pytest.raises(DatasetError, match=r"_lidarseg.bin cannot be read"):
        LidarsegLabels(dataset, tmp_path).read("scene-0001", tokens[0])
    reader, path = PanopticLabels(dataset, tmp_path), tmp_path / f"{tokens[0]}_panoptic.npz"
    with pytest.raises(DatasetError, match="no such file"):
        reader.read("scene-0001", tokens[0])
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DatasetError, match=r"damaged"):
        reader.read("scene-0001", tokens[0])
    np.savez(path, labels=np.zeros(3, np.uint16))
    with pytest.raises(InvalidInputError, match=r"data: expected integers \[P\], got \['labels'\]"):
        reader.read("scene-0001", tokens[0])
    np.savez(path, data=np.zeros((3, 2), np.uint16))
    with pytest.raises(InvalidInputError, match=r"got uint16 \(3, 2\)"):
        reader.read("scene-0001", tokens[0])


def test_objects_are_refused(dataset, tokens, tmp_path):
    content = io.BytesIO()
    np.save(content, np.array([print], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / f"{tokens[0]}_panoptic.npz", "w") as archive:
        archive.writestr("data.npy", content.getvalue())
    with pytest.raises(DatasetError, match="pickled objects"):
        PanopticLabels(dataset, tmp_path).read("scene-0001", tokens[0])


def test_points_that_are_not_the_labels_are_refused(dataset, tokens, tmp_path):
    save_lidarseg(tmp_path, tokens[0], [24] * 10)
    label = LidarsegLabels(dataset, tmp_path).read("scene-0001", tokens[0])
    with pytest.raises(InvalidInputError, match=r"expected \(10,\) predictions, got \(9,\)"):
        LidarsegIoU().update(label.classes, np.ones(9, np.uint8))
