"""OffsetOcc behind the model protocol, and its modules on another model, streamed through a session."""

import dataclasses

import numpy as np
import pytest
import torch
from offsetocc_frames import CAR, GRID, HEAD, RIG, SIZE, WHOLE, labelled_frame
from safetensors.torch import save_file

from occ_perception.checkpoints import key_table
from occ_perception.errors import ConfigurationError, InvalidInputError, NumericsError, WeightsError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import inverse, rigid_from_rotation
from occ_perception.models import ModelInput, create_model, model_names, offsetocc_config
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_adapter import ALOccModel
from occ_perception.models.alocc_config import alocc_config
from occ_perception.models.alocc_panoptic import alocc_panoptic_model, attach_to_alocc
from occ_perception.models.offsetocc import build_offsetocc
from occ_perception.models.offsetocc_adapter import offsetocc_model
from occ_perception.models.panoptic import PanopticHead, PanopticModel
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
# Every query counts as an object, so that random weights give instances.
EAGER = dataclasses.replace(HEAD, score_threshold=0.0, offset_threshold=0.0)


@pytest.fixture(scope="module")
def model():
    return _model(EAGER)


def _network(head=EAGER):
    torch.manual_seed(3)
    network = build_offsetocc(dataclasses.replace(WHOLE, panoptic=head)).eval()
    with torch.no_grad():  # classes that differ from voxel to voxel
        base = network.base if head is not None else network
        base.decoder.weight.mul_(5)
        base.decoder.bias[CAR] += 2
    return network


def _model(head):
    return offsetocc_model(dataclasses.replace(WHOLE, panoptic=head), _network(head), weights="untrained")


def _inputs(present=(True, True), pose=None, image_pose=None, seed=0):
    names = tuple(RIG)
    blank = np.zeros((*SIZE, 3), np.uint8)
    images = {n: CameraImage(0, blank, image_pose) for n, here in zip(names, present, strict=True) if here}
    frame = Frame(0, RIG, images, odom_from_ego=np.eye(4) if pose is None else pose)
    pixels = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    return ModelInput(frame, names, present, pixels, torch.eye(3, dtype=torch.float64).repeat(2, 1, 1))


def _check(output, grid=GRID):
    assert output.semantics.shape == output.instances.shape == output.confidence.shape == grid.size
    assert output.semantics.dtype == output.confidence.dtype == torch.uint8
    things = torch.tensor(OCC3D.thing_ids, dtype=torch.uint8)
    # In the paper's answer every thing has an object, and nothing else has; what is published deletes nothing.
    assert torch.equal(output.instances > 0, torch.isin(output.prediction, things))
    deleted = output.prediction != output.semantics
    assert bool((output.prediction[deleted] == FREE).all())
    assert bool(torch.isin(output.semantics[deleted], things).all())
    assert set(output.instances.unique().tolist()) - {0} == {item.id for item in output.objects}
    assert all(item.class_id in OCC3D.thing_ids for item in output.objects)
    scores = [item.score for item in output.objects]
    assert scores == sorted(scores, reverse=True)


def test_a_frame_becomes_classes_instances_and_objects(model):
    output = model.step(_inputs(), None, None)
    _check(output)
    assert len(output.objects) >= 2
    assert output.state is None
    assert output.voxel_features is None
    stages = ["backbone", "voxels", "logits", "objects.classes", "objects.shapes", "panoptic"]
    assert [name for name in output.stages_ms if name in stages] == stages


def test_what_is_published_is_the_baselines_whatever_objects_were_found(model):
    baseline = _model(None).step(_inputs(), None, None)
    assert baseline.instances is None
    output = model.step(_inputs(), None, None)
    assert torch.equal(output.semantics, baseline.semantics)
    assert torch.equal(output.confidence, baseline.confidence)
    # Without a single object all things are gone from the paper's answer, and none from what is published.
    modest = _model(dataclasses.replace(EAGER, score_threshold=1.0)).step(_inputs(), None, None)
    _check(modest)
    assert modest.objects == ()
    assert torch.equal(modest.semantics, baseline.semantics)
    assert int((baseline.semantics == CAR).sum()) > 20
    assert not bool((modest.prediction == CAR).any())


