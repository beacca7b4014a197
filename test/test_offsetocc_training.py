"""Training OffsetOcc: targets, losses, and both stages on a tiny world."""

import dataclasses

import numpy as np
import pytest
import torch
from offsetocc_frames import BASELINE, CAR, GRID, HEAD, OBJECTS, PEDESTRIAN, RIG, SIZE, WHOLE, labelled_frame
from safetensors.torch import load_file
from torch.utils.data import default_collate

from occ_perception.checkpoints import key_table
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import inverse, rigid_from_rotation, transform_points
from occ_perception.models import create_model, offsetocc_config
from occ_perception.models.offsetocc import OffsetOccBaseline
from occ_perception.models.panoptic import PanopticHead, PanopticNetwork
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.session import Session
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.image_distortion import cut_out, grid_mask, photometric_distortion
from occ_perception.training.loop import Trainer
from occ_perception.training.object_losses import ObjectLossSettings, focal_loss, object_losses
from occ_perception.training.object_targets import MAX_OBJECTS, ObjectTargets, object_targets, object_voxels
from occ_perception.training.offsetocc_task import OffsetOccTask, OffsetOccTaskSettings, network_inputs
from occ_perception.training.panoptic_task import PanopticTask, PanopticTaskSettings
from occ_perception.training.progress import read_journal
from occ_perception.training.semantic_scene_losses import scene_losses
from occ_perception.training.settings import from_mapping
from occ_perception.training.sources import OpenSource
from occ_perception.training.task import Draw
from occ_perception.training.tasks import create_task

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = ObjectLossSettings(matching="exact")
BACKGROUND, CAR_ROW = -1, OCC3D.thing_ids.index(CAR)
PEDESTRIAN_ROW = OCC3D.thing_ids.index(PEDESTRIAN)


# -- targets


def _object_targets(frame, things=OCC3D.thing_ids):
    return object_targets(frame, things)


def test_targets_of_labelled_instances():
    targets = _object_targets(labelled_frame())
    assert targets.classes[:4].tolist() == [CAR_ROW, CAR_ROW, PEDESTRIAN_ROW, BACKGROUND]
    assert targets.classes.shape == (MAX_OBJECTS,)
    torch.testing.assert_close(targets.centres[0], torch.tensor([2.0, -1.6, 0.2]))
    assert [int((targets.instances == i).sum()) for i in (1, 2, 3, 4)] == [48, 48, 16, 0]


def test_targets_of_boxes_alone_are_the_same():
    expected, found = _object_targets(labelled_frame()), _object_targets(labelled_frame(instances=False))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_objects_that_no_camera_sees_are_left_out_but_hidden_voxels_are_not():
    frame = labelled_frame()
    seen = np.zeros(GRID.size, bool)
    seen[15, 6, 3] = True  # one voxel of the first car
    frame = dataclasses.replace(frame, label=dataclasses.replace(frame.label, mask_camera=seen))
    targets = _object_targets(frame)
    assert targets.classes[:2].tolist() == [CAR_ROW, BACKGROUND]
    assert int((targets.instances == 1).sum()) == 48
    assert int(targets.instances.max()) == 1


def test_ids_without_a_box_and_boxes_without_an_id():
    frame = labelled_frame()
    instances = frame.label.instances.copy()
    instances[frame.label.semantics == OCC3D.id_of("driveable_surface")] = 77  # stuff has an id in some files
    frame = dataclasses.replace(
        frame,
        label=dataclasses.replace(frame.label, instances=instances),
        box_ids=np.array([1, 0, 3]),  # the second box has no voxels
    )
    targets = _object_targets(frame)
    assert targets.classes[:3].tolist() == [CAR_ROW, PEDESTRIAN_ROW, BACKGROUND]
    assert int(targets.instances.max()) == 2
    with pytest.raises(InvalidInputError, match="boxes"):
        _object_targets(dataclasses.replace(frame, boxes=None))


