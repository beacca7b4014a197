"""Which metrics belong to which labels, and feeding them; all figures come from `occ_perception.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from occ_perception.data.labels import GridLabel
from occ_perception.data.nuscenes_records import Scene
from occ_perception.errors import ConfigurationError, DatasetError, InvalidInputError
from occ_perception.evaluation.answers import Answer, Subject
from occ_perception.evaluation.instance_truth import TrueInstances
from occ_perception.evaluation.point_truth import LabelledPoints
from occ_perception.evaluation.truth import LIDAR, LabelSet
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays, ray_origins
from occ_perception.metrics.flow import OpenOccScore
from occ_perception.metrics.geometry_iou import GeometryIoU
from occ_perception.metrics.lidarseg_iou import LidarsegIoU
from occ_perception.metrics.openoccupancy import OpenOccupancyScore
from occ_perception.metrics.panoptic import PanopticQuality
from occ_perception.metrics.points_from_voxels import PANOPTIC_POLICY, panoptic_points, point_labels
from occ_perception.metrics.ray_iou import RayIoU
from occ_perception.metrics.ray_pq import RayPQ
from occ_perception.metrics.semantic_iou import MOVABLE, SemanticIoU
from occ_perception.metrics.tracking import TrackedFrame, TrackingScore
from occ_perception.ontology import GEOMETRY, OCC3D, OPENOCC, UNKNOWN

IN_GRID = "points outside the grid do not count"
POINT_METRICS = frozenset({"lidarseg_iou", "panoptic", "panoptic_in_grid"})
"""Those that are scored on labelled LiDAR points."""


@dataclass
class Tally:
    """What happened besides the metrics; integers, so tallies of workers add up.

    Attributes:
        frames: samples scored.
        unlabelled: keyframes without a label, which are not scored.
        sensors_missing: scored samples for which a configured sensor did not take part.
        held: scored samples for which nothing usable arrived.
        with_flow: scored samples with velocities.
        with_instances: scored samples with instances.
        with_tracks: scored samples with ids that last.
        voxels, unknown: voxels of all scored answers, and how many of them were UNKNOWN.
    """

    frames: int = 0
    unlabelled: int = 0
    sensors_missing: int = 0
    held: int = 0
    with_flow: int = 0
    with_instances: int = 0
    with_tracks: int = 0
    voxels: int = 0
    unknown: int = 0

    def add(self, other: Tally) -> None:
        """Add another scene's counts."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def check_comparable(subject: Subject, labels: LabelSet, mask: str) -> None:
    """Whether the subject's answers can be scored against the labels at all.

    Raises:
        ConfigurationError: another grid or frame, another label set, or a mask that the labels do not have.
    """
    if mask not in labels.masks:
        raise ConfigurationError(f"labels {labels.name} have no mask '{mask}'; use {' or '.join(labels.masks)}")
    if subject.ontology is not GEOMETRY and subject.ontology.class_names != labels.ontology.class_names:
        raise ConfigurationError(
            f"{subject.name} answers in the classes of {subject.ontology.name}, labels {labels.name} are in those of "
            f"{labels.ontology.name}: class metrics between label sets would mean nothing"
        )
    if subject.frame != labels.frame:
        raise ConfigurationError(
            f"{subject.name} answers in {subject.frame}, labels {labels.name} are in {labels.frame}: their grids do "
            "not cover the same space"
        )
    if subject.grid != labels.grid:
        raise ConfigurationError(f"{subject.name} answers on {subject.grid}, labels {labels.name} are on {labels.grid}")


