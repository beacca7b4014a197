"""ALOcc through `Session` on the real keyframe, full size, UNTRAINED: shapes, cameras, finite numbers, memory of state.

Random weights say nothing about perception; published weights are not in the repository.
"""

import dataclasses

import numpy as np
import pytest
import torch

from occ_perception.data.nuscenes import NuScenes
from occ_perception.models import create_model
from occ_perception.models.alocc_config import NUSCENES_CAMERAS, alocc_config
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.session import Session

HALF_SECOND = 500_000_000


@pytest.fixture(scope="module")
def frame(keyframe):
    source = NuScenes(keyframe)
    return next(source.frames(source.scene(source.scene_names[0])))


def _untrained_session(name):
    torch.manual_seed(0)
    return Session(create_model(name, allow_untrained=True))


def _half_a_second_later(frame):
    """The same pictures and points, as if the vehicle had gone 4 m ahead."""
    ahead = np.eye(4)
    ahead[0, 3] = 4.0

    def moved(part):
        return dataclasses.replace(part, stamp_ns=part.stamp_ns + HALF_SECOND, odom_from_ego=part.odom_from_ego @ ahead)

    images = {name: moved(image) for name, image in frame.images.items()}
    return dataclasses.replace(moved(frame), images=images, lidar=tuple(moved(sweep) for sweep in frame.lidar))


def _check(result, name):
    config = alocc_config(name)
    assert result.cameras == result.cameras_used == NUSCENES_CAMERAS
    assert result.semantics.shape == config.grid_size
    known = result.semantics[result.semantics < FREE]
    assert known.size == 0 or known.max() < config.classes
    assert ((result.semantics == UNKNOWN) >= (result.visibility == 0)).all()
    assert result.info.weights == "untrained"
    assert (result.flow is not None) == config.flow
    assert result.flow is None or np.isfinite(result.flow).all()
    print(name, {stage: round(ms) for stage, ms in result.timings_ms.items() if ms >= 10})


def test_untrained_mini_runs_on_the_real_keyframe(frame):
    session = _untrained_session("alocc-2d-mini")
    first, second = session.step(frame), session.step(_half_a_second_later(frame))
    for result in (first, second):
        _check(result, "alocc-2d-mini")
    assert (first.temporal.frames, second.temporal.frames) == (0, 1)
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alocc-flow-3d", "alocc-3d-gt-depth", "alocc-3d-surroundocc"])
def test_untrained_large_variants_run_on_the_real_keyframe(frame, name):
    session = _untrained_session(name)
    first, second = session.step(frame), session.step(_half_a_second_later(frame))
    for result in (first, second):
        _check(result, name)
    assert second.temporal.frames == (1 if alocc_config(name).history_frames else second.temporal.frames)
    assert second.lidar_used == (name != "alocc-flow-3d")
    session.close()
