"""Shared paths and fixtures. Reference data lies outside the repository; tests that need it skip without it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from occ_perception.ops.threads import one_torch_thread

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("OCC_PERCEPTION_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference outputs (golden/), the key tables (specs/) and two real keyframes (data/)."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data not found at {SHARED}; set OCC_PERCEPTION_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def keyframe(shared: Path) -> Path:
    """Root of the real nuScenes keyframe with a moving vehicle (tables in v1.0-mini)."""
    return shared / "data" / "nuscenes_keyframe"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many small tensor operations in one thread: with more they wait for each other on a busy machine."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="session")
def synthetic_nuscenes(tmp_path_factory: pytest.TempPathFactory):
    """A small synthetic nuScenes tree of three scenes with 2, 3 and 1 keyframes (`nuscenes_tree.NuScenesTree`)."""
    from nuscenes_tree import write_tree

    root = tmp_path_factory.mktemp("nuscenes")
    return write_tree(root, {"scene-0001": 2, "scene-0002": 3, "scene-0003": 1})
