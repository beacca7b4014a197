"""Cells of a grid grouped by their label, so that work on many objects needs no loop over cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class VoxelGroups:
    """Labelled cells of a grid, sorted by label.

    Attributes:
        ids: int64 [K], ascending, never 0; label of each group.
        starts: int64 [K + 1]; group k is ``voxels[starts[k]:starts[k + 1]]``, and no group is empty.
        voxels: int64 [M]; C-order linear indices, ascending within each group.
    """

    ids: np.ndarray
    starts: np.ndarray
    voxels: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> VoxelGroups:
        """Group the cells of a label grid (integers of any shape, 0 = in no group)."""
        flat = labels.reshape(-1)
        cells = np.flatnonzero(flat != 0)  # several times faster than of numbers
        return cls.of_cells(cells, flat[cells])

    @classmethod
    def of_cells(cls, cells: np.ndarray, labels: np.ndarray) -> VoxelGroups:
        """Group cells (int64 [M], ascending) by their labels (integers [M], not 0)."""
        order = np.argsort(labels, kind="stable")  # stable: cells stay ascending within their group
        ids, starts = np.unique(labels[order], return_index=True)
        return cls(ids.astype(np.int64), np.append(starts, len(cells)).astype(np.int64), cells[order])

    @classmethod
    def none(cls) -> VoxelGroups:
        """No group at all."""
        return cls(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def counts(self) -> np.ndarray:
        """Cells of each group, int64 [K]."""
        return np.diff(self.starts)

    @cached_property
    def row_of_voxel(self) -> np.ndarray:
        """Group (its position, not its id) of each entry of ``voxels``, int64 [M]."""
        return np.repeat(np.arange(len(self.ids)), self.counts)

    def voxels_of(self, label: int) -> np.ndarray:
        """Linear indices of the cells with a label, ascending, int64 [n]; empty if it has none."""
        row = int(np.searchsorted(self.ids, label))
        if row == len(self.ids) or self.ids[row] != label:
            return np.empty(0, np.int64)
        return self.voxels[self.starts[row] : self.starts[row + 1]]

    def renumbered(self, ids: np.ndarray, num_voxels: int) -> np.ndarray:
        """A flat label grid in which group k has the label ``ids[k]`` (uint16 [K]); uint16 [num_voxels], 0 = none."""
        labels = np.zeros(num_voxels, np.uint16)
        labels[self.voxels] = np.repeat(ids.astype(np.uint16), self.counts)
        return labels
