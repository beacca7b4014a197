"""True instances of a sample: from its label file, or made of the annotated boxes as SparseOcc made those files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from occ_perception.data.labels import GridLabel
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import BoxAnnotation, Scene, SensorRecord
from occ_perception.data.nuscenes_tables import table_path
from occ_perception.errors import DatasetError
from occ_perception.evaluation.truth import LIDAR, LabelSet
from occ_perception.geometry import inverse, rigid
from occ_perception.metrics.instance_truth import instances_from_boxes
from occ_perception.ontology import OCC3D

CLASS_OF_CATEGORY = {
    **dict.fromkeys(
        (f"human.pedestrian.{kind}" for kind in ("adult", "child", "construction_worker", "police_officer")),
        "pedestrian",
    ),
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Detection class of nuScenes' categories; boxes of other categories (strollers, animals, debris...) do not count."""
FROM_FILES, FROM_BOXES = "label files", "annotated boxes"


class TrueInstances(NamedTuple):
    """Instances of a sample.

    Attributes:
        ids: integers [X, Y, Z], 0 = none; they hold for this sample only, and may number other classes too.
        identities: uint16 [X, Y, Z], 0 = none; who the objects are throughout the scene; None if nobody knows.
    """

    ids: np.ndarray
    identities: np.ndarray | None


class InstanceTruth:
    """Instances for RayPQ and for the score of tracking, where there are any.

    Args:
        dataset: whose boxes.
        labels: which labels they belong to; only Occ3D's classes have instances.

    Attributes:
        source: where they come from, in words; "" if there are none.
    """

    def __init__(self, dataset: NuScenes, labels: LabelSet) -> None:
        self._dataset = dataset
        self._numbers: dict[str, dict[str, int]] = defaultdict(dict)
        self.source = ""
        if labels.has_instances:
            self.source = FROM_FILES
        elif labels.ontology is OCC3D and table_path(dataset.root / dataset.version, "sample_annotation").is_file():
            self.source = FROM_BOXES

    @property
    def has_identities(self) -> bool:
        """Whether it is known who is who over time: annotated boxes tell, label files do not."""
        return self.source == FROM_BOXES

    def read(self, scene: Scene, token: str, label: GridLabel) -> TrueInstances | None:
        """Instances of a sample; None if there are none at all.

        Raises:
            DatasetError: no LiDAR keyframe, to which boxes refer; annotation tables that are damaged.
            InvalidInputError: see `instances_from_boxes`.
        """
        if self.source != FROM_BOXES:
            return None if label.instances is None else TrueInstances(label.instances, None)
        record = scene.keyframes[token].get(LIDAR)
        if record is None:
            raise DatasetError(f"{scene.name}, sample {token}: no {LIDAR} keyframe, so no frame for its boxes")
        annotations = [box for box in self._dataset.annotations(token) if box.category in CLASS_OF_CATEGORY]
        names = [CLASS_OF_CATEGORY[box.category] for box in annotations]
        boxes, mount = lidar_boxes(annotations, record), record.mount.ego_from_sensor
        numbered = instances_from_boxes(label.semantics, boxes, names, mount, OCC3D, label.grid)
        of_id = np.zeros(256, np.uint16)  # label files hold uint8; what is no box stays 0
        numbers = self._numbers[scene.name]
        for row, box in enumerate(numbered.boxes.tolist()):
            of_id[row + 1] = numbers.setdefault(annotations[box].instance_token, len(numbers) + 1)
        return TrueInstances(numbered.instances, of_id[numbered.instances])


def lidar_boxes(annotations: Sequence[BoxAnnotation], record: SensorRecord) -> np.ndarray:
    """Annotated boxes in the LiDAR frame, float64 [N, 7]: centre x, y, z, length, width, height, yaw.

    Args:
        annotations: N boxes of a sample.
        record: its LiDAR keyframe.
    """
    global_from_lidar = rigid(record.translation, record.quaternion_xyzw) @ record.mount.ego_from_sensor
    poses = [inverse(global_from_lidar) @ box.global_from_box for box in annotations]
    rows = [
        [*pose[:3, 3], *box.size, np.arctan2(pose[1, 0], pose[0, 0])]
        for pose, box in zip(poses, annotations, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 7)
