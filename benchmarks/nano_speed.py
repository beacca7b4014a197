"""`nano` from JPEG to published grid: wall and CPU time per frame on two threads, with and without LiDAR.

    python benchmarks/nano_speed.py data/world_val [--threads 2] [--frames 20]

Each of the first scenes is played through one session; its first frames, in which tables of the calibration are made,
do not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.report import report
from occ_perception.frame import Frame
from occ_perception.models import create_model
from occ_perception.session import Session
from occ_perception.training.nuscenes_source import NuScenesSource

_WARM_UP = 3
_SENSORS: dict[str, Callable[[Frame], Frame]] = {
    "cameras + LiDAR": lambda frame: frame,
    "cameras only": lambda frame: replace(frame, lidar=()),
    "LiDAR only": lambda frame: replace(frame, images={}),
}


def timed(session: Session, frames: list[Frame]) -> dict[str, float]:
    """Median times of the frames after the first few."""
    wall, cpu = [], []
    parts: dict[str, list[float]] = {}
    for index, frame in enumerate(frames):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        occupancy = session.step(frame)
        if index >= _WARM_UP:
            wall.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - begin_cpu)
            for name, milliseconds in occupancy.timings_ms.items():
                parts.setdefault(name, []).append(milliseconds)
    row = {"wall_ms": 1e3 * np.median(wall), "cpu_ms": 1e3 * np.median(cpu), "hz": 1 / np.median(wall)}
    stages = {name: np.median(values) for name, values in parts.items() if "/" not in name}
    return {name: round(float(value), 1) for name, value in (row | stages).items()}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="scenes in nuScenes' layout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.root is None:
        print("needs scenes, see --help; nothing measured")
        return
    torch.set_num_threads(arguments.threads)
    model, source = create_model("nano"), NuScenesSource(arguments.root)
    order = [(scene, index) for scene, length in enumerate(source.scene_lengths) for index in range(length)]
    frames = [source.load(*place).frame for place in order[: arguments.frames + _WARM_UP]]
    rows = []
    for name, only in _SENSORS.items():
        rows.append({"sensors": name} | timed(Session(model), [only(frame) for frame in frames]))
    report("nano_speed", rows)


if __name__ == "__main__":
    main()
