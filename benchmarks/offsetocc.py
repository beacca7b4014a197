"""Speed and memory of OffsetOcc: wall and CPU time per frame, wall time per stage, peak memory, the paper's figures.

    python benchmarks/offsetocc.py --variants offsetocc offsetocc-small --threads 2

Weights are random, so the cost of shapes and votes is measured with the ``--objects`` best queries kept, on classes as
random as the weights.  Each variant runs in a process of its own, so that the peak memory is its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.report import report
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import CameraRig, PinholeCamera, rigid_from_rotation
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.models.base import ModelInput
from occ_perception.models.offsetocc import build_offsetocc
from occ_perception.models.offsetocc_adapter import offsetocc_model
from occ_perception.models.offsetocc_config import VARIANTS, offsetocc_config
from occ_perception.models.panoptic import PanopticModel

# The paper's, NVIDIA L40S, inference: milliseconds per frame and GB.
PAPER = {"offsetocc-baseline": (500, 2.5), "offsetocc": (714, 14.0)}


def ring_of_cameras() -> CameraRig:
    """Six cameras 1.5 m above the ground with nuScenes' field of view."""
    cameras = {}
    for name, yaw in zip(NUSCENES_CAMERAS, np.deg2rad([55, 0, -55, 110, 180, -110]), strict=True):
        forward, right = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        intrinsics = np.array([[1260.0, 0, 800], [0, 1260, 450], [0, 0, 1]])
        cameras[name] = PinholeCamera(intrinsics, rigid_from_rotation(rotation, [*forward[:2], 1.5]), 1600, 900)
    return CameraRig(cameras)


def model_input(size: tuple[int, int], resize: float, device: torch.device) -> ModelInput:
    """Random images of all cameras at the network's size."""
    rig, blank = ring_of_cameras(), np.zeros((900, 1600, 3), np.uint8)
    frame = Frame(0, rig, {name: CameraImage(0, blank, np.eye(4)) for name in rig}, odom_from_ego=np.eye(4))
    images = torch.randn(6, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    affine = np.diag([resize, resize, 1.0])
    affine[1, 2] = size[0] - 900 * resize
    affines = torch.from_numpy(affine).repeat(6, 1, 1)
    return ModelInput(frame, NUSCENES_CAMERAS, (True,) * 6, images, affines)


def run_variant(name: str, frames: int, objects: int, precision: str, device: torch.device) -> dict[str, object]:
    """Run one variant on the same frame again and again; the first run warms up."""
    config = offsetocc_config(name)
    torch.manual_seed(0)
    network = build_offsetocc(config)
    parameters = sum(p.numel() for p in network.parameters())
    model = offsetocc_model(config, network.eval(), device, precision=precision)
    inputs = model_input(config.image_size, config.resize, device)
    if isinstance(model, PanopticModel):
        keep_best_queries(model, inputs, objects)
    walls, cpus, stages = [], [], []
    for _ in range(frames + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        output = model.step(inputs, None, None)
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - start_cpu)
        stages.append(output.stages_ms)
    per_stage = {key: round(statistics.median(s[key] for s in stages[1:]), 1) for key in stages[-1]}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else resident
    return {
        "variant": name,
        "precision": precision,
        "wall_s": round(statistics.median(walls[1:]), 3),
        "best_wall_s": round(min(walls[1:]), 3),
        "cpu_s": round(statistics.median(cpus[1:]), 3),
        "peak_gb": round(peak, 2),
        "parameters_m": round(parameters / 1e6, 2),
        "objects": len(output.objects),
        "stages_ms": per_stage,
    }


def keep_best_queries(model: PanopticModel, inputs: ModelInput, count: int) -> None:
    """Lower the score threshold to that of the ``count``-th query, as if so many objects had been found."""
    features = model.base.step(inputs, None, None).voxel_features
    with torch.inference_mode():
        scores = model.head(features[None]).class_logits[0].sigmoid().amax(dim=1).sort(descending=True).values
    model.head.config = dataclasses.replace(model.head.config, score_threshold=float(scores[count]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--objects", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help="run the first variant here and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(arguments.threads)
        device = torch.device(arguments.device)
        row = run_variant(arguments.variants[0], arguments.frames, arguments.objects, arguments.precision, device)
        print(json.dumps(row))
        return
    rows = [_in_own_process(name, arguments) for name in arguments.variants]
    for row in rows:
        print(row["variant"], json.dumps(row.pop("stages_ms")))
        row["paper_ms_l40s"], row["paper_gb_l40s"] = PAPER.get(str(row["variant"]), ("", ""))
    report("offsetocc", rows)


def _in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.offsetocc", "--one", "--variants", name]
    for option in ("precision", "frames", "objects", "threads", "device"):
        command += [f"--{option}", str(getattr(arguments, option))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
