"""Stable identities over time: one frame after the other, in a frame that does not move with the vehicle.

Policy:

* An object gets a number and is listed in the first frame that shows it.
* What is not seen keeps its number for ``memory_s`` from the first frame without it.  It is listed as occluded, moved
  on with constant velocity, if it was seen in ``confirm_frames`` frames and could be where it is expected: in the grid,
  not where the frame shows free space, and not in the voxels of another object.
* Of objects that become one, the larger keeps its number; the other is hidden in it and has its number again when they
  part within ``memory_s``.  Of parts of one object the largest keeps the number; the others have numbers of their own,
  but for ``memory_s`` they may be no more than parts, and end when the object is whole again.  In such frames what is
  remembered of the objects' shape and motion stays, so that a moment's mistake changes nothing.
* After a discontinuity all tracks end; numbers go on, so that none means another object right after.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid
from occ_perception.occupancy import Instance
from occ_perception.ontology import Ontology
from occ_perception.tracking.association import ClassTable, Overlap, alike, associate, overlap
from occ_perception.tracking.identities import IdPool
from occ_perception.tracking.parts import MOSTLY, contested, joined_by_size, stolen_parts, wholes_of_parts
from occ_perception.tracking.settings import TrackingSettings
from occ_perception.tracking.track import Detections, Track

MAX_PAIRS = 4_000_000
"""Of tracks and objects in a frame: 2000 objects are no scene, and must not fill the memory."""


class Tracker:
    """Gives the objects of each frame the identities they had before.

    Args:
        ontology: label set of the objects.
        grid: geometry of their voxels.
        settings: see there.
    """

    def __init__(self, ontology: Ontology, grid: VoxelGrid, settings: TrackingSettings) -> None:
        self._grid, self._settings = grid, settings
        self._memory_ns = round(settings.memory_s * 1e9)
        self._num_classes = ontology.num_classes
        self._classes = ClassTable.of(ontology)
        self._ids = IdPool()
        self._tracks: list[Track] = []

    def end_tracks(self) -> None:
        """What comes next does not continue what was; numbers go on."""
        self._ids.give_back(track.id for track in self._tracks)
        self._tracks = []

    def miss_frame(self, stamp_ns: int) -> None:
        """Nothing can be said of the objects of this frame, so none was seen."""
        for track in self._tracks:
            track.miss(stamp_ns)

    def update(self, detections: Detections, visibility: np.ndarray) -> tuple[tuple[Instance, ...], ...]:
        """Take a frame, later than the one before.

        Args:
            detections: its objects.
            visibility: uint8 [X, Y, Z], `Visibility`.

        Returns:
            (the objects in their order, with their identities and, where the model gives none, their velocities;
            the objects that are not seen).

        Raises:
            InvalidInputError: so many objects that they are none.
        """
        self._end(track.missing_for_ns(detections.stamp_ns) > self._memory_ns for track in self._tracks)
        self._check_number(len(detections.objects))
        met = overlap(self._tracks, detections, self._grid, visibility)
        confirmed = np.array([track.frames >= self._settings.confirm_frames for track in self._tracks], bool)
        rows, columns, wholes = self._joined(detections, met)
        part_of = [self._tracks[whole].id if whole >= 0 else 0 for whole in wholes.tolist()]
        carried = contested(met, rows, columns, confirmed, wholes).tolist()
        seen: list[Track | None] = [None] * len(detections.objects)
        for row, column, as_it_was in zip(rows.tolist(), columns.tolist(), carried, strict=True):
            seen[column] = track = self._tracks[row]
            (track.update_identity if as_it_was else track.update)(detections, column)
            track.part_of = part_of[column]
        hidden = np.ones(len(self._tracks), bool)
        hidden[rows] = False
        for row in np.flatnonzero(hidden).tolist():
            self._tracks[row].miss(detections.stamp_ns)
        occluded = self._occluded(hidden & confirmed, met, detections)
        part = np.array([track.part_of > 0 for track in self._tracks], bool)
        self._end(hidden & part & (met.covered > MOSTLY))  # of something that is whole again
        begun = self._begin([column for column, track in enumerate(seen) if track is None], detections)
        for column, track in begun.items():
            track.part_of = part_of[column]
        return tuple((track or begun[column]).item for column, track in enumerate(seen)), occluded

    def _joined(self, detections: Detections, met: Overlap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of tracks and objects, int64 [P] each, and of which track each object is a part, int64 [K]."""
        same_class = alike(self._tracks, detections, self._classes)
        rows, columns = associate(self._tracks, detections, met, self._classes)
        kept = ~stolen_parts(met, same_class, rows, columns)
        rows, columns = joined_by_size(self._tracks, met, same_class, rows[kept], columns[kept])
        began_after_ns = detections.stamp_ns - self._memory_ns
        return rows, columns, wholes_of_parts(self._tracks, met, same_class, rows, columns, began_after_ns)

    def _check_number(self, num_objects: int) -> None:
        if num_objects * max(len(self._tracks), num_objects) > MAX_PAIRS:
            raise InvalidInputError(
                f"tracking: expected at most {int(MAX_PAIRS**0.5)} objects in a scene, got {num_objects} "
                f"and {len(self._tracks)} of the last {self._settings.memory_s:g} s"
            )

    def _end(self, ended: Iterable[bool]) -> None:
        """End the tracks for which this is true."""
        kept = []
        for track, ends in zip(self._tracks, ended, strict=True):
            if ends:
                self._ids.give_back([track.id])
            else:
                kept.append(track)
        self._tracks = kept

    def _begin(self, columns: list[int], detections: Detections) -> dict[int, Track]:
        """New tracks for these objects."""
        ids = self._ids.draw(len(columns), {track.id for track in self._tracks})
        begun = {c: Track(i, detections, c, self._num_classes) for i, c in zip(ids, columns, strict=True)}
        self._tracks += begun.values()
        return begun

    def _occluded(self, hidden: np.ndarray, met: Overlap, detections: Detections) -> tuple[Instance, ...]:
        """Those of the hidden tracks (bool [T]) that could be where they are expected."""
        possible = hidden & (np.maximum(met.covered, met.seen_free) <= MOSTLY) & (self._memory_ns > 0)
        listed = []
        for row in np.flatnonzero(possible).tolist():
            track = self._tracks[row]
            item = track.predicted(detections.stamp_ns, detections.grid_from_fixed, self._settings.memory_s)
            in_grid = met.inside[row] > MOSTLY if len(track.points) else self._grid.cells_of(np.array([item.center]))[1]
            if in_grid:
                listed.append(item)
        return tuple(listed)
