"""The evaluator: scenes in order through one subject, counters per scene, merged to a result that can be quoted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from occ_perception import __version__
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError, DatasetError, OccPerceptionError, WeightsError
from occ_perception.evaluation.answers import Subject
from occ_perception.evaluation.instance_truth import InstanceTruth
from occ_perception.evaluation.point_truth import PointTruth
from occ_perception.evaluation.records import RunFolder, SceneRecord, fingerprint
from occ_perception.evaluation.scoring import SceneScorer, Tally, check_comparable, new_metrics
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.ontology import GEOMETRY

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        mask: voxels of the headline figure; all masks of the labels are counted.
        rays: also compute RayIoU.
        scenes: names; empty = all scenes that have labels.
        selection: what these scenes are, for the report; empty = says itself.
        shard: this worker's part of them.
        device: where rays are cast.
        progress: show a progress bar.
    """

    mask: str = "camera"
    rays: bool = True
    scenes: tuple[str, ...] = ()
    selection: str = ""
    shard: Shard = field(default_factory=Shard)
    device: str = "cpu"
    progress: bool = False


@dataclass
class Evaluation:
    """The state of a run after this worker has done its part.

    Attributes:
        folder: of the run.
        settings: what was evaluated.
        mask: of the headline figure.
        selection: which scenes were to be scored, in words.
        metrics, tally: of all scored scenes together.
        scored: names of the scenes in them, in order.
        failed: why scenes could not be scored, by name.
        pending: scenes other workers have not finished.
    """

    folder: Path
    settings: Mapping[str, str]
    mask: str
    selection: str
    metrics: dict[str, Accumulator]
    tally: Tally = field(default_factory=Tally)
    scored: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def add(self, record: SceneRecord) -> None:
        """Merge a finished scene."""
        for name, metric in self.metrics.items():
            metric.merge(record.metrics[name])
        self.tally.add(record.tally)
        self.scored.append(record.scene)

    def reported(self) -> dict[str, Accumulator]:
        """The metrics worth a report: those of velocities and instances only if the subject gives them."""
        needed = {
            "openocc": self.tally.with_flow,
            "tracking": self.tally.with_tracks,
            **dict.fromkeys(("ray_pq", "panoptic", "panoptic_in_grid"), self.tally.with_instances),
        }
        return {n: m for n, m in self.metrics.items() if needed.get(n, True) and (m.frames or n != "lidarseg_iou")}

    def headline(self) -> tuple[str, float]:
        """Name and value (0..1) of the figure to quote."""
        reported = self.reported()
        preferred = (f"semantic_iou_{self.mask}", f"geometry_iou_{self.mask}", "openocc", *reported)
        result = next(reported[name] for name in preferred if name in reported).compute()
        return result.headline, result.values[result.headline]


def evaluate(
    dataset: NuScenes, truth: GroundTruth, subject: Subject, output: Path, settings: EvaluationSettings
) -> Evaluation:
    """Score a subject on the labelled scenes of a dataset, or this worker's part of them.

    Finished scenes are taken from ``output`` if nothing that they depend on has changed; so an interrupted evaluation
    goes on where it was, and any number of workers on one folder (in turn or at once) give bit-identical results.  A
    scene with missing or damaged files is left out and named in `Evaluation.failed`.

    Raises:
        ConfigurationError: subject and labels cannot be compared, or there is no such scene.
        DatasetError: samples without a prediction (before anything is computed), or output that cannot be written.
    """
    check_comparable(subject, truth.set, settings.mask)
    return _Run(dataset, truth, subject, output, settings).evaluate()


