"""What the evaluator adds to a model, per frame: reading, counting, casting rays; and a whole run over files.

    python benchmarks/evaluate.py

Runs on a synthetic nuScenes tree (test/nuscenes_tree.py) of 8 keyframes with Occ3D labels; predictions are the labels
with a tenth of their voxels changed.  ``val_minutes`` is that cost for the 6019 frames of the validation split in one
process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "test"))

from evaluation_predictions import write_predictions
from nuscenes_tree import write_tree

from benchmarks.report import measure, report
from occ_perception.data.nuscenes import NuScenes
from occ_perception.evaluation.answers import LastAnswer
from occ_perception.evaluation.evaluator import EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.scoring import SceneScorer, new_metrics
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.geometry import OCC3D_GRID, rigid

VAL_FRAMES = 6019
KEYFRAMES = 8


def main() -> None:
    """Measure each stage of one frame, then a whole run."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        tree = write_tree(Path(folder) / "nuscenes", {"scene-0001": KEYFRAMES})
        predictions = write_predictions(tree, Path(folder) / "predictions", noise=0.1)
        report("evaluate", [*_stages(tree.root, predictions), *_runs(tree.root, predictions, Path(folder))])


def _row(stage: str, run: Callable[[], object], frames: int = 1, repeats: int = 20) -> dict[str, object]:
    times = {name: round(value / frames, 2) for name, value in measure(run, repeats, warm_up=1).items()}
    return {"stage": stage, **times, "val_minutes": round(times["median_ms"] * VAL_FRAMES / 60_000, 1)}


def _stages(root: Path, predictions: Path) -> list[dict[str, object]]:
    truth, dataset = GroundTruth("occ3d", root), NuScenes(root)
    scene = dataset.scene("scene-0001")
    tokens = truth.samples(scene)
    token = tokens[KEYFRAMES // 2]
    subject = FolderSubject(predictions, truth.set)
    label, (_, answer) = truth.read(scene, token), next(subject.answers(dataset, scene, [token]))
    last = LastAnswer(answer.semantics, None, np.eye(4))
    moved = rigid([4.0, 0.3, 0.0], [0, 0, 0.02, 1])

    def scorer(geometry_only: bool, rays: bool) -> SceneScorer:
        return SceneScorer(truth.set, scene, new_metrics(truth.set, geometry_only, rays))

    classes, geometry, rays = scorer(False, False), scorer(True, False), scorer(False, True)
    return [
        _row("read label", lambda: truth.read(scene, token)),
        _row("read prediction", lambda: next(subject.answers(dataset, scene, [token]))),
        _row("count mIoU, three masks", lambda: classes.add(token, label, answer)),
        _row("count geometry IoU, three masks", lambda: geometry.add(token, label, answer)),
        _row(f"the same and RayIoU, {KEYFRAMES} origins", lambda: rays.add(token, label, answer), repeats=5),
        _row("move a held answer", lambda: last.moved_to(moved, OCC3D_GRID)),
    ]


def _runs(root: Path, predictions: Path, folder: Path) -> list[dict[str, object]]:
    truth, dataset = GroundTruth("occ3d", root), NuScenes(root)
    number = iter(range(1000))

    def run(rays: bool, output: str) -> None:
        subject = FolderSubject(predictions, truth.set)
        evaluate(dataset, truth, subject, folder / output, EvaluationSettings(rays=rays))

    return [
        _row("whole run, files, no rays", lambda: run(False, f"out{next(number)}"), KEYFRAMES, repeats=5),
        _row("whole run, files, with rays", lambda: run(True, f"out{next(number)}"), KEYFRAMES, repeats=2),
        _row("resume a finished run", lambda: run(False, "out0"), KEYFRAMES, repeats=5),
    ]


if __name__ == "__main__":
    main()
