"""Any number of processes, killed or not, give the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_predictions import write_predictions
from nuscenes_tree import NuScenesTree

from occ_perception import cli
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError
from occ_perception.evaluation.evaluator import EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.records import SceneRecord
from occ_perception.evaluation.truth import GroundTruth

_KILLED_IN_ITS_SECOND_SCENE = """
import os, signal, sys
from occ_perception import cli
from occ_perception.evaluation.folder_subject import FolderSubject
answers = FolderSubject.answers
def until_killed(self, dataset, scene, tokens):
    for number, answer in enumerate(answers(self, dataset, scene, tokens)):
        if scene.name == "scene-0002" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield answer
FolderSubject.answers = until_killed
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def predictions(synthetic_nuscenes: NuScenesTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_predictions(synthetic_nuscenes, tmp_path_factory.mktemp("predictions") / "noisy", noise=0.3)


@pytest.fixture(scope="module")
def command(synthetic_nuscenes: NuScenesTree, predictions: Path) -> list[str]:
    return ["eval", "--root", str(synthetic_nuscenes.root), "--predictions", str(predictions), "--no-rays"]


@pytest.fixture(scope="module")
def in_one_process(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("one")
    assert cli.main([*command, "-o", str(output)]) == 0
    return files(output)


def files(output: Path) -> dict[str, bytes]:
    """Everything that was written, by path."""
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def start(
    command: list[str],
    code: str = "from occ_perception.cli import main; import sys; sys.exit(main())",
    **environment: str,
):
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_same_bytes_as_one(
    command: list[str], in_one_process: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    """Two as torchrun starts them, three by --shard, all at once on one folder."""
    output = ["-o", str(tmp_path)]
    workers = [
        start([*command, *output], RANK=str(i), WORLD_SIZE="2")
        if count == 2
        else start([*command, *output, "--shard", f"{i}/{count}"])
        for i in range(count)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, errors
    assert files(tmp_path) == in_one_process


def test_killed_and_resumed_gives_the_same_bytes(
    command: list[str], in_one_process: dict[str, bytes], tmp_path: Path
) -> None:
    worker = start([*command, "-o", str(tmp_path)], _KILLED_IN_ITS_SECOND_SCENE)
    worker.communicate(timeout=120)
    assert worker.returncode == -signal.SIGKILL
    finished = list(tmp_path.rglob("scene-*"))
    assert [path.name for path in finished] == ["scene-0001.json"]
    assert not list(tmp_path.rglob("summary*"))
    written = finished[0].stat().st_mtime_ns
    assert cli.main([*command, "-o", str(tmp_path)]) == 0
    assert finished[0].stat().st_mtime_ns == written  # taken from disk, not computed again
    assert files(tmp_path) == in_one_process


def test_a_changed_setting_does_not_reuse_old_results(
    synthetic_nuscenes: NuScenesTree, predictions: Path, tmp_path: Path
) -> None:
    dataset, truth = NuScenes(synthetic_nuscenes.root), GroundTruth("occ3d", synthetic_nuscenes.root)
    settings = EvaluationSettings(rays=False, scenes=("scene-0003",))
    subject = FolderSubject(predictions, truth.set)
    folders = []
    for identity in ({}, {"weights": "a"}, {"weights": "b"}, {"corruption": "fog"}, {"grid_frame": "lidar"}):
        subject.identity = {**FolderSubject(predictions, truth.set).identity, **identity}
        folders.append(evaluate(dataset, truth, subject, tmp_path, settings).folder)
    assert len(set(folders)) == 5
    assert all((folder / "scenes" / "scene-0003.json").is_file() for folder in folders)


def test_changed_files_are_scored_again(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    dataset, truth = NuScenes(synthetic_nuscenes.root), GroundTruth("occ3d", synthetic_nuscenes.root)
    settings = EvaluationSettings(rays=False, scenes=("scene-0002", "scene-0003"))

    def headline() -> float:
        return evaluate(dataset, truth, FolderSubject(folder, truth.set), tmp_path / "out", settings).headline()[1]

    assert headline() == 1.0
    np.savez(folder / f"{synthetic_nuscenes.tokens['scene-0003'][0]}.npz", pred=np.full((200, 200, 16), 17, np.uint8))
    assert headline() < 1.0


def test_damaged_state_is_computed_again(command: list[str], in_one_process: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in in_one_process.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    broken = [b"", b"{}", in_one_process[next(n for n in in_one_process if "scene-0002" in n)][:-40]]
    for path, data in zip(sorted(tmp_path.rglob("scene-*.json")), broken, strict=True):
        path.write_bytes(data)
    assert cli.main([*command, "-o", str(tmp_path)]) == 0
    assert files(tmp_path) == in_one_process


def test_scene_state_is_integers_only(in_one_process: dict[str, bytes]) -> None:
    states = [data for name, data in in_one_process.items() if "scene-" in name]
    assert len(states) == 3
    for data in states:
        record = SceneRecord.from_json(data.decode())
        assert record.to_json().encode() == data
        assert b"." not in data.replace(b"scene_", b"")


def test_shards_cover_everything_once() -> None:
    scenes = [f"scene-{i}" for i in range(11)]
    for count in (1, 2, 3, 16):
        parts = [Shard(i, count).of(scenes) for i in range(count)]
        assert sorted(name for part in parts for name in part) == sorted(scenes)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Shard.from_environment({"RANK": "1", "WORLD_SIZE": "4"}) == Shard(1, 4)
    assert Shard.from_environment({}) == Shard(0, 1)
    for text in ("4/4", "-1/2", "1", "a/b", "1/2/3"):
        with pytest.raises(ConfigurationError, match="shard"):
            Shard.parse(text)
