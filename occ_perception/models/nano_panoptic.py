"""`nano` with the Object Module and the Panoptic Module on its voxel features (see `models.panoptic`).

They replace the instances of nano's own light head of centres and offsets.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.models.nano import Nano
from occ_perception.models.nano_adapter import NanoModel
from occ_perception.models.panoptic import PanopticHead, PanopticModel, PanopticNetwork
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.ontology import ontology_by_name

# Small, as nano is. 7 voxels are 2.8 m: larger objects are covered by what their voxels within the voting radius get.
_HEAD = PanopticConfig(channels=64, feature_stride=2, queries=200, layers=2, heads=4, hidden=128, offsets_per_side=7)


def attach_to_nano(network: Nano, head: PanopticConfig = _HEAD) -> PanopticNetwork[Nano]:
    """A head with random weights on the features that the class prototypes of ``network`` are compared with."""
    config = network.config
    things = ontology_by_name(config.label_set).thing_ids
    return PanopticNetwork(network, PanopticHead(head, config.grid, config.voxel_channels, things))


def build_nano_panoptic() -> PanopticNetwork[Nano]:
    """The network of ``nano-panoptic`` with random weights."""
    return attach_to_nano(Nano())


def nano_panoptic_model(
    network: PanopticNetwork[Nano],
    device: torch.device | str = "cpu",
    weights: str = "none",
    trained_on: str = "",
    own_vehicle: OwnVehicle | None = None,
) -> PanopticModel:
    """The model around a network of ``attach_to_nano``.

    Raises:
        WeightsError: a weight is NaN or infinite.
    """
    config = network.base.config
    base = NanoModel(config, network.base, device, weights, trained_on, own_vehicle, voxel_features=True)
    return PanopticModel(base, network.head, replace(base.info, name=f"{config.name}-panoptic"), device)


def create_nano_panoptic(
    weights: Path | None, device: torch.device, own_vehicle: OwnVehicle | None = None
) -> PanopticModel:
    """``nano-panoptic`` with the weights of a safetensors file; without a file they are random and it says so.

    Raises:
        WeightsError: the file does not hold this model's weights.
    """
    from occ_perception.checkpoints.loading import load_weights

    network = build_nano_panoptic().eval()
    if weights is None:
        return nano_panoptic_model(network, device, "untrained", "nothing (random weights)", own_vehicle)
    loaded = load_weights(network, f"{network.base.config.name}-panoptic", weights)
    return nano_panoptic_model(network, device, loaded.fingerprint, loaded.trained_on, own_vehicle)
