"""Small seeded inputs for every version of deformable sampling, with samples inside, across the border and nowhere."""

import torch

from occ_perception.ops.deformable_attention_reference import Level

CASES = {
    "pyramid": (Level(0, (6, 4), (1, 6)), Level(24, (3, 2), (1, 3))),
    "volume": (Level(0, (3, 4, 5), (20, 5, 1)),),
}


def samples(case, outputs=23, heads=2, channels=5, points=2, value_dtype=torch.float64, dtype=torch.float64):
    """(table, levels, first_rows, locations, weights) over two maps; a few locations are not finite or far away."""
    generator = torch.Generator().manual_seed(1)
    levels = CASES[case]
    axes, rows = len(levels[0].sizes), sum(torch.tensor(level.sizes).prod().item() for level in levels)
    table = torch.randn(2 * rows, heads, channels, generator=generator, dtype=torch.float64)
    locations = torch.rand(outputs, heads, len(levels), points, axes, generator=generator, dtype=dtype) * 1.6 - 0.3
    if outputs:
        locations[0, 0, 0, 0, 0] = torch.nan
        locations[1, 0, 0, 1, 1] = torch.inf
        locations[2, 1, 0, 0, 0] = -1e30
    weights = torch.rand(outputs, heads, len(levels), points, generator=generator, dtype=dtype)
    first_rows = torch.randint(0, 2, (outputs,), generator=generator) * rows
    leaves = [t.requires_grad_() for t in (table.to(value_dtype), locations, weights)]
    return leaves[0], levels, first_rows, leaves[1], leaves[2]


def gradients(version, inputs):
    """[output, gradient of the table, of the locations, of the weights] for an uneven gradient of the output."""
    table, _, _, locations, weights = inputs
    output = version(*inputs)
    pull = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, (table, locations, weights), pull)]
