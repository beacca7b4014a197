"""The per-frame function of ALOcc as an exported graph: tensors and state in, scores and state out.

The graph has no Python in it and no state of its own, so it can be compiled ahead of time (AOTInductor, TensorRT).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_types import ALOccInputs, ALOccState
from occ_perception.ops.frustum import CameraTensors


class ALOccFrame(nn.Module):
    """One frame of a running stream (not its first) as a function of tensors only."""

    def __init__(self, network: ALOcc) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        images: Tensor,
        cameras: CameraTensors,
        previous_from_current_camera: Tensor | None,
        previous_from_current_ego: Tensor,
        state: ALOccState,
    ) -> tuple[Tensor, Tensor | None, ALOccState]:
        """See ``ALOcc.forward``; logits [B, queries, Y, X, Z], flow [B, Y, X, Z, 2] or None, and the new state."""
        inputs = ALOccInputs(
            images, cameras, previous_from_current_camera, previous_from_current_ego, (False,) * images.shape[0]
        )
        output, state = self.network(inputs, state)
        return output.logits, output.flow, state


def export_frame_function(network: ALOcc, inputs: ALOccInputs, state: ALOccState) -> torch.export.ExportedProgram:
    """Export for the shapes of example ``inputs`` and of the ``state`` that an earlier frame returned."""
    arguments = (
        inputs.images,
        inputs.cameras,
        inputs.previous_from_current_camera,
        inputs.previous_from_current_ego,
        state,
    )
    with torch.no_grad():
        return torch.export.export(ALOccFrame(network.eval()), arguments, strict=False)
