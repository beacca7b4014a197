"""The golden protocol of specs/alocc.md section 16: deterministic weights, three streamed frames, stage comparison."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from occ_perception.layers.stage_monitor import StageObserver, ignore_stages
from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import NUSCENES_CAMERAS, ALOccConfig
from occ_perception.models.alocc_types import ALOccInputs, ALOccOutput, ALOccState
from occ_perception.ops.frustum import CameraTensors

_GAINS = {
    "depth_net.depth_conv.4.weight": 6.0,
    "depth_net.occ_conv.3.weight": 6.0,
    "depth_net.depth2occ_inter_weight_net.weight": 2.0,
    "depth_net.depth2occ_inter_bias_net.weight": 2.0,
    "alocc_head.mask_embed.4.weight": 2.0,
    "alocc_head.flow_predicter.2.weight": 6.0,
}


def load_golden_weights(network: nn.Module) -> nn.Module:
    """Fill every tensor of the network by the recipe of section 16.1; returns the network in evaluation mode."""
    state = network.state_dict()
    for key in sorted(state):
        kept = key.startswith("view_transformer.") or key.endswith("num_batches_tracked")
        if kept or key == "depth_net.depth2occ_inter_bias_net.bias":
            continue
        state[key].copy_(torch.from_numpy(_golden_value(key, tuple(state[key].shape))))
    return network.eval()


def _golden_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    r = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(shape)
    if key == "depth_net.bn.running_mean":
        return np.zeros(shape)
    if key == "depth_net.bn.running_var":
        return np.array([1e6] * 4 + [1, 1, 1e4, 1, 1, 1e4] + [1.0] * 17)
    if key.endswith("running_mean") or key.endswith("bias"):
        return 0.1 * r
    if key.endswith("running_var"):
        return 0.75 + 0.25 * np.abs(r)
    if key == "alocc_head.query_feat.weight":
        return r
    if len(shape) == 1:
        return 1 + 0.1 * r
    gain = 0.6 if key.startswith("img_neck.") else _GAINS.get(key, 1.0)
    return gain * r / np.sqrt(np.prod(shape[1:]))


def golden_inputs(golden: dict[str, np.ndarray], raw_rgb: np.ndarray, t: int, config: ALOccConfig) -> ALOccInputs:
    """Frame t of the golden sequence, with the calibration the official code computed."""
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    std = np.array([58.395, 57.12, 57.375], np.float32)
    # QUIRK (section 1): the channels are swapped, the statistics are not.
    pixels = np.roll(raw_rgb, -6 * t, axis=2)[..., ::-1].astype(np.float32)
    images = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2)[None].contiguous()
    post_rots = torch.diag(torch.tensor([0.44, 0.44, 1.0])).expand(1, 6, 3, 3)
    post_trans = torch.tensor([0.0, -140.0, 0.0]).expand(1, 6, 3)
    cameras = CameraTensors(
        torch.from_numpy(golden[f"f{t}/rots"]),
        torch.from_numpy(golden[f"f{t}/trans"]),
        golden_intrinsics(golden, t),
        post_rots,
        post_trans,
        torch.eye(3)[None],
    )
    motion = torch.from_numpy(golden[f"f{t}/curr2adjsensor"]) if config.stereo else None
    ego_motion = torch.from_numpy(golden[f"f{t}/curr_to_prev_ego_rt"])[None]
    return ALOccInputs(images, cameras, motion, ego_motion, starts=(t == 0,))


def golden_intrinsics(golden: dict[str, np.ndarray], t: int) -> Tensor:
    """Camera matrices [1, 6, 3, 3] from the camera vector (fx, fy, cx, cy are its first four numbers)."""
    focal_and_centre = golden[f"f{t}/dn.mlp_input/sample"].reshape(6, 27)[:, :4]
    matrices = np.tile(np.eye(3, dtype=np.float32), (1, 6, 1, 1))
    matrices[0, :, 0, 0], matrices[0, :, 1, 1] = focal_and_centre[:, 0], focal_and_centre[:, 1]
    matrices[0, :, 0, 2], matrices[0, :, 1, 2] = focal_and_centre[:, 2], focal_and_centre[:, 3]
    return torch.from_numpy(matrices)


class GoldenComparison:
    """Compares every observed stage with its golden sample; ``errors`` maps stage to relative error."""

    def __init__(self, golden: dict[str, np.ndarray], t: int) -> None:
        self._golden, self._t = golden, t
        self.errors: dict[str, float] = {}

    def __call__(self, stage: str, value: Tensor) -> None:
        key = f"f{self._t}/{stage}"
        if f"{key}/sample" not in self._golden:
            return
        shape = tuple(self._golden[f"{key}/shape"])
        sample = self._golden[f"{key}/sample"].astype(np.float64).ravel()
        if stage == "final_conv":  # stored before the height column is unfolded
            value = value.permute(0, 1, 4, 2, 3)
        numel = int(np.prod(shape))
        flat = value.detach().reshape(shape).flatten() if value.numel() == numel else None
        assert flat is not None, (stage, tuple(value.shape), shape)
        step = next(s for s in range(1, numel + 1) if len(range(0, numel, s)) == sample.size)
        ours = flat[:: _sample_step(numel, sample.size, step)].double().numpy()
        scale = max(np.abs(sample).max(), 1e-12)
        # Stages stored in float16 are known to half a unit in the last place only.
        stored = self._golden[f"{key}/sample"].ravel()
        rounding = np.spacing(np.abs(stored)).astype(np.float64) / 2 if stored.dtype == np.float16 else 0.0
        excess = np.abs(ours - sample) - rounding
        self.errors[stage] = float(max(excess.max(), 0.0) / scale)


def _sample_step(numel: int, count: int, first: int) -> int:
    """s = ceil(numel / n) for the n of the golden README that gives ``count`` samples."""
    for n in (3000, 20000, 30000, 50000):
        step = -(-numel // n)
        if len(range(0, numel, step)) == count:
            return step
    return first


def stream_golden(
    network: ALOcc, folder: Path, variant: str, frames: int = 3
) -> list[tuple[dict[str, float], ALOccOutput, ALOccState, dict[str, np.ndarray]]]:
    """Run the golden frames one after another; per frame (stage errors, output, state, golden arrays)."""
    with np.load(folder / f"alocc_{variant}.npz") as archive:
        golden = dict(archive)
    raw = np.load(folder / "alocc_inputs.npz")["raw_rgb"]
    assert len(NUSCENES_CAMERAS) == raw.shape[0]
    state, results = None, []
    for t in range(frames):
        comparison = GoldenComparison(golden, t)
        with torch.inference_mode():
            output, state = network(golden_inputs(golden, raw, t, network.config), state, comparison)
        results.append((comparison.errors, output, state, golden))
    return results


__all__ = ["StageObserver", "golden_inputs", "ignore_stages", "load_golden_weights", "stream_golden"]
