"""nuScenes to bags, bags to grids by replay, grids to figures: the same as the model gives directly."""

from pathlib import Path

import pytest
from nuscenes_tree import NuScenesTree

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.evaluation.evaluator import EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.model_subject import ModelSubject
from occ_perception.evaluation.report import figures
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.models import create_model
from occ_perception.replay_job import ReplaySettings, replay_bag
from occ_perception.session import Session


def test_convert_replay_and_evaluate(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    root = synthetic_nuscenes.root
    settings = SceneBagSettings(keyframes_only=True)
    bags = from_nuscenes(root, None, (), tmp_path / "bags", settings, progress=False)
    assert len(bags) == 3
    for bag in bags:
        replay_bag(bag, Session(create_model("lidar-carving")), ReplaySettings(tmp_path / "replayed"))
    dataset, truth = NuScenes(root), GroundTruth("occ3d", root)
    subjects = (FolderSubject(tmp_path / "replayed", truth.set), ModelSubject(create_model("lidar-carving")))
    replayed, direct = (evaluate(dataset, truth, s, tmp_path / "out", EvaluationSettings("lidar")) for s in subjects)
    assert replayed.tally.frames == direct.tally.frames == 6
    assert not replayed.failed
    for name, value in figures(direct).items():
        assert figures(replayed)[name] == pytest.approx(value, abs=0.005), name