def new_metrics(
    labels: LabelSet,
    geometry_only: bool,
    rays: bool,
    instances: bool = False,
    identities: bool = False,
    point_packs: Sequence[str] = (),
) -> dict[str, Accumulator]:
    """The metrics of a benchmark, all zero, by the name of their report.

    Args:
        labels: the benchmark.
        geometry_only: the subject knows no classes, so only "occupied or not" can be scored.
        rays: also those that cast rays (seconds per frame on a CPU).
        instances: there are true instances, so that RayPQ can be scored too.
        identities: and it is known who they are over time.
        point_packs: "lidarseg" and "panoptic", those of which there are labels of LiDAR points.
    """
    metrics: dict[str, Accumulator]
    if geometry_only:
        return {f"geometry_iou_{mask}": GeometryIoU(labels.ontology.name, mask) for mask in labels.masks}
    if labels.ontology is OCC3D:
        metrics = {f"semantic_iou_{mask}": SemanticIoU(OCC3D.name, mask) for mask in labels.masks}
        metrics |= {"ray_iou": RayIoU(OCC3D.name)} if rays else {}
        metrics |= {"ray_pq": RayPQ(OCC3D.name)} if rays and instances else {}
        metrics |= {"tracking": TrackingScore()} if identities else {}
    elif labels.ontology is OPENOCC:
        if not rays:
            raise ConfigurationError(f"labels {labels.name} are scored by rays only; do not switch rays off")
        metrics = {"ray_iou": RayIoU(OPENOCC.name), "openocc": OpenOccScore(OPENOCC.name)}
    else:
        metrics = {"openoccupancy": OpenOccupancyScore()}
    if "lidarseg" in point_packs:
        metrics["lidarseg_iou"] = LidarsegIoU()
    if "panoptic" in point_packs:
        metrics["panoptic"] = PanopticQuality(PANOPTIC_POLICY)
        metrics["panoptic_in_grid"] = PanopticQuality(f"{PANOPTIC_POLICY}; {IN_GRID}")
    return metrics


