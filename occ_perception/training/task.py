"""What the training loop asks of a model, and what it gives: frames with their ground truth, in streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from occ_perception.data.image_labels import ImageLabels
from occ_perception.data.labels import GridLabel
from occ_perception.frame import Frame
from occ_perception.geometry import inverse


@dataclass(frozen=True)
class LabelledFrame:
    """One keyframe with its ground truth.

    Attributes:
        frame: images, calibration, poses and LiDAR.
        label: the grid label (semantics, masks, flow and instances as far as the dataset has them).
        ego_from_grid: float64 [4, 4], the label's grid frame (ego at the LiDAR stamp) in the frame's own ego axes
            (anchor stamp); identity when both are the same.
        boxes: float64 [K, 9] ground truth boxes in the label's grid frame: x, y, z of the centre, length, width,
            height, yaw, velocity x, y (metres, radians, m/s; velocity NaN when not known); or None.
        box_classes: int64 [K], classes of the label's ontology; or None.
        box_ids: int64 [K], instance id of every box, the value in ``label.instances``; or None.
        image_labels: depth and class behind the pixels of each camera's image; only made-up worlds have them.
    """

    frame: Frame
    label: GridLabel
    ego_from_grid: np.ndarray
    boxes: np.ndarray | None = None
    box_classes: np.ndarray | None = None
    box_ids: np.ndarray | None = None
    image_labels: Mapping[str, ImageLabels] | None = None


def grid_motion(sample: LabelledFrame, previous: LabelledFrame | None) -> np.ndarray:
    """previous_from_current of the labels' grid frames, float64 [4, 4]; identity where a pose is not known."""
    if previous is None or previous.frame.odom_from_ego is None or sample.frame.odom_from_ego is None:
        return np.eye(4)
    odom_from_grid = sample.frame.odom_from_ego @ sample.ego_from_grid
    return inverse(previous.frame.odom_from_ego @ previous.ego_from_grid) @ odom_from_grid


class FrameSource(Protocol):
    """Scenes of labelled frames, in time order within each: a dataset on disk, or a synthetic world as it is made."""

    @property
    def scene_lengths(self) -> Sequence[int]:
        """Frames of every scene."""
        ...

    def load(self, scene: int, frame: int) -> LabelledFrame:
        """One frame; safe to call from data loader processes.  Raises DatasetError."""
        ...


class Draw(NamedTuple):
    """Random generators of one sample: equal draws give equal augmentation, whatever worker prepares it."""

    stream: np.random.Generator  # the same for all frames of a stream (bird's-eye-view flips must not change within it)
    frame: np.random.Generator  # this frame's own


class TaskDescription(NamedTuple):
    """What the weights' file and their model card say of a task's model."""

    model: str  # as `create_model` knows it
    label_set: str  # name of the ontology that `evaluate` answers in
    mask_training: bool  # whether voxels that no camera sees are left out of the losses


class TrainingTask(Protocol):
    """One model as the loop trains it.

    Attributes:
        network: what is trained, checkpointed, averaged and wrapped for DDP; its ``forward`` is what ``losses`` calls,
            once per step, so that DDP sees it.
        settings: the task's own settings: a frozen dataclass with complete defaults (see ``training/tasks.py``).
        description: of the model.
        needs_previous: whether `prepare` looks at the frame before; if not, it is not even loaded.
    """

    network: nn.Module
    settings: Any
    description: TaskDescription
    needs_previous: bool

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """Network inputs and targets of one frame, augmented: CPU tensors without a batch axis, equal shapes for all
        frames; runs in data loader processes.  ``previous`` is the frame before in the stream; None at its start, and
        if the task does not need it.  Random numbers come from ``draw`` only; None: no augmentation (validation).
        Raises OccPerceptionError when the frame cannot be used."""
        ...

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        """Named losses of a batch [B, ...], and the detached state for the next one.

        A loss is a scalar or, where it can be told apart, one value per sample [B], of which the mean counts; the sum
        of all is minimised.

        Args:
            network: ``self.network``, or its DDP wrapper.
            batch: collated `prepare` results, on the network's device.
            state: what the call for the batch before returned (nested tuples, NamedTuples of this package too, of
                tensors, plain numbers and None), or None.
            starts: per slot, whether the frame is the first of its stream.
            iteration: optimiser steps so far, for schedules.
        """
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser gets: parameters with, optionally, ``lr_scale`` and ``weight_decay`` of their own."""
        ...

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        """Predicted classes of a batch in evaluation mode, uint8 [B, X, Y, Z] (label ontology, FREE for free), in the
        axes of the unaugmented label, and the state for the next one."""
        ...


class PanopticAnswer(NamedTuple):
    """What a network says of B frames, in the axes of their unaugmented labels."""

    classes: Tensor  # uint8 [B, X, Y, Z], label ontology, FREE for free
    instances: Tensor  # int [B, X, Y, Z], 0 for none; only those of things count
    state: Any  # for the next batch


@runtime_checkable
class InstanceTask(Protocol):
    """A `TrainingTask` whose network tells instances apart, so that ``validation.metric`` may be PQ."""

    def evaluate_instances(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> PanopticAnswer:
        """As `TrainingTask.evaluate`, with instances."""
        ...