def test_more_objects_than_rows_leave_out_the_smallest():
    cells = [(CAR, (x, y, 3 + z), (1, 1, 1)) for z in range(1) for x in range(24) for y in range(12)]
    big = (PEDESTRIAN, (0, 20, 3), (2, 2, 2))
    for instances in (True, False):  # the dataset's own, and through boxes
        targets = _object_targets(labelled_frame(objects=(*cells, big), instances=instances))
        assert int((targets.classes >= 0).sum()) == int(targets.instances.max()) == MAX_OBJECTS
        assert PEDESTRIAN_ROW in targets.classes.tolist()
        assert int(targets.left_out) == len(cells) + 1 - MAX_OBJECTS
    assert int(_object_targets(labelled_frame()).left_out) == 0


def test_only_things_are_objects():
    targets = _object_targets(labelled_frame(), things=(PEDESTRIAN,))
    assert targets.classes[:2].tolist() == [0, BACKGROUND]
    assert int((targets.instances > 0).sum()) == 16
    assert int(_object_targets(labelled_frame(objects=())).classes.max()) == BACKGROUND


def test_voxels_of_objects():
    targets = _object_targets(labelled_frame())
    voxels = object_voxels(targets.instances, 3, GRID)
    assert [len(v) for v in voxels] == [48, 48, 16]
    torch.testing.assert_close(voxels[0].mean(dim=0), targets.centres[0], atol=1e-5, rtol=0)
    assert object_voxels(torch.zeros(GRID.size, dtype=torch.int16), 0, GRID) == []


# -- stage 1 losses


def test_scene_losses_are_monoscenes():
    """Against the definition, class by class."""
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 5, 4, 4, 3), torch.randint(0, 4, (1, 4, 4, 3))
    labels[0, 0] = 255
    weight = torch.rand(5) + 0.5
    losses = scene_losses(logits, labels, weight, free_class=3)
    expected = torch.nn.functional.cross_entropy(logits, labels, weight, ignore_index=255)
    torch.testing.assert_close(losses["loss_ce"][0], expected)
    p, y = logits[0].softmax(0)[:, labels[0] != 255], labels[0][labels[0] != 255]
    each = [_affinity(p[c], (y == c).float()) for c in range(4)]  # class 4 does not occur
    torch.testing.assert_close(losses["loss_semantic"][0], torch.stack(each).mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["loss_geometric"][0], _affinity(1 - p[3], (y != 3).float()), atol=1e-4, rtol=1e-4)


def _affinity(p, t):
    precision, recall = (p * t).sum() / p.sum(), (p * t).sum() / t.sum()
    specificity = ((1 - p) * (1 - t)).sum() / (1 - t).sum()
    return -(precision.log() + recall.log() + specificity.log())


@pytest.mark.parametrize("fill", [17, 255, 3])
def test_scenes_of_one_label_have_finite_losses_and_gradients(fill):
    logits = torch.randn(2, 18, 4, 4, 2, requires_grad=True)
    losses = scene_losses(logits, torch.full((2, 4, 4, 2), fill), torch.ones(18), 17)
    total = sum(value.sum() for value in losses.values())
    total.backward()
    assert bool(torch.isfinite(logits.grad).all())
    if fill == 255:
        assert float(total.detach()) == 0


def test_perfect_scores_cost_nothing():
    labels = torch.randint(0, 18, (1, 6, 6, 4))
    logits = 60.0 * torch.nn.functional.one_hot(labels, 18).movedim(-1, 1)
    assert all(float(v) < 1e-4 for v in scene_losses(logits, labels, torch.ones(18), 17).values())


# -- stage 2 losses


def _head(config=HEAD):
    torch.manual_seed(0)
    return PanopticHead(config, GRID, 32, OCC3D.thing_ids)


def _targets(*frames):
    return ObjectTargets(*map(torch.stack, zip(*map(_object_targets, frames), strict=True)))


def _losses(head, features, targets, settings=SETTINGS):
    return object_losses(head.objects, head(features), targets, GRID, settings)


