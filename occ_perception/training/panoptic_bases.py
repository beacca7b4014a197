"""Which panoptic models can be trained on their frozen bases, and the tasks that do it."""

from __future__ import annotations

import logging
from typing import Any, cast

from torch import Tensor, nn

from occ_perception.checkpoints.loading import load_weights
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.models import NANO, NANO_PANOPTIC, canonical_name, create_network, offsetocc_config
from occ_perception.models.alocc_config import PANOPTIC_BASES
from occ_perception.models.nano_types import features_on_grid
from occ_perception.models.panoptic import PanopticNetwork
from occ_perception.training.alocc_task import ALOccTask, ALOccTaskSettings
from occ_perception.training.nano_task import NanoTask, NanoTaskSettings
from occ_perception.training.offsetocc_task import OffsetOccTask, OffsetOccTaskSettings
from occ_perception.training.panoptic_task import BaseScene, BaseTask, PanopticTask, PanopticTaskSettings
from occ_perception.training.task import Draw, LabelledFrame

logger = logging.getLogger(__name__)


class FrozenALOcc(ALOccTask):
    """ALOcc as a `BaseTask`: frames are not augmented, because its augmentation turns the grid."""

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`."""
        return super().prepare(sample, previous, None)

    def scene(self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]) -> BaseScene:
        """See `BaseTask.scene`."""
        output, after = network(self._samples.network_inputs(batch, starts), state)
        return BaseScene(self._classes(output.logits), output.features_on_grid(), after)


class FrozenNano(NanoTask):
    """`nano` as a `BaseTask`: with all the sensors there are and without augmentation, which may turn the grid."""

    def __init__(self) -> None:
        super().__init__(NanoTaskSettings(augment=False))

    def scene(self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]) -> BaseScene:
        """See `BaseTask.scene`."""
        output, after = self.run(network, batch, state, starts)
        if output.voxel_features is None:
            raise InvalidInputError("nano panoptic: the base network keeps no voxel features")
        return BaseScene(self.classes(output, batch), features_on_grid(output.voxel_features), after)


def create_panoptic_task(settings: PanopticTaskSettings) -> PanopticTask:
    """The Object Module of a model on its frozen base.

    Raises:
        ConfigurationError: no such model, or none with an Object Module.
        WeightsError: the file does not hold the base's weights.
    """
    model = canonical_name(settings.model)
    base_name, task = _base_task(model, settings)
    whole = cast("PanopticNetwork[nn.Module]", create_network(model))
    if settings.base_weights:
        load_weights(whole.base, base_name, settings.base_weights)
    else:
        logger.warning("%s: no base_weights; the frozen base is random unless task.initial_weights holds it", model)
    return PanopticTask(task, whole, settings)


def _base_task(model: str, settings: PanopticTaskSettings) -> tuple[str, BaseTask]:
    """Registry name of a model's base, and its task."""
    if model == NANO_PANOPTIC:
        return NANO, FrozenNano()
    if model in PANOPTIC_BASES:
        base = PANOPTIC_BASES[model]
        return base, FrozenALOcc(ALOccTaskSettings(variant=base, image_labels=False))
    base = f"{model}-baseline"
    if base in offsetocc_config.VARIANTS:
        images = OffsetOccTaskSettings(base, grid_mask=settings.grid_mask, photometric=settings.photometric)
        return base, OffsetOccTask(images)
    known = [name.removesuffix("-baseline") for name in offsetocc_config.VARIANTS if name.endswith("-baseline")]
    raise ConfigurationError(
        f"model: expected one of {', '.join((*known, *PANOPTIC_BASES, NANO_PANOPTIC))}, got '{model}'"
    )
