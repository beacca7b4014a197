"""The streaming object: what it drops, what it keeps, and that it says so."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from occ_perception.errors import InvalidInputError, NumericsError
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, rigid
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN
from occ_perception.session import Session, SessionSettings

SECOND = 1_000_000_000
GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.4, (40, 40, 10))
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


class EchoModel:
    """Says 'free everywhere except a floor' and counts the frames in its state."""

    def __init__(self, history_interval_s: float = 0.0, needs_images: bool = True) -> None:
        self.info = ModelInfo("echo", GEOMETRY, GRID)
        self.image_spec = ImageSpec(32, 64, resize_from=(64, 48), resize=1.0) if needs_images else None
        self.uses_lidar = not needs_images
        self.history_interval_s = history_interval_s
        self.calls: list[tuple[ModelInput, object, torch.Tensor | None]] = []
        self.fail = False
        self.wall = FREE  # a wall 4 m ahead, once this is a class

    def step(self, inputs: ModelInput, state: object, prev_ego_from_ego: torch.Tensor | None) -> ModelOutput:
        self.calls.append((inputs, state, prev_ego_from_ego))
        if self.fail:
            raise NumericsError("backbone: NaN")
        semantics = torch.full(GRID.size, FREE, dtype=torch.uint8)
        semantics[:, :, :2] = 1
        if self.wall != FREE:
            semantics[30, 10:30] = self.wall
        seen = int(state or 0)
        return ModelOutput(semantics, state=seen + 1, state_frames=seen)


def rig(*names: str, shift: float = 0.0) -> CameraRig:
    pose = rigid([shift, 0, 1.5], [0, 0, 0, 1])
    pose[:3, :3] = FORWARD
    intrinsics = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
    return CameraRig({name: PinholeCamera(intrinsics, pose, 64, 48) for name in names})


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def frame(seconds: float, x: float = 0.0, **change: object) -> Frame:
    stamp = round(seconds * SECOND)
    values = {
        "stamp_ns": stamp,
        "rig": rig("front", "left"),
        "images": {name: CameraImage(stamp, jpeg()) for name in ("front", "left")},
        "odom_from_ego": rigid([x, 0, 0], [0, 0, 0, 1]),
        **change,
    }
    return Frame(**values)


def test_streams_and_hands_over_the_motion() -> None:
    model = EchoModel()
    session = Session(model)
    first, second = session.step(frame(0, x=0)), session.step(frame(0.5, x=2.0))
    assert first.temporal.reset == "first frame"
    assert second.temporal.reset == ""
    assert second.temporal.frames == 1
    np.testing.assert_allclose(model.calls[1][2][:3, 3], [2, 0, 0])  # prev_ego_from_ego
    assert second.cameras_used == ("front", "left")
    assert {"preprocess", "model", "postprocess"} <= set(second.timings_ms)


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (frame(-1.0), "time went back"),
        (frame(0.0), "stood still"),
        (frame(5.0), "gap of 5.000 s"),
        (frame(0.5, odom_from_ego=None), "no pose"),
        (frame(0.5, x=500.0), "pose jumped"),
        (frame(0.5, rig=rig("front", "left", shift=0.1)), "calibration changed"),
    ],
)
def test_state_that_no_longer_holds_is_dropped_and_the_reason_given(later: Frame, reason: str) -> None:
    model = EchoModel()
    session = Session(model)
    session.step(frame(0))
    result = session.step(later)
    assert reason in result.temporal.reset
    assert model.calls[1][1] is None
    assert model.calls[1][2] is None


def turned(degrees: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    half = np.radians(degrees) / 2
    return rigid([x, y, 0], [0, 0, np.sin(half), np.cos(half)])


@pytest.mark.parametrize(
    "jump",
    [turned(0, 3.0, 3.0), turned(0, -4.0), turned(30, 3.0), turned(180, 3.0)],
    ids=["aside", "back", "30", "180"],
)
def test_no_vehicle_moves_like_this(jump: np.ndarray) -> None:
    session = Session(EchoModel())
    steady = [session.step(frame(0.1 * k, x=1.0 * k)).temporal.reset for k in range(3)]
    assert steady == ["first frame", "", ""]
    assert "pose jumped" in session.step(frame(0.3, odom_from_ego=jump)).temporal.reset


def test_hard_braking_and_tight_turns_are_no_jumps() -> None:
    session = Session(EchoModel())
    x, speed = 0.0, 20.0
    for k in range(20):  # 10 m/s^2 from 72 km/h to a stop, while turning at 1.5 rad/s
        result = session.step(frame(0.1 * k, odom_from_ego=turned(8.6 * k, x)))
        assert result.temporal.reset == ("" if k else "first frame")
        speed = max(speed - 1.0, 0.0)
        x += 0.1 * speed


def test_poses_in_another_frame_do_not_compare() -> None:
    session = Session(EchoModel())
    session.step(frame(0))
    assert "'map' now, to 'odom' before" in session.step(frame(0.5, fixed_frame="map")).temporal.reset


def test_calibration_of_cameras_is_nothing_to_a_lidar_model() -> None:
    session = Session(EchoModel(needs_images=False))
    session.step(frame(0, images={}))
    assert session.step(frame(0.1, images={}, rig=rig("front", shift=0.1))).temporal.frames == 1


def test_recovers_after_a_frame_without_pose() -> None:
    session = Session(EchoModel())
    counts = []
    for i, pose in enumerate([rigid([0, 0, 0], [0, 0, 0, 1]), None, *[rigid([0, 0, 0], [0, 0, 0, 1])] * 2]):
        counts.append(session.step(frame(0.5 * i, odom_from_ego=pose)).temporal.frames)
    assert counts == [0, 0, 0, 1]


def test_a_looping_bag_never_mixes_its_end_with_its_beginning() -> None:
    session = Session(EchoModel())
    history = [session.step(frame(s, x=s)).temporal.frames for s in (0, 0.5, 1.0, 0, 0.5, 1.0)]
    assert history == [0, 1, 2, 0, 1, 2]


def test_keeps_the_trained_interval_at_a_higher_rate() -> None:
    model = EchoModel(history_interval_s=0.5)
    session = Session(model)
    for i in range(11):
        session.step(frame(0.1 * i, x=float(i)))
    motions = [round(float(call[2][0, 3])) for call in model.calls[1:]]
    assert motions == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]  # always to the last key frame, half a second apart


def test_missing_and_broken_cameras_are_left_out_by_name() -> None:
    model = EchoModel()
    session = Session(model)
    whole = frame(0)
    broken = {**whole.images, "left": CameraImage(0, jpeg()[:200])}
    result = session.step(replace(whole, images=broken))
    assert result.cameras_used == ("front",)
    assert any("left dropped" in note for note in result.notes)
    assert model.calls[0][0].present == (True, False)
    wrong_size = {**whole.images, "front": CameraImage(0, np.zeros((10, 10, 3), np.uint8))}
    result = session.step(replace(whole, stamp_ns=SECOND, images=wrong_size))
    assert any("10x10" in note for note in result.notes)
    with pytest.raises(InvalidInputError, match="expected 1 usable images, got 0"):
        session.step(frame(1.5, images={}))
    assert session.step(frame(2.0)).cameras_used == ("front", "left")


def test_too_few_images_are_refused_and_leave_the_past_as_it_was() -> None:
    model = EchoModel()
    session = Session(model, settings=SessionSettings(min_cameras=2))
    session.step(frame(0))
    one = {"front": CameraImage(0, jpeg()), "left": CameraImage(0, jpeg()[:100])}
    with pytest.raises(InvalidInputError, match="expected 2 usable images, got 1"):
        session.step(frame(0.1, images=one))
    assert session.step(frame(0.2)).temporal.frames == 1


def test_unseen_is_unknown_whatever_the_model_says() -> None:
    result = Session(EchoModel()).step(frame(0))
    behind = result.semantics[:15]
    assert (behind == UNKNOWN).all()
    assert (result.prediction[:15, :, 2:] == FREE).all()
    free = result.semantics == FREE
    assert free.any()
    assert (result.visibility[free] == Visibility.FREE_SEEN).all()
    assert (result.semantics[result.visibility == Visibility.UNKNOWN] == UNKNOWN).all()


def test_free_behind_a_wall_is_unknown_and_the_wall_itself_is_not() -> None:
    model = EchoModel()
    model.wall = 0
    result = Session(model).step(frame(0))
    behind = np.s_[32:38, 18:22, 2:4]
    assert (result.prediction[behind] == FREE).all()
    assert (result.visibility[behind] == Visibility.OCCLUDED).all()
    assert (result.semantics[behind] == UNKNOWN).all()
    assert (result.semantics[30, 18:22, 2:6] == 0).all()
    assert not ((result.semantics == FREE) & (result.visibility != Visibility.FREE_SEEN)).any()


def test_only_the_missing_camera_saw_it_so_it_is_unknown() -> None:
    turned = rig("front")["front"].ego_from_camera.copy()
    turned[:3, :3] = np.diag([-1.0, -1, 1]) @ FORWARD  # looks backward
    back = replace(rig("front")["front"], ego_from_camera=turned)
    both = CameraRig({"front": rig("front")["front"], "back": back})
    images = {name: CameraImage(0, jpeg()) for name in both}
    session = Session(EchoModel())
    with_back = session.step(frame(0, rig=both, images=images))
    without = session.step(frame(0.5, rig=both, images={"front": images["front"]}))
    assert (with_back.semantics[5:10, 18:22, 3:5] == FREE).all()
    assert (without.semantics[:15] == UNKNOWN).all()


def test_a_failed_network_leaves_no_state_behind() -> None:
    model = EchoModel()
    session = Session(model)
    session.step(frame(0))
    model.fail = True
    with pytest.raises(NumericsError):
        session.step(frame(0.5))
    model.fail = False
    result = session.step(frame(1.0))
    assert result.temporal.frames == 0
    assert "the model failed" in result.temporal.reset


def test_lidar_model_runs_without_images_and_says_when_lidar_is_missing() -> None:
    model = EchoModel(needs_images=False)
    session = Session(model)
    sweep = LidarSweep(0, np.zeros((0, 3), np.float32), np.eye(4))
    assert session.step(frame(0, images={}, lidar=(sweep,))).lidar_used
    result = session.step(frame(0.1, images={}))
    assert not result.lidar_used
    assert "no LiDAR in this frame" in result.notes


def test_bad_frames_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="back"):
        frame(0, images={"back": CameraImage(0, jpeg())})
    with pytest.raises(InvalidInputError, match="odom_from_ego"):
        Session(EchoModel()).step(frame(0, odom_from_ego=np.full((4, 4), np.nan)))


def test_what_a_model_never_learned_is_unknown() -> None:
    """A model trained on what sensors saw guesses behind that; the guess stays in ``prediction`` only."""
    both = []
    for hidden_is_unknown in (False, True):
        model = EchoModel()
        model.wall = 1
        model.info = replace(model.info, hidden_is_unknown=hidden_is_unknown)
        both.append(Session(model).step(frame(0)))
    guesses, modest = both
    hidden = guesses.visibility == Visibility.OCCLUDED
    assert (guesses.semantics[hidden] == 1).sum() > 100
    assert (modest.semantics[hidden] == UNKNOWN).all()
    np.testing.assert_array_equal(modest.semantics[~hidden], guesses.semantics[~hidden])
    np.testing.assert_array_equal(modest.visibility, guesses.visibility)
    np.testing.assert_array_equal(modest.prediction, guesses.prediction)
