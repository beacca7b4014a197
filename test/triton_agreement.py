"""Run by test_ops_deformable_attention.py in a process of its own: triton decides at import whether it interprets.

Prints, for each case, the largest difference between the Triton kernels and the reference, results and gradients.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from deformable_cases import CASES, gradients, samples

from occ_perception.ops.deformable_attention_reference import sample_levels_reference
from occ_perception.ops.deformable_attention_triton import sample_levels_triton


def difference(case, value_dtype, dtype):
    inputs = samples(case, value_dtype=value_dtype, dtype=dtype)
    expected, got = (gradients(version, inputs) for version in (sample_levels_reference, sample_levels_triton))
    return [float((a.double() - b.double()).abs().max()) for a, b in zip(expected, got, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {
        "float64": {case: difference(case, torch.float64, torch.float64) for case in CASES},
        "bfloat16": {"pyramid": difference("pyramid", torch.bfloat16, torch.float32)},
    }
    json.dump(found, sys.stdout)
