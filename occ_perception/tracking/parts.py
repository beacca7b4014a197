"""Objects that are one for a while, and parts of one object: who keeps the identity, and what is a moment's mistake.

Where a frame shows one object in place of two, the larger of them is the one that is seen, and the other is hidden in
it; where it shows several in place of one, the largest of them is.  Each other part has an identity of its own at once,
but as long as it is new and stays where the whole was, the whole is remembered: the next frame may show it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from occ_perception.tracking.association import Overlap
from occ_perception.tracking.track import Track

MOSTLY = 0.5
"""Share of a track's or an object's voxels from which on they count as inside, covered, or free."""
_SAME = 0.7  # IoU from which on an object is what its track was


def joined_by_size(
    tracks: Sequence[Track], met: Overlap, alike: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give the identity to the largest part, and to the largest of what became one.

    By their costs alone, a few voxels of a moved grid would decide between parts of about the same size.

    Args:
        tracks: T of them.
        met: from `overlap`, K objects.
        alike: bool [T, K], whether their classes are taken for each other.
        rows, columns: int64 [P] each, the pairs of least cost.

    Returns:
        (tracks, objects): int64 [P] each, the same pairs but for what was exchanged with something larger.
    """
    part_of_track = alike & (met.of_object_in_track > MOSTLY)
    columns = _with_largest(part_of_track, met.of_object, np.zeros(len(met.of_object)), rows, columns)
    # What was hidden in it when it was seen last stays so: they do not take turns.
    last_seen = np.array([track.stamp_ns for track in tracks], np.int64)
    part_of_object = alike & (met.of_track_in_object > MOSTLY)
    return _with_largest(part_of_object.T, met.in_grid, last_seen, columns, rows), columns


def stolen_parts(met: Overlap, alike: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pairs without a common voxel whose object is a part of another track, of which another part is seen; bool [P].

    They are there only because nothing else was left for both.
    """
    part = alike & (met.of_object_in_track > MOSTLY)
    in_parts = rows[part[rows, columns]]
    return part[in_parts][:, columns].any(axis=0) & (met.shared[rows, columns] == 0)


def _with_largest(
    inside: np.ndarray, size: np.ndarray, rank: np.ndarray, wholes: np.ndarray, parts: np.ndarray
) -> np.ndarray:
    """Exchange part b of a whole a for the largest one that has none and no lower rank; ``inside``: bool [A, B]."""
    parts, left = parts.copy(), np.ones(len(size), bool)
    left[parts] = False
    for pair in np.flatnonzero((inside & left)[wholes].any(axis=1)):
        whole, part = wholes[pair], parts[pair]
        larger = inside[whole] & left & (size > size[part]) & (rank >= rank[part])
        if inside[whole, part] and larger.any():
            parts[pair] = np.where(larger, size, 0).argmax()
            left[part], left[parts[pair]] = True, False
    return parts


def wholes_of_parts(
    tracks: Sequence[Track],
    met: Overlap,
    alike: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    began_after_ns: int,
) -> np.ndarray:
    """Of which track each object of the frame is a part.

    Args:
        tracks, met, alike, rows, columns: as for `joined_by_size`, whose pairs these are.
        began_after_ns: parts that are older are objects of their own.

    Returns:
        int64 [K], position of the track, which is seen in this frame too; -1: the object is none's part.
    """
    wholes, new = np.full(len(met.of_object), -1), np.ones(len(met.of_object), bool)
    new[columns] = False
    if len(rows) and new.any():
        share = np.where(alike, met.of_object_in_track, 0.0)[rows][:, new]
        wholes[new] = np.where(share.max(axis=0) > MOSTLY, rows[share.argmax(axis=0)], -1)
    row_of = {tracks[row].id: row for row in rows.tolist()}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        whole = row_of.get(tracks[row].part_of, -1)
        if whole >= 0 and tracks[row].began_ns >= began_after_ns and met.of_object_in_track[whole, column] > MOSTLY:
            wholes[column] = whole
    return wholes


def contested(
    met: Overlap, rows: np.ndarray, columns: np.ndarray, confirmed: np.ndarray, wholes: np.ndarray
) -> np.ndarray:
    """Whether what is seen of a track is likely but a part of it, or several in one, and looks like it.

    Args:
        met, rows, columns: as for `wholes_of_parts`.
        confirmed: bool [T], tracks that may be hidden in an object of this frame if they have none.
        wholes: from `wholes_of_parts`.

    Returns:
        bool [P].
    """
    lost = confirmed.copy()
    lost[rows] = False
    several = np.any(met.of_track_in_object[lost] > MOSTLY, axis=0)
    return (np.isin(rows, wholes) | several[columns]) & (met.iou[rows, columns] < _SAME)
