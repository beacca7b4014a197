"""ALOcc behind the model protocol: axes, missing cameras, temporal state, and refusal of bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from occ_perception.errors import InvalidInputError, NumericsError, WeightsError
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import CameraRig, PinholeCamera
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_adapter import ALOccModel, ALOccModelOutput
from occ_perception.models.alocc_config import alocc_config
from occ_perception.models.alocc_geometry import camera_tensors, lidar_depth_of, stereo_motion
from occ_perception.models.alocc_types import ALOccInputs
from occ_perception.models.base import ModelInput
from occ_perception.models.camera_inputs import camera_poses
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.session import Session

SIZE = (64, 160)
TINY = {"image_size": SIZE, "grid_size": (40, 48, 16), "grid_origin": (-8.0, -9.6, -1.0), "history_frames": 3}
NAMES = ("CAM_FRONT", "CAM_LEFT", "CAM_BACK")


@pytest.fixture(scope="module")
def model():
    return _model("alocc-flow-2d")


def _model(name, **changes):
    torch.manual_seed(1)
    config = dataclasses.replace(alocc_config(name), **{**TINY, **changes})
    network = ALOcc(config)
    with torch.no_grad():  # scores that differ from voxel to voxel
        network.alocc_head.mask_embed[4].weight.mul_(20)
    return ALOccModel(config, network, class_scores=True)


def _rig(names=NAMES):
    cameras = {}
    for name, yaw in zip(names, (0.0, np.pi / 2, np.pi), strict=False):
        forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([-left, [0, 0, -1], forward], axis=1)
        pose[:3, 3] = [*forward[:2], 1.5]
        intrinsics = np.array([[100.0, 0, 80], [0, 100, 32], [0, 0, 1]])
        cameras[name] = PinholeCamera(intrinsics, pose, SIZE[1], SIZE[0])
    return CameraRig(cameras)


def _pose(x=0.0, y=0.0):
    pose = np.eye(4)
    pose[:2, 3] = x, y
    return pose


def _inputs(step=0, present=(True, True, True), odom=True, seed=0, lidar=(), image_pose=None):
    rig = _rig()
    pose = _pose(2.0 * step) if odom else None
    stamp = step * 500_000_000
    blank = np.zeros((SIZE[0], SIZE[1], 3), np.uint8)
    images = {
        name: CameraImage(stamp, blank, pose if image_pose is None else image_pose)
        for name, here in zip(NAMES, present, strict=True)
        if here
    }
    pixels = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(seed + step))
    frame = Frame(stamp, rig, images, lidar=lidar, odom_from_ego=pose)
    return ModelInput(frame, NAMES, present, pixels, torch.eye(3, dtype=torch.float64).repeat(3, 1, 1))


MOTION = torch.from_numpy(_pose(2.0))


def test_output_is_indexed_x_y_z_with_project_ids(model):
    config, output = model.config, model.step(_inputs(), None, None)
    assert output.semantics.shape == config.grid_size
    assert output.semantics.dtype == torch.uint8
    assert output.flow.shape == (*config.grid_size, 2)
    assert output.scores.shape == (*config.grid_size, config.classes)
    best = output.scores.argmax(-1)
    assert torch.equal(output.semantics == FREE, best == config.free_class)
    occupied = output.semantics != FREE
    assert 0.05 < occupied.float().mean() < 0.99
    assert torch.equal(output.semantics[occupied].long(), best[occupied])
    assert torch.equal(output.confidence.float(), (output.scores.amax(-1) * 255).round())


def test_axes_against_the_network(model):
    inputs = _inputs()
    network_inputs, _ = model._network_inputs(inputs, camera_poses(inputs), None, None)
    with torch.inference_mode():
        raw, _ = model.network(network_inputs)
    output = model.step(inputs, None, None)
    x, y, z = 7, 30, 4
    torch.testing.assert_close(output.scores[x, y, z], raw.logits[0, 1:, y, x, z].sigmoid(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(output.flow[x, y, z], raw.flow[0, y, x, z].flip(0), atol=2e-2, rtol=1e-3)


def test_a_missing_camera_contributes_nothing(model):
    present = (True, False, True)
    without = model.step(_inputs(present=present), None, None)
    garbage = _inputs(present=present)
    garbage.images[1] = 1e4
    assert torch.equal(model.step(garbage, None, None).scores, without.scores)
    assert not torch.equal(model.step(_inputs(), None, None).scores, without.scores)


def test_masking_a_camera_equals_leaving_it_out(model):
    inputs = _inputs()
    full, _ = model._network_inputs(inputs, camera_poses(inputs), None, None)
    partial_inputs = _inputs(present=(True, False, True))
    partial, _ = model._network_inputs(partial_inputs, camera_poses(partial_inputs), None, None)
    with torch.inference_mode():
        masked, _ = model.network(full._replace(camera_mask=torch.tensor([[True, False, True]])))
        left_out, _ = model.network(partial)
    torch.testing.assert_close(masked.logits, left_out.logits, atol=1e-4, rtol=1e-4)


def test_a_camera_that_comes_back_is_its_own_stereo_partner(model):
    first = model.step(_inputs(0, present=(True, False, True)), None, None)
    second = model.step(_inputs(1), first.state, MOTION)
    assert second.state.poses.names == NAMES
    motion, known, _ = stereo_motion(camera_poses(_inputs(1)), first.state.poses, torch.device("cpu"))
    assert known.tolist() == [[True, False, True]]
    assert torch.equal(motion[0, 1], torch.eye(4))
    assert float(motion[0, 0, 2, 3]) == pytest.approx(2.0)  # forward is the optical z axis


def test_history_counts_frames_and_changes_the_result(model):
    state, motion, counts = None, None, []
    for step in range(5):
        output = model.step(_inputs(step), state, motion)
        state, motion = output.state, MOTION
        counts.append(output.state_frames)
    assert counts == [0, 1, 2, 3, 3]
    assert not torch.equal(output.scores, model.step(_inputs(4), None, None).scores)


def test_half_precision_history_stays_close():
    exact, half = _model("alocc-2d-mini"), _model("alocc-2d-mini")
    half.network.history_dtype = torch.float16
    states, motion = [None, None], None
    for step in range(4):
        outputs = [m.step(_inputs(step), s, motion) for m, s in zip((exact, half), states, strict=True)]
        states, motion = [output.state for output in outputs], MOTION
    assert states[1].network.history.frames.dtype == torch.float16
    torch.testing.assert_close(outputs[1].scores, outputs[0].scores, atol=5e-3, rtol=0)


def test_session_streams_and_marks_what_only_a_missing_camera_saw():
    config = dataclasses.replace(alocc_config("alocc-2d-mini"), **TINY)
    torch.manual_seed(0)
    session = Session(ALOccModel(config, ALOcc(config), weights="untrained"))
    intrinsics = np.array([[500.0, 0, 180], [0, 500, 780], [0, 0, 1]])
    rig = CameraRig(
        {
            name: PinholeCamera(intrinsics, camera.ego_from_camera, 1600, 900)
            for name, camera in _rig(("cam_front", "cam_back_left", "cam_back")).items()
        }
    )
    pixels = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    results = []
    for step, names in enumerate((tuple(rig), tuple(rig), ("cam_front", "cam_back"))):
        stamp, pose = step * 500_000_000, _pose(1.0 * step)
        images = {name: CameraImage(stamp, pixels, pose) for name in names}
        results.append(session.step(Frame(stamp, rig, images, odom_from_ego=pose)))
    session.close()
    assert [result.temporal.frames for result in results] == [0, 1, 2]
    # The camera on the left was trained as CAM_BACK_LEFT: the session orders by trained names, not by the rig.
    assert results[0].cameras == ("cam_front", "cam_back_left", "cam_back")
    assert results[2].cameras_used == ("cam_front", "cam_back")
    lost = (results[2].visibility == Visibility.UNKNOWN) & (results[1].visibility != Visibility.UNKNOWN)
    assert (results[2].semantics[lost] == UNKNOWN).all()
    assert lost.sum() > 100
    left = np.argwhere(lost)[:, 1]
    assert (left > 24).mean() > 0.9


def test_between_two_intervals_the_state_is_used_but_not_replaced(model):
    first = model.step(_inputs(0), None, None)
    early = _inputs(1)
    early = dataclasses.replace(early, frame=dataclasses.replace(early.frame, stamp_ns=100_000_000))
    frames = first.state.network.history.frames.clone()
    again = [model.step(early, first.state, MOTION) for _ in range(2)]
    assert again[0].state is first.state
    assert torch.equal(first.state.network.history.frames, frames)
    assert torch.equal(again[0].scores, again[1].scores)


def test_without_poses_frames_are_independent(model):
    first = model.step(_inputs(odom=False), None, None)
    assert torch.equal(first.scores, model.step(_inputs(odom=False), None, None).scores)


@pytest.mark.parametrize("size", [(64, 160), (96, 128)])
def test_other_image_sizes_and_camera_counts(size):
    model = _model("alocc-2d-mini", image_size=size, encoder_strides=(1, 2, 2))
    inputs = _inputs()
    images = torch.randn(3, 3, *size)
    assert model.step(dataclasses.replace(inputs, images=images), None, None).semantics.shape == (40, 48, 16)


def test_surroundocc_never_says_class_zero():
    model = _model("alocc-3d-surroundocc", history_frames=0, grid_size=(16, 16, 8))
    sweep = LidarSweep(0, np.zeros((1, 3), np.float32), _lidar_mount(), np.eye(4))
    output = model.step(_inputs(lidar=(sweep,)), None, None)
    assert int(output.semantics.min()) >= 1
    assert output.scores.shape[-1] == 17
    assert "LiDAR sweep" in _refused(model, _inputs())


def test_a_grid_in_lidar_axes_is_published_in_vehicle_axes():
    model = _model("alocc-3d-surroundocc", history_frames=0, grid_size=(16, 16, 8), grid_origin=(-4.0, -4.0, -3.0))
    classes = torch.randint(0, 17, (16, 16, 8), dtype=torch.uint8)
    output = model._in_vehicle_axes(ALOccModelOutput(classes), np.linalg.inv(_lidar_mount()))
    # nuScenes: the LiDAR's x is the vehicle's -y, its y the vehicle's x; it is 2 m up here.
    expected = classes.flip(0).transpose(0, 1)
    assert torch.equal(output.semantics, expected)


def _lidar_mount():
    mount = np.eye(4)
    mount[:3, :3] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    mount[2, 3] = 2.0
    return mount


def test_lidar_depth_takes_part_where_there_is_a_hit():
    model = _model(
        "alocc-3d-gt-depth", grid_size=(16, 16, 8), grid_origin=(2.0, -3.2, -1.0), depth_start=1.0, depth_stop=12.0
    )
    ahead = np.stack([np.full(400, 6.2), np.linspace(-2, 2, 400), np.linspace(0.5, 2.5, 400)], axis=1)
    sweep = LidarSweep(0, ahead.astype(np.float32), np.eye(4), np.eye(4))
    with_lidar = _inputs(lidar=(sweep,))
    bins = lidar_depth_of(with_lidar, camera_poses(with_lidar), model.config, SIZE, 16)
    assert bins.shape == (1, 3, 4, 10)
    assert set(bins[0, 0].unique().tolist()) == {-1, 8}  # 6.2 m ahead, camera at 1 m: depth 5.2 m
    assert int(bins[0, 1:].max()) == -1
    assert not torch.equal(model.step(with_lidar, None, None).scores, model.step(_inputs(), None, None).scores)


def _refused(model, inputs, state=None, motion=None):
    with pytest.raises(InvalidInputError) as error:
        model.step(inputs, state, motion)
    return str(error.value)


def test_wrong_images_are_refused(model):
    inputs = _inputs()
    replace = dataclasses.replace
    assert "2 images for 3 cameras" in _refused(model, replace(inputs, images=inputs.images[:2]))
    assert "multiples of 16" in _refused(model, replace(inputs, images=torch.zeros(3, 3, 60, 160)))
    assert "got none" in _refused(model, replace(inputs, images=None))
    assert "no camera" in _refused(model, _inputs(present=(False, False, False)))


def test_poses_that_are_not_rigid_or_finite_are_refused(model):
    for bad in (np.diag([2.0, 1, 1, 1]), np.full((4, 4), np.nan)):
        assert "odom_from_ego" in _refused(model, _inputs(image_pose=bad))


def test_calibration_is_checked():
    good = _rig()["CAM_FRONT"]
    bad_intrinsics = good.intrinsics.copy()
    bad_intrinsics[0, 0] = 0
    with pytest.raises(InvalidInputError, match="focal"):
        PinholeCamera(bad_intrinsics, good.ego_from_camera, 160, 64)
    sheared = good.ego_from_camera.copy()
    sheared[0, 0] += 0.5
    with pytest.raises(InvalidInputError, match="ego_from_camera"):
        PinholeCamera(good.intrinsics, sheared, 160, 64)


def test_state_of_another_model_grid_or_use_is_refused(model):
    other = _model("alocc-2d-mini")
    state = other.step(_inputs(), None, None).state
    assert "state is of alocc-2d-mini" in _refused(model, _inputs(1), state, MOTION)
    assert "state is of str" in _refused(model, _inputs(1), "nonsense", MOTION)
    smaller = _model("alocc-2d-mini", grid_size=(32, 48, 16))
    assert "another grid" in _refused(smaller, _inputs(1), state, MOTION)
    assert "prev_ego_from_ego" in _refused(other, _inputs(1), state, MOTION * float("nan"))
    other.step(_inputs(1), state, MOTION)
    assert "used up" in _refused(other, _inputs(1), state, MOTION)


def test_not_a_number_names_the_first_stage(model):
    inputs = _inputs()
    inputs.images[0, 0, 5, 5] = float("nan")
    with pytest.raises(NumericsError, match="images"):
        model.step(inputs, None, None)


def test_not_a_number_in_the_state_names_the_stage_it_enters():
    model = _model("alocc-flow-2d")
    state = model.step(_inputs(), None, None).state
    with torch.inference_mode():
        state.network.history.frames[0, 0, 20, 20, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"hist\.fused"):
        model.step(_inputs(1), state, MOTION)


def test_weights_that_are_not_numbers_are_refused():
    network = ALOcc(dataclasses.replace(alocc_config("alocc-2d-mini"), **TINY))
    with torch.no_grad():
        network.img_backbone.layer1[0].conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv2\.weight"):
        ALOccModel(network.config, network)


def test_geometry_of_the_real_keyframe_equals_the_official_tensors(shared, keyframe):
    import json

    tables = {
        name: {row["token"]: row for row in json.loads((keyframe / "v1.0-mini" / f"{name}.json").read_text())}
        for name in ("sample_data", "calibrated_sensor", "ego_pose")
    }
    from occ_perception.geometry import rigid
    from occ_perception.models.alocc_config import NUSCENES_CAMERAS

    def transform(row):
        w, x, y, z = row["rotation"]
        return rigid(row["translation"], np.array([x, y, z, w]))

    cameras, images = {}, {}
    for row in tables["sample_data"].values():
        name = row["filename"].split("/")[1]
        if name in NUSCENES_CAMERAS:
            sensor = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
            cameras[name] = PinholeCamera(np.array(sensor["camera_intrinsic"]), transform(sensor), 1600, 900)
            pose = transform(tables["ego_pose"][row["ego_pose_token"]])
            images[name] = CameraImage(row["timestamp"] * 1000, np.zeros((900, 1600, 3), np.uint8), pose)
    rig = CameraRig({name: cameras[name] for name in NUSCENES_CAMERAS})
    front = images["CAM_FRONT"]
    frame = Frame(front.stamp_ns, rig, images, odom_from_ego=front.odom_from_ego)
    affine = torch.tensor([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]], dtype=torch.float64).repeat(6, 1, 1)
    inputs = ModelInput(frame, NUSCENES_CAMERAS, (True,) * 6, torch.zeros(6, 3, 256, 704), affine)
    ours = camera_tensors(inputs, camera_poses(inputs), torch.device("cpu"))
    golden = np.load(shared / "golden" / "alocc_2d_mini.npz")
    # The official matrices are float32 products of coordinates near 1000 m: good to about 0.1 mm.
    torch.testing.assert_close(ours.rots, torch.from_numpy(golden["f0/rots"]), atol=2e-6, rtol=0)
    torch.testing.assert_close(ours.trans, torch.from_numpy(golden["f0/trans"]), atol=5e-4, rtol=0)
    vector = golden["f0/dn.mlp_input/sample"].reshape(6, 27)
    torch.testing.assert_close(ours.intrins[0, :, 0, 0], torch.from_numpy(vector[:, 0]))
    torch.testing.assert_close(ours.post_trans[0, :, 1], torch.from_numpy(vector[:, 9]))


def test_inputs_of_several_streams_do_not_mix():
    config = dataclasses.replace(alocc_config("alocc-2d-mini"), **TINY)
    torch.manual_seed(0)
    network = ALOcc(config).eval()
    model = ALOccModel(config, network)
    inputs = [_inputs(seed=seed) for seed in (0, 10)]
    single = [model._network_inputs(i, camera_poses(i), None, None)[0] for i in inputs]
    both = ALOccInputs(
        torch.cat([s.images for s in single]),
        type(single[0].cameras)(*(torch.cat(pair) for pair in zip(*(s.cameras for s in single), strict=True))),
        None,
        torch.cat([s.previous_from_current_ego for s in single]),
        starts=(True, True),
    )
    with torch.inference_mode():
        together, _ = model.network(both)
        for index, one in enumerate(single):
            alone, _ = model.network(one)
            torch.testing.assert_close(together.logits[index], alone.logits[0], atol=1e-4, rtol=1e-4)
