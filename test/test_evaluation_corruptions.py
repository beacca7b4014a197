"""Corruptions do what they say to measurements and calibration, and nothing else."""

import numpy as np
import pytest

from occ_perception.data.nuscenes_lidar import read_lidar
from occ_perception.errors import ConfigurationError
from occ_perception.evaluation.corruptions import (
    blur,
    compress,
    damage_jpeg,
    darken,
    disturb_extrinsics,
    drop_cameras,
    drop_frames,
    remove_beams,
    ring_of,
)
from occ_perception.evaluation.protocols import GROUPS, all_corruptions, choose_corruptions
from occ_perception.frame import CameraImage, Frame, LidarSweep, PreparedImage
from occ_perception.geometry import CameraRig, PinholeCamera, rigid
from occ_perception.image_codec import decode_image

CAMERAS = ("CAM_FRONT", "CAM_LEFT", "CAM_BACK")


def made_up_frame(stamp_ns: int = 1_000) -> Frame:
    """Three cameras that see a chequerboard, one sweep of 32 beams."""
    intrinsics = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
    rig = CameraRig(
        {name: PinholeCamera(intrinsics, rigid([i, 0, 1], [0, 0, 0, 1]), 160, 90) for i, name in enumerate(CAMERAS)}
    )
    y, x = np.mgrid[0:90, 0:160]
    board = np.repeat((((x // 8 + y // 8) % 2) * 200).astype(np.uint8)[..., None], 3, axis=2)
    elevation = np.deg2rad(np.linspace(-30.67, 10.67, 32))
    points = np.concatenate(
        [np.stack([r * np.cos(elevation), 0 * elevation, r * np.sin(elevation), elevation], 1) for r in (5.0, 9.0)]
    )
    sweep = LidarSweep(
        stamp_ns, points.astype(np.float32), rigid([1, 0, 2], [0, 0, 0, 1]), np.eye(4), np.zeros(64, np.float32)
    )
    return Frame(stamp_ns, rig, {name: CameraImage(stamp_ns, board) for name in CAMERAS}, (sweep,), np.eye(4))


def pixels(frame: Frame, camera: str = "CAM_FRONT") -> np.ndarray:
    return decode_image(frame.images[camera].data).astype(int)


def test_dropped_cameras_stay_calibrated() -> None:
    frame = made_up_frame()
    damaged = drop_cameras(frame, ("CAM_LEFT", "CAM_BACK"))
    assert list(damaged.images) == ["CAM_FRONT"]
    assert damaged.rig.fingerprint == frame.rig.fingerprint
    assert list(frame.images) == list(CAMERAS)
    with pytest.raises(ConfigurationError, match="CAM_TOP"):
        drop_cameras(frame, ("CAM_TOP",))


def test_dropped_frames_are_that_share_and_always_the_same() -> None:
    frames = [made_up_frame(stamp) for stamp in range(0, 400_000, 1_000)]
    lost = [not drop_frames(frame, 0.3, seed=1).images for frame in frames]
    assert 0.25 < np.mean(lost) < 0.35
    assert lost[::-1] == [not drop_frames(frame, 0.3, seed=1).images for frame in reversed(frames)]
    assert lost != [not drop_frames(frame, 0.3, seed=2).images for frame in frames]
    gone = drop_frames(frames[lost.index(True)], 0.3, seed=1)
    assert not gone.lidar
    assert gone.odom_from_ego is not None


def test_darkening_scales_grey_values() -> None:
    frame = made_up_frame()
    assert set(np.unique(pixels(darken(frame, 0.25)))) == {0, 50}
    assert set(np.unique(pixels(frame))) == {0, 200}


def test_blur_spreads_an_edge_by_its_sigma_and_keeps_the_mean() -> None:
    frame = made_up_frame()
    step = np.zeros((90, 1600, 3), np.uint8)
    step[:, 800:] = 200
    frame = Frame(0, frame.rig, {"CAM_FRONT": CameraImage(0, step)})
    row = pixels(blur(frame, 4.0))[45, :, 0]
    spread = np.flatnonzero((row > 200 * 0.159) & (row < 200 * 0.841))  # from -1 to +1 sigma of a blurred step
    assert len(spread) == pytest.approx(8, abs=2)
    assert row.mean() == pytest.approx(100, abs=1)


def test_compression_loses_detail_and_more_at_lower_quality() -> None:
    frame = made_up_frame()
    noisy = np.random.default_rng(0).integers(0, 255, (90, 160, 3)).astype(np.uint8)
    frame = Frame(0, frame.rig, {"CAM_FRONT": CameraImage(0, noisy)})
    error = [np.abs(pixels(compress(frame, quality)) - noisy).mean() for quality in (90, 20, 5)]
    assert error[0] < error[1] < error[2]
    assert isinstance(compress(frame, 5).images["CAM_FRONT"].data, bytes)


def test_damaged_jpeg_keeps_its_frame_and_differs_in_picture_data_only() -> None:
    frame = compress(made_up_frame(), 80)
    damaged = damage_jpeg(frame, 10, seed=0)
    for name in CAMERAS:
        before, after = (np.frombuffer(f.images[name].data, np.uint8) for f in (frame, damaged))
        assert len(before) == len(after)
        changed = np.flatnonzero(before != after)
        assert 1 <= len(changed) <= 10
        assert changed.min() > frame.images[name].data.rfind(b"\xff\xda")
    assert damage_jpeg(frame, 10, seed=0).images["CAM_BACK"].data == damaged.images["CAM_BACK"].data
    assert damage_jpeg(frame, 10, seed=1).images["CAM_BACK"].data != damaged.images["CAM_BACK"].data


def test_what_cannot_be_decoded_is_left_for_the_session_to_report() -> None:
    frame = made_up_frame()
    broken = Frame(0, frame.rig, {"CAM_FRONT": CameraImage(0, b"\xff\xd8 no picture")})
    for fault in (lambda f: darken(f, 0.5), lambda f: damage_jpeg(f, 3, 0)):
        assert fault(broken).images["CAM_FRONT"].data == b"\xff\xd8 no picture"
    prepared = Frame(0, frame.rig, {"CAM_FRONT": PreparedImage(0, None)})
    with pytest.raises(ConfigurationError, match="before they are prepared"):
        darken(prepared, 0.5)


@pytest.mark.parametrize(("keep_every", "left"), [(1, 64), (2, 32), (4, 16), (8, 8)])
def test_beams_are_removed_with_their_times(keep_every: int, left: int) -> None:
    sweep = remove_beams(made_up_frame(), keep_every).lidar[0]
    assert len(sweep.points) == len(sweep.offsets_s) == left
    elevations = np.deg2rad(np.linspace(-30.67, 10.67, 32)).astype(np.float32)
    assert set(sweep.points[:, 3].tolist()) == set(elevations[::keep_every].tolist())


def test_rings_of_a_real_sweep(keyframe) -> None:
    path = next((keyframe / "samples" / "LIDAR_TOP").glob("*.bin"))
    file = read_lidar(path)
    sweep = LidarSweep(0, file.points, np.eye(4), None, file.offsets_s)
    np.testing.assert_array_equal(ring_of(sweep), file.rings)
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(np.linalg.norm(file.points[:, :3], axis=1) > 3))
    guessed = ring_of(LidarSweep(0, file.points[shuffled], np.eye(4), None, file.offsets_s[shuffled]))
    wrong = np.abs(guessed - file.rings[shuffled])
    assert (wrong == 0).mean() > 0.85
    assert (wrong <= 1).mean() > 0.99


def test_extrinsics_are_off_by_the_angle_and_measurements_are_not_touched() -> None:
    frame = made_up_frame()
    damaged = disturb_extrinsics(frame, 2.0, seed=3)
    axes = []
    for name in CAMERAS:
        turn = np.linalg.inv(frame.rig[name].ego_from_camera) @ damaged.rig[name].ego_from_camera
        assert np.rad2deg(np.arccos((np.trace(turn[:3, :3]) - 1) / 2)) == pytest.approx(2.0)
        np.testing.assert_allclose(turn[:3, 3], 0, atol=1e-12)
        axes.append(turn[2, 1] - turn[1, 2])
    assert len(set(np.round(axes, 9))) == 3
    turn = np.linalg.inv(frame.lidar[0].ego_from_lidar) @ damaged.lidar[0].ego_from_lidar
    assert np.rad2deg(np.arccos((np.trace(turn[:3, :3]) - 1) / 2)) == pytest.approx(2.0)
    assert damaged.lidar[0].points is frame.lidar[0].points
    assert damaged.images == frame.images
    later = disturb_extrinsics(made_up_frame(9_000), 2.0, seed=3)
    assert later.rig.fingerprint == damaged.rig.fingerprint  # wrong in the same way all along, as a bent bracket is


def test_no_corruption_moves_the_vehicle_or_changes_the_frame_it_is_given() -> None:
    frame = compress(made_up_frame(), 90)
    before = {name: image.data for name, image in frame.images.items()}
    points = frame.lidar[0].points.copy()
    for corruption in all_corruptions(CAMERAS):
        damaged = corruption.apply(frame)
        assert damaged.stamp_ns == frame.stamp_ns
        np.testing.assert_array_equal(damaged.odom_from_ego, frame.odom_from_ego)
        assert {name: image.data for name, image in frame.images.items()} == before
        np.testing.assert_array_equal(frame.lidar[0].points, points)


def test_the_protocols_are_complete_and_named_once() -> None:
    six = [f"CAM_{i}" for i in range(6)]
    names = [c.name for c in all_corruptions(six)]
    assert len(names) == len(set(names))
    assert {c.group for c in all_corruptions(six)} == set(GROUPS)
    assert sum(c.group == "camera_dropped" for c in all_corruptions(six)) == 6
    assert sum(c.group == "camera_pair_dropped" for c in all_corruptions(six)) == 15


def test_choosing_leaves_out_sensors_the_model_does_not_use() -> None:
    lidar_only = choose_corruptions(["all"], CAMERAS, uses_images=False, uses_lidar=True)
    assert {c.group for c in lidar_only} == {"frames_dropped", "beams_removed", "extrinsics_disturbed"}
    chosen = choose_corruptions(["blurred", "darkened_0.5"], CAMERAS, uses_images=True, uses_lidar=False)
    assert [c.name for c in chosen] == ["darkened_0.5", "blurred_2px", "blurred_4px", "blurred_8px"]
    with pytest.raises(ConfigurationError, match="does not use"):
        choose_corruptions(["darkened"], CAMERAS, uses_images=False, uses_lidar=True)
    with pytest.raises(ConfigurationError, match=r"unknown corruption 'fog'.*darkened"):
        choose_corruptions(["fog"], CAMERAS, uses_images=True, uses_lidar=True)
