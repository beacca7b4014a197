"""The command line: bad input ends with one clear line, never with a traceback."""

from pathlib import Path

import pytest
import torch

from occ_perception import cli
from occ_perception.errors import ConfigurationError
from occ_perception.models import create_model, model_names, resolve_device


def test_unknown_model_lists_the_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bag", "replay", str(tmp_path), "--model", "alocc_9d", "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "alocc-9d" in message
    assert "lidar-carving" in message
    assert "Traceback" not in message


def test_underscores_and_hyphens_are_the_same() -> None:
    assert create_model("lidar_carving").info.name == create_model("lidar-carving").info.name


def test_networks_refuse_to_run_without_weights() -> None:
    with pytest.raises(ConfigurationError, match="needs weights"):
        create_model("alocc_2d_mini")
    with pytest.raises(ConfigurationError, match="takes no weights"):
        create_model("lidar_carving", weights="x.safetensors")
    assert "alocc-2d-mini" in model_names()


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigurationError, match="not valid"):
        resolve_device("tpu9000!")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="no GPU"):
            resolve_device("cuda")


def test_help_of_every_verb(capsys: pytest.CaptureFixture) -> None:
    for verb in (
        ["--help"],
        ["models", "--help"],
        ["import", "--help"],
        ["bag", "replay", "--help"],
        ["demo", "--help"],
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(verb)
        assert end.value.code == 0
        assert "usage" in capsys.readouterr().out
