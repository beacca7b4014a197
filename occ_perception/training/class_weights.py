"""Class and sampling weights from voxel counts (specs/alocc.md section 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.errors import ConfigurationError

# Voxels per class in the Occ3D-nuScenes training set, ids 0..17.
OCC3D_COUNTS = (
    944004, 1897170, 152386, 2391677, 16957802, 724139, 189027, 2074468, 413451,
    2384460, 5916653, 175883646, 4275424, 51393615, 61411620, 105975596, 116424404, 1892500630,
)  # fmt: skip
# The OpenOcc classes in Occ3D's numbering.
_OPENOCC_IN_OCC3D = (4, 10, 9, 3, 5, 2, 6, 7, 8, 1, 11, 12, 13, 14, 15, 16, 17)


def class_counts(label_set: str) -> Tensor:
    """Voxel counts, float64 [classes], in the order of the label set."""
    counts = torch.tensor(OCC3D_COUNTS, dtype=torch.float64)
    if label_set in ("occ3d", "surroundocc"):
        return counts
    if label_set == "openocc":
        return counts[list(_OPENOCC_IN_OCC3D)]
    raise ConfigurationError(f"no class counts for label set {label_set!r}; known: occ3d, openocc, surroundocc")


def class_weights(counts: Tensor) -> Tensor:
    """Loss weight per query [classes + 1]: inverse log frequency relative to class 0; void weighs 0."""
    inverse = 1 / torch.log(counts + 0.001)
    return torch.cat([inverse.new_zeros(1), inverse / inverse[0]]).float()


def sampling_weights(counts: Tensor) -> Tensor:
    """Weight of a voxel in point sampling by its label [classes + 1]: fourth root of rarity; void weighs 0."""
    rarity = (1 / counts) / (1 / counts).min()
    return torch.cat([rarity.new_zeros(1), rarity**0.25]).float()
