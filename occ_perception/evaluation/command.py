"""The verb ``eval``: score a model, or someone's prediction files, on nuScenes."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError
from occ_perception.evaluation.answers import Subject
from occ_perception.evaluation.evaluator import Evaluation, EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.mapped_subject import MappedSubject
from occ_perception.evaluation.model_subject import GRID_FRAMES, SENSORS, ModelSubject
from occ_perception.evaluation.protocols import CLEAN, GROUPS, Corruption, choose_corruptions
from occ_perception.evaluation.report import corruption_table, summary_text, write_reports
from occ_perception.evaluation.splits import SPLITS, split_scenes
from occ_perception.evaluation.truth import LABEL_SETS, GroundTruth
from occ_perception.metrics.semantic_iou import MASKS
from occ_perception.models import create_model, resolve_device
from occ_perception.session import Session, SessionSettings
from occ_perception.tracking.settings import TrackingSettings

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``occ_perception eval`` takes."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="score this model, see 'occ_perception models'")
    subject.add_argument(
        "--predictions",
        type=Path,
        help="score the files <sample token>.npz of this folder (key pred, semantics or arr_0)",
    )
    parser.add_argument("--weights", type=Path, help=".safetensors of the model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--dataset", choices=("nuscenes",), default="nuscenes")
    parser.add_argument("--root", type=Path, required=True, help="dataset root")
    parser.add_argument("--version", help="tables' folder, e.g. v1.0-trainval; default: the only one there")
    parser.add_argument("--labels", choices=tuple(LABEL_SETS), default="occ3d")
    parser.add_argument("--labels-folder", type=Path, help="where they lie, if not in the usual folder under the root")
    scenes = parser.add_mutually_exclusive_group()
    scenes.add_argument("--scenes", nargs="+", default=(), metavar="NAME", help="default: all scenes with labels")
    scenes.add_argument("--split", choices=SPLITS, help="the official split (published figures are on val)")
    parser.add_argument("--mask", choices=MASKS, help="voxels of the quoted figure (default: the benchmark's own)")
    parser.add_argument(
        "--grid-frame",
        choices=("auto", *GRID_FRAMES),
        default="auto",
        help="anchor the model's grid at the CAM_FRONT image, as trained, or at the LiDAR keyframe, as labelled",
    )
    parser.add_argument("--sensors", choices=tuple(SENSORS), default="all", help="what the model is given")
    parser.add_argument(
        "--map-classes",
        action="store_true",
        help="read the model's classes as the labels' classes of the same name (an occ3d model on openocc labels)",
    )
    parser.add_argument(
        "--connect-instances",
        action="store_true",
        help="where the model gives classes only, take connected voxels of a class for an object",
    )
    parser.add_argument("--no-rays", action="store_true", help="leave out RayIoU (seconds per frame on a CPU)")
    parser.add_argument(
        "--corruptions", nargs="+", default=(), metavar="NAME", help=f"also with faults: all, {', '.join(GROUPS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--shard", metavar="i/n", help="this worker's scenes, i from 0 (torchrun tells it by itself)")
    parser.add_argument("-o", "--output", type=Path, default=Path("evaluation"), help="folder for state and reports")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report; returns 1 if some scenes could not be scored.

    Raises:
        OccPerceptionError: the evaluation cannot be made; the message says why.
    """
    dataset = NuScenes(arguments.root, arguments.version)
    truth = GroundTruth(arguments.labels, arguments.root, arguments.labels_folder)
    settings = EvaluationSettings(
        mask=arguments.mask or truth.set.masks[0],
        rays=not arguments.no_rays,
        scenes=split_scenes(arguments.split, truth.folder) if arguments.split else tuple(arguments.scenes),
        selection=f"split {arguments.split}" if arguments.split else "",
        shard=Shard.parse(arguments.shard) if arguments.shard else Shard.from_environment(),
        device=_device(arguments.device),
        progress=True,
    )
    if arguments.predictions:
        evaluations = [_evaluate_folder(dataset, truth, arguments, settings)]
    else:
        evaluations = _evaluate_model(dataset, truth, arguments, settings)
    return _report(evaluations, arguments)


def _evaluate_folder(
    dataset: NuScenes, truth: GroundTruth, arguments: argparse.Namespace, settings: EvaluationSettings
) -> Evaluation:
    if arguments.connect_instances:
        raise ConfigurationError("--connect-instances is for --model; prediction files are scored as they are")
    if arguments.map_classes or arguments.sensors != "all":
        raise ConfigurationError("--map-classes and --sensors are for --model; prediction files are scored as they are")
    if arguments.corruptions or arguments.weights:
        raise ConfigurationError("--corruptions and --weights are for --model; prediction files are scored as they are")
    return evaluate(dataset, truth, FolderSubject(arguments.predictions, truth.set), arguments.output, settings)


def _evaluate_model(
    dataset: NuScenes, truth: GroundTruth, arguments: argparse.Namespace, settings: EvaluationSettings
) -> list[Evaluation]:
    device = resolve_device(settings.device)
    model = create_model(arguments.model, arguments.weights, device)
    tracking = TrackingSettings(connect_voxels=arguments.connect_instances)
    session = Session(model, device, SessionSettings(tracking=tracking))
    corruptions: tuple[Corruption, ...] = ()
    if arguments.corruptions:
        cameras = dataset.scene(dataset.scene_names[0]).channels("camera")
        corruptions = choose_corruptions(
            arguments.corruptions, cameras, session.needs_images, model.uses_lidar, arguments.seed
        )
    evaluations = []
    for corruption in (CLEAN, *corruptions):
        subject: Subject = ModelSubject(
            model, device, arguments.grid_frame, corruption, arguments.seed, session, arguments.sensors
        )
        if arguments.map_classes:
            subject = MappedSubject(subject, truth.set.ontology)
        evaluations.append(evaluate(dataset, truth, subject, arguments.output, settings))
    session.close()
    return evaluations


def _device(name: str) -> str:
    """The device; under torchrun each local worker its own GPU."""
    device = resolve_device(name)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return str(device)


def _report(evaluations: list[Evaluation], arguments: argparse.Namespace) -> int:
    """Whoever finishes last writes the reports."""
    pending = sum(len(evaluation.pending) for evaluation in evaluations)
    if pending:
        logger.info("%d scenes are with other workers; the last one to finish writes the report", pending)
        return 0
    for evaluation in evaluations:
        folder = write_reports(evaluation)
    if len(evaluations) == 1:
        print(summary_text(evaluations[0]) + f"\nwritten to {folder}")
    else:
        stem = f"corruptions_{evaluations[0].folder.name}"
        print(corruption_table(evaluations, arguments.output, stem) + f"\nwritten to {arguments.output / stem}.json")
    return int(any(evaluation.failed for evaluation in evaluations))
