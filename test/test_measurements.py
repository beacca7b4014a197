"""Point times of LiDAR messages: which fields are believed."""

import numpy as np
import pytest

from occ_perception.measurements import _time_offsets


def cloud(name, values):
    made = np.zeros(len(values), [("x", "f4"), (name, np.asarray(values).dtype)])
    made[name] = values
    return made


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("time", np.float32([-0.1, 0.0]), [-0.1, 0.0]),
        ("time_offset", np.float64([0.0, 0.1]), [0.0, 0.1]),
        ("t", np.uint32([0, 100_000_000]), [0.0, 0.1]),
        ("time", np.float64([1.6e9, 1.6e9]), None),
        ("time", np.float32([0.0, np.nan]), None),
        ("time", np.uint32([0, 1]), None),
        ("time", np.float32([0.0, 0.0]), None),
        ("t", np.uint32([0, 4_000_000_000]), None),
    ],
)
def test_point_times(name, values, expected):
    offsets = _time_offsets(cloud(name, values))
    if expected is None:
        assert offsets is None
    else:
        np.testing.assert_allclose(offsets, expected, atol=1e-6)
        assert offsets.dtype == np.float32
