"""From what a model says of one frame to objects and voxels whose ids last: what a `Session` calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from occ_perception.connected_instances import connected_instances
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGroups
from occ_perception.instances import (
    check_boxes,
    fitting_ids,
    objects_from_voxels,
    thing_voxels,
    with_believable_velocity,
)
from occ_perception.occupancy import Instance, ModelInfo
from occ_perception.tracking.settings import TrackingSettings
from occ_perception.tracking.track import Detections
from occ_perception.tracking.tracker import Tracker


class ObjectsOverTime:
    """Holds the tracks of one stream of frames.

    Args:
        info: label set and grid of the model.
        settings: see there.
    """

    def __init__(self, info: ModelInfo, settings: TrackingSettings) -> None:
        self._info, self._settings = info, settings
        self._tracker = Tracker(info.ontology, info.grid, settings)

    def restart(self) -> None:
        """Another stream begins: numbers begin at 1 again, too."""
        self._tracker = Tracker(self._info.ontology, self._info.grid, self._settings)

    def update(
        self,
        stamp_ns: int,
        odom_from_ego: np.ndarray | None,
        continues: bool,
        published: Mapping[str, Any],
        ids: np.ndarray | None,
        said: tuple[Instance, ...],
    ) -> dict[str, Any]:
        """Find the objects of a frame, and which of them were there before.

        Args:
            stamp_ns: of the frame.
            odom_from_ego: float64 [4, 4], where its grid is; None only if it continues nothing.
            continues: whether time, poses and their frame follow those before (see `Continuity`); otherwise all
                tracks end.
            published: arrays of the `Occupancy` by name: semantics, visibility, confidence, flow, prediction.
            ids: the model's instances, whole numbers [X, Y, Z], 0 = none; or None.
            said: what the model itself says of objects: scores for ids of ``ids``; without ``ids``, boxes.

        Returns:
            ``objects`` of the `Occupancy`, and if there are ids ``instances`` and ``predicted_instances``.

        Raises:
            InvalidInputError: ids, scores or boxes that cannot be, or too many objects.  The tracks are not in this
                frame then, and the next may be as good as any.
        """
        if not continues:
            self._tracker.end_tracks()
        try:
            return self._update(stamp_ns, odom_from_ego, published, ids, said)
        except InvalidInputError:
            self._tracker.miss_frame(stamp_ns)
            raise

    def _update(
        self,
        stamp_ns: int,
        odom_from_ego: np.ndarray | None,
        published: Mapping[str, Any],
        ids: np.ndarray | None,
        said: tuple[Instance, ...],
    ) -> dict[str, Any]:
        semantics, grid, ontology = published["semantics"], self._info.grid, self._info.ontology
        if ids is None and self._settings.connect_voxels and ontology.things:
            ids = connected_instances(published["prediction"], ontology, published["flow"])
        check_boxes(said, ontology, "model")
        groups, predicted = VoxelGroups.none(), None
        if ids is None:
            objects = tuple(with_believable_velocity(item) for item in said)
        else:
            groups = thing_voxels(ids, semantics, ontology)
            objects = objects_from_voxels(
                groups, semantics, grid, ontology, published["confidence"], published["flow"], said
            )
            predicted = fitting_ids(ids)
        occluded: tuple[Instance, ...] = ()
        if self._settings.enabled:
            pose = np.eye(4) if odom_from_ego is None else odom_from_ego
            detections = Detections.of(objects, groups, grid, stamp_ns, pose)
            objects, occluded = self._tracker.update(detections, published["visibility"])
        else:
            objects = tuple(replace(item, id=number) for number, item in enumerate(objects, start=1))
        if ids is None:
            return {"objects": objects + occluded}
        labels = groups.renumbered(np.array([item.id for item in objects], np.uint16), grid.num_voxels)
        return {
            "instances": labels.reshape(grid.size),
            "predicted_instances": predicted,
            "objects": objects + occluded,
        }