class SceneScorer:
    """Scores the samples of one scene.

    Args:
        labels: the benchmark.
        scene: the scene; its LiDAR poses are where RayIoU's rays start.
        metrics: what to feed, from `new_metrics`.
        device: where rays are cast.
    """

    def __init__(
        self, labels: LabelSet, scene: Scene, metrics: dict[str, Accumulator], device: torch.device | str = "cpu"
    ) -> None:
        self._labels, self._device = labels, device
        self.metrics, self.tally = metrics, Tally()
        self._keyframes = [token for token, _ in scene.samples if LIDAR in scene.keyframes[token]]
        records = [scene.keyframes[token][LIDAR] for token in self._keyframes]
        self._ego_from_lidar = np.array([record.mount.ego_from_sensor for record in records])
        self._odom_from_ego = np.array([record.odom_from_ego(scene.origin) for record in records])
        self._stamps_ns = dict(scene.samples)
        self._tracked: list[TrackedFrame] = []

    @property
    def wants_instances(self) -> bool:
        """Whether true instances are of use."""
        return not {"ray_pq", "tracking"}.isdisjoint(self.metrics)

    @property
    def wants_points(self) -> bool:
        """Whether labelled points are of use."""
        return not POINT_METRICS.isdisjoint(self.metrics)

    def add(
        self,
        token: str,
        label: GridLabel,
        answer: Answer,
        instances: TrueInstances | None = None,
        points: LabelledPoints | None = None,
    ) -> None:
        """Score one sample.

        Args:
            token: which.
            label: its truth.
            answer: what was said of it.
            instances: true instances, for RayPQ and the score of tracking.
            points: labelled points of its sweep, for lidarseg and panoptic quality; None if it has none.

        Raises:
            DatasetError: rays are wanted but the sample has no LiDAR keyframe.
            InvalidInputError: an answer or a label of the wrong shape, type or classes; names the sample.
        """
        try:
            self._update(token, label, answer, None if instances is None else instances.ids)
            if instances is not None and instances.identities is not None:
                self._tracked.append(self._objects_in_sight(token, label, answer, instances.identities))
            if points is not None:
                self._update_points(answer, points)
        except InvalidInputError as error:
            raise InvalidInputError(f"sample {token}: {error}") from error
        tally = self.tally
        tally.frames += 1
        tally.sensors_missing += answer.sensors_missing
        tally.held += answer.held
        tally.with_flow += answer.flow is not None
        tally.with_instances += answer.instances is not None
        tally.with_tracks += answer.tracks is not None
        tally.voxels += answer.semantics.size
        tally.unknown += int((answer.semantics == UNKNOWN).sum())

    def finish(self) -> None:
        """All samples of the scene were added, in order of time."""
        tracking = self.metrics.get("tracking")
        if isinstance(tracking, TrackingScore):
            tracking.update(self._tracked)

    def _objects_in_sight(self, token: str, label: GridLabel, answer: Answer, identities: np.ndarray) -> TrackedFrame:
        """True and tracked objects by their centres, in the voxels that the label says a sensor saw: tracks are of what
        was seen."""
        tracks = np.zeros_like(identities) if answer.tracks is None else answer.tracks
        masks = [mask for mask in (label.mask_camera, label.mask_lidar) if mask is not None]
        seen = np.logical_or.reduce(masks) if masks else np.ones(identities.shape, bool)
        true, said = (np.where(seen, ids, 0).astype(ids.dtype) for ids in (identities, tracks))
        return TrackedFrame.of_centres(self._stamps_ns[token], true, said, label.grid.voxel_size)

    def _update(self, token: str, label: GridLabel, answer: Answer, instances: np.ndarray | None) -> None:
        truth, masks = label.semantics, {"camera": label.mask_camera, "lidar": label.mask_lidar, "none": None}
        said = answer.without_unknown()
        rays = None
        if {"ray_iou", "openocc", "ray_pq"} & self.metrics.keys():
            ontology, grid = self._labels.ontology, self._labels.grid
            rays = cast_evaluation_rays(truth, said, self._origins(token), ontology, grid, self._device)
        for metric in self.metrics.values():
            if isinstance(metric, GeometryIoU):
                metric.update(truth, answer.semantics, masks[metric.mask])
            elif isinstance(metric, SemanticIoU):
                metric.update(truth, said, masks[metric.mask])
            elif isinstance(metric, OpenOccupancyScore):
                metric.update(truth, said)
            elif isinstance(metric, RayIoU) and rays is not None:
                metric.update(rays)
            elif isinstance(metric, RayPQ) and rays is not None and instances is not None:
                metric.update(rays, instances, self._ray_pq_segments(said, answer))
            elif isinstance(metric, OpenOccScore) and rays is not None and label.flow is not None:
                still = np.zeros_like(label.flow)  # counts only where some answers have flow; see `Tally.with_flow`
                metric.update(rays, truth, label.flow, still if answer.flow is None else answer.flow)

    def _ray_pq_segments(self, said: np.ndarray, answer: Answer) -> np.ndarray:
        """Predicted ids as RayPQ takes them: each class without instances, barriers and cones included, is one."""
        if answer.instances is None:  # counts only where some answers have instances; see `Tally.with_instances`
            return np.zeros(said.shape, np.uint16)
        has_instances = np.zeros(256, bool)
        has_instances[[i for i, name in enumerate(self._labels.ontology.class_names) if name in MOVABLE]] = True
        return np.where(has_instances[said], answer.instances, 0)

    def _update_points(self, answer: Answer, points: LabelledPoints) -> None:
        grid, ontology, said = self._labels.grid, self._labels.ontology, answer.without_unknown()
        where = points.in_grid(self._labels.frame, answer.odom_from_grid)
        lidarseg, panoptic, in_grid = (self.metrics.get(n) for n in ("lidarseg_iou", "panoptic", "panoptic_in_grid"))
        if points.classes is not None and isinstance(lidarseg, LidarsegIoU):
            lidarseg.update(points.classes, point_labels(said, where, grid, ontology))
        if points.panoptic is not None and isinstance(panoptic, PanopticQuality):
            instances = np.zeros(said.shape, np.uint16) if answer.instances is None else answer.instances
            predicted = panoptic_points(said, instances, where, grid, ontology)
            panoptic.update(points.panoptic, predicted)
            if isinstance(in_grid, PanopticQuality):
                inside = grid.cells_of(where)[1]
                in_grid.update(points.panoptic[inside], predicted[inside])

    def _origins(self, token: str) -> np.ndarray:
        if token not in self._keyframes:
            raise DatasetError(f"sample {token}: RayIoU needs the pose of its {LIDAR} keyframe, which is not there")
        return ray_origins(self._ego_from_lidar, self._odom_from_ego, self._keyframes.index(token))
