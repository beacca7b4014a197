"""Label files of the four benchmarks, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from occ_perception.data.labels import (
    OPENOCCUPANCY_GRID,
    Occ3DLabels,
    Occ3DPanopticLabels,
    OpenOccLabels,
    OpenOccupancyLabels,
    read_prediction,
)
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.geometry import OCC3D_GRID
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.ontology import FREE, OCC3D, OPENOCC, UNKNOWN

SIZE = OCC3D_GRID.size
SCENE, TOKEN = "scene-0001", "ab" * 16


@pytest.fixture
def arrays():
    """A label in Occ3D's layout with everything any reader wants."""
    rng = np.random.default_rng(0)
    semantics = np.full(SIZE, 17, np.uint8)
    semantics[:, :, :2] = rng.integers(0, 17, (*SIZE[:2], 2))
    lidar = (rng.random(SIZE) < 0.5).astype(np.uint8)
    return {
        "semantics": semantics,
        "mask_lidar": lidar,
        "mask_camera": (lidar * (rng.random(SIZE) < 0.5)).astype(np.uint8),
        "instances": (semantics == 4).astype(np.uint8) * 7,
        "flow": rng.normal(size=(*SIZE, 2)).astype(np.float16),
    }


def write(root: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = root / SCENE / TOKEN / "labels.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **arrays)
    return path


def test_occ3d(tmp_path, arrays):
    write(tmp_path, arrays)
    (tmp_path / "annotations.json").write_text("{}")
    labels = Occ3DLabels(tmp_path)
    assert labels.scenes() == (SCENE,)
    assert labels.samples(SCENE) == (TOKEN,)
    label = labels.read(SCENE, TOKEN, stamp_ns=5)
    np.testing.assert_array_equal(OCC3D.to_dataset(label.semantics), arrays["semantics"])
    np.testing.assert_array_equal(label.mask_camera, arrays["mask_camera"] == 1)
    assert (label.frame, label.stamp_ns, label.grid, label.ontology) == ("base_link", 5, OCC3D_GRID, OCC3D)
    assert label.flow is None
    assert label.instances is None


def test_free_without_a_beam_is_not_known_to_be_free(tmp_path, arrays):
    write(tmp_path, arrays)
    label = Occ3DLabels(tmp_path).read(SCENE, TOKEN)
    known = label.known_semantics()
    dark = (arrays["semantics"] == 17) & (arrays["mask_lidar"] == 0)
    assert (known[dark] == UNKNOWN).all()
    np.testing.assert_array_equal(known[~dark], label.semantics[~dark])


def test_sparseocc_panoptic(tmp_path, arrays):
    write(tmp_path, arrays)
    label = Occ3DPanopticLabels(tmp_path).read(SCENE, TOKEN)
    assert label.instances.dtype == np.uint16
    np.testing.assert_array_equal(label.instances, arrays["instances"])
    assert label.mask_lidar is not None


def test_openocc(tmp_path, arrays):
    arrays["semantics"] = np.where(arrays["semantics"] >= 16, 16, arrays["semantics"]).astype(np.uint8)
    arrays["flow"][3, 4, 5] = np.nan, np.inf
    write(tmp_path, {key: arrays[key] for key in ("semantics", "flow")})
    label = OpenOccLabels(tmp_path).read(SCENE, TOKEN)
    assert label.ontology is OPENOCC
    assert label.flow.dtype == np.float32
    np.testing.assert_array_equal(label.flow, arrays["flow"].astype(np.float32))
    np.testing.assert_array_equal(label.semantics == FREE, arrays["semantics"] == 16)
    assert label.mask_camera is None


def test_real_keyframe_scored_against_itself_and_mirrored(keyframe):
    labels = Occ3DPanopticLabels(keyframe / "pseudo_gt")
    scene = labels.scenes()[0]
    label = labels.read(scene, labels.samples(scene)[0])
    itself, mirrored = SemanticIoU(), SemanticIoU()
    itself.update(label.semantics, label.semantics, label.mask_camera)
    mirrored.update(label.semantics, label.semantics[:, ::-1], label.mask_camera)
    assert itself.compute().values["mIoU"] == 1.0
    assert mirrored.compute().values["mIoU"] < 0.3
    assert label.instances.max() > 10


def test_openoccupancy_rows(tmp_path, shared):
    rows = np.load(shared / "golden" / "metrics_openoccupancy.npz")["gt_rows_zyx_cls"]
    again = np.random.default_rng(2).permutation(np.repeat(rows[::100], 4, axis=0))
    again[:, 3] = np.random.default_rng(3).integers(0, 17, len(again))  # cells listed five times, often with ties
    rows = np.concatenate([again[::2], rows, again[1::2]])
    folder = tmp_path / "scene_5ce7e" / "occupancy"
    folder.mkdir(parents=True)
    np.save(folder / "token.npy", rows)
    votes: dict[tuple[int, ...], list[int]] = {}
    for z, y, x, c in rows.tolist():
        votes.setdefault((x, y, z), []).append(c)
    assert sum(len(classes) > 1 for classes in votes.values()) > 1000
    expected = np.full(OPENOCCUPANCY_GRID.size, FREE, np.uint8)
    for cell, classes in votes.items():
        label = max(sorted(set(classes)), key=classes.count)
        expected[cell] = UNKNOWN if label == 0 else label
    labels = OpenOccupancyLabels(tmp_path)
    assert labels.scenes() == ("5ce7e",)
    assert labels.samples("5ce7e") == ("token",)
    label = labels.read("5ce7e", "token")
    np.testing.assert_array_equal(label.semantics, expected)
    assert (label.frame, label.grid.size) == ("lidar_top", (512, 512, 40))
    wide = np.insert(rows.astype(np.float32), 3, 0.5, axis=1)
    np.save(folder / "wide.npy", np.insert(np.insert(wide, 3, 0.5, axis=1), 3, np.nan, axis=1))
    np.testing.assert_array_equal(labels.read("5ce7e", "wide").semantics, expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[0, 0, 512, 1]]), "row 0"),
        (np.array([[0, 0, 0, 1], [0, -1, 0, 1]]), "row 1"),
        (np.array([[0, 0, 0, 17]]), "classes"),
        (np.array([[0, 0, 0.5, 1]]), "1 rows"),
        (np.array([[0, 0, np.nan, 1]]), "1 rows"),
        (np.zeros((3, 5)), r"\[N, 4\]"),
        (np.zeros(3), r"\[N, 4\]"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    path = tmp_path / "scene_s" / "occupancy" / "t.npy"
    path.parent.mkdir(parents=True)
    np.save(path, rows)
    with pytest.raises(InvalidInputError, match=message):
        OpenOccupancyLabels(tmp_path).read("s", "t")


@pytest.mark.parametrize("key", ["pred", "semantics", "arr_0"])
def test_predictions_of_the_community(tmp_path, arrays, key):
    path = tmp_path / f"{TOKEN}.npz"
    np.savez(path, **{key: arrays["semantics"].astype(np.int64), "other": np.zeros(3)})
    np.testing.assert_array_equal(OCC3D.to_dataset(read_prediction(path, OCC3D)), arrays["semantics"])
    np.savez(path, **{key: np.full(SIZE, 255, np.uint8)})
    with pytest.raises(InvalidInputError, match="255"):
        read_prediction(path, OCC3D)
    np.savez(path, unnamed=arrays["semantics"])
    with pytest.raises(InvalidInputError, match="expected an array 'pred', got \\['unnamed'\\]"):
        read_prediction(path, OCC3D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantics": np.full((200, 200, 15), 17, np.uint8)}, r"semantics: expected .*\(200, 200, 16\), got uint8"),
        ({"semantics": np.full(SIZE, 17.0)}, "float64"),
        ({"semantics": np.full(SIZE, 18, np.uint8)}, r"labels \[18\]"),
        ({"semantics": np.full(SIZE, 16, np.uint8)}, "OpenOcc as 16"),
        ({"mask_camera": np.full(SIZE, 3, np.uint8)}, "mask_camera: expected 0 and 1"),
        ({"mask_lidar": np.ones(SIZE[:2], np.uint8)}, "mask_lidar"),
    ],
)
def test_labels_of_another_grid_or_ontology_are_refused(tmp_path, arrays, change, message):
    path = write(tmp_path, arrays | change)
    with pytest.raises(InvalidInputError, match=message) as caught:
        Occ3DLabels(tmp_path).read(SCENE, TOKEN)
    assert str(path) in str(caught.value)


