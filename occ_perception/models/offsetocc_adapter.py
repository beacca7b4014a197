"""OffsetOcc as a `PerceptionModel`: frames in; classes, instances and objects in the project's axes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from occ_perception.layers.stage_monitor import FiniteMonitor, StageTimer, all_of, check_finite_weights
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput, PerceptionModel
from occ_perception.models.camera_inputs import camera_poses, check_images, image_from_anchor
from occ_perception.models.offsetocc import OffsetOccBaseline, OffsetOccInputs, OffsetOccOutput, build_offsetocc
from occ_perception.models.offsetocc_config import OffsetOccConfig, offsetocc_config
from occ_perception.models.panoptic import PanopticModel, PanopticNetwork
from occ_perception.occupancy import ModelInfo
from occ_perception.ontology import FREE, ontology_by_name
from occ_perception.ops.precision import Precision, arithmetic

_STRIDE = 32


class OffsetOccBaselineModel:
    """The baseline behind the `PerceptionModel` protocol; it has no state.  Confidence is the softmax probability.

    Args:
        config: the variant.
        network: with its weights; it is folded and moved to the device here.
        device: where it runs.
        weights: fingerprint for the published grids.
        trained_on: in words.
        precision: arithmetic of convolutions and matrix products; the geometry stays float32.
        voxel_features: whether outputs carry the voxel embeddings.

    Raises:
        WeightsError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        config: OffsetOccConfig,
        network: OffsetOccBaseline,
        device: torch.device | str = "cpu",
        weights: str = "none",
        trained_on: str = "",
        precision: Precision = "float32",
        voxel_features: bool = False,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        # NaN in its weights would be hidden by the fused ReLU (``ops/fused_conv.py``).
        check_finite_weights(network, config.name)
        self.network = network.to(self.device).prepare_for_inference()
        self.info = ModelInfo(config.name, ontology_by_name(config.label_set), config.grid, weights, trained_on)
        self.image_spec: ImageSpec | None = ImageSpec(*config.image_size, NUSCENES_CAMERAS, resize=config.resize)
        self.uses_lidar = False
        self.history_interval_s = 0.0
        self._precision = precision
        self._voxel_features = voxel_features

    @torch.inference_mode()
    def step(self, inputs: ModelInput, state: Any, prev_ego_from_ego: Tensor | None) -> ModelOutput:
        """Perceive one frame; see `PerceptionModel.step`.  State and motion are not looked at.

        Raises:
            InvalidInputError: wrong images, calibration or poses.
            NumericsError: a stage produced NaN or infinity; the message names the first.
        """
        network_inputs = self._network_inputs(inputs)
        finite, timer = FiniteMonitor(), StageTimer(self.device)
        observe = all_of(finite, timer)
        with arithmetic(self.device, self._precision):
            output = self.network(network_inputs, observe)
        finite.raise_if_not_finite()
        result = self._published(output)
        timer("published", result.semantics)
        result.stages_ms = timer.stages_ms()
        return result

    def _network_inputs(self, inputs: ModelInput) -> OffsetOccInputs:
        """Only the cameras that are present enter the network, each with the pose of its own exposure."""
        images = check_images(inputs, self.config.name, _STRIDE)
        if not all(inputs.present):
            images = images[torch.tensor(inputs.present, device=images.device)]
        projections = torch.from_numpy(image_from_anchor(inputs, camera_poses(inputs))).float()
        return OffsetOccInputs(images[None].to(self.device), projections[None].to(self.device))

    def _published(self, output: OffsetOccOutput) -> ModelOutput:
        logits = output.logits[0]
        best, classes = logits.max(dim=0)
        confidence = torch.exp(best - torch.logsumexp(logits, dim=0))
        return ModelOutput(
            torch.where(classes == self.config.free_class, FREE, classes).to(torch.uint8),
            confidence=(confidence * 255).round().to(torch.uint8),
            voxel_features=output.voxel_features[0] if self._voxel_features else None,
        )


def offsetocc_model(
    config: OffsetOccConfig,
    network: OffsetOccBaseline | PanopticNetwork[OffsetOccBaseline],
    device: torch.device | str = "cpu",
    weights: str = "none",
    trained_on: str = "",
    precision: Precision = "float32",
) -> PerceptionModel:
    """The model of a variant around its network (`build_offsetocc`): the baseline, or the whole."""
    common = (device, weights, trained_on, precision)
    if isinstance(network, PanopticNetwork):
        base = OffsetOccBaselineModel(config, network.base, *common, voxel_features=True)
        return PanopticModel(base, network.head, device=device, precision=precision)
    return OffsetOccBaselineModel(config, network, *common)


def create_offsetocc(
    name: str, weights: Path | None, device: torch.device, precision: Precision = "float32"
) -> PerceptionModel:
    """A variant with the weights of a safetensors file; without a file its weights are random and it says so.

    Raises:
        ConfigurationError: no such variant.
        WeightsError: the file does not hold this variant's weights.
    """
    from occ_perception.checkpoints.loading import load_weights

    config = offsetocc_config(name)
    network = build_offsetocc(config).eval()
    if weights is None:
        return offsetocc_model(config, network, device, "untrained", "nothing (random weights)", precision)
    loaded = load_weights(network, config.name, weights)
    return offsetocc_model(config, network, device, loaded.fingerprint, loaded.trained_on, precision)


__all__ = ["OffsetOccBaselineModel", "create_offsetocc", "offsetocc_model"]
