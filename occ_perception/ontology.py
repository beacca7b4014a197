"""Label sets: the names, colours and roles behind class ids, and maps between sets.

Every dataset numbers its classes differently and stores "free" under another id.  Inside the project an
`Occupancy` uses the occupied classes' own ids ``0..N-1`` and, whatever the label set, the two constants
`FREE` and `UNKNOWN`; `Ontology.from_dataset` and `Ontology.to_dataset` convert at the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.errors import ConfigurationError, InvalidInputError

FREE = 254
"""Id of a voxel that is known to be empty."""
UNKNOWN = 255
"""Id of a voxel nobody saw. Unknown is not free."""


@dataclass(frozen=True)
class Ontology:
    """A label set.

    Attributes:
        name: short identifier used in messages, reports and files.
        class_names: names of the occupied classes; the position is the id.
        colors: RGB of each class, 0..255.
        things: names of the classes that have instances.
        dataset_free_id: id the dataset's own files use for free space (None if it has none).
    """

    name: str
    class_names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    things: frozenset[str] = frozenset()
    dataset_free_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.colors) != len(self.class_names) or len(self.class_names) >= FREE:
            raise ConfigurationError(f"ontology {self.name}: one colour per class and fewer than {FREE} classes")
        unknown_things = self.things - set(self.class_names)
        if unknown_things:
            raise ConfigurationError(f"ontology {self.name}: things {sorted(unknown_things)} are not classes")

    @property
    def num_classes(self) -> int:
        """Number of occupied classes."""
        return len(self.class_names)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Ids of the classes that have instances."""
        return tuple(i for i, name in enumerate(self.class_names) if name in self.things)

    def id_of(self, class_name: str) -> int:
        """Id of a class.

        Raises:
            ConfigurationError: no such class (the message lists them).
        """
        if class_name not in self.class_names:
            raise ConfigurationError(f"ontology {self.name} has no class '{class_name}', only {self.class_names}")
        return self.class_names.index(class_name)

    def palette(self) -> np.ndarray:
        """RGB by id, uint8 [256, 3]; free and unassigned ids are black, unknown is grey."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        table[UNKNOWN] = (128, 128, 128)
        return table

    def from_dataset(self, labels: np.ndarray) -> np.ndarray:
        """Dataset labels (free as the dataset numbers it, 255 = unlabelled) to this project's ids, uint8.

        Raises:
            InvalidInputError: a label is none of the classes, free, or 255.
        """
        lut = np.full(256, FREE + 1, np.int16)
        lut[: self.num_classes] = np.arange(self.num_classes)
        valid = np.zeros(256, bool)
        valid[: self.num_classes] = valid[UNKNOWN] = True
        if self.dataset_free_id is not None:
            lut[self.dataset_free_id] = FREE
            valid[self.dataset_free_id] = True
        labels = np.asarray(labels)
        # Looking all up takes a tenth of the time of sorting them.
        doubtful = () if labels.dtype == np.uint8 and valid[labels].all() else np.unique(labels)
        bad = [int(v) for v in doubtful if not 0 <= v <= 255 or not valid[int(v)]]
        if bad:
            raise InvalidInputError(f"labels {bad} are not classes of {self.name} (0..{self.num_classes - 1}, free)")
        return lut.astype(np.uint8)[labels.astype(np.uint8)]

    def to_dataset(self, semantics: np.ndarray) -> np.ndarray:
        """This project's ids to the dataset's (free as it numbers it; unknown stays 255), uint8."""
        if self.dataset_free_id is None:
            raise ConfigurationError(f"ontology {self.name} has no dataset files, so no dataset id for free")
        lut = np.arange(256, dtype=np.uint8)
        lut[FREE] = self.dataset_free_id
        return lut[semantics]

    def map_to(self, other: Ontology) -> np.ndarray:
        """Look-up table uint8 [256] from this set's ids to another's, by name; what has no namesake is UNKNOWN."""
        table = np.full(256, UNKNOWN, np.uint8)
        for i, name in enumerate(self.class_names):
            if name in other.class_names:
                table[i] = other.class_names.index(name)
        table[FREE] = FREE
        return table


_COLORS = {
    "others": (90, 90, 90),
    "barrier": (255, 120, 50),
    "bicycle": (255, 192, 203),
    "bus": (255, 215, 0),
    "car": (0, 150, 245),
    "construction_vehicle": (0, 220, 220),
    "motorcycle": (200, 180, 0),
    "pedestrian": (230, 30, 30),
    "traffic_cone": (255, 240, 150),
    "trailer": (135, 60, 0),
    "truck": (160, 32, 240),
    "driveable_surface": (190, 90, 190),
    "other_flat": (139, 137, 137),
    "sidewalk": (105, 20, 105),
    "terrain": (150, 220, 80),
    "manmade": (200, 190, 165),
    "vegetation": (0, 160, 0),
    "ground": (150, 120, 160),
    "occupied": (225, 190, 90),
}
_MOVABLE = (
    "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "trailer", "truck",
)  # fmt: skip


def _label_set(name: str, names: tuple[str, ...], things: tuple[str, ...], free_id: int | None) -> Ontology:
    return Ontology(name, names, tuple(_COLORS[n] for n in names), frozenset(things), free_id)


_LIDARSEG_NAMES = (
    "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation",
)  # fmt: skip

OCC3D = _label_set("occ3d", ("others", *_LIDARSEG_NAMES), (*_MOVABLE, "barrier", "traffic_cone"), 17)
"""Occ3D-nuScenes: 17 classes, free = 17 in its files."""

OPENOCC = _label_set(
    "openocc",
    (
        "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian",
        "traffic_cone", "barrier", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation",
    ),
    _MOVABLE,
    16,
)  # fmt: skip
"""OpenOcc v2: 16 classes in another order, free = 16."""

OPENOCCUPANCY = _label_set("openoccupancy", ("others", *_LIDARSEG_NAMES), (*_MOVABLE, "barrier", "traffic_cone"), None)
"""nuScenes-Occupancy (OpenOccupancy): ids 1..16 as lidarseg; its files use 0 for free, which its reader converts."""

SURROUNDOCC = _label_set("surroundocc", ("others", *_LIDARSEG_NAMES), (*_MOVABLE, "barrier", "traffic_cone"), None)
"""SurroundOcc: ids 1..16 as lidarseg, "others" never occurs; its files list occupied voxels only."""

LIDARSEG = _label_set("lidarseg", ("others", *_LIDARSEG_NAMES), (*_MOVABLE, "barrier", "traffic_cone"), None)
"""nuScenes lidarseg challenge: 0 = ignored, 1..16."""

GEOMETRY = _label_set("geometry", ("occupied", "ground"), (), None)
"""What geometry alone can know: something is there, or it is ground."""

ONTOLOGIES: dict[str, Ontology] = {o.name: o for o in (OCC3D, OPENOCC, OPENOCCUPANCY, SURROUNDOCC, LIDARSEG, GEOMETRY)}


def ontology_by_name(name: str) -> Ontology:
    """The label set of a name.

    Raises:
        ConfigurationError: unknown name (the message lists those that exist).
    """
    if name not in ONTOLOGIES:
        raise ConfigurationError(f"unknown ontology '{name}'; known: {sorted(ONTOLOGIES)}")
    return ONTOLOGIES[name]
