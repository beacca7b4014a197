"""CPU time of LiDAR carving per sweep, in one thread: the default configuration with ten past sweeps, and others.

    python benchmarks/lidar_carving.py [--shared ../shared]

The streams are a drive through the tests' street (test/street; 32 rings x 1084 columns at 20 Hz, 9 m/s) and, where the
data is there, a real nuScenes keyframe taken over and over from poses 0.46 m apart: no real sequence, but a real
sweep's amount of work.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before numpy makes threads

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

from street.drive import StreetDrive

from benchmarks.report import measure, report
from occ_perception.data.nuscenes import NuScenes
from occ_perception.frame import Frame
from occ_perception.geometry import inverse, rigid
from occ_perception.models.base import ModelInput, ModelOutput
from occ_perception.models.lidar_carving import LidarCarving
from occ_perception.models.lidar_carving_config import LidarCarvingConfig

TARGET_CPU_MS = 120.0
WARM_UP, REPEATS = 12, 20


def street_stream() -> list[Frame]:
    """One frame per sweep of the street drive."""
    drive = StreetDrive(seconds=(WARM_UP + REPEATS) / 20, speed=9.0)
    return [
        Frame(stamp, lidar=(drive.lidar_sweep(stamp),), odom_from_ego=drive.odom_from_ego(stamp))
        for stamp in drive.sweep_stamps()
    ]


def repeated_keyframe(root: Path) -> list[Frame]:
    """The LiDAR keyframe of a one-sample nuScenes tree as if measured again every 50 ms, 0.46 m further on."""
    dataset = NuScenes(root)
    (frame,) = dataset.frames(dataset.scene(dataset.scene_names[0]), anchor="LIDAR_TOP")
    (sweep,) = frame.lidar
    frames = []
    for k in range(WARM_UP + REPEATS):
        stamp, pose = sweep.stamp_ns + k * 50_000_000, rigid([0.46 * k, 0.0, 0.0], np.array([0.0, 0.0, 0.0, 1.0]))
        again = replace(sweep, stamp_ns=stamp, odom_from_ego=pose)
        frames.append(Frame(stamp, lidar=(again,), odom_from_ego=pose))
    return frames


def carve(frames: list[Frame], config: LidarCarvingConfig) -> Iterator[ModelOutput]:
    """Outputs of the bare model, without the session around it."""
    model, state, before = LidarCarving(config), None, None
    for frame in frames:
        motion = None if before is None else torch.from_numpy(inverse(before) @ frame.odom_from_ego)
        output = model.step(ModelInput(frame), state, motion)
        state, before = output.state, frame.odom_from_ego
        yield output


def row(name: str, frames: list[Frame], config: LidarCarvingConfig) -> dict[str, object]:
    """Time per frame once the memory is full; medians of the stages' wall time."""
    outputs = carve(frames, config)
    seen: list[ModelOutput] = []
    times = measure(lambda: seen.append(next(outputs)), repeats=REPEATS, warm_up=WARM_UP)
    stages = {
        f"{stage}_ms": round(statistics.median(o.stages_ms[stage] for o in seen[WARM_UP:]), 1)
        for stage in seen[-1].stages_ms
    }
    return {
        "stream": name,
        "points": len(frames[-1].lidar[0].points),
        "past_sweeps": seen[-1].state_frames,
        "target_cpu_ms": TARGET_CPU_MS,
        **times,
        **stages,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    default, alone = LidarCarvingConfig(), LidarCarvingConfig(past_sweeps=0)
    street = street_stream()
    rows = [row("street drive", street, default), row("street drive", street, alone)]
    for name in ("nuscenes_keyframe", "nuscenes_keyframe2"):
        root = arguments.shared / "data" / name
        if root.is_dir():
            rows.append(row(f"{name}, repeated", repeated_keyframe(root), default))
        else:
            print(f"{root} is not there: left out")
    report("lidar_carving", rows)


if __name__ == "__main__":
    main()
