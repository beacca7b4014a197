"""OffsetOcc's decoupled offset supervision against coupled, on the tests' small world (test/offsetocc_frames.py).

    python benchmarks/offset_decoupling.py [--steps 300] [--seeds 3]

The Object Module alone is trained: its voxel features are a fixed random code of the true classes, blurred and noisy,
so that nothing but the supervision of the shapes differs.  Random arrangements of cars and pedestrians are trained on,
others are held out; scored is the panoptic quality of the voxels of things after voting, true classes given.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

import numpy as np
import torch
from offsetocc_frames import CAR, GRID, HEAD, PEDESTRIAN, labelled_frame
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import report
from occ_perception.metrics.voxel_panoptic import VoxelPanopticQuality
from occ_perception.models.panoptic import PanopticHead
from occ_perception.ontology import FREE, OCC3D
from occ_perception.training.object_losses import ObjectLossSettings, object_losses
from occ_perception.training.object_targets import ObjectTargets, object_targets
from occ_perception.training.task import LabelledFrame

_CHANNELS, _TRAINING, _HELD_OUT, _BATCH = 32, 64, 32, 4
_SHAPES = {CAR: ((6, 4, 2), (4, 6, 2)), PEDESTRIAN: ((2, 2, 4),)}


def arrangement(seed: int) -> LabelledFrame:
    """Two to five objects that do not touch, on even cells."""
    random, objects = np.random.default_rng(seed), []
    taken = np.zeros(GRID.size[:2], bool)
    for _ in range(int(random.integers(2, 6))):
        class_id = CAR if random.random() < 0.6 else PEDESTRIAN
        count = _SHAPES[class_id][int(random.integers(len(_SHAPES[class_id])))]
        x, y = (2 * int(random.integers(1, (24 - side) // 2)) for side in count[:2])
        around = (slice(x - 2, x + count[0] + 2), slice(y - 2, y + count[1] + 2))
        if not taken[around].any():
            taken[x : x + count[0], y : y + count[1]] = True
            objects.append((class_id, (x, y, 2), count))
    return labelled_frame(seed, tuple(objects))


def features_of(frames: list[LabelledFrame], seed: int) -> Tensor:
    """[B, C, X / 2, Y / 2, Z / 2] codes of the classes, blurred, with noise."""
    code = torch.randn(256, _CHANNELS, generator=torch.Generator().manual_seed(7))
    semantics = torch.from_numpy(np.stack([frame.label.semantics for frame in frames])).long()
    blurred = F.avg_pool3d(code[semantics].movedim(-1, 1), 2)
    return blurred + 0.5 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))


def targets_of(frames: list[LabelledFrame]) -> ObjectTargets:
    """Targets of a batch."""
    each = [object_targets(frame, OCC3D.thing_ids) for frame in frames]
    return ObjectTargets(*map(torch.stack, zip(*each, strict=True)))


def trained(decoupled: bool, steps: int, seed: int) -> PanopticHead:
    """A head after so many steps of four arrangements."""
    torch.manual_seed(seed)
    head = PanopticHead(HEAD, GRID, _CHANNELS, OCC3D.thing_ids).train()
    settings = replace(ObjectLossSettings(matching="exact"), decoupled=decoupled)
    optimizer = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    frames, order = [arrangement(index) for index in range(_TRAINING)], np.random.default_rng(seed)
    for step in range(steps):
        batch = [frames[index] for index in order.choice(_TRAINING, _BATCH, replace=False)]
        predictions = head(features_of(batch, seed * 100_000 + step))
        losses = object_losses(head.objects, predictions, targets_of(batch), GRID, settings).losses
        optimizer.zero_grad()
        torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.no_grad()
def score(head: PanopticHead) -> dict[str, float]:
    """Figures of held-out arrangements, percent."""
    metric, things = VoxelPanopticQuality("occ3d", "none"), np.isin(np.arange(256), OCC3D.thing_ids)
    for index in range(_TRAINING, _TRAINING + _HELD_OUT):
        frame = arrangement(index)
        label = frame.label
        predictions = head(features_of([frame], index))
        scene = head.merge(torch.from_numpy(label.semantics), head.find(predictions, 0))
        true = np.where(things[label.semantics], label.semantics, FREE)
        said = np.where(things[label.semantics], scene.semantics.numpy(), FREE)
        seen, instances = np.ones(label.semantics.shape, bool), np.asarray(label.instances)
        metric.update(true, instances, said, scene.instances.numpy().astype(np.uint16), seen)
    return {name: 100 * value for name, value in metric.compute().values.items() if name in ("PQ", "SQ", "RQ")}


def main() -> None:
    """Train, score, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for decoupled in (True, False):
        runs = [score(trained(decoupled, arguments.steps, seed)) for seed in range(arguments.seeds)]
        figures = {f"{name} (mean)": round(float(np.mean([run[name] for run in runs])), 1) for name in runs[0]}
        each = " ".join(f"{run['PQ']:.1f}" for run in runs)
        rows.append({"supervision": "decoupled" if decoupled else "coupled"} | figures | {"PQ of each seed": each})
        print(rows[-1], flush=True)
    report("offset_decoupling", rows)


if __name__ == "__main__":
    main()
