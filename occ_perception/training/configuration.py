"""Every setting of a training run: frozen dataclasses with complete defaults; a YAML file only overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from occ_perception.errors import ConfigurationError
from occ_perception.training.active_training import ActiveTrainingSettings
from occ_perception.training.learning_rate import LearningRateSettings
from occ_perception.training.loader import LoaderSettings
from occ_perception.training.settings import flat, from_mapping, to_mapping
from occ_perception.training.sources import SourceSettings

Precision = Literal["float32", "bfloat16", "float16"]

# What may differ when a run goes on: it changes how long, how often and where, not what is computed.
FREE_TO_CHANGE = (
    "iterations", "device", "loader.", "checkpoints.", "validation.", "log.", "guards.", "model_card.",
    "data.training.nuscenes.root", "data.validation.", "compute.threads", "task.initial_",
)  # fmt: skip


@dataclass(frozen=True)
class TaskChoice:
    """What is trained.

    Attributes:
        name: see ``training/tasks.py``.
        settings: of that task, over its own defaults.
        initial_weights: .safetensors or .pth to begin with; "" = random.
        initial_match: whether they must hold every weight (all), or whatever fits by name and shape is taken (some).
    """

    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    initial_weights: str = ""
    initial_match: Literal["all", "some"] = "all"


@dataclass(frozen=True)
class DataSettings:
    """Where frames come from.

    Attributes:
        training, validation: sources; a validation source without a kind means no validation.
    """

    training: SourceSettings = field(default_factory=SourceSettings)
    validation: SourceSettings = field(default_factory=SourceSettings)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW.

    Attributes:
        weight_decay: for parameters whose group says nothing else.
        betas: of the moving averages.
        gradient_norm: gradients are scaled down to this norm; 0 = never.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_norm: float = 5.0


@dataclass(frozen=True)
class AverageSettings:
    """Exponential moving average of the weights, which is validated and published instead of the raw ones.

    Attributes:
        enabled: whether there is one.
        decay, ramp: the n-th update keeps ``decay * (1 - exp(-n / ramp))`` of the average.
        updates: n at the start (ALOcc: 10560, so that the decay is near its end from the beginning).
    """

    enabled: bool = True
    decay: float = 0.999
    ramp: float = 2000.0
    updates: int = 0


@dataclass(frozen=True)
class ComputeSettings:
    """How a step is computed.

    Attributes:
        precision: of autocast regions; float16 scales the loss.
        tf32: TF32 arithmetic for float32 matrix products and convolutions on NVIDIA GPUs.
        channels_last: lay the weights of convolutions out channels-last.
        compile: torch.compile the network.
        deterministic: refuse operations whose result varies from run to run.
        threads: of PyTorch on the CPU; 0 = its choice.
        sync_batch_norm: batch statistics over all GPUs.
        find_unused_parameters: for tasks of which a step may not use every parameter (several processes only).
    """

    precision: Precision = "float32"
    tf32: bool = True
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    threads: int = 0
    sync_batch_norm: bool = True
    find_unused_parameters: bool = False


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written; 0 = not by this rule.  One is always written at the end and on SIGTERM."""

    every: int = 1000
    minutes: float = 15.0


@dataclass(frozen=True)
class ValidationSettings:
    """Scores on the validation source.

    Attributes:
        every: iterations between validations; 0 = only at the end.
        mask: voxels that count: seen by a camera, by the lidar, or none = all.
        batch_size: scenes at once per process.
        scenes: of so many scenes, spread evenly over the source; 0 = all.
        metric: which figure makes the best weights; PQ (of voxels) for tasks that tell instances apart and labels
            that have them: `VoxelPanopticQuality`.
        pictures: so many frames are drawn, spread over the scenes; 0 = none.
    """

    every: int = 2000
    mask: Literal["camera", "lidar", "none"] = "camera"
    batch_size: int = 1
    scenes: int = 0
    metric: Literal["mIoU", "IoU", "PQ"] = "mIoU"
    pictures: int = 4


@dataclass(frozen=True)
class LogSettings:
    """What is shown and recorded.

    Attributes:
        every: iterations between two lines.
        tensorboard: record scalars and pictures.
    """

    every: int = 20
    tensorboard: bool = True


