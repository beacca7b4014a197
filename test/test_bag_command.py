"""The verb ``bag`` from end to end: what it prints, what it writes, and what its exit status says."""

import json
import os
import sys

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from street.drive import write_street_bag

from occ_perception import cli
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.synthetic.dataset_writer import SPLITS
from occ_perception.image_codec import decode_image

NUSCENES = str(REPOSITORY / "config/nuscenes.yaml")


@pytest.fixture(scope="module")
def drive_bag(tmp_path_factory):
    return write_street_bag(tmp_path_factory.mktemp("drive") / "drive", seconds=0.4, image_size=(64, 36))


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


@pytest.fixture(scope="module")
def city_bag(tmp_path_factory):
    """Half a second of a city with small images, made by the command."""
    pytest.importorskip("warp", reason="needs the extra `world`")
    path = tmp_path_factory.mktemp("city") / "city"
    assert run("synthetic", "-o", path, "--seed", "3", "--seconds", "0.5", "--image-size", "64x36") == 0
    return path


def test_a_synthetic_bag_is_a_drive_through_a_city_of_no_training_set(city_bag, tmp_path, capsys):
    assert run("info", city_bag, "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["missing"] == []
    assert info["custom_data"]["source"].endswith(f"seed {SPLITS['val'] + 3}, 0.5 s")
    with BagReader(city_bag) as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
        picture = next(bag.decode(m) for m in bag.messages() if m.topic == "/cam_back/image_raw/compressed")
    assert (counts["/lidar_top/points"], counts["/cam_front/image_raw/compressed"]) == (10, 6)
    assert decode_image(bytes(picture.data)).shape == (36, 64, 3)
    assert run("replay", city_bag, "--model", "lidar-carving", "-o", tmp_path / "out") == 0
    assert len(list((tmp_path / "out/city").glob("*.npz"))) == 10


def test_a_synthetic_bag_shows_its_progress_and_replaces_nothing(city_bag, tmp_path, capsys):
    small = ("--seconds", "0.1", "--image-size", "64x36", "--storage", "sqlite3")
    assert run("synthetic", "-o", tmp_path / "bag", *small) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'bag'}\n"
    assert "2/2" in said.err
    assert (tmp_path / "bag/bag.db3").is_file()
    before = (city_bag / "city.mcap").read_bytes()
    assert run("synthetic", "-o", city_bag, *small) == 2
    assert "exists already" in capsys.readouterr().err
    assert (city_bag / "city.mcap").read_bytes() == before


def test_without_the_renderer_there_is_one_clear_line_and_no_bag(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    assert run("synthetic", "-o", tmp_path / "bag", "--seconds", "0.1", "--image-size", "64x36") == 2
    assert "pip install occ_perception[world]" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "-1"), "seed: expected 0 to"),
        (("--seconds", "nan"), "expected 0.05 to 3600 s"),
        (("--seconds", "0.01"), "expected 0.05 to 3600 s"),
        (("--image-size", "wide"), "expected WIDTHxHEIGHT"),
        (("--image-size", "64x64"), "9/16"),
    ],
)
def test_a_synthetic_bag_of_no_sense_is_refused(tmp_path, capsys, arguments, message):
    assert run("synthetic", "-o", tmp_path / "bag", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
