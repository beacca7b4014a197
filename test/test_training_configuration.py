"""Training configurations: complete defaults, overrides by name, everything else refused with the place."""

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from conftest import REPOSITORY

from occ_perception.cli import main
from occ_perception.data.synthetic.dataset_writer import SPLITS
from occ_perception.errors import ConfigurationError
from occ_perception.training.configuration import TrainingConfig, read_config, refused_changes
from occ_perception.training.learning_rate import LearningRateSettings
from occ_perception.training.settings import from_mapping, to_mapping
from occ_perception.training.sources import SourceSettings, WorldSettings, check_apart, open_source
from occ_perception.training.tasks import create_task


def write(folder, text):
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def test_defaults_need_no_file_and_files_only_override(tmp_path):
    assert read_config(None) == TrainingConfig()
    config = read_config(
        write(tmp_path, "iterations: 7\noptimizer: {betas: [0.8, 0.99]}\n"), ["learning_rate.peak=1e-3"]
    )
    assert (config.iterations, config.optimizer.betas, config.learning_rate.peak) == (7, (0.8, 0.99), 1e-3)
    assert config.optimizer.weight_decay == TrainingConfig().optimizer.weight_decay


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: {peek: 1}", r"unknown setting 'peek' in learning_rate \(did you mean 'peak'\?\)"),
        ("lerning_rate: {peak: 1}", r"unknown setting 'lerning_rate' \(did you mean 'learning_rate'\?\)"),
        ("data: {training: {nuscenes: {rot: x}}}", r"'rot' in data.training.nuscenes \(did you mean 'root'"),
        ("iterations: many", r"iterations: expected int, got str 'many'"),
        ("iterations: 2.5", r"iterations: expected int, got float"),
        ("iterations: true", r"iterations: expected int, got bool"),
        ("seed: -1", r"seed: expected 0 to"),
        ("seed: [1]", r"seed: expected int, got list"),
        (
            "compute: {precision: float8}",
            r"compute.precision: expected one of float32, bfloat16, float16, got 'float8'",
        ),
        ("compute: 3", r"compute: expected names with values, got 3"),
        ("optimizer: {betas: [0.9]}", r"optimizer.betas: expected 2 values, got 1"),
        ("optimizer: {betas: [0.9, x]}", r"optimizer.betas\[1\]: expected float, got str 'x'"),
        ("learning_rate: {peak: .nan}", r"learning_rate.peak: expected a finite number"),
        ("batch_size: 0", r"batch_size: expected 1 or more, got 0"),
        ("optimizer: {weight_decay: -1}", r"optimizer.weight_decay: expected 0 or more"),
        ("loader: {damaged: ignore}", r"loader.damaged: expected one of stop, skip, got 'ignore'"),
        ("active_training: {share: 1.5}", r"active_training: .*share <= 1"),
        ("- 1", r"expected names with values"),
        ("a: [", r"training configuration .*run.yaml"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read_config(write(tmp_path, text))


def test_overrides_are_checked_too():
    assert read_config(None, ["data.training.nuscenes.split="]).data.training.nuscenes.split == ""
    with pytest.raises(ConfigurationError, match="expected name=value"):
        read_config(None, ["iterations"])
    with pytest.raises(ConfigurationError, match="did you mean 'workers'"):
        read_config(None, ["loader.worker=3"])


def test_settings_of_tasks_are_checked_by_the_task():
    with pytest.raises(ConfigurationError, match=r"'varient' in task.settings \(did you mean 'variant'\?\)"):
        create_task("alocc", {"varient": "alocc-3d"})
    with pytest.raises(ConfigurationError, match=r"expected one of .*alocc.*nano.*got 'alok'"):
        create_task("alok", {})


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    names: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_mappings_and_dataclasses_are_inverse():
    outer = Outer(("x", "y"), Inner((1, 2), "b"))
    plain = to_mapping(outer)
    assert plain == {"names": ["x", "y"], "inner": {"size": [1, 2], "kind": "b"}}
    assert from_mapping(Outer, yaml.safe_load(yaml.safe_dump(plain))) == outer
    assert from_mapping(TrainingConfig, to_mapping(TrainingConfig())) == TrainingConfig()


def test_changes_that_make_another_run_are_named():
    before = to_mapping(TrainingConfig())
    after = to_mapping(read_config(None, ["seed=2", "iterations=9", "loader.workers=0", "log.every=1"]))
    assert refused_changes(before, after) == ["seed: was 0, is 2"]
    del before["optimizer"]["betas"]  # a run from before this setting existed
    assert refused_changes(before, after) == ["seed: was 0, is 2"]
    del after["optimizer"]["betas"]
    assert "optimizer.betas: was [0.9, 0.999], is not there" in refused_changes(before, after)


def test_a_longer_run_with_a_learning_rate_that_falls_to_its_end_is_refused():
    def changes(*overrides):
        before, after = (to_mapping(read_config(None, [*overrides, f"iterations={n}"])) for n in (100, 200))
        return refused_changes(before, after)

    assert changes() == changes("learning_rate.shape=cosine", "learning_rate.decay_iterations=100") == []
    assert "iterations: was 100, is 200" in changes("learning_rate.shape=cosine")[0]


def test_settings_of_a_source_that_is_not_used_may_change():
    before, after = (
        read_config(None, ["data.training.kind=nuscenes", f"data.training.world.scenes={n}"]) for n in (5, 6)
    )
    assert refused_changes(to_mapping(before), to_mapping(after)) == []
    before, after = (read_config(None, ["data.training.kind=world", f"data.training.world.scenes={n}"]) for n in (5, 6))
    assert refused_changes(to_mapping(before), to_mapping(after)) == ["data.training.world.scenes: was 5, is 6"]


def test_worlds_to_train_and_to_validate_on_share_no_seed():
    def opened(**world):
        return open_source(SourceSettings("world", world=WorldSettings(**world)), "val")

    check_apart(SourceSettings("world"), SourceSettings("world"))
    assert opened(scenes=2).facts["split"] == f"seeds {SPLITS['val']}..{SPLITS['val'] + 1}"
    with pytest.raises(ConfigurationError, match=r"seeds 99..198 overlap those trained on \(0..99\)"):
        check_apart(SourceSettings("world"), SourceSettings("world", world=WorldSettings(first_seed=99)))
    for bad, message in (({"first_seed": -1}, "first_seed of 0"), ({"scenes": 0}, "1 or more scenes"),
                         ({"frames": 0}, "frames"), ({"image_size": (704, 500)}, "9/16")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            opened(**bad)


def test_learning_rate_shapes():
    cosine = LearningRateSettings(1.0, "cosine", warmup_iterations=10, warmup_ratio=0.1, final_ratio=0.2)
    assert [cosine.at(i, 110) for i in (0, 5, 10, 60, 110, 500)] == pytest.approx([0.1, 0.55, 1, 0.6, 0.2, 0.2])
    exponential = LearningRateSettings(1.0, "exponential", warmup_iterations=0, final_ratio=0.01)
    assert [exponential.at(i, 100) for i in (0, 50, 100)] == pytest.approx([1, 0.1, 0.01])
    constant = LearningRateSettings(2e-4, warmup_iterations=200, warmup_ratio=0.001)
    assert [constant.at(i, 9**9) for i in (0, 100, 200, 90_000)] == pytest.approx([2e-7, 2e-4 * 0.5005, 2e-4, 2e-4])
    stopped = LearningRateSettings(1.0, "cosine", warmup_iterations=0, final_ratio=0.0, decay_iterations=50)
    assert math.isclose(stopped.at(25, 100), 0.5)
    assert stopped.at(50, 100) == stopped.at(99, 100) == 0


@pytest.mark.parametrize("file", sorted((REPOSITORY / "config" / "train").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_configurations_are_valid(file):
    assert read_config(file).task.name


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["train", "--set", "itrations=3", "-o", str(tmp_path)]) == 2
    assert "did you mean 'iterations'" in capsys.readouterr().err
    assert main(["train", "-o", str(tmp_path)]) == 2
    assert "data.training.kind: expected nuscenes or world, got none" in capsys.readouterr().err
    assert main(["train", "--resume", "-o", str(tmp_path)]) == 2
    assert "there is no checkpoint in" in capsys.readouterr().err
