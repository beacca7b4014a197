"""What an actor is before it is placed: its mesh, centred, with its exact box."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.data.synthetic.primitives import moved
from occ_perception.data.synthetic.scene import TriangleMesh
from occ_perception.ontology import OCC3D


@dataclass(frozen=True)
class ActorModel:
    """A mesh with its origin in the middle of its footprint on the ground, x forward.

    Attributes:
        class_id: Occ3D class.
        category: nuScenes category name.
        mesh: in its own frame.
        size: length, width, height, metres: the extent of the mesh.
    """

    class_id: int
    category: str
    mesh: TriangleMesh
    size: tuple[float, float, float]


def actor_model(class_name: str, category: str, parts: list[TriangleMesh]) -> ActorModel:
    """Parts put together and centred."""
    mesh = TriangleMesh.merged(parts)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    centered = moved(mesh, (-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]))
    length, width, height = (float(extent) for extent in high - low)
    return ActorModel(OCC3D.id_of(class_name), category, centered, (length, width, height))