@dataclass(frozen=True)
class GuardSettings:
    """When a run stops by itself.

    Attributes:
        check_every: iterations between two looks at loss and gradient (each waits for the device).
        max_skipped_steps: so many steps in a row may be skipped because the float16 loss scale was too high.
    """

    check_every: int = 1
    max_skipped_steps: int = 30


@dataclass(frozen=True)
class ModelCardSettings:
    """What the model card says beyond what the run knows.

    Attributes:
        licence: of the weights.
        trained_on: in words; "" = put together from the source.
    """

    licence: str = "unknown"
    trained_on: str = ""


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        seed: of weights, order, augmentation and dropout.
        iterations: optimiser steps in all.
        batch_size: samples of one forward pass of one process.
        accumulate: forward passes per optimiser step, each with streams of its own.
        device: auto, cpu, cuda, cuda:N.
    """

    task: TaskChoice = field(default_factory=TaskChoice)
    data: DataSettings = field(default_factory=DataSettings)
    seed: int = 0
    iterations: int = 100_000
    batch_size: int = 1
    accumulate: int = 1
    device: str = "auto"
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    learning_rate: LearningRateSettings = field(default_factory=LearningRateSettings)
    average: AverageSettings = field(default_factory=AverageSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    active_training: ActiveTrainingSettings = field(default_factory=ActiveTrainingSettings)
    log: LogSettings = field(default_factory=LogSettings)
    guards: GuardSettings = field(default_factory=GuardSettings)
    model_card: ModelCardSettings = field(default_factory=ModelCardSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise ConfigurationError(f"seed: expected 0 to 2^63 - 1, got {self.seed}")
        at_least_one = ("iterations", "batch_size", "accumulate", "log.every", "guards.check_every",
                        "validation.batch_size")  # fmt: skip
        values = flat(to_mapping(self))
        for name in at_least_one:
            if values[name] < 1:
                raise ConfigurationError(f"{name}: expected 1 or more, got {values[name]}")
        negative = [n for n, v in values.items() if isinstance(v, int | float) and v < 0]
        own = [name for name in negative if not name.startswith(("task.settings", "data."))]
        if own:
            raise ConfigurationError(f"{own[0]}: expected 0 or more, got {values[own[0]]}")

    @property
    def slots(self) -> int:
        """Streams of one process."""
        return self.batch_size * self.accumulate


def read_config(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """A YAML file over the defaults, and ``key.of.setting=value`` over the file.

    Raises:
        ConfigurationError: unreadable, not YAML, a name that does not exist, or a value of the wrong type.
    """
    content: Any = {}
    if path is not None:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"training configuration {path}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigurationError(f"training configuration {path}: expected names with values, got {content!r}")
    for override in overrides:
        _override(content, override)
    return from_mapping(TrainingConfig, content)


def _override(content: dict[str, Any], text: str) -> None:
    """Put ``a.b.c=value`` (value as YAML) into nested mappings."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"--set: expected name=value such as learning_rate.peak=1e-4, got '{text}'")
    *sections, last = name.split(".")
    for section in sections:
        if not isinstance(content.get(section), dict):
            content[section] = {}
        content = content[section]
    try:
        content[last] = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {text}: not a YAML value: {error}") from error


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two effective configurations (nested mappings) differ where a run that goes on must not; lines to read.

    A setting that did not exist before counts as its default; those of a source that is not the chosen one are free.
    """
    old, new = {**flat(to_mapping(TrainingConfig())), **flat(before)}, flat(now)
    missing = object()
    names = [n for n in dict.fromkeys([*old, *new]) if old.get(n, missing) != new.get(n, missing)]
    free = (*FREE_TO_CHANGE, *_unused_sources(new))
    lines = [
        f"{name}: was {old.get(name, 'not there')}, is {new.get(name, 'not there')}"
        for name in names
        if not name.startswith(free)
    ]
    shape = new["learning_rate.shape"]
    if "iterations" in names and shape != "constant" and not new["learning_rate.decay_iterations"]:
        lines.append(
            f"iterations: was {old['iterations']}, is {new['iterations']}, to whose end the {shape} "
            f"learning rate falls; only with learning_rate.decay_iterations set from the beginning a run may be longer"
        )
    return lines


def _unused_sources(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of the names of settings that the kind of training source makes meaningless."""
    kinds = {"nuscenes", "world"} - {values["data.training.kind"]}
    return tuple(f"data.training.{kind}." for kind in sorted(kinds))
