"""OffsetOcc's modules on `nano`: a frame through a session, and what trains."""

import dataclasses

import numpy as np
import pytest
import torch
from nano_frames import labelled_frame

from occ_perception.models import NANO_PANOPTIC, ModelInput, create_model, create_network, model_names
from occ_perception.models.nano import Nano, class_scores
from occ_perception.models.nano_adapter import NanoModel
from occ_perception.models.nano_config import NanoConfig
from occ_perception.models.nano_panoptic import attach_to_nano, nano_panoptic_model
from occ_perception.models.nano_types import features_on_grid, grid_from_columns
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.ontology import FREE, OCC3D
from occ_perception.session import Session
from occ_perception.training.panoptic_bases import FrozenNano
from occ_perception.training.panoptic_task import PanopticTask, PanopticTaskSettings
from occ_perception.training.tasks import create_task

pytestmark = pytest.mark.usefixtures("one_thread")
CAR = OCC3D.id_of("car")
EAGER = PanopticConfig(
    channels=16, feature_stride=2, queries=12, layers=1, heads=2, hidden=16, offsets_per_side=3,
    score_threshold=0.0, offset_threshold=0.0,
)  # fmt: skip


def _nano():
    torch.manual_seed(0)
    return Nano(NanoConfig())


def test_registry_and_size_of_the_head():
    assert NANO_PANOPTIC in model_names()
    head = create_network("nano_panoptic").head
    assert head.config.queries == 200
    assert head.config.offsets == 343
    assert head.config.feature_stride == 2


def test_features_are_what_the_prototypes_are_compared_with_on_the_published_grid():
    columns, prototypes = torch.randn(1, 3, 4, 2, 2, 5, 6), torch.randn(18, 6)
    output = dataclasses.make_dataclass("Output", ["scores", "voxel_features", "prototypes"])(None, columns, prototypes)
    scores = torch.einsum("bfxyz,qf->bxyzq", features_on_grid(columns), prototypes)
    expected = grid_from_columns(class_scores(output).movedim(3, -1))
    torch.testing.assert_close(scores, expected)


def test_a_frame_through_a_session_gives_instances_of_the_head():
    plain = NanoModel(NanoConfig(), _nano())
    model = nano_panoptic_model(attach_to_nano(_nano(), EAGER), weights="untrained")
    for either in (plain, model):  # untrained they find next to nothing where it can be seen
        either.info = dataclasses.replace(either.info, hidden_is_unknown=False)
    frame = labelled_frame().frame
    base, result = Session(plain).step(frame), Session(model).step(frame)
    assert result.info.name == NANO_PANOPTIC
    assert np.array_equal(result.semantics, base.semantics)  # what is published is the base's
    assert not np.array_equal(result.predicted_instances, base.predicted_instances)
    assert 0 < int(result.predicted_instances.max()) <= EAGER.queries  # not those of nano's own head
    predicted_things = np.isin(result.prediction, OCC3D.thing_ids)
    assert np.array_equal(result.predicted_instances > 0, predicted_things)
    assert (base.prediction[result.prediction != base.prediction] < FREE).all()
    assert np.isin(result.semantics[result.instances > 0], OCC3D.thing_ids).all()
    ids = {int(i) for i in np.unique(result.instances)} - {0}
    assert ids
    assert ids <= {item.id for item in result.objects}
    assert all(item.class_id in OCC3D.thing_ids for item in result.objects)
    again = Session(create_model(NANO_PANOPTIC, allow_untrained=True))
    assert again.step(frame).info.weights == "untrained"


def test_nano_keeps_its_voxel_features_only_when_asked():
    frame = labelled_frame().frame
    inputs = ModelInput(dataclasses.replace(frame, images={}))
    assert NanoModel(NanoConfig(), _nano()).step(inputs, None, None).voxel_features is None
    output = NanoModel(NanoConfig(), _nano(), voxel_features=True).step(inputs, None, None)
    assert output.voxel_features.shape == (12, 200, 200, 16)
    best = torch.einsum("fxyz,qf->xyzq", output.voxel_features, _nano().prototypes.detach()).argmax(dim=-1)
    assert float((torch.where(best == 17, FREE, best) == output.semantics).float().mean()) > 0.999


def test_only_the_head_trains():
    base = FrozenNano()
    network = attach_to_nano(base.network, EAGER)
    task = PanopticTask(base, network, PanopticTaskSettings(NANO_PANOPTIC))
    frame = labelled_frame()
    cells = [np.argwhere(frame.label.instances == number) for number in (1, 2)]
    boxes = np.zeros((2, 9))
    boxes[:, :3] = [frame.label.grid.lower + (c.mean(axis=0) + 0.5) * 0.4 for c in cells]
    boxes[:, 3:6] = [np.ptp(c, axis=0) * 0.4 + 0.4 for c in cells]
    frame = dataclasses.replace(frame, boxes=boxes, box_classes=np.full(2, CAR), box_ids=np.array([1, 2]))
    batch = {key: value[None] for key, value in task.prepare(frame, None, None).items()}
    before = {key: value.clone() for key, value in network.base.state_dict().items()}
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-2)
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
    assert all(torch.equal(value, before[key]) for key, value in network.base.state_dict().items())
    assert [n for n, p in network.base.named_parameters() if p.grad is not None] == []
    assert [n for n, p in network.head.named_parameters() if p.grad is None] == []
    classes, _ = task.evaluate(task.network.eval(), batch, None, (True,))
    assert classes.shape == (1, *frame.label.grid.size)


def test_trained_by_name():
    task = create_task("panoptic", {"model": "nano_panoptic"})
    assert task.description == (NANO_PANOPTIC, "occ3d", True)
    assert isinstance(task.network.base, Nano)
