"""The models: one file per paper, and the LiDAR carving baseline that needs no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from occ_perception.errors import ConfigurationError
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput, PerceptionModel

if TYPE_CHECKING:
    from occ_perception.models.lidar_carving_config import LidarCarvingConfig

__all__ = [
    "ImageSpec",
    "ModelInput",
    "ModelOutput",
    "PerceptionModel",
    "canonical_name",
    "create_model",
    "create_network",
    "model_names",
    "network_names",
    "resolve_device",
]

LIDAR_CARVING = "lidar-carving"
NANO = "nano"
NANO_PANOPTIC = "nano-panoptic"


def model_names() -> tuple[str, ...]:
    """Names that `create_model` takes."""
    return (LIDAR_CARVING, *network_names())


def network_names() -> tuple[str, ...]:
    """Names of the models that are networks, which `create_network` takes."""
    from occ_perception.models import alocc_config, offsetocc_config

    return (NANO, NANO_PANOPTIC, *alocc_config.VARIANTS, *alocc_config.PANOPTIC_BASES, *offsetocc_config.VARIANTS)


def canonical_name(name: str) -> str:
    """A model's name as it is stored and shown: lower case, ``-`` for ``_``."""
    return name.lower().replace("_", "-")


def create_network(name: str) -> nn.Module:
    """The network of a model with random weights, in training mode: for training, and for what weights must fit.

    Raises:
        ConfigurationError: no such network (the message lists them).
    """
    name = canonical_name(name)
    if name not in network_names():
        raise ConfigurationError(f"unknown network '{name}'; known networks: {', '.join(network_names())}")
    if name == NANO:
        from occ_perception.models.nano import Nano

        return Nano()
    if name == NANO_PANOPTIC:
        from occ_perception.models.nano_panoptic import build_nano_panoptic

        return build_nano_panoptic()
    from occ_perception.models import alocc_config, offsetocc_config

    if name in offsetocc_config.VARIANTS:
        from occ_perception.models.offsetocc import build_offsetocc

        return build_offsetocc(offsetocc_config.VARIANTS[name])
    if name in alocc_config.PANOPTIC_BASES:
        from occ_perception.models.alocc_panoptic import build_alocc_panoptic

        return build_alocc_panoptic(name)
    from occ_perception.models.alocc import ALOcc

    return ALOcc(alocc_config.VARIANTS[name])


def resolve_device(device: str) -> torch.device:
    """A device name to a device; "auto" is the GPU when there is one.

    Raises:
        ConfigurationError: the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"device '{device}' is not valid; use auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device '{device}' was asked for but this PyTorch sees no GPU; use auto or cpu")
    return resolved


def create_model(
    name: str,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    allow_untrained: bool = False,
    carving: LidarCarvingConfig | None = None,
) -> PerceptionModel:
    """Build a model ready for a `Session`.

    Args:
        name: one of `model_names` (``-`` and ``_`` are the same).
        weights: safetensors file made by ``occ_perception import`` or ``train``; None for models that need none, and
            for the weights that come with the package (nano).
        device: where it runs.
        allow_untrained: build a network with random weights (tests and speed measurements only); everything it
            says is marked as untrained.
        carving: settings of lidar-carving, and the own vehicle's box for every model that uses LiDAR; None: the
            defaults (a nuScenes car).

    Raises:
        ConfigurationError: unknown name (the message lists the names), or weights missing where they are needed.
        WeightsError: the file does not fit the model (the message says which keys differ).
    """
    name = canonical_name(name)
    if name not in model_names():
        raise ConfigurationError(f"unknown model '{name}'; known models: {', '.join(model_names())}")
    if name == LIDAR_CARVING:
        from occ_perception.models.lidar_carving import LidarCarving

        if weights:
            raise ConfigurationError(f"model {name} takes no weights, got {weights}")
        return LidarCarving(carving)
    if not weights and not allow_untrained:
        from occ_perception.checkpoints.bundled import bundled_weights

        weights = bundled_weights(name)
    if not weights and not allow_untrained:
        raise ConfigurationError(
            f"model {name} needs weights (a .safetensors file); see 'occ_perception import --help'"
        )
    path = Path(weights) if weights else None
    own_vehicle = carving.own_vehicle if carving else None
    if name == NANO:
        from occ_perception.models.nano_adapter import create_nano

        return create_nano(path, torch.device(device), own_vehicle)
    if name == NANO_PANOPTIC:
        from occ_perception.models.nano_panoptic import create_nano_panoptic

        return create_nano_panoptic(path, torch.device(device), own_vehicle)
    from occ_perception.models import alocc_config, offsetocc_config

    if name in offsetocc_config.VARIANTS:
        from occ_perception.models.offsetocc_adapter import create_offsetocc

        return create_offsetocc(name, path, torch.device(device))
    if name in alocc_config.PANOPTIC_BASES:
        from occ_perception.models.alocc_panoptic import create_alocc_panoptic

        return create_alocc_panoptic(name, path, torch.device(device))
    from occ_perception.models.alocc_adapter import create_alocc

    return create_alocc(name, path, torch.device(device))
