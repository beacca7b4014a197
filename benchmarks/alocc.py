"""Speed of the ALOcc variants: wall and CPU time per frame and per stage, peak memory, against the authors' figures.

    python benchmarks/alocc.py --variants alocc-2d-mini alocc-2d --threads 2

Weights are random: time does not depend on them.  Each variant runs in a process of its own, so that the peak memory
is its own.  The authors' figures are of their code on a 2-core machine (specs/alocc.md section 17); ours are only
comparable in the same run on the same machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.report import report
from occ_perception.layers.stage_monitor import StageTimer
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import VARIANTS, alocc_config
from occ_perception.models.alocc_types import ALOccInputs
from occ_perception.ops.frustum import CameraTensors

# Authors' code, fp32, 2 threads: clean wall seconds and CPU seconds per frame.
AUTHORS = {
    "alocc-2d-mini": (2.3, 4.2),
    "alocc-2d": (13.3, 24.0),
    "alocc-3d": (30.5, 47.0),
    "alocc-flow-2d": (15.0, 27.3),
}


def synthetic_inputs(config: object, step: int, device: torch.device) -> ALOccInputs:
    """Six cameras in a ring 1.5 m above the ground, random images; the vehicle drives 4 m per frame."""
    height, width = config.image_size
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(1, 6, 3, height, width, generator=generator)
    rots, trans = [], []
    for yaw in np.deg2rad([55, 0, -55, 110, 180, -110]):
        forward, left = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
        rots.append(np.stack([-left, [0, 0, -1], forward], axis=1))
        trans.append([*forward[:2], 1.5])
    intrinsics = np.array([[1260.0, 0, 800], [0, 1260, 450], [0, 0, 1]])
    post_rot = np.diag([config.resize, config.resize, 1.0])
    post_tran = np.array([0.0, height - config.source_image_size[0] * config.resize, 0.0])
    motion = np.eye(4)
    motion[0, 3] = 4.0 if step else 0.0
    camera_motion = []
    for rotation, translation in zip(rots, trans, strict=True):
        mount = np.eye(4)
        mount[:3, :3], mount[:3, 3] = rotation, translation
        camera_motion.append(np.linalg.inv(mount) @ motion @ mount)

    def tensor(values: object) -> torch.Tensor:
        return torch.tensor(np.array(values), dtype=torch.float32, device=device)[None]

    cameras = CameraTensors(
        *(tensor(v) for v in (rots, trans, [intrinsics] * 6, [post_rot] * 6, [post_tran] * 6)), tensor(np.eye(3))
    )
    stereo = tensor(camera_motion) if config.stereo else None
    return ALOccInputs(images.to(device), cameras, stereo, tensor(motion), starts=(step == 0,))


def run_variant(name: str, frames: int, precision: str, device: torch.device) -> dict[str, object]:
    """Stream frames through one variant; the first two warm up."""
    config = alocc_config(name)
    torch.manual_seed(0)
    network = ALOcc(config).to(device)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    network.prepare_for_inference()
    inputs = [synthetic_inputs(config, step, device) for step in range(2)]
    state, walls, cpus, stages = None, [], [], []
    for step in range(frames + 2):
        timer = StageTimer(device)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output, state = network(inputs[min(step, 1)], state, timer, "overwrite")
            classes = output.logits[:, 1:].sigmoid_().movedim(1, -1).max(dim=-1).indices
        timer("classes", classes)
        stages.append(timer.stages_ms())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    steady = slice(2, None)
    per_stage = {key: round(statistics.median(s[key] for s in stages[steady]), 1) for key in stages[-1]}
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else _peak_resident_gb()
    return {
        "variant": name,
        "precision": precision,
        "wall_s": round(statistics.median(walls[steady]), 3),
        "best_wall_s": round(min(walls[steady]), 3),
        "cpu_s": round(statistics.median(cpus[steady]), 3),
        "peak_gb": round(peak, 2),
        "parameters_m": round(parameters / 1e6, 1),
        "stages_ms": per_stage,
    }


def _peak_resident_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(AUTHORS), choices=list(VARIANTS))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help="run the first variant here and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(arguments.threads)
        row = run_variant(arguments.variants[0], arguments.frames, arguments.precision, torch.device(arguments.device))
        print(json.dumps(row))
        return
    rows = [_in_own_process(name, arguments) for name in arguments.variants]
    for row in rows:
        print(row["variant"], json.dumps(row.pop("stages_ms")))
        wall, cpu = AUTHORS.get(str(row["variant"]), ("", ""))
        row["authors_wall_s"], row["authors_cpu_s"] = wall, cpu
    report("alocc", rows)


def _in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.alocc", "--one", "--variants", name]
    for option in ("precision", "frames", "threads", "device"):
        command += [f"--{option}", str(getattr(arguments, option))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
