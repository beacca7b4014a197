"""What is scored, sample by sample: the answers of a model that is streamed through scenes, or of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.geometry import VoxelGrid, inverse, transform_points
from occ_perception.ontology import FREE, UNKNOWN, Ontology


@dataclass(frozen=True)
class Answer:
    """What was said of one sample.

    Attributes:
        semantics: uint8 [X, Y, Z]; classes of the subject's ontology, FREE, or UNKNOWN; what was said everywhere, seen
            or not (`Occupancy.prediction`).
        flow: float32 [X, Y, Z, 2], m/s, or None.
        instances: uint16 [X, Y, Z], any ids, 0 = none, likewise everywhere (`Occupancy.predicted_instances`); or None.
        tracks: uint16 [X, Y, Z], ids that last, of what was seen (`Occupancy.instances`); or None.
        odom_from_grid: float64 [4, 4], where the vehicle was at the grid's moment, in the scene's local frame; None =
            at that of the labels.
        sensors_missing: a configured camera, or the LiDAR, did not take part.
        held: nothing (usable) arrived for this sample, so this is the answer before it, moved with the vehicle.
    """

    semantics: np.ndarray
    flow: np.ndarray | None = None
    instances: np.ndarray | None = None
    tracks: np.ndarray | None = None
    odom_from_grid: np.ndarray | None = None
    sensors_missing: bool = False
    held: bool = False

    def without_unknown(self) -> np.ndarray:
        """Semantics with UNKNOWN counted as FREE: class metrics know no third state (the report says how many)."""
        return np.where(self.semantics == UNKNOWN, FREE, self.semantics).astype(np.uint8)


class Subject(Protocol):
    """Something that can be evaluated.

    Attributes:
        name: for reports and folders.
        identity: everything about it that changes its answers, for reports and to know old results again.
        ontology: label set of its answers.
        grid: geometry of its answers.
        frame: of its grids, "base_link" or "lidar_top".
        grid_frame: that frame and its moment, in words.
    """

    name: str
    identity: dict[str, str]
    ontology: Ontology
    grid: VoxelGrid
    frame: str
    grid_frame: str

    def check(self, scene: Scene, tokens: Sequence[str]) -> None:
        """Raise `DatasetError` if some of these samples cannot be answered, before anything is computed."""
        ...

    def files(self, scene: Scene) -> list[Path]:
        """Files the answers of a scene are read from, if they are."""
        ...

    def answers(self, dataset: NuScenes, scene: Scene, tokens: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """(sample token, answer) of samples of a scene, in time order; state never crosses scenes."""
        ...


@dataclass(frozen=True)
class LastAnswer:
    """The newest answer of a scene and where the vehicle was, for stamps at which nothing arrives."""

    answer: Answer
    odom_from_ego: np.ndarray

    def moved_to(self, odom_from_ego: np.ndarray, grid: VoxelGrid) -> Answer:
        """The same answer in the grid of the vehicle's present place (nearest cell); what is new in it is UNKNOWN."""
        then_from_now = inverse(self.odom_from_ego) @ odom_from_ego
        cells, inside = grid.cells_of(transform_points(then_from_now, grid.centers().reshape(-1, 3)))
        cells, inside = cells.reshape(*grid.size, 3), inside.reshape(grid.size)
        at = tuple(np.moveaxis(cells, -1, 0))
        then, flow = self.answer, None
        if then.flow is not None:
            turned = then.flow[at] @ then_from_now[:2, :2].astype(np.float32)  # row vectors: this is now_from_then
            flow = np.where(inside[..., None], turned, 0.0).astype(np.float32)
        instances, tracks = (
            None if ids is None else np.where(inside, ids[at], 0).astype(np.uint16)
            for ids in (then.instances, then.tracks)
        )
        semantics = np.where(inside, then.semantics[at], UNKNOWN).astype(np.uint8)
        return Answer(semantics, flow, instances, tracks, odom_from_ego, held=True)


def nothing_known(grid: VoxelGrid) -> Answer:
    """All UNKNOWN: nothing arrived yet in this scene."""
    return Answer(np.full(grid.size, UNKNOWN, np.uint8), held=True)
