"""Overlays line up with the projection, captions tell the truth, files are written whole or not at all."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, rigid, rigid_from_rotation, transform_points
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, UNKNOWN
from occ_perception.viz import picture
from occ_perception.viz.birds_eye import birds_eye, top_heights
from occ_perception.viz.colors import ARROW, WARNING, legend_of
from occ_perception.viz.overlay import camera_in_grid, layout_of, overlay, overlay_sheet
from occ_perception.viz.picture import Origin, is_untrained, weights_statement, write_png
from occ_perception.viz.scene import scene
from occ_perception.viz.views import look_at

GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 10))
CAR = OCC3D.id_of("car")
NO_TURN = np.array([0.0, 0.0, 0.0, 1.0])


def occupancy_of(cells, info=None, fill=FREE, **more):
    """A grid with cars at the given cells."""
    semantics = np.full(GRID.size, fill, np.uint8)
    semantics[tuple(np.asarray(cells, int).reshape(-1, 3).T)] = CAR if info is None or info.ontology is OCC3D else 0
    free = np.uint8(Visibility.FREE_SEEN if fill == FREE else Visibility.UNKNOWN)
    visibility = np.where(semantics < FREE, np.uint8(Visibility.OCCUPIED_SEEN), free)
    return Occupancy(10**9, info or ModelInfo("lidar-carving", OCC3D, GRID), semantics, visibility, **more)


def rig_of(*headings_deg, width=320, height=180):
    """Cameras 1.5 m above the ground, named by their heading."""
    intrinsics = np.array([[160.0, 0, 160], [0, 160.0, 90], [0, 0, 1]])
    cameras = {}
    for heading in headings_deg:
        c, s = np.cos(np.radians(heading)), np.sin(np.radians(heading))
        optical = np.stack([[s, -c, 0], [0, 0, -1], [c, s, 0]], axis=1)  # x right, y down, z ahead
        cameras[str(heading)] = PinholeCamera(intrinsics, rigid_from_rotation(optical, [c, s, 1.5]), width, height)
    return CameraRig(cameras)


def frame_of(rig, pose_of_image=None, pose=None, data=None):
    grey = np.full((180, 320, 3), 120, np.uint8)
    images = {name: CameraImage(10**9 + 20_000_000, grey if data is None else data, pose_of_image) for name in rig}
    return Frame(10**9, rig, images, odom_from_ego=pose)


def test_overlaid_voxels_are_where_the_camera_projects_them():
    """The vehicle drove 1 m and turned between the two stamps; the images must be met at their own one."""
    rig = rig_of(0)
    odom_from_ego = rigid([5.0, 2.0, 0.0], np.array([0.0, 0.0, np.sin(0.3), np.cos(0.3)]))
    ego_from_image_ego = rigid([1.0, 0.1, 0.0], np.array([0.0, 0.0, np.sin(0.05), np.cos(0.05)]))
    frame = frame_of(rig, odom_from_ego @ ego_from_image_ego, odom_from_ego)
    cells = np.array([[26, 16, 5], [28, 20, 6], [30, 9, 4], [25, 13, 2]])
    camera, at_own_stamp = camera_in_grid(frame, "0")
    picture_of_voxels = np.asarray(overlay(occupancy_of(cells), camera, frame.images["0"].data, 320), float)

    centers = GRID.lower + (cells + 0.5) * GRID.voxel_size
    image_ego_from_ego = np.linalg.inv(ego_from_image_ego)
    camera_from_ego = np.linalg.inv(rig["0"].ego_from_camera) @ image_ego_from_ego
    pixels, _, visible = rig["0"].project(transform_points(camera_from_ego, centers))
    assert at_own_stamp
    assert visible.all()
    drawn = np.abs(picture_of_voxels - 120).max(axis=2) > 2
    for u, v in pixels.astype(int):
        assert drawn[v - 2 : v + 3, u - 2 : u + 3].all()
    # Each voxel is one island: what is drawn lies within the radius of a voxel around a projected centre.
    rows, columns = np.nonzero(drawn)
    distance = np.linalg.norm(np.stack([columns + 0.5, rows + 0.5], axis=-1)[:, None] - pixels[None], axis=2)
    radius = (
        160 * 0.5 * np.sqrt(3) * GRID.voxel_size / np.linalg.norm(transform_points(camera_from_ego, centers), axis=1)
    )
    assert (distance <= 1.6 * radius + 2).any(axis=1).all()
    assert 0 < len(rows) < 0.2 * drawn.size


def test_without_poses_the_overlay_says_that_motion_is_missing():
    rig = rig_of(0)
    camera, at_own_stamp = camera_in_grid(frame_of(rig), "0")
    assert camera is rig["0"]
    assert not at_own_stamp


def test_an_image_of_another_size_than_its_calibration_is_refused_and_its_panel_says_so():
    frame = frame_of(rig_of(0), data=np.zeros((90, 160, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="calibration"):
        overlay(occupancy_of([]), frame.rig["0"], frame.images["0"].data, 320)
    assert has_color(overlay_sheet(occupancy_of([]), frame, 320), WARNING)
    assert has_color(overlay_sheet(occupancy_of([]), frame_of(rig_of(0), data=b"\xff\xd8nonsense"), 320), WARNING)


def test_cameras_are_laid_out_as_on_the_vehicle():
    assert layout_of(rig_of(0, -110, 55, 180, -55, 110)) == [["55", "0", "-55"], ["110", "180", "-110"]]
    sheet = overlay_sheet(occupancy_of([]), frame_of(rig_of(0, -110, 55, 180, -55, 110)), 200)
    assert sheet.width == 3 * 200 + 2 * 6
    assert overlay_sheet(occupancy_of([]), frame_of(rig_of(0)), 200).width == 200


def test_a_missing_camera_leaves_a_panel_that_says_so():
    frame = Frame(10**9, rig_of(0, 180))
    assert has_color(overlay_sheet(occupancy_of([]), frame, 200), WARNING)


def test_the_bird_sees_the_highest_voxel_of_each_column_at_its_place():
    grid = occupancy_of([[30, 2, 1], [30, 2, 7]])
    assert top_heights(grid)[30, 2] == 7
    assert (top_heights(grid) >= 0).sum() == 1
    image = np.asarray(birds_eye(grid, 320), int)
    # Forward is up and left is left: x = 7.25 m is near the top, y = -6.75 m near the right border.
    assert image[15, 295, 2] > 150 > image[15, 295, 0]
    rows, columns = np.nonzero((image[..., 2] > 150) & (image[..., 0] < 40))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 290, 299)


def test_unknown_columns_do_not_look_like_free_ones_from_above():
    free, unknown = (np.asarray(birds_eye(occupancy_of([], fill=fill), 320), int) for fill in (FREE, UNKNOWN))
    corner = np.s_[120:200, 20:90]  # within the first ring, beside the vehicle
    assert len(np.unique(free[corner].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(unknown[corner].reshape(-1, 3), axis=0)) > 1
    assert np.abs(free - unknown)[corner].max(axis=2).min() > 10


def test_velocities_are_arrows():
    moving = Instance(1, CAR, 0.9, (4.0, 2.0, 0.5), (4.0, 2.0, 1.5), 0.0, (5.0, 0.0, float("nan")))
    driving = Instance(2, CAR, 0.9, (4.0, -2.0, 0.5), (4.0, 2.0, 1.5), 0.0, (3.0, 0.0, 0.0))
    view = look_at((-9.0, 0.0, 6.0), (4.0, 0.0, 0.0), 320, 180)
    assert has_color(birds_eye(occupancy_of([], objects=(driving,)), 320), ARROW)
    assert has_color(scene(occupancy_of([], objects=(driving,)), view), ARROW)
    unknown = Instance(1, CAR, 0.9, (4.0, 2.0, 0.5), (4.0, 2.0, 1.5), 0.0, (float("nan"),) * 3)
    assert not has_color(scene(occupancy_of([], objects=(unknown,)), view), ARROW)
    assert not has_color(birds_eye(occupancy_of([], objects=(unknown,)), 320), ARROW)
    assert birds_eye(occupancy_of([], objects=(moving,)), 320).width == 320


CARVING = ModelInfo("lidar-carving", GEOMETRY, GRID)
TRAINED = ModelInfo("alocc_2d_mini", OCC3D, GRID, "0123abcd", "Occ3D-nuScenes train")
UNTRAINED = [
    ModelInfo("alocc_2d_mini", OCC3D, GRID, "0123abcd", "untrained random weights"),
    ModelInfo("alocc_2d_mini", OCC3D, GRID, "0123abcd", "Random initialisation"),
    ModelInfo("alocc_2d_mini", OCC3D, GRID),
]


def test_the_statement_about_weights():
    assert weights_statement(CARVING) == "no weights needed"
    assert weights_statement(TRAINED) == "weights 0123abcd, trained on: Occ3D-nuScenes train"
    assert "not stated" in weights_statement(ModelInfo("alocc_2d_mini", OCC3D, GRID, "0123abcd"))
    assert weights_statement(UNTRAINED[0]) == "untrained random weights"
    assert weights_statement(UNTRAINED[2]) == "no weights"
    assert not is_untrained(CARVING)
    assert not is_untrained(TRAINED)
    assert all(is_untrained(info) for info in UNTRAINED)


@pytest.mark.parametrize("info", UNTRAINED)
def test_pictures_of_untrained_weights_carry_a_banner(info, monkeypatch):
    strips = []
    monkeypatch.setattr(
        picture, "banner", lambda width, text, color: strips.append(text) or Image.new("RGB", (width, 9))
    )
    view = Image.new("RGB", (200, 9))
    for name in ("overlay", "scene", "birds_eye", "summary"):
        picture.finished(name, view, occupancy_of([], info), Origin("a drive"))
    assert strips == ["UNTRAINED WEIGHTS - NOT PERCEPTION"] * 4
    picture.finished("scene", view, occupancy_of([], TRAINED), Origin("a drive"))
    picture.finished("scene", view, occupancy_of([], CARVING), Origin("a drive"))
    assert len(strips) == 4


def test_the_banner_is_drawn():
    def finished_of(info):
        return picture.finished("birds_eye", Image.new("RGB", (640, 9)), occupancy_of([], info), Origin("a drive"))

    assert has_color(finished_of(UNTRAINED[0]), WARNING)
    assert not has_color(finished_of(TRAINED), WARNING)


def test_the_caption_tells_model_weights_source_stamp_counts_and_notes(monkeypatch):
    written = []
    monkeypatch.setattr(
        picture, "text_block", lambda width, rows: written.extend(t for t, _, _ in rows) or Image.new("RGB", (width, 9))
    )
    grid = occupancy_of(
        [[1, 1, 1]], TRAINED, UNKNOWN, cameras=("a", "b"), cameras_used=("a",), lidar_used=True, notes=("late tf",)
    )
    picture.finished("scene", Image.new("RGB", (640, 9)), grid, Origin("a synthetic drive", "live over ROS 2"))
    text = "\n".join(written)
    for part in (
        "alocc_2d_mini", "0123abcd", "Occ3D-nuScenes train", "a synthetic drive", "live over ROS 2", "1.000 s",
        "1 of 2 cameras", "LiDAR", "1 filled", "0 free", "unknown", "late tf",
    ):  # fmt: skip
        assert part in text


def test_the_legend_lists_what_is_there_with_counts():
    assert [entry.name for entry in legend_of(occupancy_of([[1, 1, 1], [1, 1, 2]]))] == ["car 2"]
    (entry,) = legend_of(occupancy_of([[1, 1, 1]], CARVING))
    assert "height" in entry.name
    assert len(entry.colors) > 2


def test_pictures_are_written(tmp_path):
    paths = picture.write_pictures(tmp_path / "out", "x", occupancy_of([[20, 16, 3]]), frame_of(rig_of(0)), Origin("d"))
    assert sorted(p.name for p in paths) == ["x_birds_eye.png", "x_overlay.png", "x_scene.png", "x_summary.png"]
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            image.load()
    assert len(picture.write_pictures(tmp_path, "y", occupancy_of([]), None, Origin("d"))) == 2


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    write_png(Image.new("RGB", (4, 4), (1, 2, 3)), path)
    before = path.read_bytes()

    monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(handle, mode))
    with pytest.raises(OSError, match="disk full"):
        write_png(Image.new("RGB", (4, 4)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class FullDisk(io.FileIO):
    """A file on a disk that has room for seven more bytes."""

    def write(self, data):
        super().write(data[:7])
        raise OSError("disk full")


def has_color(image, color):
    """Whether at least a few pixels of a picture have exactly a colour."""
    return (np.asarray(image) == np.array(color)).all(axis=2).sum() > 10
