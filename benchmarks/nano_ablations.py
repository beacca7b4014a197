"""What nano's parts are worth: the same short training of each variant, cameras only, scored on held-out scenes.

    python benchmarks/nano_ablations.py data/world data/world_val --iterations 300 --output runs/ablations

Variants: nano; plain lift-splat instead of ALOcc's adaptive lifting (no intra-object transfer, every point to its
nearest voxel); without temporal fusion.  All begin with the package's image branch (backbone, neck, depth net) and a
bird's-eye view of random weights of one seed, and see the same frames in the same order.  Short trainings rank
variants only roughly: no variant is near what it could reach.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml
from safetensors.torch import load_file, save_file

from benchmarks.report import report
from occ_perception import cli
from occ_perception.checkpoints.bundled import bundled_weights
from occ_perception.metrics.semantic_iou import SemanticIoU
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.nuscenes_source import NuScenesSource

VARIANTS = {
    "nano": {},
    "plain lift-splat": {"adaptive_lifting": False},
    "without history": {"use_history": False},
}
_IMAGE_PARTS = ("image_backbone.", "image_neck.", "depth_net.", "image_classifier.")


def image_branch(weights: Path, path: Path) -> Path:
    """The entries of the image branch as a file of their own."""
    save_file({name: value for name, value in load_file(weights).items() if name.startswith(_IMAGE_PARTS)}, path)
    return path


def train(variant: str, arguments: argparse.Namespace, initial: Path) -> Path:
    """Train one variant; returns its (averaged) weights."""
    folder = arguments.output / variant.replace(" ", "_")
    source = {"kind": "nuscenes", "nuscenes": {"root": str(arguments.training)}}
    held_out = {"kind": "nuscenes", "nuscenes": {"root": str(arguments.validation)}}
    config = {
        "task": {
            "name": "nano",
            "settings": VARIANTS[variant] | {"camera_only": 1.0, "lidar_only": 0.0},
            "initial_weights": str(initial),
            "initial_match": "some",
        },
        "data": {"training": source, "validation": held_out},
        "iterations": arguments.iterations,
        "batch_size": 4,
        "learning_rate": {"peak": 1.5e-3, "shape": "cosine", "warmup_iterations": 20, "final_ratio": 0.01},
        "optimizer": {"weight_decay": 0.03, "gradient_norm": 5.0},
        "average": {"decay": 0.98, "ramp": 20},
        "compute": {"precision": "bfloat16", "threads": arguments.threads, "channels_last": True},
        "loader": {"workers": 1},
        "validation": {"every": arguments.iterations, "scenes": 1},
    }
    path = arguments.output / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    if cli.main(["train", "--config", str(path), "-o", str(folder)]) != 0:
        raise SystemExit(f"training of '{variant}' failed")
    return folder / "final.safetensors"


@torch.no_grad()
def score(variant: str, weights: Path, root: Path) -> dict[str, object]:
    """mIoU and IoU (percent) of all held-out frames, cameras only, where a camera saw it."""
    task = NanoTask(NanoTaskSettings(**VARIANTS[variant]))
    task.network.load_state_dict(load_file(weights))
    network, metric, source = task.network.eval(), SemanticIoU("occ3d", "camera"), NuScenesSource(root)
    for scene, length in enumerate(source.scene_lengths):
        state, previous = None, None
        for index in range(length):
            sample = source.load(scene, index)
            sample = replace(sample, frame=replace(sample.frame, lidar=()))
            batch = {name: value[None] for name, value in task.prepare(sample, previous, None).items()}
            classes, state = task.evaluate(network, batch, state, (index == 0,))
            metric.update(sample.label.semantics, classes[0].numpy(), sample.label.mask_camera)
            previous = sample
    values = metric.compute().values
    return {"what": variant} | {name: round(100 * values[name], 2) for name in ("mIoU", "IoU")}


def main() -> None:
    """Train, score, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, nargs="?", help="scenes to train on, in nuScenes' layout")
    parser.add_argument("validation", type=Path, nargs="?", help="held-out scenes")
    parser.add_argument("--iterations", type=int, default=300, help="of four samples (default: 300)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="whose image branch all begin with (default: the package's)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    arguments = parser.parse_args()
    if arguments.training is None or arguments.validation is None:
        print("needs scenes to train on and held-out ones, see --help; nothing measured")
        return
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    initial = image_branch(arguments.weights or bundled_weights("nano"), arguments.output / "image.safetensors")
    rows = []
    for variant in arguments.variants:
        rows.append(score(variant, train(variant, arguments, initial), arguments.validation))
        print(json.dumps(rows[-1]), flush=True)
    report("nano_ablations", rows)


if __name__ == "__main__":
    main()
