"""ALOcc and ALOcc-Flow (Chen et al., ICCV 2025): camera-only occupancy and flow with adaptive lifting.

Parameter names are the published ones, so a published ``state_dict`` loads by name.  Source: specs/alocc.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occ_perception.layers.depth_net import DepthNet, DepthNetOutput, camera_vector
from occ_perception.layers.depth_transfer import (
    inter_object_transfer,
    intra_object_transfer,
    mix_known_depth,
)
from occ_perception.layers.flow_head import FlowHead, bev_summary, correlation_scores
from occ_perception.layers.folding import fold_batch_norms, lay_out_channels_last
from occ_perception.layers.fpn import FPN
from occ_perception.layers.history_fusion import (
    HistoryState,
    HistoryUpdate,
    fuse_history,
    fuse_history_framewise,
    mixing_conv,
    restart_history,
)
from occ_perception.layers.lifting import GridParameters, lift
from occ_perception.layers.prototype_head import PrototypeHead
from occ_perception.layers.residual_blocks import ResidualStages
from occ_perception.layers.resnet import ResNet
from occ_perception.layers.stage_monitor import StageObserver, ignore_stages
from occ_perception.layers.voxel_neck import BevNeck, HeightExpansion, VolumeNeck, scores_from_columns
from occ_perception.models.alocc_config import ALOccConfig
from occ_perception.models.alocc_types import ALOccInputs, ALOccOutput, ALOccState, Guidance
from occ_perception.ops.cost_volume import stereo_cost_volume, sweep_coordinates
from occ_perception.ops.frustum import depth_values, frustum
from occ_perception.ops.grid_warp import metres_from_index, warp_taps
from occ_perception.ops.interpolation import Taps
from occ_perception.ops.precision import full_precision
from occ_perception.ops.voxel_pooling import GridSpec

LIFTING_STRIDE = 16
STEREO_STRIDE = 4
_NO_GUIDANCE = Guidance()


class ALOcc(nn.Module):
    """One ALOcc variant; call it once per frame with the state of the frame before."""

    def __init__(self, config: ALOccConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = GridSpec(config.grid_origin, config.lifting_interval, config.lifting_cells)
        lifted = config.lifted_channels
        self.img_backbone = ResNet()
        self.img_neck = FPN((1024, 2048), 256, outputs=1)
        self.depth_net = DepthNet(
            lifted, config.depth_bins, config.intra_object_bins, config.stereo, config.inter_object
        )
        self.view_transformer = GridParameters(self.grid)
        self.pre_process = (
            ResidualStages(lifted, [lifted], [1], [1], config.volumetric) if config.inter_object else None
        )
        if config.history_frames:
            self.history_keyframe_time_conv = mixing_conv(lifted + 1, lifted, config.volumetric)
            frames = config.history_frames + 1
            self.history_keyframe_cat_conv = mixing_conv(frames * lifted, lifted, config.volumetric)
        self.img_bev_encoder_backbone = ResidualStages(
            lifted, config.encoder_channels, config.encoder_blocks, config.encoder_strides, config.volumetric
        )
        neck = VolumeNeck if config.volumetric else BevNeck
        self.img_bev_encoder_neck = neck(config.encoder_channels, config.neck_channels)
        if not config.volumetric:
            self.final_conv = HeightExpansion(config.neck_channels, config.voxel_channels, config.grid_size[2])
        # float16 halves the memory of the stored volumes; their warped sums stay float32.
        self.history_dtype = torch.float32
        self.score_expansion: HeightExpansion | None = None
        head = FlowHead if config.flow else PrototypeHead
        self.alocc_head = head(config.queries, config.voxel_channels, lifted)

    def forward(
        self,
        inputs: ALOccInputs,
        state: ALOccState | None = None,
        observe: StageObserver = ignore_stages,
        update: HistoryUpdate = "copy",
    ) -> tuple[ALOccOutput, ALOccState]:
        """Images and calibration of one frame, and what the frame before left, to class and flow scores.

        Args:
            inputs: the frame.
            state: returned by the frame before; None for the first frame.
            observe: called with every stage's name and output.
            update: whether the new history gets memory of its own, takes that of ``state`` (half the peak memory), or
                is not made (the returned history is the old one); "copy" in training mode.
        """
        # Image features, and the stereo match with the previous image.
        observe("images", inputs.images)
        features, stereo_features = self.image_features(inputs.images, observe)
        with full_precision(inputs.images):
            cost_volume = self.match_previous_images(inputs, stereo_features, state)
        # Context, surface depth, and the transfer from surface to occupied depth.
        heads = self.predict_depth(inputs, features, cost_volume, observe)
        depth = torch.softmax(heads.depth_logits.float(), dim=1).unflatten(0, inputs.images.shape[:2])
        observe("dn.depth_pred", depth)
        with full_precision(inputs.images):
            volume = self.lift_features(inputs, heads, depth, observe)
        if self.pre_process is not None:
            volume = self.pre_process(volume)[0]
            observe("pre0", volume)
        # Align the stored volumes with this frame and fuse them.
        with full_precision(inputs.images):
            volume, history = self.fuse_with_history(inputs, volume.float(), state, update, observe)
        # Encode, and score every voxel against the class prototypes.
        features = self.encode(volume, observe)
        voxels, logits = self.score_voxels(features, observe)
        flow, flow_logits, flow_map = self.predict_flow(inputs, voxels, state, observe)
        context = heads.context.unflatten(0, inputs.images.shape[:2])
        output = ALOccOutput(logits, flow, flow_logits, depth, context, voxels)
        return output, ALOccState(history, stereo_features, flow_map, inputs.cameras.bda)

    def prepare_for_inference(self, keep_voxel_features: bool = False) -> ALOcc:
        """Fold what is linear and lay the weights out channels-last; the network cannot be trained or saved after.

        Without ``keep_voxel_features`` the variants that only need class scores no longer make the voxel features.
        """
        fold_batch_norms(self.eval().requires_grad_(False))
        if not (self.config.volumetric or self.config.flow or keep_voxel_features):
            self.score_expansion = scores_from_columns(self.final_conv, self.alocc_head)
        lay_out_channels_last(self)
        return self

    def image_features(self, images: Tensor, observe: StageObserver) -> tuple[Tensor, Tensor | None]:
        """Images [B, N, 3, H, W] -> neck map [B * N, 256, h, w] and, for stereo variants, C2 [B, N, 256, H/4, W/4]."""
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        c2, _, c4, c5 = self.img_backbone(flat, self.config.stereo)
        for index, stage in enumerate((c4, c5) if c2 is None else (c2, c4, c5)):
            observe(f"backbone{index}", stage)
        features = self.img_neck((c4, c5))[0]
        observe("neck0", features)
        return features, None if c2 is None else c2.detach().unflatten(0, images.shape[:2])

    @torch.no_grad()
    def match_previous_images(
        self, inputs: ALOccInputs, current: Tensor | None, state: ALOccState | None
    ) -> Tensor | None:
        """Stereo cost volume [B * N, D, H/4, W/4] against the previous frame; its first frame is its own partner."""
        motion = inputs.previous_from_current_camera
        if current is None or motion is None:
            return None
        config = self.config
        if inputs.previous_images is not None:
            previous = self.img_backbone.stereo_features(inputs.previous_images.flatten(0, 1)).view_as(current)
        else:
            previous = current if state is None or state.stereo_features is None else state.stereo_features
        previous = _where_started(inputs.starts, current, previous)
        if inputs.stereo_known is not None:
            previous = torch.where(inputs.stereo_known[..., None, None, None], previous, current)
        depths = depth_values(config.depth_start, config.depth_step, config.depth_bins, current.device)
        points = frustum(_size(inputs.images), STEREO_STRIDE, depths)
        x, y = sweep_coordinates(points, inputs.cameras, motion, _size(inputs.images))
        maps = (current.flatten(0, 1), previous.flatten(0, 1), x.flatten(0, 1), y.flatten(0, 1))
        return stereo_cost_volume(*maps)

    def predict_depth(
        self, inputs: ALOccInputs, features: Tensor, cost_volume: Tensor | None, observe: StageObserver
    ) -> DepthNetOutput:
        """Camera-aware heads on the neck features."""
        cameras = inputs.cameras
        vector = camera_vector(
            cameras.intrins, cameras.post_rots, cameras.post_trans, cameras.bda, cameras.rots, cameras.trans
        ).flatten(0, 1)
        observe("dn.mlp_input", vector)
        if cost_volume is not None:
            observe("dn.cost_volume", cost_volume)
        heads = self.depth_net(features, vector, cost_volume)
        observe("dn.depth_logits", heads.depth_logits)
        observe("dn.occ_logits", heads.occupancy_logits)
        if heads.inter_weight is not None and heads.inter_offset is not None:
            observe("dn.depth2occ_inter_weight", heads.inter_weight)
            observe("dn.depth2occ_inter_bias", heads.inter_offset)
        observe("dn.context", heads.context)
        return heads

    def lift_features(
        self, inputs: ALOccInputs, heads: DepthNetOutput, depth: Tensor, observe: StageObserver
    ) -> Tensor:
        """Context features onto the grid, [B, C, Y, X(, Z)], by the surface depth [B, N, D, h, w]."""
        config = self.config
        share = 1.0 if config.uses_lidar_depth else (inputs.guidance or _NO_GUIDANCE).depth_mix
        if inputs.lidar_depth is not None and share > 0:
            depth = mix_known_depth(depth, inputs.lidar_depth, share)
        transfer = torch.sigmoid(heads.occupancy_logits.float()).unflatten(0, depth.shape[:2])
        geometry = intra_object_transfer(depth, transfer)
        observe("dn.geometry", geometry)
        if inputs.camera_mask is not None:
            geometry = geometry * inputs.camera_mask[..., None, None, None]
        depths = depth_values(config.depth_start, config.depth_step, config.depth_bins, depth.device)
        points = frustum(_size(inputs.images), LIFTING_STRIDE, depths)
        extra = None
        if heads.inter_weight is not None and heads.inter_offset is not None:
            extra = inter_object_transfer(
                geometry.flatten(0, 1),
                heads.inter_weight.float(),
                heads.inter_offset.float(),
                points,
                config.inter_object_depth_bins,
            )
        volume = lift(heads.context.float(), geometry, extra, points, inputs.cameras, self.grid)
        observe("lifted", volume)
        return volume

    def fuse_with_history(
        self,
        inputs: ALOccInputs,
        volume: Tensor,
        state: ALOccState | None,
        update: HistoryUpdate,
        observe: StageObserver,
    ) -> tuple[Tensor, HistoryState | None]:
        """Mix the current volume with the stored ones, moved into the current frame."""
        config = self.config
        if not config.history_frames:
            return volume, None
        stored = None if state is None else state.history
        history = restart_history(volume, stored, inputs.starts, config.history_frames, self.history_dtype)
        taps = self.motion_taps(inputs, state, tuple(volume.shape[2:]))
        convs = (self.history_keyframe_time_conv, self.history_keyframe_cat_conv)
        if self.training:
            fused, history = fuse_history(volume, history, taps, config.frame_interval, *convs)
        else:
            fused, history = fuse_history_framewise(
                volume, history, taps, config.frame_interval, *convs, update="overwrite" if stored is None else update
            )
        observe("hist.fused", fused)
        return fused, history

    def motion_taps(self, inputs: ALOccInputs, state: ALOccState | None, size: tuple[int, ...]) -> Taps:
        """Cells of the current grid ((Y, X) or (Y, X, Z)) in the previous frame's grid."""
        bda = inputs.cameras.bda
        before = bda if state is None else _where_started(inputs.starts, bda, state.bda)
        still = torch.eye(4, dtype=inputs.previous_from_current_ego.dtype, device=bda.device).expand(len(bda), 4, 4)
        motion = _where_started(inputs.starts, still, inputs.previous_from_current_ego)
        planar = len(size) == 2
        metres = metres_from_index(self.config.grid_origin, self.config.voxel_size, planar)
        return warp_taps(motion, bda, before, metres, size)

    def encode(self, volume: Tensor, observe: StageObserver) -> Tensor:
        """Fused volume [B, C, Y, X(, Z)] -> features at full grid resolution, same axes."""
        stages = self.img_bev_encoder_backbone(volume)
        for index, stage in enumerate(stages):
            observe(f"enc{index}", stage)
        # The 8-bit mantissa of bfloat16 costs most here: 97.7 % against 98.4 % agreement (mIoU) with float32.
        with full_precision(volume, instead_of=torch.bfloat16):
            features = self.img_bev_encoder_neck([_at_least_float(stage) for stage in stages])
        observe("encneck", features)
        return features

    def score_voxels(self, features: Tensor, observe: StageObserver) -> tuple[Tensor | None, Tensor]:
        """Voxel features [B, F, Y, X, Z] (None when they are not made) and logits [B, queries, Y, X, Z]."""
        if self.score_expansion is not None:
            with full_precision(features):  # classes are ranked by small differences of scores
                voxels, logits = None, self.score_expansion(features.float())
        else:
            voxels = features
            if not self.config.volumetric:
                voxels = self.final_conv(features)
                observe("final_conv", voxels)
            with full_precision(features):
                logits = self.alocc_head(voxels.float())
        observe("head.logits", logits)
        return voxels, logits

    def predict_flow(
        self, inputs: ALOccInputs, voxels: Tensor | None, state: ALOccState | None, observe: StageObserver
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Velocity per voxel, its bin logits (training mode only), and the BEV map that the next frame needs."""
        head = self.alocc_head
        if not isinstance(head, FlowHead) or voxels is None:
            return None, None, None
        with torch.no_grad(), full_precision(voxels):
            current = bev_summary(voxels.float())
            stored = current if state is None or state.flow_map is None else state.flow_map
            previous = _where_started(inputs.starts, current, stored)
            taps = self.motion_taps(inputs, state, tuple(current.shape[1:3]))
            scores = correlation_scores(current, previous, taps)
            guidance = inputs.guidance or _NO_GUIDANCE
            if guidance.flow_scores is not None and guidance.flow_mix > 0:
                scores = guidance.flow_mix * guidance.flow_scores + (1 - guidance.flow_mix) * scores
            cost_volume = torch.softmax(-scores, dim=1)
            observe("flow.cost_volume", cost_volume)
        flow, flow_logits = head.flow(voxels, cost_volume, observe)
        observe("head.flow", flow)
        return flow, flow_logits, current


def _at_least_float(x: Tensor) -> Tensor:
    """bfloat16 to float32; other types as they are."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _where_started(starts: tuple[bool, ...], fresh: Tensor, stored: Tensor) -> Tensor:
    """``fresh`` for the streams that begin with this frame, ``stored`` for the others; both [B, ...]."""
    if not any(starts):
        return stored
    if all(starts):
        return fresh
    begun = torch.tensor(starts, device=fresh.device).view(-1, *(1,) * (fresh.ndim - 1))
    return torch.where(begun, fresh, stored)
