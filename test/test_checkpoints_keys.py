"""Key tables: our parameter names, shapes and counts are the published ones, for every variant."""

import csv

import pytest
import torch

from occ_perception.checkpoints.catalogue import describe_models
from occ_perception.checkpoints.key_table import key_table, skeleton
from occ_perception.models.alocc_config import VARIANTS

_FILES = {name: f"alocc_keys_{name[6:].replace('-', '_')}.tsv" for name in VARIANTS}
_PARAMETERS = {
    "alocc-2d-mini": 36_228_096,
    "alocc-2d": 63_704_929,
    "alocc-3d": 52_854_721,
    "alocc-flow-2d": 63_846_225,
    "alocc-flow-3d": 52_996_017,
}
_KEYS = {"alocc-2d-mini": 602, "alocc-2d": 688, "alocc-3d": 700, "alocc-flow-2d": 701, "alocc-flow-3d": 713}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_key_shape_and_type(name, shared):
    with (shared / "specs" / "keys" / _FILES[name]).open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    published = {row["key"]: ("" if row["shape"] == "scalar" else row["shape"], row["dtype"]) for row in rows}
    network = skeleton(name)
    ours = {
        key: ("x".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
        for key, value in network.state_dict().items()
    }
    assert ours == published
    trainable = {key for key, parameter in network.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    assert trainable == {
        row["key"] for row in rows if row["kind"].startswith("param") and row["kind"] != "param_frozen"
    }


@pytest.mark.parametrize("name", _PARAMETERS)
def test_parameter_and_key_counts(name):
    network = skeleton(name)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == _PARAMETERS[name]
    assert len(network.state_dict()) == _KEYS[name]


def test_tied_identity_convolution_is_one_tensor():
    network = skeleton("alocc-2d")
    assert network.depth_net.depth_conv[0].downsample is network.depth_net.occ_conv[0].downsample
    stored = key_table("alocc-2d").stored
    assert "depth_net.depth_conv.0.downsample.weight" in stored
    assert "depth_net.occ_conv.0.downsample.weight" not in stored


def test_catalogue_names_every_variant_with_its_figures():
    entries = {entry["name"]: entry for entry in describe_models()}
    assert set(VARIANTS) < set(entries)
    assert entries["alocc-3d"]["published"] == {"mIoU": 45.45}
    assert entries["alocc-flow-3d"]["published"] == {"Occ score": 43.1, "mAVE": 0.549}
    assert entries["alocc-3d-gt-depth"]["needs"].endswith("LiDAR")
    assert entries["alocc-2d-mini"]["parameters"] == _PARAMETERS["alocc-2d-mini"]


def test_constructor_value_of_the_neighbour_pattern():
    from occ_perception.layers.depth_net import DepthNet

    bias = DepthNet(8, 4, 2, stereo=False, inter_object=True).depth2occ_inter_bias_net.bias
    pattern = [float(v) for i in (-1, 0, 1) for j in (-1, 0, 1) for v in (i, j)]
    assert torch.equal(bias.detach(), torch.tensor(pattern))
