"""Weights that come with the package: half precision, whole, with their card."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from occ_perception.checkpoints.bundled import bundle, bundled_weights, main
from occ_perception.checkpoints.loading import load_weights
from occ_perception.errors import WeightsError
from occ_perception.models import create_network


@pytest.fixture
def run(tmp_path):
    """What a training run leaves."""
    torch.manual_seed(0)
    entries = {k: v for k, v in create_network("nano").state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(entries, tmp_path / "final.safetensors", metadata={"model": "nano"})
    (tmp_path / "final.json").write_text(json.dumps({"model": "nano", "trained_on": "made-up drives"}))
    return tmp_path


def test_halved_weights_load_and_say_what_they_were_trained_on(run):
    path = bundle(run / "final.safetensors", run / "weights", {"licence": "Apache-2.0"})
    assert json.loads(path.with_suffix(".json").read_text())["licence"] == "Apache-2.0"
    assert path.name == "nano.safetensors"
    assert path.stat().st_size < 0.6 * (run / "final.safetensors").stat().st_size
    network = create_network("nano")
    loaded = load_weights(network, "nano", path)
    assert loaded.trained_on == "made-up drives"
    original = load_file(run / "final.safetensors")
    for name, value in network.state_dict().items():
        if name in original:
            assert torch.allclose(value, original[name], rtol=1e-3, atol=1e-6), name
    assert json.loads(path.with_suffix(".json").read_text())["stored_as"].startswith("matrices float16")


def test_weights_that_do_not_fit_half_precision_are_refused(run):
    entries = load_file(run / "final.safetensors")
    entries["prototypes"][0, 0] = 1e6
    save_file(entries, run / "final.safetensors", metadata={"model": "nano"})
    with pytest.raises(WeightsError, match=r"prototypes.*float16"):
        bundle(run / "final.safetensors", run / "weights")
    assert not (run / "weights").exists()


def test_damaged_cards_and_changed_networks_are_refused(run):
    save_file({"a": torch.zeros(2)}, run / "final.safetensors", metadata={"model": "nano (changed)"})
    with pytest.raises(WeightsError, match="changed"):
        bundle(run / "final.safetensors", run / "weights")
    (run / "final.json").write_text("{")
    with pytest.raises(WeightsError, match="model card in JSON"):
        bundle(run / "final.safetensors", run / "weights")


def test_weights_without_a_card_are_refused(run, capsys):
    (run / "final.json").unlink()
    assert main([str(run / "final.safetensors"), "--trained-on", "x", "--licence", "y"]) == 1
    assert "model card" in capsys.readouterr().err


def test_models_without_bundled_weights_have_none():
    assert bundled_weights("alocc-3d") is None
