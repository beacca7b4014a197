"""What batches for validation carry of the label, besides what the task prepares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from occ_perception.data.labels import GridLabel
from occ_perception.errors import ConfigurationError

CLASSES, VISIBLE, INSTANCES = "validation_classes", "validation_visible", "validation_instances"
"""Names of its tensors in a batch."""


@dataclass(frozen=True)
class TruthWanted:
    """Which parts of the label are scored.

    Attributes:
        mask: see `ValidationSettings`.
        instances: instances of voxels too.
    """

    mask: Literal["camera", "lidar", "none"]
    instances: bool = False

    def tensors(self, label: GridLabel) -> dict[str, Tensor]:
        """Classes uint8, which of them count bool, instances int32 if wanted; each [X, Y, Z].

        Raises:
            ConfigurationError: the label has no such mask, or no instances.
        """
        everything = np.ones(label.semantics.shape, bool)
        visible = {"camera": label.mask_camera, "lidar": label.mask_lidar, "none": everything}[self.mask]
        if visible is None:
            raise ConfigurationError(f"validation.mask: the labels ({label.source}) have no {self.mask} mask")
        tensors = {CLASSES: torch.from_numpy(label.semantics), VISIBLE: torch.from_numpy(visible)}
        if not self.instances:
            return tensors
        if label.instances is None:
            raise ConfigurationError(f"validation.metric: PQ needs instances, the labels ({label.source}) have none")
        return {**tensors, INSTANCES: torch.from_numpy(label.instances.astype(np.int32))}
