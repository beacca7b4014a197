"""Training the Object Module on a frozen base: stage 2 of OffsetOcc, and attachments to other models."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from occ_perception.errors import ConfigurationError
from occ_perception.models import canonical_name
from occ_perception.models.panoptic import PanopticNetwork
from occ_perception.training.object_losses import ObjectLossSettings, object_losses
from occ_perception.training.object_targets import MAX_OBJECTS, ObjectTargets, object_targets
from occ_perception.training.task import Draw, LabelledFrame, PanopticAnswer, TaskDescription, TrainingTask

logger = logging.getLogger(__name__)
_PREFIX = "object_"


@dataclass(frozen=True)
class PanopticTaskSettings:
    """What a training run of the Object Module may vary.

    Attributes:
        model: registry name of the whole, such as offsetocc.
        base_weights: safetensors file of its base (offsetocc-baseline); "" only if task.initial_weights has the whole.
        grid_mask, photometric: see `OffsetOccTaskSettings`; for OffsetOcc only.
        losses: weights and variants.
    """

    model: str = "offsetocc"
    base_weights: str = ""
    grid_mask: float = 0.7
    photometric: bool = True
    losses: ObjectLossSettings = field(default_factory=ObjectLossSettings)


class BaseScene(NamedTuple):
    """What a base model says of B frames, in the axes of their unaugmented labels."""

    semantics: Tensor  # uint8 [B, X, Y, Z], label ontology, FREE for free
    voxel_features: Tensor  # [B, C, X', Y', Z']
    state: Any  # for the next batch


class BaseTask(TrainingTask, Protocol):
    """A training task whose network the Object Module can be trained on."""

    def scene(self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]) -> BaseScene:
        """Classes and voxel features of a batch by a network in evaluation mode."""
        ...


class PanopticTask:
    """`TrainingTask` of the head; the base stays as it is, in evaluation mode.

    Args:
        base: prepares frames for the base network, and runs it.
        network: the base's network with the head on it.
        settings: see there.
    """

    def __init__(
        self,
        base: BaseTask,
        network: PanopticNetwork[nn.Module],
        settings: PanopticTaskSettings,
    ) -> None:
        self.base = base
        self.network: nn.Module = network
        self.settings = settings
        self.description = TaskDescription(
            canonical_name(settings.model), base.description.label_set, base.description.mask_training
        )
        self.needs_previous = base.needs_previous
        self.left_out: Counter[str] = Counter()  # what the losses did not see so far, by reason

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`."""
        targets = object_targets(sample, _panoptic(self.network).head.things)._asdict()
        return {
            **self.base.prepare(sample, previous, draw),
            **{_PREFIX + name: value for name, value in targets.items()},
        }

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        """See `TrainingTask.losses`."""
        whole = _panoptic(self.network)  # ``network`` may be wrapped
        with torch.no_grad():
            scene = self.base.scene(whole.base, batch, state, starts)
        predictions = network(scene.voxel_features)
        targets = ObjectTargets(*(batch[_PREFIX + name] for name in ObjectTargets._fields))
        generator = torch.Generator().manual_seed(iteration)
        found = object_losses(
            whole.head.objects, predictions, targets, whole.head.grid, self.settings.losses, generator
        )
        config = whole.head.config
        self._count(f"objects beyond the {MAX_OBJECTS} largest of their frame", int(targets.left_out.sum()))
        self._count(f"objects without a query, of frames with more than {config.queries}", found.without_query)
        self._count(f"voxels, drawn at random, of objects with more than {config.offsets}", found.left_out)
        return found.losses, scene.state

    def _count(self, what: str, number: int) -> None:
        """Say what is left out when it happens first, and whenever it has grown tenfold."""
        before = self.left_out[what]
        self.left_out[what] += number
        if len(str(self.left_out[what])) > len(str(before)) or (number and not before):
            logger.warning("training leaves out %s: %d so far", what, self.left_out[what])

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        """See `TrainingTask.evaluate`; classes after the vote: without an object nearby a thing is free.

        They say nothing of which objects are told apart; that is what validation.metric PQ scores.
        """
        answer = self.evaluate_instances(network, batch, state, starts)
        return answer.classes, answer.state

    def evaluate_instances(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> PanopticAnswer:
        """See `InstanceTask.evaluate_instances`; classes and instances are those after the vote."""
        whole = _panoptic(network)
        scene = self.base.scene(whole.base, batch, state, starts)
        predictions = whole(scene.voxel_features)
        merged = [
            whole.head.merge(semantics, whole.head.find(predictions, sample))
            for sample, semantics in enumerate(scene.semantics)
        ]
        classes = torch.stack([one.semantics for one in merged])
        return PanopticAnswer(classes, torch.stack([one.instances for one in merged]), scene.state)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `TrainingTask.parameter_groups`: the head's alone."""
        return [{"params": list(_panoptic(self.network).head.parameters())}]


def _panoptic(network: nn.Module) -> PanopticNetwork[nn.Module]:
    if not isinstance(network, PanopticNetwork):
        raise ConfigurationError(f"panoptic task: expected a base with a head on it, got {type(network).__name__}")
    return network
