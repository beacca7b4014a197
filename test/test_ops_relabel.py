"""Labels are written where they are marked and nowhere else."""

import torch

from occ_perception.ops.relabel import relabel


def test_marked_voxels_get_the_label_and_no_others():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 256, (7, 5, 3), generator=generator).to(torch.uint8)
    where = torch.rand(labels.shape, generator=generator) < 0.4
    for label in (0, 3, 255):
        result = relabel(labels, where, label)
        assert result.dtype == torch.uint8
        assert torch.equal(result, labels.masked_fill(where, label))
