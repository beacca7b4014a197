"""Image backbones trained on ImageNet: torchvision's ResNet files, to begin training with."""

from __future__ import annotations

from pathlib import Path

from occ_perception.checkpoints.importer import read_checkpoint
from occ_perception.checkpoints.key_table import OPTIONAL_SUFFIX, KeyTable, compare
from occ_perception.errors import WeightsError
from occ_perception.layers.resnet import ResNet

_CLASSIFIER_PREFIX = "fc."


def load_resnet(backbone: ResNet, source: str | Path) -> None:
    """Load a torchvision file (``resnet101-*.pth``; read with ``weights_only=True``) without its classifier.

    Raises:
        WeightsError: unreadable file, or another network's weights (the message lists the keys that differ).
    """
    _, tensors = read_checkpoint(Path(source))
    tensors = {key: value for key, value in tensors.items() if not key.startswith(_CLASSIFIER_PREFIX)}
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    table = KeyTable("resnet", shapes, {})
    difference = compare(tensors, table, table.required)
    if difference:
        raise WeightsError(f"{source} is not this ResNet: {difference}")
    backbone.load_state_dict({key: value for key, value in tensors.items() if not key.endswith(OPTIONAL_SUFFIX)}, False)
