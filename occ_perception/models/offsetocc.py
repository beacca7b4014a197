"""OffsetOcc's baseline (Marinello et al., arXiv 2505.09562): semantic scene completion from cameras, no history.

The Object Module and the Panoptic Module that make it panoptic work on any base model: see `models.panoptic`.
Source: specs/offsetocc.md section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.layers.deformable_attention import ImageTokens, image_tokens
from occ_perception.layers.folding import fold_batch_norms, lay_out_channels_last
from occ_perception.layers.fpn import FPN
from occ_perception.layers.resnet import ResNet
from occ_perception.layers.stage_monitor import StageObserver, ignore_stages
from occ_perception.layers.voxel_encoder import VoxelDecoder, VoxelEncoder
from occ_perception.models.offsetocc_config import OffsetOccConfig
from occ_perception.models.panoptic import PanopticHead, PanopticNetwork
from occ_perception.ontology import ontology_by_name
from occ_perception.ops.camera_hits import CameraHits, camera_hits
from occ_perception.ops.precision import full_precision

_LEVELS = 3  # strides 8, 16 and 32


class OffsetOccInputs(NamedTuple):
    """One frame of B samples with N cameras each."""

    images: Tensor  # [B, N, 3, H, W] normalised
    image_from_ego: Tensor  # [B, N, 4, 4] to (u d, v d, d, 1), network pixels; zero for a camera that is missing


class OffsetOccOutput(NamedTuple):
    """Scores and voxel embeddings of one frame, axes (X, Y, Z)."""

    logits: Tensor  # [B, classes, X, Y, Z] float32
    voxel_features: Tensor  # [B, D, X / 2, Y / 2, Z / 2]


class OffsetOccBaseline(nn.Module):
    """Backbone, encoder and decoder; one frame is independent of the others."""

    centres: Tensor

    def __init__(self, config: OffsetOccConfig) -> None:
        super().__init__()
        self.config = config
        width, cells = config.backbone_width, config.query_grid.size
        self.backbone = ResNet(config.backbone_blocks, width)
        self.neck = FPN((8 * width, 16 * width, 32 * width), config.channels)
        self.encoder = VoxelEncoder(
            cells, config.channels, config.encoder_layers, _LEVELS, config.heads, config.points, config.hidden
        )
        self.decoder = VoxelDecoder(config.channels, config.classes)
        centres = torch.from_numpy(config.query_grid.centers()).flatten(0, 2)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, inputs: OffsetOccInputs, observe: StageObserver = ignore_stages) -> OffsetOccOutput:
        """Images and calibration of one frame to scores of every voxel.

        Args:
            inputs: the frame.
            observe: called with every stage's name and output.
        """
        observe("images", inputs.images)
        # Backbone: image features of every camera at three scales.
        features = self.image_features(inputs.images, observe)
        # Which camera sees which voxel depends on the calibration only, so all layers share the list.
        hits = self.visible_voxels(inputs)
        # Encoder: voxel queries gather image features at their projections, and exchange them in the volume.
        volume = self.encoder(features, hits, len(inputs.images))
        observe("voxels", volume)
        # Decoder: class scores at full resolution.
        logits = self.decoder(volume)
        observe("logits", logits)
        return OffsetOccOutput(logits, volume.movedim(-1, 1))

    def image_features(self, images: Tensor, observe: StageObserver) -> ImageTokens:
        """Images [B, N, 3, H, W] -> tokens of B * N feature pyramids."""
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        _, *stages = self.backbone(flat, keep_c2=False)
        observe("backbone", stages[-1])
        tokens = image_tokens(self.neck(stages))
        observe("neck", tokens.tokens)
        return tokens

    def visible_voxels(self, inputs: OffsetOccInputs) -> CameraHits:
        """The query cells that project into each camera."""
        height, width = inputs.images.shape[-2:]
        points = self.centres.expand(len(inputs.images), *self.centres.shape)
        with full_precision(inputs.images):
            return camera_hits(points, inputs.image_from_ego, (height, width))

    def prepare_for_inference(self) -> OffsetOccBaseline:
        """Fold what is linear and lay the weights out channels-last; the network cannot be trained or saved after."""
        fold_batch_norms(self.eval().requires_grad_(False))
        lay_out_channels_last(self)
        return self


def build_offsetocc(config: OffsetOccConfig) -> OffsetOccBaseline | PanopticNetwork[OffsetOccBaseline]:
    """The network of a variant with random weights: the baseline, with the modules on it if the variant has them."""
    baseline = OffsetOccBaseline(config)
    if config.panoptic is None:
        return baseline
    things = ontology_by_name(config.label_set).thing_ids
    return PanopticNetwork(baseline, PanopticHead(config.panoptic, config.grid, config.channels, things))
