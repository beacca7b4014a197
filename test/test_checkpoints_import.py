"""Importing and loading weights: wrappers understood, everything else refused by name, files whole or not at all."""

import json

import pytest
import torch

from occ_perception.checkpoints.importer import file_sha256, import_checkpoint
from occ_perception.checkpoints.loading import load_weights
from occ_perception.errors import ConfigurationError, WeightsError
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import alocc_config

NAME = "alocc-2d-mini"


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return ALOcc(alocc_config(NAME)).state_dict()


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.save({"iter": 1, "state_dict": published, "updates": 10560}, folder / "mini.pth")
    card = import_checkpoint(NAME, folder / "mini.pth", folder / "mini.safetensors", licence="CC BY-NC 4.0")
    return folder, card


def test_import_writes_weights_and_card(imported):
    folder, card = imported
    assert json.loads((folder / "mini.json").read_text()) == card
    assert card["source_sha256"] == file_sha256(folder / "mini.pth")
    assert (card["model"], card["label_set"], card["mask_training"]) == (NAME, "occ3d", True)
    assert card["licence"] == "CC BY-NC 4.0"
    assert sorted(p.name for p in folder.iterdir()) == ["mini.json", "mini.pth", "mini.safetensors"]


def test_loading_restores_every_parameter(imported, published):
    folder, _ = imported
    network = ALOcc(alocc_config(NAME))
    loaded = load_weights(network, NAME, folder / "mini.safetensors")
    assert loaded.fingerprint == file_sha256(folder / "mini.safetensors")[:16]
    assert "occ3d" in loaded.trained_on
    for key, value in network.state_dict().items():
        assert torch.equal(value, published[key]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {}, "ema_state_dict": state},
        lambda state: {"state_dict": {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}},
    ],
)
def test_layouts_of_published_files(wrap, published, tmp_path):
    torch.save(wrap(published), tmp_path / "a.pth")
    assert import_checkpoint(NAME, tmp_path / "a.pth", tmp_path / "a.safetensors")["tensors"] > 400


def _refused(state, tmp_path, model=NAME):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as error:
        import_checkpoint(model, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    return str(error.value)


def test_missing_unexpected_and_wrong_keys_are_listed_by_group(published, tmp_path):
    state = dict(published)
    del state["img_neck.fpn_convs.0.conv.bias"]
    state["img_backbone.fc.weight"] = torch.zeros(3)
    state["final_conv.bias"] = torch.zeros(7)
    message = _refused(state, tmp_path)
    assert "1 missing: img_neck (1: img_neck.fpn_convs.0.conv.bias)" in message
    assert "1 unexpected: img_backbone (1: img_backbone.fc.weight)" in message
    assert "1 wrong: final_conv (1: final_conv.bias is (7,), expected (512,))" in message


def test_wrong_variant_names_the_one_that_fits(published, tmp_path):
    message = _refused(published, tmp_path, model="alocc-3d")
    assert "the file fits alocc-2d-mini or alocc-2d-mini-wo-mask" in message


def test_weights_of_another_grid_are_refused(published, tmp_path):
    state = {**published, "view_transformer.dx": torch.tensor([0.5, 0.5, 6.4])}
    assert "another grid" in _refused(state, tmp_path)


def test_not_a_number_in_the_weights_is_refused(published, tmp_path):
    state = {**published, "final_conv.bias": torch.full((512,), float("nan"))}
    assert "NaN or infinity in 1 tensors: final_conv.bias" in _refused(state, tmp_path)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    message = _refused({"state_dict": {}, "meta": Payload()}, tmp_path)
    assert "weights_only" in message


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="cannot be read"):
        import_checkpoint(NAME, tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        import_checkpoint(NAME, tmp_path / "b.pth", tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="alocc-flow-3d"):
        import_checkpoint("alocc-4d", tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_loading_into_another_variant_is_refused(imported):
    folder, _ = imported
    with pytest.raises(WeightsError, match=r"the file fits alocc-2d-mini$"):
        load_weights(ALOcc(alocc_config(NAME)), "alocc-2d-mini-wo-mask", folder / "mini.safetensors")


def test_truncated_weights_are_refused(imported, tmp_path):
    folder, _ = imported
    data = (folder / "mini.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_weights(ALOcc(alocc_config(NAME)), NAME, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(ALOcc(alocc_config(NAME)), NAME, tmp_path / "none.safetensors")


def test_tied_tensors_of_a_published_file_must_agree(tmp_path):
    from occ_perception.checkpoints.key_table import compare, key_table, skeleton

    table = key_table("alocc-2d")
    network = skeleton("alocc-2d").to_empty(device="cpu")
    state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    state.update({key: torch.tensor(values) for key, values in table.constants.items()})
    assert not compare(state, table, table.required)
    state["depth_net.occ_conv.0.downsample.bias"] = torch.ones(256)
    assert "they are one tensor" in str(compare(state, table, table.required))