def test_a_thing_that_no_object_claims_is_never_published_as_free():
    frame = labelled_frame(0).frame
    plain = Session(_model(None)).step(frame)
    modest = Session(_model(dataclasses.replace(EAGER, score_threshold=1.0))).step(frame)
    assert np.array_equal(modest.semantics, plain.semantics)
    assert np.array_equal(modest.visibility, plain.visibility)
    assert (modest.prediction == FREE).sum() > (plain.prediction == FREE).sum()


def test_a_missing_camera_contributes_nothing(model):
    without = model.base.step(_inputs((True, False)), None, None)
    garbage = _inputs((True, False))
    garbage.images[1] = 1e4
    assert torch.equal(model.base.step(garbage, None, None).voxel_features, without.voxel_features)
    assert not torch.equal(model.base.step(_inputs(), None, None).voxel_features, without.voxel_features)
    with pytest.raises(InvalidInputError, match="no camera"):
        model.step(_inputs((False, False)), None, None)


def test_each_image_has_the_pose_of_its_own_exposure(model):
    pose = rigid_from_rotation(np.eye(3), [5.0, 1.0, 0.0])
    still = model.base.step(_inputs(), None, None).voxel_features
    driven = model.base.step(_inputs(pose=pose, image_pose=pose), None, None).voxel_features
    torch.testing.assert_close(driven, still, atol=1e-4, rtol=1e-4)  # where the vehicle is does not matter
    later = rigid_from_rotation(np.eye(3), [6.2, 1.0, 0.0])  # 1.2 m after the anchor
    shifted = model.base.step(_inputs(pose=pose, image_pose=later), None, None).voxel_features
    rig = {n: dataclasses.replace(c, ego_from_camera=inverse(pose) @ later @ c.ego_from_camera) for n, c in RIG.items()}
    mounted = _inputs()
    mounted = dataclasses.replace(mounted, frame=dataclasses.replace(mounted.frame, rig=type(RIG)(rig)))
    torch.testing.assert_close(shifted, model.base.step(mounted, None, None).voxel_features, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(shifted, still, atol=1e-3)


def test_not_a_number_names_the_stage():
    inputs = _inputs()
    inputs.images[0, 0, 5, 5] = float("nan")
    with pytest.raises(NumericsError, match="images"):
        _model(EAGER).step(inputs, None, None)
    broken = _model(EAGER)
    with torch.no_grad():
        broken.base.network.encoder.layers[1].output_norm.weight[0] = float("inf")
    with pytest.raises(NumericsError, match="voxels"):
        broken.step(_inputs(), None, None)
    broken = _model(EAGER)
    with torch.inference_mode():
        broken.head.objects.queries[0, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"objects\.classes"):
        broken.step(_inputs(), None, None)


def test_bfloat16_says_nearly_the_same():
    exact = _model(EAGER).step(_inputs(), None, None)
    config = dataclasses.replace(WHOLE, panoptic=EAGER)
    short = offsetocc_model(config, _network(), precision="bfloat16").step(_inputs(), None, None)
    _check(short)
    assert float((short.semantics == exact.semantics).float().mean()) > 0.95


def test_weights_that_are_not_numbers_are_refused():
    for key in ("base.backbone.layer1.0.conv2.weight", "head.objects.offset_head.bias"):
        network = _network()
        with torch.no_grad():
            network.get_parameter(key).view(-1)[0] = float("nan")
        with pytest.raises(WeightsError, match=key.split(".", 2)[2].replace(".", r"\.")):
            offsetocc_model(WHOLE, network)


def test_images_of_the_wrong_size_are_refused(model):
    inputs = dataclasses.replace(_inputs(), images=torch.zeros(2, 3, 60, 160))
    with pytest.raises(InvalidInputError, match="multiples of 32"):
        model.step(inputs, None, None)


def test_through_a_session_with_a_camera_lost_on_the_way(model):
    session = Session(model)
    frames = [labelled_frame(0).frame, labelled_frame(1, cameras=("CAM_FRONT",)).frame]
    results = [
        session.step(dataclasses.replace(frame, stamp_ns=500_000_000 * i, images=dict(frame.images)))
        for i, frame in enumerate(frames)
    ]
    session.close()
    assert results[0].cameras_used == ("CAM_FRONT", "CAM_BACK")
    assert results[1].cameras_used == ("CAM_FRONT",)
    for result in results:
        assert result.semantics.shape == GRID.size
        assert result.instances.dtype == np.uint16
        assert result.info.weights == "untrained"
        assert (result.instances > 0).any()
        assert np.isin(result.semantics[result.instances > 0], OCC3D.thing_ids).all()
        assert {int(i) for i in np.unique(result.instances)} - {0} <= {item.id for item in result.objects}
    assert (results[1].semantics[:8] == UNKNOWN).mean() > (results[0].semantics[:8] == UNKNOWN).mean()


def test_made_by_name_with_weights_from_a_file(tmp_path, monkeypatch):
    config = dataclasses.replace(WHOLE, panoptic=EAGER)
    monkeypatch.setitem(offsetocc_config.VARIANTS, "offsetocc-small", config)
    key_table.key_table.cache_clear()
    try:
        network = _network()
        path = tmp_path / "weights.safetensors"
        save_file(network.state_dict(), path, metadata={"model": "offsetocc-small"})
        loaded = create_model("OffsetOcc_small", path)
        expected = offsetocc_model(config, network).step(_inputs(), None, None)
        output = loaded.step(_inputs(), None, None)
        assert torch.equal(output.instances, expected.instances)
        assert torch.equal(output.semantics, expected.semantics)
        assert len(loaded.info.weights) == 16
        headless = {k: v for k, v in _network().state_dict().items() if not k.startswith("head.")}
        save_file(headless, path, metadata={"model": "offsetocc-small"})
        with pytest.raises(WeightsError, match="head"):
            create_model("offsetocc-small", path)
    finally:
        key_table.key_table.cache_clear()


def test_registry():
    assert {"offsetocc", "offsetocc-baseline", "offsetocc-small", "alocc-2d-mini-panoptic"} <= set(model_names())
    with pytest.raises(ConfigurationError, match="needs weights"):
        create_model("offsetocc")


# -- attached to ALOcc

ALOCC = dataclasses.replace(
    alocc_config("alocc-2d-mini"), image_size=SIZE, grid_size=(24, 24, 16), grid_origin=GRID.origin, history_frames=2
)
ON_ALOCC = dataclasses.replace(EAGER, feature_stride=2)


def _alocc():
    torch.manual_seed(2)
    network = ALOcc(ALOCC)
    with torch.no_grad():
        network.alocc_head.mask_embed[4].weight.mul_(20)
    return network


def _attached():
    network = attach_to_alocc(ALOCC, _alocc(), ON_ALOCC)
    return alocc_panoptic_model("alocc-2d-mini-panoptic", ALOCC, network, weights="untrained")


def test_alocc_keeps_its_voxel_features_when_asked():
    plain, keeping = ALOccModel(ALOCC, _alocc()), ALOccModel(ALOCC, _alocc(), voxel_features=True)
    assert plain.step(_inputs(), None, None).voxel_features is None
    output = keeping.step(_inputs(), None, None)
    assert output.voxel_features.shape == (32, 24, 24, 16)
    # They are what the prototypes are compared with, on the published axes.
    scores = torch.einsum("cxyz,qc->xyzq", output.voxel_features, keeping.network.alocc_head.prototypes())[..., 1:]
    best = scores.argmax(dim=-1)
    agreement = (torch.where(best == ALOCC.free_class, FREE, best) == output.semantics).float().mean()
    assert float(agreement) > 0.999
    with pytest.raises(ConfigurationError, match="not on the published grid"):
        ALOccModel(dataclasses.replace(ALOCC, lidar_axes=True), _alocc(), voxel_features=True)


def test_the_modules_on_alocc_give_instances_frame_after_frame():
    """With untrained weights: only the form of the answer is looked at."""
    model, state, motion = _attached(), None, None
    size = dataclasses.replace(GRID, size=(24, 24, 16))
    for step in range(3):
        pose = rigid_from_rotation(np.eye(3), [0.4 * step, 0, 0])
        inputs = _inputs(pose=pose, image_pose=pose, seed=step)
        frame = dataclasses.replace(inputs.frame, stamp_ns=500_000_000 * step)
        output = model.step(dataclasses.replace(inputs, frame=frame), state, motion)
        _check(output, size)
        assert output.state_frames == min(step, 2)
        state, motion = output.state, torch.from_numpy(rigid_from_rotation(np.eye(3), [0.4, 0, 0]))
    assert model.info.name == "alocc-2d-mini-panoptic"
    assert {"hist.fused", "voxel_features", "panoptic"} <= set(output.stages_ms)


def test_a_base_without_voxel_features_is_refused():
    base = ALOccModel(ALOCC, _alocc())
    head = PanopticHead(ON_ALOCC, base.info.grid, ALOCC.voxel_channels, OCC3D.thing_ids)
    with pytest.raises(InvalidInputError, match="keeps no voxel features"):
        PanopticModel(base, head).step(_inputs(), None, None)


def test_a_head_on_another_grid_than_the_base_is_refused():
    base = ALOccModel(ALOCC, _alocc(), voxel_features=True)
    other = dataclasses.replace(base.info.grid, origin=(0.0, 0.0, 0.0))
    head = PanopticHead(ON_ALOCC, other, ALOCC.voxel_channels, OCC3D.thing_ids)
    with pytest.raises(ConfigurationError, match="head on the base's grid"):
        PanopticModel(base, head)


def test_only_the_attached_modules_train():
    from occ_perception.training.alocc_task import ALOccTaskSettings
    from occ_perception.training.panoptic_bases import FrozenALOcc
    from occ_perception.training.panoptic_task import PanopticTask, PanopticTaskSettings

    settings = ALOccTaskSettings(
        image_size=SIZE, resize=0.1, grid_size=(24, 24, 16), grid_origin=GRID.origin, history_frames=2,
        image_labels=False,
    )  # fmt: skip
    base = FrozenALOcc(settings)
    task = PanopticTask(
        base, attach_to_alocc(base.config, base.network, ON_ALOCC), PanopticTaskSettings("alocc-2d-mini-panoptic")
    )
    frame = _with_six_cameras()
    batch = {key: value[None] for key, value in task.prepare(frame, None, None).items()}
    with torch.no_grad():  # features and classes lie on the same axes
        scene = base.scene(base.network.eval(), batch, None, (True,))
        prototypes = base.network.alocc_head.prototypes()
    best = torch.einsum("bcxyz,qc->bxyzq", scene.voxel_features, prototypes)[..., 1:].argmax(dim=-1)
    named = torch.where(best == base.config.free_class, FREE, best)
    assert float((named == scene.semantics).float().mean()) > 0.999
    assert len(named.unique()) > 1
    before = {key: value.clone() for key, value in task.network.base.state_dict().items()}
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-3)
    task.network.train()
    values, state = [], None
    for step in range(3):
        named, state = task.losses(task.network, batch, state, (step == 0,), step)
        total = torch.stack([loss.mean() for loss in named.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0]
    assert all(torch.equal(value, before[key]) for key, value in task.network.base.state_dict().items())
    assert [n for n, p in task.network.head.named_parameters() if p.grad is None] == []
    assert task.description.model == "alocc-2d-mini-panoptic"


def _with_six_cameras():
    from tiny_frames import TinySource

    frame = TinySource().load(0, 0)
    car = (slice(10, 16), slice(8, 12), slice(4, 8))
    semantics, instances = frame.label.semantics.copy(), np.zeros(frame.label.grid.size, np.uint16)
    semantics[car], instances[car] = CAR, 1
    label = dataclasses.replace(frame.label, semantics=semantics, instances=instances, mask_camera=instances >= 0)
    boxes = np.array([[0.4, -0.8, 1.4, 2.4, 1.6, 1.6, 0, 0, 0]])
    return dataclasses.replace(frame, label=label, boxes=boxes, box_classes=np.array([CAR]), box_ids=np.array([1]))