class _Run:
    """One subject against one label set: what `evaluate` does, step by step."""

    def __init__(
        self, dataset: NuScenes, truth: GroundTruth, subject: Subject, output: Path, settings: EvaluationSettings
    ) -> None:
        self.dataset, self.truth, self.subject, self.settings = dataset, truth, subject, settings
        self.instances, self.points = InstanceTruth(dataset, truth.set), PointTruth(dataset)
        self.scenes = _chosen_scenes(dataset, truth, settings.scenes)
        self.folder = RunFolder(output, self._identity())

    def evaluate(self) -> Evaluation:
        """This worker's scenes, then all that are finished."""
        mine = self.settings.shard.of(self.scenes)
        samples = 0
        for name in mine:
            scene = self.dataset.scene(name)
            tokens = self.truth.samples(scene)
            self.subject.check(scene, tokens)
            samples += len(tokens)
        running = self._nothing_yet()
        with tqdm(total=samples, desc=self._title(), unit="frame", disable=not self.settings.progress) as bar:
            for name in mine:
                record = self._finished(self.dataset.scene(name), bar)
                if record is not None:
                    running.add(record)
                    figure, value = running.headline()
                    bar.set_postfix_str(f"{figure} {100 * value:.2f} on {running.tally.frames} frames")
        return self._collected()

    def _title(self) -> str:
        return self.subject.identity.get("corruption", self.subject.name)

    def _identity(self) -> dict[str, str]:
        """Everything that changes a scene's counters.  Not: which scenes, how many workers, which mask is quoted."""
        return {
            "evaluator": f"occ_perception {__version__}",
            "dataset": f"nuScenes {self.dataset.version}",
            "dataset_root": str(self.dataset.root.resolve()),
            "labels": self.truth.set.name,
            "labels_folder": str(self.truth.folder.resolve()),
            "rays": str(self.settings.rays),
            "instances": self.instances.source or "-",
            "points": ", ".join(self.points.packs) or "-",
            "subject": self.subject.name,
            "ontology": self.subject.ontology.name,
            "grid": str(self.subject.grid),
            **self.subject.identity,
        }

    def _metrics(self) -> dict[str, Accumulator]:
        return new_metrics(
            self.truth.set,
            self.subject.ontology is GEOMETRY,
            self.settings.rays,
            bool(self.instances.source),
            self.instances.has_identities,
            self.points.packs,
        )

    def _nothing_yet(self) -> Evaluation:
        settings = self.settings
        selection = settings.selection or ("scenes named" if settings.scenes else "all scenes with labels")
        return Evaluation(self.folder.folder, self.folder.settings, settings.mask, selection, self._metrics())

    def _fingerprint(self, scene: Scene) -> str:
        return fingerprint((*self.truth.files(scene), *self.points.files(scene), *self.subject.files(scene)))

    def _finished(self, scene: Scene, bar: tqdm) -> SceneRecord | None:
        """The record of a scene, from disk or computed now; None if it cannot be scored."""
        inputs = self._fingerprint(scene)
        record = self.folder.load(scene.name, inputs, self._metrics())
        if record is not None:
            bar.update(record.tally.frames)
            return record
        try:
            record = self._score(scene, inputs, bar)
        except (ConfigurationError, WeightsError):  # wrong for every scene
            raise
        except OccPerceptionError as error:
            logger.warning("%s is not scored: %s", scene.name, error)
            self.folder.save_failure(scene.name, str(error))
            return None
        self.folder.save(record)
        return record

    def _score(self, scene: Scene, inputs: str, bar: tqdm) -> SceneRecord:
        tokens = self.truth.samples(scene)
        scorer = SceneScorer(self.truth.set, scene, self._metrics(), self.settings.device)
        for token, answer in self.subject.answers(self.dataset, scene, tokens):
            label = self.truth.read(scene, token)
            instances = self.instances.read(scene, token, label) if scorer.wants_instances else None
            points = self.points.read(scene, token) if scorer.wants_points else None
            scorer.add(token, label, answer, instances, points)
            bar.update()
        scorer.finish()
        scorer.tally.unlabelled = len(scene.samples) - len(tokens)
        if scorer.tally.frames != len(tokens):
            answered = scorer.tally.frames
            raise DatasetError(f"{scene.name}: {len(tokens)} samples have labels but only {answered} were answered")
        return SceneRecord(scene.name, inputs, scorer.tally, scorer.metrics)

    def _collected(self) -> Evaluation:
        """All finished scenes of all workers."""
        result = self._nothing_yet()
        for name in self.scenes:
            record = self.folder.load(name, self._fingerprint(self.dataset.scene(name)), result.metrics)
            reason = self.folder.failure(name)
            if record is not None:
                result.add(record)
            elif reason is not None:
                result.failed[name] = reason
            else:
                result.pending.append(name)
        return result


def _chosen_scenes(dataset: NuScenes, truth: GroundTruth, wanted: Sequence[str]) -> tuple[str, ...]:
    labelled = truth.scenes(dataset)
    if not labelled:
        raise DatasetError(f"labels {truth.folder}: none of the {len(dataset.scene_names)} scenes has any")
    missing = [name for name in wanted if name not in labelled]
    if missing:
        raise ConfigurationError(f"scenes {missing} have no labels in {truth.folder}; {len(labelled)} scenes have")
    return tuple(name for name in labelled if name in wanted) if wanted else labelled
