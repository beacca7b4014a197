"""Synthetic world, 704x256 images: the parts of a keyframe on one core, and frames written a second.

    python benchmarks/world.py [--processes 2]

Budgets: labels with both masks 150 ms, loading a written frame 25 ms, whole frames 2 a second on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.report import measure, report
from occ_perception.data.synthetic.beams import CameraViews
from occ_perception.data.synthetic.dataset_writer import WorldSettings, write_world
from occ_perception.data.synthetic.drive import CityDrive
from occ_perception.data.synthetic.labels import SceneLabels, surface_returns
from occ_perception.training.nuscenes_source import NuScenesSource


def part_rows() -> list[dict[str, object]]:
    """Parts of a keyframe, and of making a scene."""
    drive = CityDrive(5, 10.0)
    stamp = drive.keyframe_stamps()[10]
    time_s, rendered, scan = drive.time_s(stamp), drive.rendered(stamp), drive.scan(stamp, noise=False)
    poses = {name: drive.odom_from_ego(drive.image_stamp(name, stamp)) for name in drive.rig}
    returns = surface_returns(scan, time_s, drive.scene, drive.ego_from_lidar)
    beams = drive.lidar_beams_around(stamp)
    labels = SceneLabels(drive.scene)
    steps = {
        "scene": lambda: CityDrive(5, 10.0),
        "labels: samples of a scene": lambda: SceneLabels(drive.scene),
        "six images": lambda: drive.rendered(stamp),
        "sweep": lambda: drive.scan(stamp),
        "labels without masks": lambda: labels.at(time_s, returns),
        "labels with masks": lambda: labels.at(time_s, returns, CameraViews(drive.rig, rendered, poses), beams, stamp),
        "whole keyframe": lambda: drive.keyframe(stamp),
    }
    return [{"part": name} | measure(run, 3 if "scene" in name else 15, 1) for name, run in steps.items()]


def dataset_rows(processes: int) -> list[dict[str, object]]:
    """Writing a dataset as the command does, start of the processes included, and reading it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = WorldSettings(scenes=2 * processes, frames=20)
        start = time.perf_counter()
        frames = write_world(folder, settings, processes)
        seconds = time.perf_counter() - start
        source = NuScenesSource(folder)
        rows: list[dict[str, object]] = [{"part": "written frame, read"} | measure(partial(source.load, 0, 5))]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    what = f"{frames} frames written, {processes} processes"
    return [*rows, {"part": what, "frames/s": round(frames / seconds, 2), "MB/frame": round(size / frames / 1e6, 2)}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report("world", part_rows() + dataset_rows(arguments.processes))
