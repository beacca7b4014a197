"""Training ALOcc and ALOcc-Flow, every variant (specs/alocc.md sections 5.1, 9 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.models.alocc import ALOcc
from occ_perception.models.alocc_config import ALOccConfig, alocc_config
from occ_perception.models.alocc_types import ALOccInputs, ALOccState, Guidance
from occ_perception.ontology import FREE
from occ_perception.training.activation_checkpointing import keep_no_activations
from occ_perception.training.alocc_samples import ALOccSamples
from occ_perception.training.flow_denoising import label_map, label_scores
from occ_perception.training.losses import ALOccLoss
from occ_perception.training.schedules import ALOccSchedule
from occ_perception.training.targets import ALOccTargets
from occ_perception.training.task import Draw, LabelledFrame, TaskDescription


@dataclass(frozen=True)
class ALOccTaskSettings:
    """What a training run of ALOcc may vary.

    Attributes:
        variant: see ``occ_perception models``.
        augment: vary images and flip the bird's-eye view.
        image_labels: the loss on image features, with the classes of the voxels that LiDAR points fall into.  (The
            authors take nuScenes-lidarseg's point classes.)
        activation_checkpointing: compute the activations of backbone and encoder twice instead of keeping them; batch
            statistics then count twice in the running averages.
        iterations_per_epoch, depth_mix_epochs, flow_mix_epochs, history_from_epoch: see `ALOccSchedule`.
        image_size, resize, grid_origin, grid_size, history_frames: instead of the variant's; None = the variant's.
            Weights trained with another grid or history are of no use to the variant.
    """

    variant: str = "alocc-2d-mini"
    augment: bool = True
    image_labels: bool = True
    activation_checkpointing: bool = False
    iterations_per_epoch: int = 8005
    depth_mix_epochs: float = 6.0
    flow_mix_epochs: tuple[float, float] = (2.0, 4.0)
    history_from_epoch: int = 2
    image_size: tuple[int, int] | None = None
    resize: float | None = None
    grid_origin: tuple[float, float, float] | None = None
    grid_size: tuple[int, int, int] | None = None
    history_frames: int | None = None

    @property
    def schedule(self) -> ALOccSchedule:
        """The part of the settings that is a schedule."""
        return ALOccSchedule(**{field.name: getattr(self, field.name) for field in fields(ALOccSchedule)})

    @property
    def config(self) -> ALOccConfig:
        """The network's configuration."""
        names = ("image_size", "resize", "grid_origin", "grid_size", "history_frames")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(alocc_config(self.variant), **changes)


class ALOccTrainingState(NamedTuple):
    """What one step leaves for the next."""

    network: ALOccState
    label_map: Tensor | None  # flow variants: [B, Y / 2, X / 2, 19]


class ALOccTask:
    """`TrainingTask` of one ALOcc variant.

    Raises:
        ConfigurationError: no such variant.
    """

    def __init__(self, settings: ALOccTaskSettings | None = None) -> None:
        self.settings = settings or ALOccTaskSettings()
        self.config = config = self.settings.config
        self._schedule = self.settings.schedule
        self._network = ALOcc(config)
        self.network: nn.Module = self._network
        self.description = TaskDescription(config.name, config.label_set, config.mask_trained)
        self.needs_previous = bool(config.history_frames or config.stereo or config.flow)
        self._samples = ALOccSamples(config, self.settings.augment, self.settings.image_labels)
        self._loss = ALOccLoss(self._network)
        if not self.settings.image_labels:
            self._network.alocc_head.mask_embed2.requires_grad_(False)
        if self.settings.activation_checkpointing:
            keep_no_activations(_stages(self._network))

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`."""
        return self._samples.prepare(sample, previous, draw)

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        """See `TrainingTask.losses`."""
        targets = _targets(batch)
        before: ALOccState | None = None if state is None else state.network
        if before is not None and not self._schedule.keeps_history(iteration):
            before = before._replace(history=None)
        inputs = self._samples.network_inputs(batch, starts)
        labels = label_map(targets.voxel_labels) if self.config.flow else None
        guidance = Guidance(depth_mix=self._schedule.depth_mix(iteration))
        if labels is not None:
            scores = self._flow_scores(inputs, before, labels, None if state is None else state.label_map)
            guidance = guidance._replace(flow_scores=scores, flow_mix=self._schedule.flow_mix(iteration))
        output, after = network(inputs._replace(guidance=guidance), before)
        named = self._loss.to(output.logits.device)(output, targets)
        return named, ALOccTrainingState(after, labels)

    def _flow_scores(
        self, inputs: ALOccInputs, before: ALOccState | None, labels: Tensor, labels_before: Tensor | None
    ) -> Tensor:
        """Correlation of the true label maps, for the flow head."""
        taps = self._network.motion_taps(inputs, before, tuple(labels.shape[1:3]))
        return label_scores(labels, labels_before, taps, inputs.starts)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `TrainingTask.parameter_groups`; all alike, as published."""
        return [{"params": [p for p in self._network.parameters() if p.requires_grad]}]

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        """See `TrainingTask.evaluate`."""
        output, after = network(self._samples.network_inputs(batch, starts), state)
        return self._classes(output.logits), after

    def _classes(self, logits: Tensor) -> Tensor:
        """Best class, uint8 [B, X, Y, Z], of logits [B, queries, Y, X, Z]."""
        skipped = 1 if self.config.label_set == "surroundocc" else 0  # it has no class 0
        classes = logits[:, 1 + skipped :].argmax(dim=1) + skipped
        named = torch.where(classes == self.config.free_class, FREE, classes)
        return named.to(torch.uint8).transpose(1, 2).contiguous()


def _targets(batch: dict[str, Tensor]) -> ALOccTargets:
    image_labels, flow = batch.get("image_labels"), batch.get("flow")
    return ALOccTargets(
        batch["voxel_labels"].long(),
        batch["depth_bins"].long(),
        None if image_labels is None else image_labels.long(),
        flow,
    )


def _stages(network: ALOcc) -> list[nn.Module]:
    """The parts of backbone and encoder whose activations are large."""
    backbone, encoder = network.img_backbone, network.img_bev_encoder_backbone
    stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4, *encoder.layers]
    return [*stages, network.depth_net.depth_conv, network.img_bev_encoder_neck]
