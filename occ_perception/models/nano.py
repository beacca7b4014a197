"""`nano`: semantics, flow and instances in real time on a laptop's CPU; cameras, LiDAR or both.

ALOcc's adaptive lifting (camera-aware depth, intra-object depth transfer, soft filling), prototype head and
correlation flow head, scaled down; one recurrent bird's-eye-view state in place of 16 stored frames; an instance head
of centres and offsets; and a LiDAR branch that may be absent.  Source of the parts: specs/alocc.md sections 4, 5, 8.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occ_perception.errors import InvalidInputError
from occ_perception.layers.column_scores import ColumnScores
from occ_perception.layers.depth_net import camera_vector
from occ_perception.layers.depth_transfer import intra_object_transfer, mix_known_depth
from occ_perception.layers.folding import fold_batch_norms, lay_out_channels_last
from occ_perception.layers.lifting import lift
from occ_perception.layers.light_backbone import ConvNormReLU, LightBackbone, TopDownNeck, light_stage
from occ_perception.layers.light_depth_net import LightDepthNet
from occ_perception.layers.stage_monitor import StageObserver, ignore_stages
from occ_perception.models.nano_config import FLOW_BIN_CENTRES, NanoConfig
from occ_perception.models.nano_types import NanoInputs, NanoOutput, NanoState
from occ_perception.ops.correlation import local_cosine_similarity
from occ_perception.ops.frustum import depth_values, frustum
from occ_perception.ops.grid_warp import metres_from_index, warp, warp_taps
from occ_perception.ops.precision import full_precision

FEATURE_STRIDE = 8
_WINDOW, _DILATION = 11, 2  # the matching window: +-10 cells of 0.8 m in half a second, +-16 m/s
_LIDAR_SHARE = 0.9  # weight of a measured depth against the predicted one
_LEAST_PROBABILITY = 0.01  # of a point that is lifted: where a depth is known, nine in ten points have less
_CENTRE_PRIOR = -4.0  # logit: few cells are the centre of an object


class Nano(nn.Module):
    """Call it once per frame with the state of the frame before."""

    def __init__(self, config: NanoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoConfig()
        self.keeps_features = True
        self.image_backbone = LightBackbone(config.image_channels)
        self.image_neck = TopDownNeck(config.image_channels[1:], config.feature_channels)
        self.depth_net = LightDepthNet(
            config.feature_channels, config.context_channels, config.depth_bins, config.intra_object_bins
        )
        # What the image features are taught directly, besides through the grid; only the training loss uses it.
        self.image_classifier = nn.Conv2d(config.feature_channels, config.classes - 1, 1)
        fine, middle, coarse = config.bev_channels
        lifted = config.context_channels * config.lifting_heights
        self.camera_branch = ConvNormReLU(lifted, fine, 1)
        # The last channel says whether there is a LiDAR at all: an empty cell and no sensor are different things.
        self.lidar_branch = ConvNormReLU(config.column_voxels + 1, fine)
        self.sensor_fusion = ConvNormReLU(2 * fine, fine, 1)
        self.temporal_fusion = ConvNormReLU(2 * fine if config.use_history else fine, fine)
        self.bev_stage1 = light_stage(fine, fine, 1, 1)
        self.bev_stage2 = light_stage(fine, middle, 2, 2)
        self.bev_stage3 = light_stage(middle, coarse, 2, 2)
        self.bev_neck = TopDownNeck(config.bev_channels, config.neck_channels)
        neck = config.neck_channels
        self.voxel_head = nn.Conv2d(neck, config.column_voxels * config.voxel_channels, 1)
        self.score_head: nn.Linear | None = None  # both in one, for inference
        self.prototypes = nn.Parameter(torch.randn(config.classes, config.voxel_channels) * 0.3)
        self.matching = nn.Conv2d(fine, config.matching_channels, 1).requires_grad_(config.use_history)
        flow_inputs = neck + (_WINDOW**2 if config.use_history else 0)
        self.flow_head = nn.Sequential(
            ConvNormReLU(flow_inputs, 48, 1), ConvNormReLU(48, 48), nn.Conv2d(48, 2 * len(FLOW_BIN_CENTRES), 1)
        )
        self.instance_head = nn.Sequential(ConvNormReLU(neck, 48), nn.Conv2d(48, 4 * 3, 1))
        with torch.no_grad():
            self.instance_head[1].bias[:4].fill_(_CENTRE_PRIOR)  # type: ignore[index, operator]

    def forward(
        self,
        inputs: NanoInputs,
        state: NanoState | None = None,
        observe: StageObserver = ignore_stages,
        cells: Tensor | None = None,
    ) -> tuple[NanoOutput, NanoState]:
        """Images, LiDAR and calibration of one frame, and what the frame before left, to scores of every voxel.

        Args:
            inputs: the frame.
            state: returned by the frame before; None for the first frame.
            observe: called with every stage's name and output.
            cells: int64 [n] of the B * Y * X coarse cells; only their voxels get features (training).
        """
        # What the sensors see, on one bird's-eye view.
        from_cameras, depth, image_logits = self.lift_images(inputs, observe)
        from_lidar = self.lidar_branch(self.lidar_map(inputs))
        observe("lidar", from_lidar)
        current = self.sensor_fusion(torch.cat([from_cameras, from_lidar], dim=1))
        # Together with what the frame before knew, moved into this frame.
        previous = self.previous_maps(inputs, state, current)
        if previous:  # looked at before a fused ReLU can hide what is wrong with it
            observe("history", previous[0])
        fused = self.temporal_fusion(torch.cat([current, previous[0]], dim=1) if previous else current)
        observe("fused", fused)
        stage1 = self.bev_stage1(fused)
        stage2 = self.bev_stage2(stage1)
        bev = self.bev_neck([stage1, stage2, self.bev_stage3(stage2)])
        observe("bev", bev)
        # Every voxel's feature, every column's velocity, every cell's object.
        matching = self.matching(current)
        flow_logits = self.predict_flow(bev, matching, previous[1] if previous else None)
        observe("flow", flow_logits)
        heatmap, offsets = self.predict_instances(bev)
        features = self.voxel_features(bev) if self.keeps_features and cells is None else None
        chosen = None if cells is None else self.cell_features(bev, cells)
        scores = None if self.score_head is None else ColumnScores.of(self.score_head, bev, len(self.prototypes))
        output = NanoOutput(
            features, self.prototypes, scores, flow_logits, heatmap, offsets, depth, chosen, image_logits
        )
        return output, NanoState(_kept(fused), _kept(matching), inputs.cameras.bda)

    def lift_images(self, inputs: NanoInputs, observe: StageObserver) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images -> bird's-eye view [B, C, Y, X] by predicted (and, with LiDAR, measured) depth; depth; classes."""
        images, cameras, config = inputs.images, inputs.cameras, self.config
        batch, count = images.shape[:2]
        if count == 0:
            x, y = config.coarse_cells
            lifted = config.context_channels * config.lifting_heights
            return self.camera_branch(images.new_zeros(batch, lifted, y, x)), None, None
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        observe("images", flat)
        features = self.image_neck(self.image_backbone(flat))
        observe("features", features)
        vector = camera_vector(
            cameras.intrins, cameras.post_rots, cameras.post_trans, cameras.bda, cameras.rots, cameras.trans
        )
        heads = self.depth_net(features, vector.flatten(0, 1))
        with full_precision(images):
            depth = torch.softmax(heads.depth_logits.float(), dim=1).unflatten(0, (batch, count))
            observe("depth", depth)
            volume = self._splat(inputs, heads.context.float(), heads.occupancy_logits.float(), depth)
        observe("lifted", volume)
        logits = self.image_classifier(features).unflatten(0, (batch, count)) if self.training else None
        return self.camera_branch(volume), depth, logits

    def _splat(self, inputs: NanoInputs, context: Tensor, transfer: Tensor, depth: Tensor) -> Tensor:
        """Adaptive lifting: [B, Z * C, Y, X], height cells as channels."""
        config = self.config
        geometry = mix_known_depth(depth, inputs.lidar_depth, _LIDAR_SHARE)
        if config.adaptive_lifting:
            geometry = intra_object_transfer(geometry, torch.sigmoid(transfer).unflatten(0, depth.shape[:2]))
        geometry = geometry * inputs.camera_mask[..., None, None, None]
        size = (inputs.images.shape[-2], inputs.images.shape[-1])
        depths = depth_values(config.depth_start, config.depth_step, config.depth_bins, depth.device)
        points = frustum(size, FEATURE_STRIDE, depths)
        volume = lift(
            context,
            geometry,
            None,
            points,
            inputs.cameras,
            config.lifting_grid,
            soft=config.adaptive_lifting,
            least=_LEAST_PROBABILITY,
        )
        return volume.movedim(1, -1).flatten(3, 4).movedim(-1, 1)

    def lidar_map(self, inputs: NanoInputs) -> Tensor:
        """LiDAR returns per voxel as channels of a bird's-eye view, [B, 4 Z + 1, Y, X]."""
        columns = inputs.lidar_columns.flatten(3).to(self.prototypes.dtype)
        present = inputs.lidar_mask.to(columns.dtype)[:, None, None, None].expand(*columns.shape[:3], 1)
        return torch.cat([columns, present], dim=-1).movedim(-1, 1)

    def previous_maps(self, inputs: NanoInputs, state: NanoState | None, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """The previous frame's fused and matching maps in this frame's grid, [B, C, Y, X]; zero at a stream's start."""
        config = self.config
        if not config.use_history:
            return None
        if state is None:
            fused = like.new_zeros(like.shape)
            return fused, like.new_zeros(len(like), config.matching_channels, *like.shape[-2:])
        known = ~inputs.starts.view(-1, 1, 1, 1)
        bda = inputs.cameras.bda
        before = torch.where(known[..., 0], state.bda, bda)
        metres = metres_from_index(config.coarse_origin, config.coarse_size, planar=True)
        size = (config.coarse_cells[1], config.coarse_cells[0])
        taps = warp_taps(inputs.previous_from_current_ego, bda, before, metres, size)
        both = warp(torch.cat([state.fused, state.matching], dim=-1), taps) * known
        fused, matching = both.movedim(-1, 1).split([state.fused.shape[-1], state.matching.shape[-1]], dim=1)
        return fused.to(like.dtype), matching.to(like.dtype)

    def columns(self, channels: Tensor) -> Tensor:
        """Head channels [B, K * 4 Z, Y, X] -> [B, Y, X, K, 2, 2, Z]."""
        return channels.movedim(1, -1).unflatten(-1, (-1, 2, 2, self.config.grid_size[2]))

    def voxel_features(self, bev: Tensor) -> Tensor:
        """[B, Y, X, 2, 2, Z, F]."""
        return self.columns(self.voxel_head(bev)).movedim(3, -1)

    def cell_features(self, bev: Tensor, cells: Tensor) -> Tensor:
        """`voxel_features` of chosen coarse cells [n], as the head writes them: [n, F, 4 Z]."""
        columns = bev.movedim(1, -1).flatten(0, 2).index_select(0, cells)
        features = F.linear(columns, self.voxel_head.weight.flatten(1), self.voxel_head.bias)
        return features.unflatten(1, (-1, self.config.column_voxels))

    def predict_flow(self, bev: Tensor, matching: Tensor, previous: Tensor | None) -> Tensor:
        """Bin logits of each column's velocity, [B, 2, bins, Y, X]; the previous map carries no gradient."""
        inputs = bev
        if previous is not None:
            with full_precision(bev):
                match = local_cosine_similarity(matching.float(), previous.float(), _WINDOW, _DILATION)
            inputs = torch.cat([bev, match.to(bev.dtype)], dim=1)
        return self.flow_head(inputs).unflatten(1, (2, len(FLOW_BIN_CENTRES)))

    def predict_instances(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        """Centre logits [B, Y, X, 2, 2] and offsets to the centre [B, Y, X, 2, 2, 2], metres."""
        heads = self.instance_head(bev).movedim(1, -1)
        return heads[..., :4].unflatten(-1, (2, 2)), heads[..., 4:].unflatten(-1, (2, 2, 2))

    def prepare_for_inference(self, voxel_features: bool = False) -> Nano:
        """Fold what is linear and lay the weights out channels-last; the network cannot be trained or saved after.

        Args:
            voxel_features: keep making the features that the class scores come from.
        """
        fold_batch_norms(self.eval().requires_grad_(False))
        self.score_head = _scores_from_columns(self.voxel_head, self.prototypes, self.config.column_voxels)
        self.keeps_features = voxel_features
        lay_out_channels_last(self)
        return self


@torch.no_grad()
def _scores_from_columns(voxel_head: nn.Conv2d, prototypes: Tensor, column_voxels: int) -> nn.Linear:
    """Voxel features and prototype products in one, as both are linear: output channel class * 4 Z + voxel."""
    classes = len(prototypes)
    fused = nn.Linear(voxel_head.in_channels, classes * column_voxels, device=prototypes.device)
    weight = voxel_head.weight.flatten(1).unflatten(0, (-1, column_voxels))
    bias = cast("Tensor", voxel_head.bias).unflatten(0, (-1, column_voxels))
    fused.weight.copy_(torch.einsum("qf,fvc->qvc", prototypes, weight).flatten(0, 1))
    fused.bias.copy_((prototypes @ bias).flatten())
    return fused.requires_grad_(False).eval()


def _kept(features: Tensor) -> Tensor:
    """A map [B, C, Y, X] as the state holds it: channels-last, float32, without gradient."""
    return features.detach().float().movedim(1, -1).contiguous()


def class_scores(output: NanoOutput) -> Tensor:
    """Logits of every voxel, [B, Y, X, classes, 2, 2, Z]."""
    if output.scores is not None:
        heights = output.scores.voxels // 4
        return output.scores.all().unflatten(-1, (2, 2, heights))
    if output.voxel_features is None:
        raise InvalidInputError("nano's output has neither class scores nor voxel features")
    return (output.voxel_features @ output.prototypes.to(output.voxel_features.dtype).T).movedim(-1, 3)


def expected_velocity(flow_logits: Tensor) -> Tensor:
    """Bin logits [B, 2, bins, Y, X] -> velocity [B, 2 (x, y), Y, X], m/s."""
    centres = torch.tensor(FLOW_BIN_CENTRES, device=flow_logits.device)
    bins_last = flow_logits.float().permute(0, 3, 4, 1, 2)  # as they lie in memory
    return (torch.softmax(bins_last, dim=-1) * centres).sum(dim=-1).movedim(-1, 1)
