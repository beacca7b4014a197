"""Deformable attention: the reference against grid_sample, the fast versions against the reference, and the edges."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deformable_cases import CASES, gradients, samples
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError
from occ_perception.ops import deformable_attention_rows
from occ_perception.ops.deformable_attention import (
    deformable_attention_2d,
    deformable_attention_3d,
    dense_deformable_attention_2d,
)
from occ_perception.ops.deformable_attention_reference import sample_levels_reference
from occ_perception.ops.deformable_attention_rows import sample_levels_rows

SHAPES = ((4, 6), (2, 3))
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


def packed(hits=11, maps=3, heads=2, channels=4, points=3, dtype=torch.float64):
    """values, maps, locations, weights of hits in maps of two levels; some locations lie outside."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(maps, 30, heads, channels, generator=generator, dtype=dtype)
    rows = torch.randint(0, maps, (hits,), generator=generator)
    locations = torch.rand(hits, heads, 2, points, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(hits, heads, 2, points, generator=generator, dtype=dtype)
    return values, rows, locations, weights


def volume(batch=2, queries=7, heads=2, channels=4, points=3, dtype=torch.float64):
    """values, locations, weights in a volume of 3 x 4 x 5 voxels."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(batch, 3, 4, 5, heads, channels, generator=generator, dtype=dtype)
    locations = torch.rand(batch, queries, heads, points, 3, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, points, generator=generator, dtype=dtype)
    return values, locations, weights


def test_2d_is_grid_sample_on_the_map_of_each_hit():
    values, maps, locations, weights = packed()
    expected = torch.zeros(len(maps), 2, 4, dtype=torch.float64)
    for level, (start, (height, width)) in enumerate(zip((0, 24), SHAPES, strict=True)):
        tokens = values[maps, start : start + height * width]  # [H, S, heads, d]
        images = tokens.permute(0, 2, 3, 1).reshape(-1, 4, height, width)
        grid = 2 * locations[:, :, level].flatten(0, 1)[:, None] - 1
        sampled = F.grid_sample(images, grid, align_corners=False).view(len(maps), 2, 4, -1)
        expected += (sampled * weights[:, :, level, None]).sum(-1)
    torch.testing.assert_close(deformable_attention_2d(values, SHAPES, maps, locations, weights), expected.flatten(1))


def test_3d_is_trilinear_grid_sample():
    values, locations, weights = volume()
    images = values.permute(0, 4, 5, 3, 2, 1).reshape(-1, 4, 5, 4, 3)  # grid_sample has x last
    grid = 2 * locations.transpose(1, 2).flatten(0, 1)[:, None] - 1
    sampled = F.grid_sample(images, grid, align_corners=False).view(2, 2, 4, 7, 3)
    expected = (sampled * weights.transpose(1, 2)[:, :, None]).sum(-1).permute(0, 3, 1, 2)
    torch.testing.assert_close(deformable_attention_3d(values, locations, weights), expected.flatten(2))


def test_the_edge_of_a_map_is_half_a_pixel_from_the_last_centre():
    values = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)  # one row of two pixels
    for x, expected in ((-0.25, 0.0), (0.0, 1.5), (0.25, 3.0), (0.5, 4.0), (0.75, 5.0), (1.0, 2.5), (1.25, 0.0)):
        location = torch.tensor([x, 0.5]).view(1, 1, 1, 1, 2)
        output = deformable_attention_2d(values, ((1, 2),), torch.tensor([0]), location, torch.ones(1, 1, 1, 1))
        assert output.item() == pytest.approx(expected), x


def test_dense_form_is_one_map_per_sample():
    values, _, locations, weights = packed(hits=10, maps=2)
    locations, weights = locations.unflatten(0, (2, 5)), weights.unflatten(0, (2, 5))
    dense = dense_deformable_attention_2d(values, SHAPES, locations, weights)
    assert dense.shape == (2, 5, 8)
    for sample in range(2):
        maps = torch.full((5,), sample)
        one = deformable_attention_2d(values, SHAPES, maps, locations[sample], weights[sample])
        torch.testing.assert_close(dense[sample], one)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("taps", [1, 200, 10**6], ids=lambda n: f"blocks of {n}")
def test_row_sums_equal_the_reference(case, taps, monkeypatch):
    monkeypatch.setattr(deformable_attention_rows, "_TAPS_FORWARD", taps)
    monkeypatch.setattr(deformable_attention_rows, "_TAPS_BACKWARD", 2 * taps)
    inputs = samples(case)
    for got, expected in zip(
        gradients(sample_levels_rows, inputs), gradients(sample_levels_reference, inputs), strict=True
    ):
        torch.testing.assert_close(got, expected)


@needs_triton
def test_triton_kernels_equal_the_reference_when_interpreted():
    script = Path(__file__).parent / "triton_agreement.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["float64"]) == set(CASES)
    assert max(max(differences) for differences in found["float64"].values()) < 1e-12
    # Output, locations and weights are summed in float32; only the gradient of the rows is rounded to their 8 bits.
    output, table, locations, weights = found["bfloat16"]["pyramid"]
    assert max(output, locations, weights) < 1e-4
    assert table < 8 * 2**-8


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("axes", [2, 3])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(axes):
    """All the way to machine code: what the interpreter accepts the compiler may not."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from occ_perception.ops import deformable_attention_triton as kernels

    constants = {"heads": 8, "channels": 16, "axes": axes, "outputs": 64, "channel_block": 16}
    types = {"table": "*bf16", "first_rows": "*i64", "level_table": "*i32"}
    types |= dict.fromkeys(("output_count", "level_count", "point_count"), "i32")
    for kernel, more in ((kernels._forward_kernel, {}), (kernels._backward_kernel, {"of_table": True})):
        known = constants | more
        signature = {n: "constexpr" if n in known else types.get(n, "*fp32") for n in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=known)
        assert compile_kernel(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]


def test_gradients_in_a_map():
    values, maps, locations, weights = packed(hits=3, maps=2, channels=2, points=2)
    leaves = [t.requires_grad_() for t in (values, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, at, w: deformable_attention_2d(v, SHAPES, maps, at, w), leaves)


def test_gradients_in_a_volume():
    leaves = [t.requires_grad_() for t in volume(batch=1, queries=2, channels=2, points=2)]
    assert torch.autograd.gradcheck(deformable_attention_3d, leaves)


@pytest.mark.parametrize("nowhere", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_location_that_is_no_place_adds_nothing_and_gets_no_gradient(nowhere):
    values, maps, locations, weights = packed()
    without = weights.clone()
    without[3, 1, 0, 2] = 0
    expected = deformable_attention_2d(values, SHAPES, maps, locations, without)
    locations[3, 1, 0, 2, 1] = nowhere
    leaves = [t.requires_grad_() for t in (values, locations, weights)]
    output = deformable_attention_2d(values, SHAPES, maps, locations, weights)
    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad(output.square().sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in found)
    assert (found[1][3, 1, 0, 2] == 0).all()
    assert found[2][3, 1, 0, 2] == 0


def test_short_types_of_values():
    values, maps, locations, weights = packed(dtype=torch.float32)
    exact = deformable_attention_2d(values, SHAPES, maps, locations, weights)
    for short, tolerance in ((torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
        output = deformable_attention_2d(values.to(short), SHAPES, maps, locations, weights)
        assert output.dtype == short
        torch.testing.assert_close(output.float(), exact, rtol=tolerance, atol=4 * tolerance)


def test_gradients_only_where_wanted():
    values, maps, locations, weights = packed()
    weights.requires_grad_()
    deformable_attention_2d(values, SHAPES, maps, locations, weights).sum().backward()
    assert weights.grad is not None
    assert values.grad is None


def test_nothing_to_do():
    values, maps, locations, weights = packed(hits=0)
    leaves = [t.requires_grad_() for t in (values, locations, weights)]
    output = deformable_attention_2d(values, SHAPES, maps, locations, weights)
    assert output.shape == (0, 8)
    assert (torch.autograd.grad(output.sum(), leaves)[0] == 0).all()
    assert deformable_attention_3d(*volume(queries=0)).shape == (2, 0, 8)
    assert deformable_attention_3d(*volume(batch=0)).shape == (0, 7, 8)


def test_what_does_not_fit_is_refused():
    values, maps, locations, weights = packed()
    for bad in (
        (values[:, 1:], SHAPES, maps, locations, weights),
        (values, (*SHAPES, (1, 1)), maps, locations, weights),
        (values, SHAPES, maps[1:], locations, weights),
        (values, SHAPES, maps, locations[..., :1], weights),
        (values, SHAPES, maps, locations, weights[:, :1]),
        (values, SHAPES, maps, locations.half(), weights),
        (values, SHAPES, maps, locations[..., :0, :], weights[..., :0]),
    ):
        with pytest.raises(InvalidInputError, match="deformable attention"):
            deformable_attention_2d(*bad)
    values, locations, weights = volume()
    for bad in (
        (values[0], locations, weights),
        (values, locations[:1], weights),
        (values, locations[..., :2], weights),
    ):
        with pytest.raises(InvalidInputError, match="deformable attention"):
            deformable_attention_3d(*bad)
    with pytest.raises(InvalidInputError, match="deformable attention"):
        dense_deformable_attention_2d(packed()[0], SHAPES, packed()[2], packed()[3])
