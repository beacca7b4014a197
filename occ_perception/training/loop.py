"""The training loop: batches to steps, and what happens every so often around them."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from occ_perception.errors import OutOfResourcesError
from occ_perception.files import write_whole
from occ_perception.ontology import ontology_by_name
from occ_perception.training.active_training import Curriculum
from occ_perception.training.checkpoint import NAME, load_checkpoint, save_checkpoint
from occ_perception.training.configuration import TrainingConfig
from occ_perception.training.distributed import Ranks
from occ_perception.training.frame_ranking import FrameRanking
from occ_perception.training.guards import check_skipped_steps, explained_failures, stop_for_numbers
from occ_perception.training.host_memory import release_free_memory
from occ_perception.training.learner import Learner, NonFiniteStepError
from occ_perception.training.loader import Batch, BatchLoader
from occ_perception.training.model_card import export_weights, git_commit, hardware, has_other_settings
from occ_perception.training.progress import Journal, Meter, line_text
from occ_perception.training.settings import to_mapping
from occ_perception.training.sources import OpenSource
from occ_perception.training.stop_request import StopRequest
from occ_perception.training.task import TrainingTask
from occ_perception.training.validation import ValidationResult, Validator
from occ_perception.training.voxel_pictures import side_by_side

logger = logging.getLogger(__name__)

FINAL, BEST = "final.safetensors", "best.safetensors"
_MEMORY_EVERY = 50  # iterations


class Trainer:
    """One run in one folder.

    Args:
        config: its settings.
        task: what is trained; its network's weights are the initial ones.
        source: training frames.
        validation: frames to be scored on, if any.
        folder: for checkpoints, weights and records.
        ranks: this process among all.
    """

    def __init__(
        self,
        config: TrainingConfig,
        task: TrainingTask,
        source: OpenSource,
        validation: OpenSource | None,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.config, self.task, self.folder, self.ranks = config, task, folder, ranks
        self._source = source
        self.effective = effective_config(config, task)
        lengths = source.frames.scene_lengths
        self._curriculum = Curriculum(config.active_training, lengths, config.slots, ranks, config.seed)
        self._ranking = FrameRanking(source.frames, task, config, ranks)
        self._loader = BatchLoader(
            source.frames, task, config.loader, config.seed, pin_memory=ranks.device.type == "cuda"
        )
        self._validator = None if validation is None else Validator(validation.frames, task, config, ranks)
        self._validation_facts = None if validation is None else validation.facts
        self.learner = Learner(task, config, ranks)
        self.iteration = 0
        self._best: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._seconds_before = 0.0
        self._begun = time.monotonic()
        self._saved_at, self._saved_iteration = time.monotonic(), -1
        self._stop = StopRequest()
        self._commit = git_commit() if ranks.is_main else ""  # now: the checkout may change while the run goes on
        self._journal: Journal | None = None

    def resume(self) -> None:
        """Go on from the folder's checkpoint.

        Raises:
            WeightsError, ConfigurationError: see `load_checkpoint`.
        """
        run = load_checkpoint(self.folder, self.learner, self._curriculum, self.ranks, self.effective)
        self.iteration, self._seconds_before = run["iteration"], run["seconds"]
        self._best, self._scores = run["best"], run["scores"]
        self._loader.damaged = run["damaged"]
        self._saved_iteration = self.iteration
        logger.info("going on from iteration %d", self.iteration)

    def run(self) -> bool:
        """Train to the last iteration; False if a signal ended it before (its checkpoint is written).

        Raises:
            OccPerceptionError: the run cannot go on; the message says why and what to do.
        """
        if self.ranks.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "config.yaml", yaml.safe_dump(self.effective, sort_keys=False).encode())
            self._journal = Journal(self.folder, self.config.log.tensorboard, self.iteration)
        try:
            with self._stop.listening(), explained_failures(self.effective):
                self._train()
                finished = self.iteration >= self.config.iterations
                if finished and self._finish():
                    self._saved_iteration = -1  # a checkpoint of this iteration does not know its scores yet
                self._save(must=True)
        finally:
            if self._journal is not None:
                self._journal.close()
        if not finished:
            logger.info("%s: iteration %d is saved; --resume goes on", self._stop.asked or "stopped", self.iteration)
        return finished

    def _train(self) -> None:
        """Phase after phase until the last iteration or a signal."""
        meter = Meter(self.config, self.ranks)
        while self.iteration < self.config.iterations:
            phase = self._curriculum.phase()
            steps = min(phase.steps, self.config.iterations - self.iteration)
            batches = self._loader.steps(phase.order, self.config.slots, phase.first, steps)
            try:
                for _ in range(steps):
                    with meter.waiting():
                        batch = next(batches).to(self.ranks.device)
                    self._step(batch, meter)
                    if self._after_step(meter):
                        return
            finally:
                batches.close()
            if self.iteration < self.config.iterations and not self._next_phase(meter):
                return

    def _next_phase(self, meter: Meter) -> bool:
        """Begin the next phase with new streams; False if a signal came while its frames were being chosen."""
        losses = None
        if self._curriculum.wants_losses:
            with meter.elsewhere():
                losses = self._ranking.losses(self.learner, self.iteration, lambda: bool(self._stop.asked))
            if losses is None:
                return False
        self._curriculum.advance(losses)
        self.learner.forget_streams()
        return True

    def _step(self, batch: Batch, meter: Meter) -> None:
        check = self.iteration % self.config.guards.check_every == 0
        try:
            report = self.learner.step(batch, self.iteration, check)
        except NonFiniteStepError as error:
            stop_for_numbers(self.folder, self.learner, batch, error.report, self.iteration, self.config)
        check_skipped_steps(self.learner, self.config)
        self._curriculum.step()
        meter.add(report.losses, report.gradient_norm)
        self.iteration += 1

    def _after_step(self, meter: Meter) -> bool:
        """Line, validation, checkpoint where they are due; whether to stop."""
        is_last = self.iteration == self.config.iterations
        if self.iteration % _MEMORY_EVERY == 0:
            release_free_memory()
        if self.iteration % self.config.log.every == 0 or is_last:
            self._log(meter)
        every = self.config.validation.every
        if every and self.iteration % every == 0 and not is_last:
            with meter.elsewhere():
                self._validate()
        stop, due = self.ranks.any([bool(self._stop.asked), self._checkpoint_due()])
        if due and not stop:
            with meter.elsewhere():
                self._save(must=False)
        return stop

    def _checkpoint_due(self) -> bool:
        settings = self.config.checkpoints
        by_count = bool(settings.every) and self.iteration % settings.every == 0
        by_time = bool(settings.minutes) and time.monotonic() - self._saved_at > 60 * settings.minutes
        return by_count or (by_time and self.ranks.is_main)

    def _save(self, must: bool) -> None:
        """Write the checkpoint; a full disk in between is told, and the run goes on."""
        if self._saved_iteration == self.iteration:
            return
        run = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best": self._best,
            "scores": self._scores,
            "damaged": self._loader.damaged,
        }
        try:
            save_checkpoint(self.folder, self.learner, self._curriculum, self.ranks, run, self.effective)
            self._saved_iteration = self.iteration
        except OutOfResourcesError as error:
            if must or self.ranks.control is not None:
                raise
            logger.error("%s; training goes on without a new checkpoint", error)
        self._saved_at = time.monotonic()

    def _log(self, meter: Meter) -> None:
        values = meter.line(self.iteration, self.learner.optimizer.param_groups[0]["lr"], self._loader.damaged)
        if self._journal is not None:
            logger.info("%s", line_text(self.iteration, self.config.iterations, values))
            self._journal.scalars("training", self.iteration, values)

    def _validate(self) -> None:
        if self._validator is None:
            return
        result = self._validator.run(self.learner, lambda: bool(self._stop.asked))
        if result is None:
            return
        self._scores = {"iteration": self.iteration, **result.values}
        metric = self.config.validation.metric
        before = self._best.get(metric, math.nan)  # a run that goes on may have chosen by another figure
        if math.isnan(before) or result.values[metric] > before:
            self._best = dict(self._scores)
            self._export(BEST, self._best)
        if self._journal is not None:
            self._record(self._journal, result)

    def _record(self, journal: Journal, result: ValidationResult) -> None:
        figures = ", ".join(f"{name} {100 * value:.2f}" for name, value in result.values.items())
        logger.info("validation at iteration %d on %d frames: %s", self.iteration, result.frames, figures)
        journal.scalars("validation", self.iteration, result.values)
        journal.scalars("validation_iou", self.iteration, result.per_class)
        ontology = ontology_by_name(self.task.description.label_set)
        for index, pair in enumerate(result.pairs):
            journal.picture(f"validation/{index}", self.iteration, side_by_side(pair, ontology))

    def _finish(self) -> bool:
        """Validate and publish; whether there are scores that no checkpoint holds."""
        scored = self._scores.get("iteration") == self.iteration
        if not scored:
            self._validate()
        self._export(FINAL, self._scores)
        logger.info("done: %s", self.folder / FINAL)
        return not scored

    @property
    def seconds(self) -> float:
        """Time spent on this run, interruptions not counted."""
        return self._seconds_before + time.monotonic() - self._begun

    def _export(self, name: str, scores: dict[str, float]) -> None:
        if not self.ranks.is_main:
            return
        average = self.learner.average
        entries = self.learner.network.state_dict() if average is None else average.average
        card = self.config.model_card
        data = {"training": self._source.facts, "validation": self._validation_facts}
        facts: dict[str, Any] = {
            "trained_on": card.trained_on or f"{self._source.facts['name']}, {self._source.facts['split']}",
            "licence": card.licence,
            "iterations": self.iteration,
            "samples": self.iteration * self.config.slots * self.ranks.shard.count,
            "averaged_weights": average is not None,
            "metrics": {k: v for k, v in scores.items() if k != "iteration"},
            "metrics_mask": self.config.validation.mask,
            "data": data,
            "training_seconds": round(self.seconds, 1),
            "hardware": hardware(self.ranks),
            "configuration": self.effective,
        }
        description = self.task.description
        changed = has_other_settings(description.model, self.task.network)
        export_weights(self.folder / name, description, entries, facts, self._commit, changed)


def effective_config(config: TrainingConfig, task: TrainingTask) -> dict[str, Any]:
    """All settings as plain values, those of the task included."""
    values = to_mapping(config)
    values["task"]["settings"] = to_mapping(task.settings)
    return values


def has_checkpoint(folder: Path) -> bool:
    """Whether a run in this folder can go on."""
    return (folder / NAME).is_file()


def prepare_pytorch(config: TrainingConfig) -> None:
    """Process-wide switches and the seed of everything drawn from PyTorch's own generator."""
    compute = config.compute
    if compute.threads:
        torch.set_num_threads(compute.threads)
    torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = compute.tf32
    torch.backends.cudnn.benchmark = not compute.deterministic
    torch.use_deterministic_algorithms(compute.deterministic)
    torch.manual_seed(config.seed)
