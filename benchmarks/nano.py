"""`nano` on held-out synthetic scenes, beside what needs no learning: one table, and figures per class.

    occ_perception world --scenes 110 --frames 10 -o data/world            (only for the majority baseline)
    occ_perception world --scenes 10 --frames 10 --split val -o data/world_val
    python benchmarks/nano.py data/world_val --training data/world

Rows: the majority class of every cell in the training labels, `lidar-carving` (geometry only), and nano with cameras
and LiDAR, cameras only, LiDAR only, without temporal fusion (state dropped before every frame), and with each camera
missing.  mIoU and IoU count what the cameras saw; RayIoU, mAVE, RayPQ and PQ (of LiDAR points) are the benchmarks' own;
MOTA and IDF1 say how well published objects keep to the true ones and their names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.report import report
from occ_perception.data.nuscenes import NuScenes
from occ_perception.evaluation.answers import Subject
from occ_perception.evaluation.evaluator import Evaluation, EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.mapped_subject import MappedSubject
from occ_perception.evaluation.model_subject import ModelSubject
from occ_perception.evaluation.protocols import CLEAN, Corruption, choose_corruptions
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.frame import Frame
from occ_perception.models import create_model
from occ_perception.ontology import FREE, OCC3D, OPENOCC
from occ_perception.session import Session


class Forgetful(Session):
    """A session whose every frame is the first."""

    def step(self, frame: Frame):  # noqa: ANN201
        """See `Session.step`."""
        self.reset()
        return super().step(frame)


def majority(root: Path, every: int = 3) -> np.ndarray:
    """The most frequent class of every cell where a camera saw it, uint8 [X, Y, Z]; free where none ever did."""
    truth = GroundTruth("occ3d", root)
    dataset = NuScenes(root)
    counts: np.ndarray | None = None
    for label in _labels(dataset, truth, every):
        classes = np.where(label.semantics == FREE, OCC3D.num_classes, label.semantics).astype(np.int64)
        if counts is None:
            counts = np.zeros((classes.size, OCC3D.num_classes + 1), np.int32)
        seen = np.flatnonzero(label.mask_camera & (classes <= OCC3D.num_classes))
        counts[seen, classes.ravel()[seen]] += 1
    assert counts is not None
    best = counts.argmax(axis=1).reshape(classes.shape)
    return np.where((best == OCC3D.num_classes) | (counts.sum(axis=1).reshape(classes.shape) == 0), FREE, best).astype(
        np.uint8
    )


def _labels(dataset: NuScenes, truth: GroundTruth, every: int) -> Iterator:
    for name in truth.scenes(dataset):
        scene = dataset.scene(name)
        for token in truth.samples(scene)[::every]:
            yield truth.read(scene, token)


def figures(evaluation: Evaluation) -> dict[str, float]:
    """The figures of the table, percent (mAVE: m/s)."""
    wanted = {"mIoU", "IoU", "RayIoU", "mAVE", "PQ", "RayPQ", "MOTA", "IDF1"}
    found: dict[str, float] = {}
    for name, metric in evaluation.reported().items():
        if not name.endswith(("_lidar", "_none")):
            for figure, value in metric.compute().values.items():
                if figure in wanted and figure not in found:
                    found[figure] = round(value if figure == "mAVE" else 100 * value, 2)
    return found


class Table:
    """Scores subjects on one dataset and collects the rows."""

    def __init__(self, root: Path, output: Path) -> None:
        self.dataset, self.output, self.root = NuScenes(root), output, root
        self.labels = {name: GroundTruth(name, root) for name in ("occ3d", "openocc")}
        self.rows: list[dict[str, object]] = []
        self.per_class: dict[str, dict[str, float]] = {}

    def add(self, name: str, subject: Subject, rays: bool = False, flow: bool = False) -> None:
        """Score one subject: on Occ3D's labels and, with ``flow``, on OpenOcc's."""
        result = evaluate(self.dataset, self.labels["occ3d"], subject, self.output / name, _settings("camera", rays))
        row = {"what": name} | figures(result)
        metric = result.metrics.get("semantic_iou_camera")
        if metric is not None:
            scores = metric.compute()
            pairs = zip(scores.class_names, scores.per_class["IoU"], strict=True)
            self.per_class[name] = {class_name: round(100 * value, 1) for class_name, value in pairs}
        if flow:
            mapped = MappedSubject(subject, OPENOCC)
            scored = evaluate(self.dataset, self.labels["openocc"], mapped, self.output / name, _settings("none", True))
            row |= {k: v for k, v in figures(scored).items() if k == "mAVE"}
        print(row, flush=True)
        self.rows.append(row)


def _settings(mask: str, rays: bool) -> EvaluationSettings:
    return EvaluationSettings(mask=mask, rays=rays)


def majority_row(table: Table, training: Path, folder: Path) -> None:
    """Predict the same for every frame."""
    grid = OCC3D.to_dataset(majority(training))
    folder.mkdir()
    truth = table.labels["occ3d"]
    for name in truth.scenes(table.dataset):
        for token in truth.samples(table.dataset.scene(name)):
            np.savez(folder / f"{token}.npz", pred=grid)
    table.add("majority class of every cell", FolderSubject(folder, truth.set), rays=True)


def nano_rows(table: Table, weights: Path | None, each_camera: bool) -> None:
    """All ways to run nano."""
    model = create_model("nano", weights)
    session = Session(model)

    def subject(sensors: str, corruption: Corruption = CLEAN, by: Session = session) -> ModelSubject:
        return ModelSubject(model, corruption=corruption, session=by, sensors=sensors)

    for sensors, name in (("all", "cameras + LiDAR"), ("camera", "cameras only"), ("lidar", "LiDAR only")):
        table.add(f"nano, {name}", subject(sensors), rays=True, flow=sensors != "lidar")
    for sensors, name in (("all", "cameras + LiDAR"), ("camera", "cameras only")):
        table.add(f"nano, {name}, state dropped", subject(sensors, by=Forgetful(model)))
    if each_camera:
        cameras = table.dataset.scene(table.dataset.scene_names[0]).channels("camera")
        for corruption in choose_corruptions(["camera_dropped"], cameras, True, True):
            table.add(f"nano, cameras only, {corruption.name}", subject("camera", replace(corruption)))


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="held-out scenes in nuScenes layout")
    parser.add_argument("--training", type=Path, help="training scenes, for the majority baseline")
    parser.add_argument("--weights", type=Path, help="other weights than the package's")
    parser.add_argument("--quick", action="store_true", help="leave out the rows with a camera missing")
    arguments = parser.parse_args()
    if arguments.root is None:
        print("needs held-out scenes, see --help; nothing measured")
        return
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        table = Table(arguments.root, Path(folder) / "evaluation")
        if arguments.training is not None:
            majority_row(table, arguments.training, Path(folder) / "majority")
        table.add("lidar-carving (geometry only)", ModelSubject(create_model("lidar-carving")))
        nano_rows(table, arguments.weights, not arguments.quick)
    report("nano", table.rows)
    for name, classes in table.per_class.items():
        print(name, classes)


if __name__ == "__main__":
    main()
