"""What comes out of a `Session`: a voxel grid of classes, visibility, flow and instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, VoxelGroups
from occ_perception.ontology import FREE, UNKNOWN, Ontology


class Visibility(IntEnum):
    """How a voxel is known; the numbers are those on the wire."""

    UNKNOWN = 0
    """No working sensor covers it."""
    FREE_SEEN = 1
    """Seen, and empty."""
    OCCUPIED_SEEN = 2
    """Seen, and not empty."""
    OCCLUDED = 3
    """Within a sensor's field of view, but behind something; or said to be free where a LiDAR return contradicts."""


@dataclass(frozen=True)
class ModelInfo:
    """Which model made a grid, and what it knows.

    Attributes:
        name: registry name.
        ontology: label set of its output.
        grid: geometry of its output, in ``base_link`` at the anchor stamp.
        weights: fingerprint of the weights, or "none".
        trained_on: what the weights were trained on, in words; empty when there are no weights.
        hidden_is_unknown: it learned only from voxels that sensors saw, so what it says of those behind is no knowledge
            and is published as unknown.
    """

    name: str
    ontology: Ontology
    grid: VoxelGrid
    weights: str = "none"
    trained_on: str = ""
    hidden_is_unknown: bool = False


@dataclass(frozen=True)
class TemporalStatus:
    """Whether past frames took part.

    Attributes:
        frames: how many past frames are in the state.
        reset: why the state was dropped before this frame; empty if it was not.
    """

    frames: int = 0
    reset: str = ""


@dataclass(frozen=True)
class Instance:
    """One object.

    Its voxels are not kept here but where the ids are: `Occupancy.instance_voxels`.

    Attributes:
        id: 1..65535, the value in `Occupancy.instances`; stable while the object is tracked (see `tracking`).
        class_id: class in the grid's ontology.
        score: 0..1.
        center: metres, grid frame [3].
        size: length (along ``yaw``), width, height in metres.
        yaw: heading about z, radians, grid frame.
        velocity: over ground in grid-frame axes, m/s [3]; NaN when not known.
        occluded: not seen in this frame, kept by tracking; it has no voxels.
    """

    id: int
    class_id: int
    score: float
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    velocity: tuple[float, float, float]
    occluded: bool = False


@dataclass(frozen=True)
class Occupancy:
    """A voxel grid at one instant, arrays are indexed ``[x, y, z]``.

    Invariant: a voxel is FREE only where it was seen (`Visibility.FREE_SEEN`); where nothing looked it is UNKNOWN.

    Attributes:
        stamp_ns: anchor stamp, nanoseconds.
        info: the model, its label set and the geometry of the grid.
        semantics: uint8 [X, Y, Z], class ids of the ontology, or FREE, or UNKNOWN.
        visibility: uint8 [X, Y, Z], `Visibility`.
        confidence: uint8 [X, Y, Z], 0..255 for 0..1, or None.
        flow: float32 [X, Y, Z, 2], velocity over ground along grid x and y, m/s, or None.
        instances: uint16 [X, Y, Z], 0 = none, or None; only voxels of classes that have instances.
        objects: the instances; those that are not occluded have voxels in ``instances``, if that is given.
        prediction: uint8 [X, Y, Z], what the model said everywhere, seen or not (FREE or a class): for benchmarks,
            which score unseen voxels too; never published.
        predicted_instances: uint16 [X, Y, Z], likewise the model's own ids, which are not those of ``instances``.
        cameras: configured cameras in order; cameras_used: those that took part.
        lidar_used: whether LiDAR took part.
        temporal: state of temporal fusion.
        timings_ms: wall time by stage.
        notes: what a user should know of this frame (missing sensors, dropped state and why).
    """

    stamp_ns: int
    info: ModelInfo
    semantics: np.ndarray
    visibility: np.ndarray
    confidence: np.ndarray | None = None
    flow: np.ndarray | None = None
    instances: np.ndarray | None = None
    objects: tuple[Instance, ...] = ()
    prediction: np.ndarray | None = None
    predicted_instances: np.ndarray | None = None
    cameras: tuple[str, ...] = ()
    cameras_used: tuple[str, ...] = ()
    lidar_used: bool = False
    temporal: TemporalStatus = TemporalStatus()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = self.info.grid.size
        self._check("semantics", self.semantics, np.uint8, size)
        self._check("visibility", self.visibility, np.uint8, size)
        self._check("confidence", self.confidence, np.uint8, size)
        self._check("instances", self.instances, np.uint16, size)
        self._check("flow", self.flow, np.float32, (*size, 2))
        self._check("prediction", self.prediction, np.uint8, size)
        self._check("predicted_instances", self.predicted_instances, np.uint16, size)

    @staticmethod
    def _check(name: str, array: np.ndarray | None, dtype: type, shape: tuple[int, ...]) -> None:
        if array is not None and (array.dtype != dtype or array.shape != shape):
            raise InvalidInputError(
                f"occupancy.{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
            )

    @property
    def grid(self) -> VoxelGrid:
        """Geometry of the grid."""
        return self.info.grid

    @property
    def ontology(self) -> Ontology:
        """Label set of the grid."""
        return self.info.ontology

    def occupied(self) -> np.ndarray:
        """bool [X, Y, Z]: holds a class, so neither free nor unknown."""
        return self.semantics < FREE

    @cached_property
    def instance_groups(self) -> VoxelGroups:
        """The voxels of all instances by id, sorted once; do not change ``instances`` afterwards."""
        return VoxelGroups.none() if self.instances is None else VoxelGroups.of(self.instances)

    def instance_voxels(self, instance_id: int) -> np.ndarray:
        """C-order linear indices of an instance's voxels, ascending, int64 [n]; empty if it has none (occluded)."""
        return self.instance_groups.voxels_of(instance_id)

    def counts(self) -> dict[str, int]:
        """Voxels by class name (those present), and of "free" and "unknown"."""
        histogram = np.bincount(self.semantics.ravel(), minlength=256)
        named = {name: int(histogram[i]) for i, name in enumerate(self.ontology.class_names) if histogram[i]}
        return {**named, "free": int(histogram[FREE]), "unknown": int(histogram[UNKNOWN])}
