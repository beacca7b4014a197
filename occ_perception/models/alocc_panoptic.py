"""ALOcc with the Object Module and the Panoptic Module on its voxel features (see `models.panoptic`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_adapter import ALOccModel
from occ_perception.models.alocc_config import PANOPTIC_BASES, ALOccConfig, alocc_config
from occ_perception.models.alocc_geometry import published_grid
from occ_perception.models.panoptic import PanopticHead, PanopticModel, PanopticNetwork
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.ontology import ontology_by_name

# ALOcc's features have the full resolution; the object queries look at half of it, as in OffsetOcc.
_HEAD = PanopticConfig(feature_stride=2)


def attach_to_alocc(config: ALOccConfig, network: ALOcc, head: PanopticConfig = _HEAD) -> PanopticNetwork[ALOcc]:
    """A head with random weights on the features that the class prototypes of ``network`` are compared with."""
    things = ontology_by_name(config.label_set).thing_ids
    return PanopticNetwork(network, PanopticHead(head, published_grid(config), config.voxel_channels, things))


def build_alocc_panoptic(name: str) -> PanopticNetwork[ALOcc]:
    """The network of a registry name with random weights."""
    config = alocc_config(PANOPTIC_BASES[name])
    return attach_to_alocc(config, ALOcc(config))


def alocc_panoptic_model(
    name: str,
    config: ALOccConfig,
    network: PanopticNetwork[ALOcc],
    device: torch.device | str = "cpu",
    weights: str = "none",
    trained_on: str = "",
) -> PanopticModel:
    """The model around a network of ``attach_to_alocc``.

    Raises:
        ConfigurationError: the variant's grid lies in the LiDAR's axes.
        WeightsError: a weight is NaN or infinite.
    """
    base = ALOccModel(config, network.base, device, weights, trained_on, voxel_features=True)
    return PanopticModel(base, network.head, replace(base.info, name=name), device)


def create_alocc_panoptic(name: str, weights: Path | None, device: torch.device) -> PanopticModel:
    """The model of a registry name with the weights of a safetensors file; without a file they are random.

    Raises:
        WeightsError: the file does not hold this model's weights.
    """
    from occ_perception.checkpoints.loading import load_weights

    config, network = alocc_config(PANOPTIC_BASES[name]), build_alocc_panoptic(name).eval()
    if weights is None:
        return alocc_panoptic_model(name, config, network, device, "untrained", "nothing (random weights)")
    loaded = load_weights(network, name, weights)
    return alocc_panoptic_model(name, config, network, device, loaded.fingerprint, loaded.trained_on)
