"""The exported per-frame function equals the network, with the state going in and coming out."""

import dataclasses

import pytest
import torch

from benchmarks.alocc import synthetic_inputs
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import alocc_config
from occ_perception.models.alocc_export import ALOccFrame, export_frame_function

_SMALL = {"image_size": (64, 160), "grid_size": (40, 40, 16), "grid_origin": (-8.0, -8.0, -1.0), "history_frames": 3}


@pytest.mark.parametrize("variant", ["alocc-2d-mini", "alocc-flow-2d"])
def test_exported_graph_streams_like_the_network(variant):
    torch.manual_seed(0)
    config = dataclasses.replace(alocc_config(variant), **_SMALL)
    network = ALOcc(config).prepare_for_inference()
    device = torch.device("cpu")
    with torch.no_grad():
        _, state = network(synthetic_inputs(config, 0, device))
    inputs = synthetic_inputs(config, 1, device)
    program = export_frame_function(network, inputs, state).module()
    exported_state, eager_state = state, state
    eager = ALOccFrame(network)
    for step in (2, 3):
        following = synthetic_inputs(config, step, device)
        arguments = (
            following.images, following.cameras, following.previous_from_current_camera,
            following.previous_from_current_ego,
        )  # fmt: skip
        with torch.no_grad():
            logits, flow, exported_state = program(*arguments, exported_state)
            expected, expected_flow, eager_state = eager(*arguments, eager_state)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        assert (flow is None) == (expected_flow is None)
        torch.testing.assert_close(exported_state.history.frames, eager_state.history.frames, atol=1e-4, rtol=1e-4)
        assert torch.equal(exported_state.history.ages, eager_state.history.ages)