def test_shape_losses_do_not_depend_on_the_predicted_centre():
    features, targets = torch.randn(1, 32, 12, 12, 4), _targets(labelled_frame())
    head = _head()
    # One query only, so that moving the centres cannot change which query is matched.
    head.objects.queries = torch.nn.Parameter(head.objects.queries[:1].detach())
    before = {d: _losses(head, features, targets, dataclasses.replace(SETTINGS, decoupled=d)) for d in (True, False)}
    with torch.no_grad():
        head.objects.centre_head.bias += 0.5
    after = {d: _losses(head, features, targets, dataclasses.replace(SETTINGS, decoupled=d)) for d in (True, False)}
    for name in ("loss_score", "loss_offset"):
        assert torch.equal(after[True].losses[name], before[True].losses[name])
    assert not torch.equal(after[True].losses["loss_centre"], before[True].losses["loss_centre"])
    # The paper's ablation does depend on it, and trains the centre with it.
    assert not torch.equal(after[False].losses["loss_offset"], before[False].losses["loss_offset"])
    after[False].losses["loss_offset"].sum().backward()
    assert float(head.objects.centre_head.bias.grad.abs().sum()) > 0


def test_decoupled_shape_losses_send_nothing_to_the_centre():
    head = _head()
    losses = _losses(head, torch.randn(1, 32, 12, 12, 4), _targets(labelled_frame())).losses
    (losses["loss_offset"] + losses["loss_score"]).sum().backward()
    assert head.objects.centre_head.weight.grad is None
    assert float(head.objects.offset_head.weight.grad.abs().sum()) > 0


def test_losses_of_a_known_assignment():
    """One object of two voxels, one query at a known place with known offsets."""
    config = dataclasses.replace(HEAD, queries=1, offsets_per_side=2)
    head = _head(config)
    frame = labelled_frame(objects=((CAR, (10, 10, 3), (2, 1, 1)),))
    targets = _targets(frame)
    with torch.no_grad():
        head.objects.offset_head.weight.zero_()
        bias = torch.zeros(8, 4)
        bias[:, :3] = 50.0  # far away
        bias[3, :3], bias[6, :3] = torch.tensor([0.2, 0.0, 0.0]), torch.tensor([-0.2, 0.3, 0.0])
        bias[:, 3] = -1.0
        head.objects.offset_head.bias.copy_(bias.flatten())
    predictions = head(torch.randn(1, 32, 12, 12, 4))
    losses = object_losses(head.objects, predictions, targets, GRID, SETTINGS).losses
    losses = {name: value.detach() for name, value in losses.items()}
    # The voxels lie 0.2 m either side of the box's centre: distances 0 and 0.3 m.
    assert float(losses["loss_offset"]) == pytest.approx(0.0125 * 0.15, rel=1e-4)
    wanted = torch.zeros(8)
    wanted[[3, 6]] = 1
    assert float(losses["loss_score"]) == pytest.approx(
        0.125 * float(focal_loss(torch.full((8,), -1.0), wanted).sum()) / 2, rel=1e-4
    )
    distance = float((predictions.centres[0, 0] - targets.centres[0, 0]).norm().detach())
    assert float(losses["loss_centre"]) == pytest.approx(0.02 * distance, rel=1e-4)
    is_car = torch.nn.functional.one_hot(torch.tensor([CAR_ROW]), 10).float()
    assert float(losses["loss_class"]) == pytest.approx(
        0.5 * float(focal_loss(predictions.class_logits[0].detach(), is_car).sum()), rel=1e-4
    )


def test_focal_loss_is_the_published_one():
    logits = torch.tensor([-2.0, 0.5, 3.0])
    p = logits.sigmoid()
    torch.testing.assert_close(focal_loss(logits, torch.ones(3)), -0.25 * (1 - p) ** 2 * p.log())
    torch.testing.assert_close(focal_loss(logits, torch.zeros(3)), -0.75 * p**2 * (1 - p).log())


def test_objects_larger_than_k_are_cut_at_random_and_counted():
    head = _head(dataclasses.replace(HEAD, offsets_per_side=2))  # 8 offsets for 48, 48 and 16 voxels
    found = _losses(head, torch.randn(1, 32, 12, 12, 4), _targets(labelled_frame()))
    assert found.left_out == 40 + 40 + 8
    assert bool(torch.isfinite(torch.stack(list(found.losses.values()))).all())


