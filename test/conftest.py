"""Shared paths and fixtures. Reference data lies outside the repository; tests that need it skip, and say so, without it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
