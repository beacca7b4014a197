"""Batches for the training loop: frames loaded and prepared in worker processes, the same whatever their number.

Every worker serves its own slots of the batch, all frames of them, so that the frame before (which some tasks need, and
a streamed world has just made) is still at hand.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from occ_perception.errors import ConfigurationError, DatasetError, OccPerceptionError
from occ_perception.training.order import FrameOrder, SampleRequest
from occ_perception.training.task import Draw, FrameSource, LabelledFrame, TrainingTask
from occ_perception.training.validation_truth import TruthWanted

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What one step gets, all slots of this process."""

    tensors: dict[str, Tensor]  # [slots, ...]
    starts: tuple[bool, ...]
    samples: tuple[tuple[int, int], ...]  # (scene, frame)
    counts: tuple[bool, ...]  # False: filling, not to be counted
    damages: tuple[str, ...] = ()  # what could not be read, and what took its place

    def to(self, device: torch.device) -> Batch:
        """Tensors on a device."""
        if device.type == "cpu":
            return self
        return self._replace(tensors={k: v.to(device, non_blocking=True) for k, v in self.tensors.items()})

    def part(self, index: int, parts: int) -> Batch:
        """The ``index``-th of equal parts, as views."""
        size = len(self.starts) // parts
        cut = slice(index * size, (index + 1) * size)
        tensors = {name: value[cut] for name, value in self.tensors.items()}
        return Batch(tensors, self.starts[cut], self.samples[cut], self.counts[cut])


@dataclass(frozen=True)
class LoaderSettings:
    """How frames are loaded.

    Attributes:
        workers: processes that load and prepare; 0 = the training process itself.
        prefetch: batches that are prepared ahead.
        damaged: what to do with a frame that cannot be read: stop, or skip = another frame takes its place.
        max_damaged: so many skipped frames stop the run all the same.
    """

    workers: int = 2
    prefetch: int = 2
    damaged: Literal["stop", "skip"] = "stop"
    max_damaged: int = 100

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1 or self.max_damaged < 0:
            raise ConfigurationError("workers and max_damaged must be 0 or more, prefetch 1 or more")


class SamplePreparer:
    """Requests to prepared samples; keeps the last frame of every slot."""

    def __init__(
        self, source: FrameSource, task: TrainingTask, seed: int, augment: bool, truth: TruthWanted | None
    ) -> None:
        self._source, self._task = source, task
        self._seed, self._augment, self._truth = seed, augment, truth
        self._last: dict[int, tuple[tuple[int, int], LabelledFrame]] = {}

    def prepare(self, slot: int, request: SampleRequest) -> tuple[dict[str, Tensor], bool, list[str]]:
        """Tensors of one sample, whether it starts a stream, and what was damaged."""
        damages: list[str] = []
        previous = None
        starts = request.starts
        if not starts and self._task.needs_previous:
            previous = self._loaded(slot, request.scene, request.frame - 1, damages)
            starts = previous is None
            damages.clear()  # told when that frame's own turn was
        tensors = self._tensors(slot, request, request.frame, previous, damages)
        if tensors is not None:
            return tensors, starts, damages
        for frame in _nearest(request.frame, self._source.scene_lengths[request.scene]):
            tensors = self._tensors(slot, request, frame, None, damages)
            if tensors is not None:
                damages.append(f"frame {frame} of the same scene takes the place of frame {request.frame}")
                return tensors, True, damages
        raise DatasetError(f"no frame of scene {request.scene} can be used: {damages[0]}")

    def _tensors(
        self, slot: int, request: SampleRequest, frame: int, previous: LabelledFrame | None, damages: list[str]
    ) -> dict[str, Tensor] | None:
        """None, and one more damage, if the frame cannot be used."""
        sample = self._loaded(slot, request.scene, frame, damages)
        if sample is None:
            return None
        try:
            tensors = self._task.prepare(sample, previous, self._draw(request) if self._augment else None)
        except OccPerceptionError as error:
            damages.append(f"{_place(request.scene, frame)} ({sample.label.source}): {error}")
            return None
        return tensors if self._truth is None else {**tensors, **self._truth.tensors(sample.label)}

    def _loaded(self, slot: int, scene: int, frame: int, damages: list[str]) -> LabelledFrame | None:
        kept = self._last.get(slot)
        if kept is not None and kept[0] == (scene, frame):
            return kept[1]
        try:
            sample = self._source.load(scene, frame)
        except (OccPerceptionError, OSError) as error:
            damages.append(f"{_place(scene, frame)}: {error}")
            return None
        self._last[slot] = ((scene, frame), sample)
        return sample

    def _draw(self, request: SampleRequest) -> Draw:
        stream = np.random.default_rng((self._seed, 1, *request.stream))
        return Draw(stream, np.random.default_rng((self._seed, 2, *request.stream, request.scene, request.frame)))


def _place(scene: int, frame: int) -> str:
    return f"scene {scene}, frame {frame}"


def _nearest(frame: int, length: int) -> list[int]:
    """The other frames of a scene, earlier ones first among equally far ones."""
    return sorted((f for f in range(length) if f != frame), key=lambda f: (abs(f - frame), f))