def test_more_objects_than_queries():
    objects = tuple((CAR, (2 * i, 2 * j, 3), (1, 1, 1)) for i in range(8) for j in range(4))
    found = _losses(_head(), torch.randn(1, 32, 12, 12, 4), _targets(labelled_frame(objects=objects)))
    assert found.without_query == 32 - HEAD.queries
    assert bool(torch.isfinite(torch.stack(list(found.losses.values()))).all())


def test_a_frame_without_objects_still_gives_every_parameter_a_gradient():
    head = _head()
    found = _losses(head, torch.randn(1, 32, 12, 12, 4), _targets(labelled_frame(objects=())))
    assert all(float(found.losses[name].detach()) == 0 for name in ("loss_offset", "loss_score", "loss_centre"))
    sum(v.sum() for v in found.losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_each_sample_has_losses_of_its_own():
    features = torch.randn(2, 32, 12, 12, 4)
    frames = (labelled_frame(), labelled_frame(objects=OBJECTS[:1]))
    head = _head()
    both = _losses(head, features, _targets(*frames)).losses
    alone = [_losses(head, features[i : i + 1], _targets(frames[i])).losses for i in range(2)]
    for name, values in both.items():
        torch.testing.assert_close(values, torch.cat([losses[name] for losses in alone]), atol=1e-5, rtol=1e-4)


# -- images


def test_photometric_distortion():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    unchanged = photometric_distortion(pixels, np.random.default_rng(0), 0.0, (1.0, 1.0), (1.0, 1.0), 0.0)
    assert int(np.abs(unchanged.astype(int) - pixels).max()) <= 1
    results = [photometric_distortion(pixels, np.random.default_rng(seed)) for seed in range(8)]
    assert sum(not np.array_equal(result, pixels) for result in results) >= 6
    assert np.array_equal(results[3], photometric_distortion(pixels, np.random.default_rng(3)))
    grey = np.full((4, 4, 3), 90, np.uint8)  # has no saturation and no hue
    turned = photometric_distortion(grey, np.random.default_rng(1), 0.0, (1.0, 1.0), (0.2, 3.0), 90.0)
    assert int(np.abs(turned.astype(int) - 90).max()) <= 1


def test_grid_mask_cuts_out_squares():
    shares = []
    for seed in range(40):
        kept = grid_mask(64, 160, np.random.default_rng(seed))
        rows, columns = kept.all(axis=1), kept.all(axis=0)
        assert np.array_equal(kept, rows[:, None] | columns)
        shares.append(1 - kept.mean())
    assert 0.15 < np.mean(shares) < 0.35
    pixels = np.zeros((64, 160, 3), np.uint8)
    assert (cut_out(pixels, kept)[~kept] == (124, 116, 104)).all()
    assert (cut_out(pixels, kept)[kept] == 0).all()


# -- tasks


def _task(config=BASELINE, **settings):
    torch.manual_seed(0)
    return OffsetOccTask(OffsetOccTaskSettings(**settings), config)


def _draw(seed=0):
    return Draw(np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1)))


def test_prepared_frames():
    task, frame = _task(), labelled_frame(cameras=("CAM_FRONT",))
    batch = task.prepare(frame, None, None)
    assert batch["images"].shape == (6, 3, *SIZE)
    front = torch.from_numpy(frame.frame.images["CAM_FRONT"].data).permute(2, 0, 1)
    assert torch.equal(batch["images"][1], front)
    missing = [0, 2, 3, 4, 5]
    assert int(batch["images"][missing].sum()) == 0
    assert float(batch["image_from_grid"][missing].abs().sum()) == 0
    assert int(batch["labels"].max()) == 17
    assert torch.equal(batch["labels"] == 17, torch.from_numpy(frame.label.semantics == FREE))
    hits = task.network.visible_voxels(network_inputs({k: v[None] for k, v in batch.items()}))
    assert hits.maps.unique().tolist() == [1]


def test_only_the_images_are_augmented_and_equal_draws_give_equal_samples():
    task, frame = _task(grid_mask=1.0), labelled_frame()
    plain, first, again, other = (task.prepare(frame, None, d) for d in (None, _draw(), _draw(), _draw(1)))
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], other["images"])
    assert not torch.equal(first["images"], plain["images"])
    assert torch.equal(first["image_from_grid"], plain["image_from_grid"])
    assert torch.equal(first["labels"], plain["labels"])
    off = _task(grid_mask=0.0, photometric=False).prepare(frame, None, _draw())
    assert torch.equal(off["images"], plain["images"])


