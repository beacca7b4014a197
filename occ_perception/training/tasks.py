"""Which model a training run trains: names to tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from occ_perception.errors import ConfigurationError
from occ_perception.training.settings import from_mapping
from occ_perception.training.task import TrainingTask

TASKS = ("alocc", "nano", "offsetocc", "panoptic")


def create_task(name: str, settings: Mapping[str, Any]) -> TrainingTask:
    """The task of one family of models with these settings over its defaults.

    Raises:
        ConfigurationError: no such task, or a setting that it does not have or that has another type.
    """
    place = "task.settings"
    if name == "alocc":
        from occ_perception.training.alocc_task import ALOccTask, ALOccTaskSettings

        return ALOccTask(from_mapping(ALOccTaskSettings, settings, place))
    if name == "nano":
        from occ_perception.training.nano_task import NanoTask, NanoTaskSettings

        return NanoTask(from_mapping(NanoTaskSettings, settings, place))
    if name == "offsetocc":
        from occ_perception.training.offsetocc_task import OffsetOccTask, OffsetOccTaskSettings

        return OffsetOccTask(from_mapping(OffsetOccTaskSettings, settings, place))
    if name == "panoptic":
        from occ_perception.training.panoptic_bases import PanopticTaskSettings, create_panoptic_task

        return create_panoptic_task(from_mapping(PanopticTaskSettings, settings, place))
    raise ConfigurationError(f"task.name: expected one of {', '.join(TASKS)}, got '{name}'")