class _Portions(IterableDataset):
    """What one worker makes of every step: its slots' samples, stacked."""

    def __init__(self, preparer: SamplePreparer, order: FrameOrder, first: int, count: int) -> None:
        self._preparer, self._order, self._first, self._count = preparer, order, first, count

    def __iter__(self) -> Iterator[Batch | OccPerceptionError]:
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for requests in self._order.steps(self._first, self._count):
            slots = range(len(requests) * index // workers, len(requests) * (index + 1) // workers)
            try:
                yield self._portion(slots, requests)
            except OccPerceptionError as error:  # handed over, so that its message reaches the user without a traceback
                yield error
                return

    def _portion(self, slots: range, requests: tuple[SampleRequest, ...]) -> Batch:
        mine = [requests[slot] for slot in slots]
        prepared = [self._preparer.prepare(slot, request) for slot, request in zip(slots, mine, strict=True)]
        samples, starts, damages = zip(*prepared, strict=True)
        return Batch(
            {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]},
            tuple(starts),
            tuple((request.scene, request.frame) for request in mine),
            tuple(request.counts for request in mine),
            tuple(damage for several in damages for damage in several),
        )


class BatchLoader:
    """Iterates over the batches of some steps; every iteration is a fresh set of workers.

    Args:
        source, task, settings: what is loaded, who prepares it, how.
        seed: of the augmentation.
        pin_memory: for copies to a GPU that do not wait.
        augment: whether the task draws an augmentation.
        truth: batches carry these parts of the label too; None: they do not.

    Raises (while iterating):
        DatasetError: a damaged frame, unless they are to be skipped; too many of them; or a worker died.
    """

    def __init__(
        self,
        source: FrameSource,
        task: TrainingTask,
        settings: LoaderSettings,
        seed: int = 0,
        pin_memory: bool = False,
        augment: bool = True,
        truth: TruthWanted | None = None,
    ) -> None:
        self._preparer = SamplePreparer(source, task, seed, augment, truth)
        self._settings = settings
        self._pin_memory = pin_memory
        self.damaged = 0

    def steps(self, order: FrameOrder, slots: int, first: int, count: int) -> Generator[Batch]:
        """The batches of ``count`` steps from step ``first`` of an order for so many slots."""
        if count <= 0:
            return
        workers = min(self._settings.workers, slots)
        loader = DataLoader(
            _Portions(self._preparer, order, first, count),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=self._settings.prefetch if workers else None,
            pin_memory=self._pin_memory,
            worker_init_fn=_survive_signals,
            generator=torch.Generator(),  # else the loader draws from the generator that dropout uses
        )
        portions = iter(loader)
        try:
            for _ in range(count):
                batch = _joined([_portion_of(next(portions)) for _ in range(max(workers, 1))])
                self._report(batch.damages)
                yield batch
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            raise DatasetError(
                f"a loader process died ({str(error).splitlines()[0]}); if it was killed for lack of memory, "
                f"lower loader.workers ({self._settings.workers}) or loader.prefetch ({self._settings.prefetch})"
            ) from error
        finally:
            shutdown = getattr(portions, "_shutdown_workers", None)  # now, not whenever the iterator is collected
            if shutdown is not None:
                with contextlib.suppress(RuntimeError):
                    shutdown()

    def _report(self, damages: tuple[str, ...]) -> None:
        for damage in damages:
            logger.warning("damaged: %s", damage)
        if not damages:
            return
        self.damaged += 1
        if self._settings.damaged == "stop":
            raise DatasetError(f"{damages[0]} (loader.damaged: skip goes on without such frames)")
        if self.damaged > self._settings.max_damaged:
            raise DatasetError(
                f"{self.damaged} batches with damaged frames, loader.max_damaged is {self._settings.max_damaged}; "
                f"the last: {damages[0]}"
            )


def _portion_of(result: Batch | OccPerceptionError) -> Batch:
    if isinstance(result, OccPerceptionError):
        raise result
    return result


def _unchanged(batch: Any) -> Any:
    """Instead of PyTorch's conversion, which makes lists of tuples."""
    return batch


def is_worker_death(error: BaseException) -> bool:
    """Whether PyTorch reports a loader process that is gone (not an error inside of one)."""
    text = str(error)
    return "DataLoader worker" in text and ("killed" in text or "exited unexpectedly" in text)


def _joined(portions: list[Batch]) -> Batch:
    if len(portions) == 1:
        return portions[0]
    names = portions[0].tensors
    tensors = {name: torch.cat([portion.tensors[name] for portion in portions]) for name in names}
    return Batch(
        tensors,
        tuple(chain.from_iterable(portion.starts for portion in portions)),
        tuple(chain.from_iterable(portion.samples for portion in portions)),
        tuple(chain.from_iterable(portion.counts for portion in portions)),
        tuple(chain.from_iterable(portion.damages for portion in portions)),
    )


def _survive_signals(worker: int) -> None:
    """Ctrl-C and a SIGTERM to the whole group are for the training process, which lets the workers finish its step."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