def test_projections_follow_each_image_and_the_labels_frame():
    moved = rigid_from_rotation(np.eye(3), [1.0, 0.5, 0.0])  # the vehicle at the image's stamp
    ego_from_grid = rigid_from_rotation(np.eye(3), [0.3, 0.0, 0.0])
    frame = labelled_frame(pose=moved)
    frame = dataclasses.replace(
        frame, frame=dataclasses.replace(frame.frame, odom_from_ego=np.eye(4)), ego_from_grid=ego_from_grid
    )
    matrix = _task().prepare(frame, None, None)["image_from_grid"][1].double().numpy()
    point = np.array([[4.0, 0.7, 0.5]])  # in the label's grid
    in_camera = transform_points(inverse(RIG["CAM_FRONT"].ego_from_camera) @ inverse(moved) @ ego_from_grid, point)[0]
    expected = RIG["CAM_FRONT"].intrinsics @ in_camera
    np.testing.assert_allclose(matrix[:3] @ [*point[0], 1], expected, rtol=1e-5)


def test_labels_that_do_not_count():
    frame = labelled_frame()
    semantics = frame.label.semantics.copy()
    semantics[0] = UNKNOWN
    seen = np.ones(GRID.size, bool)
    seen[:, 5] = False
    label = dataclasses.replace(frame.label, semantics=semantics, mask_camera=seen)
    frame = dataclasses.replace(frame, label=label)
    ignored = _task().prepare(frame, None, None)["labels"] == 255
    assert bool(ignored[0].all())
    assert int(ignored.sum()) == 24 * 8
    masked = _task(camera_mask=True).prepare(frame, None, None)["labels"] == 255
    assert bool(masked[:, 5].all())
    assert _task(camera_mask=True).description.mask_training
    shifted = dataclasses.replace(label, grid=dataclasses.replace(GRID, origin=(0.0, 0.0, 0.0)))
    with pytest.raises(InvalidInputError, match="expected occ3d labels"):
        _task().prepare(dataclasses.replace(frame, label=shifted), None, None)


OTHER = ((CAR, (4, 6, 2), (6, 4, 2)), (PEDESTRIAN, (16, 12, 2), (2, 2, 4)))


def _frames():
    return [labelled_frame(0), labelled_frame(1, OTHER)]