def test_openocc_reader_refuses_occ3d_files(tmp_path, arrays):
    write(tmp_path, arrays)
    with pytest.raises(InvalidInputError, match=r"labels \[17\] are not classes of openocc"):
        OpenOccLabels(tmp_path).read(SCENE, TOKEN)


def test_missing_array_is_named(tmp_path, arrays):
    del arrays["mask_lidar"]
    write(tmp_path, arrays)
    with pytest.raises(InvalidInputError, match="expected an array 'mask_lidar'"):
        Occ3DLabels(tmp_path).read(SCENE, TOKEN)


def test_pickled_objects_are_refused(tmp_path, arrays):
    arrays["semantics"] = np.array([{"not": "a grid"}], dtype=object)
    write(tmp_path, arrays)
    with pytest.raises(DatasetError, match="pickled objects"):
        Occ3DLabels(tmp_path).read(SCENE, TOKEN)
    path = tmp_path / "scene_s" / "occupancy" / "t.npy"
    path.parent.mkdir(parents=True)
    np.save(path, arrays["semantics"])
    with pytest.raises(DatasetError, match="pickled objects"):
        OpenOccupancyLabels(tmp_path).read("s", "t")


def test_damaged_files_are_named(tmp_path, arrays):
    path = write(tmp_path, arrays)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    scrambled = bytearray(whole)
    for at in rng.integers(200, len(whole) - 200, 50):
        scrambled[at] ^= 0xFF
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-10], b"text", bytes(scrambled)):
        path.write_bytes(damaged)
        with pytest.raises((DatasetError, InvalidInputError), match=SCENE):
            Occ3DLabels(tmp_path).read(SCENE, TOKEN)
    path.unlink()
    with pytest.raises(DatasetError, match="no such file"):
        Occ3DLabels(tmp_path).read(SCENE, TOKEN)
    with pytest.raises(DatasetError, match="no folder"):
        Occ3DLabels(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no folder"):
        Occ3DLabels(tmp_path).samples("scene-9999")


def test_archive_bombs_are_refused_before_unpacking(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr("occ_perception.data.array_files.MAX_ARRAY_BYTES", 1000)
    write(tmp_path, arrays)
    with pytest.raises(DatasetError, match="claims"):
        Occ3DLabels(tmp_path).read(SCENE, TOKEN)
