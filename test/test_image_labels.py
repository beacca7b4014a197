"""Labels of image pixels: their files, and what nano's training makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nano_frames import RIG, labelled_frame

from occ_perception.data import image_labels
from occ_perception.data.image_labels import SKY, STRIDE, ImageLabels
from occ_perception.data.synthetic.dataset_scene import npz_bytes
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.models.nano import FEATURE_STRIDE
from occ_perception.training.nano_targets import IGNORE
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.task import Draw

HEIGHT, WIDTH = 256 // STRIDE, 704 // STRIDE


def ramp():
    """Depth by column, 5 to 40 m, class 4; the upper quarter is sky."""
    depth = np.broadcast_to(np.linspace(5, 40, WIDTH, dtype=np.float32), (HEIGHT, WIDTH)).copy()
    classes = np.full((HEIGHT, WIDTH), 4, np.uint8)
    depth[: HEIGHT // 4], classes[: HEIGHT // 4] = np.inf, SKY
    return ImageLabels(depth, classes)


def test_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "sample.npz"
    path.write_bytes(npz_bytes(image_labels.arrays({"CAM_FRONT": ramp(), "CAM_BACK_LEFT": ramp()})))
    read = image_labels.read(path)
    assert sorted(read) == ["CAM_BACK_LEFT", "CAM_FRONT"]
    np.testing.assert_allclose(read["CAM_FRONT"].depth, ramp().depth, atol=0.0051)
    assert np.array_equal(read["CAM_FRONT"].classes, ramp().classes)
    again = image_labels.arrays(read)
    assert all(np.array_equal(again[name], array) for name, array in image_labels.arrays(read).items())


@pytest.mark.parametrize(
    "what", ["missing", "damaged", "no classes", "other shape", "empty", "a row", "bytes of depth", "wide classes"]
)
def test_files_that_are_none_are_refused(tmp_path, what):
    path = tmp_path / "sample.npz"
    arrays = image_labels.arrays({"CAM_FRONT": ramp()})
    if what == "no classes":
        del arrays["CAM_FRONT_classes"]
    if what == "other shape":
        arrays["CAM_FRONT_classes"] = arrays["CAM_FRONT_classes"][1:]
    if what in ("empty", "a row"):
        part = (slice(0), slice(0)) if what == "empty" else 0
        arrays = {name: array[part] for name, array in arrays.items()}
    if what == "bytes of depth":
        arrays["CAM_FRONT_depth"] = arrays["CAM_FRONT_depth"].astype(np.uint8)
    if what == "wide classes":
        arrays["CAM_FRONT_classes"] = arrays["CAM_FRONT_classes"].astype(np.uint16)
    if what != "missing":
        path.write_bytes(npz_bytes(arrays)[: 100 if what == "damaged" else None])
    with pytest.raises(DatasetError, match=r"sample\.npz"):
        image_labels.read(path)


def test_reduced_takes_the_middle_of_every_block():
    depth, classes = np.arange(64.0, dtype=np.float32).reshape(8, 8), np.arange(64, dtype=np.uint8).reshape(8, 8)
    labels = image_labels.reduced(depth, classes)
    assert labels.depth.tolist() == [[18, 22], [50, 54]]
    assert labels.classes.tolist() == [[18, 22], [50, 54]]


def prepared(sample, draw=None, **settings):
    return NanoTask(NanoTaskSettings(**settings)).prepare(sample, None, draw)


def with_labels():
    return replace(labelled_frame(), image_labels=dict.fromkeys(RIG, ramp()))


def test_depth_and_class_of_every_feature_cell_come_from_its_pixels():
    batch = prepared(with_labels())
    depth, shown = batch["depth_target"], batch["image_target"]
    sky = 128 // FEATURE_STRIDE // 4
    assert (depth[:, :sky] == 47).all()
    assert (shown[:, :sky] == IGNORE).all()
    assert (shown[:, sky + 1 :] == 4).all()
    # The nearest pixel of a cell is its left one: bin k holds depths from k + 1 metres on.
    left = np.linspace(5, 40, WIDTH)[:: WIDTH // depth.shape[2]]
    assert ((depth[:, sky + 1 :] + 1 - torch.from_numpy(left)).abs() <= 1).all()
    # What the network is told is what the LiDAR measured, labels or not.
    assert torch.equal(batch["lidar_depth"], prepared(labelled_frame())["depth_target"])


def test_augmentation_moves_labels_like_pixels():
    draw = Draw(np.random.default_rng(1), np.random.default_rng(9))
    batch = prepared(with_labels(), draw, camera_dropout=0.0, camera_only=0.0, lidar_only=0.0)
    for row in range(len(RIG)):
        depth = batch["depth_target"][row, -1]
        mirrored = bool(batch["post_rots"][row, 0, 0] < 0)
        assert (depth[depth >= 0].diff() * (-1 if mirrored else 1) >= 0).all()


def test_a_lost_camera_teaches_nothing():
    frame = with_labels()
    images = {name: image for name, image in frame.frame.images.items() if name != "CAM_BACK"}
    batch = prepared(replace(frame, frame=replace(frame.frame, images=images)))
    assert (batch["depth_target"][4] == -1).all()
    assert (batch["image_target"][4] == IGNORE).all()


def test_labels_of_another_image_size_are_refused():
    wrong = ImageLabels(ramp().depth[:, 1:], ramp().classes[:, 1:])
    with pytest.raises(InvalidInputError, match=r"CAM_BACK: image labels: expected \(64, 176\), got \(64, 175\)"):
        prepared(replace(labelled_frame(), image_labels={"CAM_BACK": wrong}))