def _train(task, frames, steps, rate):
    """Loss of every step, on one batch without augmentation."""
    batch = default_collate([task.prepare(frame, None, None) for frame in frames])
    groups = [{**g, "lr": rate * g.pop("lr_scale", 1.0)} for g in task.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    task.network.train()
    values, starts = [], (True,) * len(frames)
    for step in range(steps):
        named, _ = task.losses(task.network, batch, None, starts, step)
        total = torch.stack([loss.mean() for loss in named.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 5.0)
        optimizer.step()
        values.append(float(total.detach()))
    task.network.eval()
    with torch.no_grad():
        classes, _ = task.evaluate(task.network, batch, None, starts)
    return values, classes


def _panoptic(base, head=HEAD):
    torch.manual_seed(1)
    network = PanopticNetwork(base.network, PanopticHead(head, GRID, BASELINE.channels, OCC3D.thing_ids))
    return PanopticTask(base, network, PanopticTaskSettings("offsetocc-small", losses=SETTINGS))


def test_both_stages_learn_a_tiny_world():
    base, frames = _task(dataclasses.replace(BASELINE, encoder_layers=1)), _frames()
    values, classes = _train(base, frames, 30, 1e-2)
    assert values[-1] < 0.1 * values[0]
    truth = torch.from_numpy(np.stack([frame.label.semantics for frame in frames]))
    assert float((classes != truth).float().mean()) < 0.03
    task = _panoptic(base)
    values, _ = _train(task, frames, 30, 5e-3)
    assert values[-1] < 0.15 * values[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a minute, on a machine of one's own
def test_both_stages_learn_a_tiny_world_by_heart():
    base, frames = _task(), _frames()
    values, _ = _train(base, frames, 250, 3e-3)
    print("stage 1:", values[0], values[-1])
    assert values[-1] < 0.01 * values[0]
    task = _panoptic(base)
    values, _ = _train(task, frames, 300, 2e-3)
    print("stage 2:", values[0], values[-1])
    assert values[-1] < 0.005 * values[0]
    batch = default_collate([task.prepare(frame, None, None) for frame in frames])
    with torch.no_grad():
        scene = base.scene(base.network, batch, None, (True, True))
        predictions = task.network(scene.voxel_features)
    for sample, frame in enumerate(frames):
        found = task.network.head.merge(scene.semantics[sample], task.network.head.find(predictions, sample))
        assert sorted(item.class_id for item in found.objects) == sorted(frame.box_classes.tolist())
        centres = torch.tensor([item.center for item in found.objects])
        assert float(torch.cdist(torch.from_numpy(frame.boxes[:, :3]).float(), centres).amin(dim=1).max()) < 0.2
        truth = torch.from_numpy(frame.label.instances.astype(np.int32))
        both = (truth > 0) & (found.instances > 0)
        assert float(both.sum()) > 0.9 * float((truth > 0).sum())
        assert len(torch.stack([truth[both], found.instances[both]]).unique(dim=1).T) == len(frame.boxes)


def test_gradients_are_only_where_they_should_be():
    base = _task()
    task = _panoptic(base)
    batch = default_collate([task.prepare(frame, None, None) for frame in _frames()])
    before = {key: value.clone() for key, value in task.network.base.state_dict().items()}
    task.network.train()
    named, state = task.losses(task.network, batch, None, (True, True), 0)
    torch.stack([loss.mean() for loss in named.values()]).sum().backward()
    assert state is None
    assert all(loss.shape == (2,) for loss in named.values())
    assert [n for n, p in task.network.base.named_parameters() if p.grad is not None] == []
    assert [n for n, p in task.network.head.named_parameters() if p.grad is None] == []
    assert all(torch.equal(value, before[key]) for key, value in task.network.base.state_dict().items())
    trained = {id(p) for group in task.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in task.network.head.parameters()}
    # Stage 1 reaches everything.
    base = _task()
    named, _ = base.losses(base.network.train(), batch, None, (True, True), 0)
    torch.stack([loss.mean() for loss in named.values()]).sum().backward()
    assert [n for n, p in base.network.named_parameters() if p.grad is None] == []


def test_activation_checkpointing_keeps_less_and_changes_nothing():
    sizes, losses, gradients = [], [], []
    for saving in (False, True):
        task = _task(activation_checkpointing=saving)
        batch = default_collate([task.prepare(frame, None, None) for frame in _frames()])
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            named, _ = task.losses(task.network.train(), batch, None, (True, True), 0)
        sizes.append(sum(kept))
        torch.stack([loss.mean() for loss in named.values()]).sum().backward()
        losses.append({name: loss.detach() for name, loss in named.items()})
        gradients.append({name: p.grad for name, p in task.network.named_parameters()})
    assert sizes[1] < 0.5 * sizes[0]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_what_training_leaves_out_is_counted_and_said(caplog):
    task = _panoptic(_task(), dataclasses.replace(HEAD, queries=5, offsets_per_side=2))
    cells = tuple((CAR, (x, y, 3), (1, 1, 1)) for x in range(24) for y in range(12))
    big = (PEDESTRIAN, (0, 20, 3), (2, 2, 4))
    frame = labelled_frame(objects=(*cells, big), instances=False)
    batch = default_collate([task.prepare(frame, None, None)])
    for step in range(2):
        task.losses(task.network.train(), batch, None, (True,), step)
    counts = {what.split(",")[0]: number for what, number in task.left_out.items()}
    assert counts["objects beyond the 256 largest of their frame"] == 2 * (len(cells) + 1 - MAX_OBJECTS)
    assert counts["objects without a query"] == 2 * (MAX_OBJECTS - 5)
    messages = [record.getMessage() for record in caplog.records if "training leaves out" in record.getMessage()]
    assert len([m for m in messages if "of frames with more than 5: 251 so far" in m]) == 1
    assert len([m for m in messages if "256 largest" in m]) == 1  # not again before it has grown tenfold


def test_a_pretrained_backbone_learns_slower_and_its_beginning_not_at_all(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save(_task().network.backbone.state_dict(), path)
    task = _task(backbone_weights=str(path))
    rest, backbone = task.parameter_groups()
    assert backbone["lr_scale"] == 0.1
    frozen = {n.split(".")[0] for n, p in task.network.backbone.named_parameters() if not p.requires_grad}
    assert {"conv1", "bn1", "layer1"} <= frozen
    assert len(rest["params"]) + len(backbone["params"]) == sum(p.requires_grad for p in task.network.parameters())
    assert _task().parameter_groups()[1]["lr_scale"] == 1.0


def test_tasks_by_name():
    small = create_task("offsetocc", {"variant": "offsetocc-small-baseline"})
    assert small.description == ("offsetocc-small-baseline", "occ3d", False)
    with pytest.raises(ConfigurationError, match="stage 1 trains a baseline"):
        create_task("offsetocc", {"variant": "offsetocc-small"})
    with pytest.raises(ConfigurationError, match="alocc-2d-mini-panoptic"):
        create_task("panoptic", {"model": "nonsense"})
    whole = create_task("panoptic", {"model": "offsetocc_small", "losses": {"decoupled": False}})
    assert whole.description.model == "offsetocc-small"
    assert not whole.settings.losses.decoupled
    assert isinstance(whole.base, OffsetOccTask)
    assert whole.base.description.model == "offsetocc-small-baseline"
    assert isinstance(whole.network.base, OffsetOccBaseline)
    assert whole.network.head.config == offsetocc_config.VARIANTS["offsetocc-small"].panoptic


class Frames:
    """Two scenes of two frames."""

    scene_lengths = (2, 2)

    def load(self, scene, frame):
        return labelled_frame(2 * scene + frame, OBJECTS if frame else OTHER)


def test_both_stages_through_the_loop_to_a_model(tmp_path, monkeypatch):
    """As ``occ_perception train`` runs them: stage 1, its weights as the base of stage 2, its weights in a model."""
    monkeypatch.setitem(offsetocc_config.VARIANTS, "offsetocc-small-baseline", BASELINE)
    monkeypatch.setitem(offsetocc_config.VARIANTS, "offsetocc-small", WHOLE)
    key_table.key_table.cache_clear()
    try:
        stages = {
            "offsetocc": {"variant": "offsetocc-small-baseline"},
            "panoptic": {"model": "offsetocc-small", "base_weights": str(tmp_path / "offsetocc" / "final.safetensors")},
        }
        for name, settings in stages.items():
            _train_in_loop(name, settings, tmp_path / name, "PQ" if name == "panoptic" else "mIoU")
        (scores,) = (entry for entry in read_journal(tmp_path / "panoptic") if entry["kind"] == "validation")
        assert 0 <= scores["PQ"] <= scores["RQ"] <= 1
        model = create_model("offsetocc-small", tmp_path / "panoptic" / "final.safetensors")
        base = load_file(tmp_path / "offsetocc" / "final.safetensors")
        whole = load_file(tmp_path / "panoptic" / "final.safetensors")
        assert all(torch.equal(whole[f"base.{key}"], value) for key, value in base.items())
    finally:
        key_table.key_table.cache_clear()
    session = Session(model)
    result = session.step(labelled_frame().frame)
    session.close()
    assert result.info.name == "offsetocc-small"
    assert result.instances.shape == GRID.size


def _train_in_loop(name, settings, folder, metric):
    text = {
        "task": {"name": name, "settings": settings}, "iterations": 2, "batch_size": 2, "device": "cpu",
        "loader": {"workers": 0}, "compute": {"threads": 1}, "log": {"tensorboard": False}, "average": {"updates": 9},
        "validation": {"mask": "none", "pictures": 0, "metric": metric}, "model_card": {"trained_on": "made-up world"},
    }  # fmt: skip
    config = from_mapping(TrainingConfig, text)
    task = create_task(name, settings)
    Trainer(config, task, OpenSource(Frames(), {}), OpenSource(Frames(), {}), folder, Ranks.join("cpu")).run()
