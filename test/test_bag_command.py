"""The verb ``bag`` from end to end: what it prints, what it writes, and what its exit status says."""

import json
import os

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from occ_perception import cli
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.synthetic_drive import write_synthetic_bag

NUSCENES = str(REPOSITORY / "config/nuscenes.yaml")


@pytest.fixture(scope="module")
def drive_bag(tmp_path_factory):
    return write_synthetic_bag(tmp_path_factory.mktemp("drive") / "drive", seconds=0.4, image_size=(64, 36))


def run(*arguments):
    return cli.main(["bag", *map(str, arguments)])


def test_nuscenes_to_bags_to_predictions_that_can_be_scored(synthetic_nuscenes, tmp_path, capsys):
    root, bags, out = synthetic_nuscenes.root, tmp_path / "bags", tmp_path / "out"
    convert = ("from-nuscenes", root, "--scene", "scene-0001", "scene-0003", "-o", bags, "--labels", "--boxes")
    assert run(*convert) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(bags / f"nuscenes-v1.0-mini-scene-000{n}") for n in (1, 3)]
    with BagReader(printed[0]) as bag:
        counts = {t.name: t.count for t in bag.topics}
    assert counts["/gt/occupancy"] == counts["/annotations/boxes"] == counts["/nuscenes/sample"] == 2
    assert run("replay", *printed, "--params", NUSCENES, "-o", out) == 0
    said = capsys.readouterr().out
    assert "scene-0001: 2 frames, 2 of 2 keyframes\n" in said
    assert {p.stem for p in out.glob("*.npz")} == {
        *synthetic_nuscenes.tokens["scene-0001"],
        *synthetic_nuscenes.tokens["scene-0003"],
    }
    score = ["eval", "--predictions", str(out), "--root", str(root), "--no-rays", "--mask", "lidar"]
    score += ["--scenes", "scene-0001", "scene-0003", "-o", str(tmp_path / "eval")]
    assert cli.main(score) == 0
    assert run("from-nuscenes", root, "--scene", "scene-0001", "-o", bags, "--profile", "autoware") == 2
    assert "profile: 'default' there, 'autoware' wanted" in capsys.readouterr().err


def test_replay_into_a_bag_in_shards_and_again(drive_bag, tmp_path, capsys):
    command = (
        "replay",
        drive_bag,
        "--bag-output",
        tmp_path / "bags",
        "--storage",
        "sqlite3",
        "--model",
        "lidar_carving",
    )
    assert run(*command, "--shard", "1/2") == 0
    assert not (tmp_path / "bags").exists()
    assert run(*command, "--shard", "0/2") == 0
    with BagReader(tmp_path / "bags/drive") as bag:
        names = ("/perception/instances", "/perception/markers", "/perception/voxels")
        assert sorted((t.name, t.count > 3) for t in bag.topics) == [(name, True) for name in names]
    capsys.readouterr()
    assert run(*command) == 0
    assert "was there already" in capsys.readouterr().out


def test_exit_status_tells_of_damage_and_failure(drive_bag, tmp_path, capsys, caplog):
    cut = tmp_path / "cut.mcap"
    cut.write_bytes((drive_bag / "drive.mcap").read_bytes())
    os.truncate(cut, cut.stat().st_size * 2 // 3)
    for _ in range(2):  # a bag that was damaged still is when its output is there
        assert run("replay", drive_bag, cut, "-o", tmp_path / "out") == 3
        assert "cut: " in capsys.readouterr().out
    assert list((tmp_path / "out/cut").glob("*.npz"))
    assert run("replay", drive_bag, tmp_path / "missing", cut, "-o", tmp_path / "out") == 1
    assert "missing does not exist" in caplog.text


def test_the_model_may_be_named_in_the_parameters(drive_bag, tmp_path, capsys):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("/**:\n  ros__parameters: {model: alocc-9d}\n")
    assert run("replay", drive_bag, "--params", parameters, "-o", tmp_path / "out") == 2
    assert "unknown model 'alocc-9d'" in capsys.readouterr().err
    assert run("replay", drive_bag, "--params", parameters, "--model", "lidar-carving", "-o", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a folder"),
        (("-o", "OUT", "--shard", "3/3"), "expected 0 <= i < n"),
        (("-o", "OUT", "--params", "/no/such.yaml"), "parameter file"),
    ],
)
def test_bad_arguments_are_one_clear_line(drive_bag, tmp_path, capsys, arguments, message):
    arguments = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    assert run("replay", drive_bag, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_info_as_json_and_its_parameters_as_a_file(drive_bag, tmp_path, capsys):
    assert run("info", drive_bag, "--json") == 0
    info = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(info["cameras"]) == {f"cam_{side}" for side in (
        "front", "front_left", "front_right", "back", "back_left", "back_right")}  # fmt: skip
    assert info["missing"] == []
    assert run("info", drive_bag) == 0
    text = capsys.readouterr().out
    start = text.index("/**:")
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("\n".join(line[2:] for line in ("  " + text[start:]).splitlines()))
    assert set(yaml.safe_load(parameters.read_text())["/**"]["ros__parameters"]) == {"offsets"}
    assert run("replay", drive_bag, "--params", parameters, "-o", tmp_path / "out") == 0
    with np.load(next((tmp_path / "out/drive").glob("*.npz")), allow_pickle=False) as arrays:
        assert str(arrays["model"]) == "lidar-carving"
