"""Instances for models that give classes only: neighbouring voxels of one thing class are one object.

A makeshift, off by default: two cars that touch become one object, and a car of which two parts are seen becomes two.
Where the model gives flow, neighbours that move apart are different objects.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from occ_perception.ontology import Ontology

MIN_VOXELS = 3
"""Smaller components are no objects but noise."""
MAX_SPEED_DIFFERENCE = 2.0
"""Between neighbouring voxels of one object, m/s."""
_FORWARD = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))
"""Half of the 26 neighbours: each pair is looked at once."""


def connected_instances(semantics: np.ndarray, ontology: Ontology, flow: np.ndarray | None = None) -> np.ndarray:
    """Number the connected components (26-neighbourhood) of each class that has instances.

    Args:
        semantics: uint8 [X, Y, Z]; classes of ``ontology``, FREE or UNKNOWN.
        ontology: label set.
        flow: float [X, Y, Z, 2], m/s, or None; where it is not finite it separates nothing.

    Returns:
        int32 [X, Y, Z]; 1, 2, ... in order of each component's first voxel, 0 = none.
    """
    is_thing = np.zeros(256, bool)
    is_thing[list(ontology.thing_ids)] = True
    cells = np.flatnonzero(is_thing[semantics])
    instances = np.zeros(semantics.shape, np.int32)
    if not cells.size:
        return instances
    first, second = _neighbours(cells, semantics.shape)
    classes = semantics.reshape(-1)[cells]
    joined = classes[first] == classes[second]
    if flow is not None:
        velocity = flow.reshape(-1, 2)[cells]
        with np.errstate(invalid="ignore"):  # NaN and infinity compare as "not apart"
            joined &= ~(np.linalg.norm(velocity[first] - velocity[second], axis=1) > MAX_SPEED_DIFFERENCE)
    links = coo_array((np.ones(int(joined.sum()), np.int8), (first[joined], second[joined])), (cells.size,) * 2)
    _, component = connected_components(links, directed=False)
    large = np.bincount(component) >= MIN_VOXELS
    number = np.where(large, np.cumsum(large), 0)
    instances.reshape(-1)[cells] = number[component]
    return instances


def _neighbours(cells: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions in ``cells`` (C-order linear index) that touch, int64 [E] each."""
    padded = tuple(n + 2 for n in shape)  # so that no neighbour of a border cell is on the other side
    position = np.full(padded[0] * padded[1] * padded[2], -1, np.int32)
    inner = np.ravel_multi_index(tuple(c + 1 for c in np.unravel_index(cells, shape)), padded)
    position[inner] = np.arange(cells.size)
    firsts, seconds = [], []
    for x, y, z in _FORWARD:
        beside = position[inner + (x * padded[1] + y) * padded[2] + z]
        touching = np.flatnonzero(beside >= 0)
        firsts.append(touching)
        seconds.append(beside[touching])
    return np.concatenate(firsts), np.concatenate(seconds)
