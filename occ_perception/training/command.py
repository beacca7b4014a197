"""The verb ``train``: train a model, alone or as one process of torchrun."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

from torch import nn

from occ_perception.errors import ConfigurationError, WeightsError
from occ_perception.training.configuration import TaskChoice, TrainingConfig, read_config
from occ_perception.training.distributed import Ranks
from occ_perception.training.guards import explained_failures
from occ_perception.training.loop import Trainer, has_checkpoint, prepare_pytorch
from occ_perception.training.settings import to_mapping
from occ_perception.training.sources import check_apart, open_source
from occ_perception.training.tasks import TASKS, create_task

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``occ_perception train`` takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Train a model: checkpoints, records and weights with their model card go to one folder. A signal ends the\n"
        "run with a checkpoint, and --resume goes on where it stopped.\n\n"
        f"task.name is one of {', '.join(TASKS)}."
    )
    parser.epilog = (
        "examples:\n"
        "  occ_perception train --config config/train/nano.yaml -o runs/nano --set batch_size=4\n"
        "  occ_perception train --config config/train/nano.yaml -o runs/nano --resume\n"
        "  torchrun --nproc-per-node 4 --no-python occ_perception train --config config/train/nano.yaml -o runs/nano"
    )
    parser.add_argument("--config", type=Path, help="YAML over the defaults, see config/train/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="over the file, e.g. --set learning_rate.peak=1e-4 (may be repeated)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, help="folder of the run (default: runs/<config>_<date>)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 also when a signal ended it (the checkpoint is written).

    Raises:
        OccPerceptionError: the run cannot begin or go on; the message says why.
    """
    config = read_config(arguments.config, arguments.overrides)
    own_folder = _folder(arguments)
    ranks = Ranks.join(config.device)
    try:
        folder: Path = ranks.gathered(own_folder)[0]  # clocks of processes differ, and so would the date in the name
        _check_folder(folder, arguments.resume)
        with explained_failures(to_mapping(config)):
            trainer = _trainer(config, folder, ranks, arguments.resume)
        trainer.run()
    finally:
        ranks.leave()
    return 0


def _check_folder(folder: Path, resume: bool) -> None:
    """Refuse to go on with nothing, to write over a run, and to write into a file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"-o {folder}: expected a folder, there is a file")
    if resume and not has_checkpoint(folder):
        raise WeightsError(f"--resume: there is no checkpoint in {folder}")
    if not resume and has_checkpoint(folder):
        raise ConfigurationError(f"{folder} holds a run already; --resume goes on, -o takes another folder")


def _trainer(config: TrainingConfig, folder: Path, ranks: Ranks, resume: bool) -> Trainer:
    if not ranks.is_main:
        logging.getLogger("occ_perception").setLevel(logging.WARNING)
    if config.compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    prepare_pytorch(config)
    check_apart(config.data.training, config.data.validation)
    source = open_source(config.data.training, "train")
    if source is None:
        raise ConfigurationError("data.training.kind: expected nuscenes or world, got none")
    validation = open_source(config.data.validation, "val")
    task = create_task(config.task.name, config.task.settings)
    if config.task.initial_weights and not resume:
        load_initial_weights(task.network, config.task)
    trainer = Trainer(config, task, source, validation, folder, ranks)
    if resume:
        trainer.resume()
    return trainer


def load_initial_weights(network: nn.Module, choice: TaskChoice) -> None:
    """Weights to begin with, by name.

    Raises:
        WeightsError: unreadable, or not all fit where all must; or none fits.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from occ_perception.checkpoints.importer import read_checkpoint

    path = Path(choice.initial_weights)
    try:
        entries = load_file(path) if path.suffix == ".safetensors" else read_checkpoint(path)[1]
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"task.initial_weights {path}: {error}") from error
    own = network.state_dict()
    fitting = {name: value for name, value in entries.items() if name in own and own[name].shape == value.shape}
    missing = [name for name, _ in network.named_parameters() if name not in fitting]
    if not fitting or (missing and choice.initial_match == "all"):
        raise WeightsError(
            f"task.initial_weights {path}: {len(fitting)} of {len(own)} entries fit, {len(missing)} parameters are "
            f"missing, first {missing[:3]}; task.initial_match: some takes what fits"
        )
    network.load_state_dict(fitting, strict=False)
    logger.info("began with %d of %d entries of %s", len(fitting), len(own), path)


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.output is not None:
        return Path(arguments.output)
    if arguments.resume:
        raise ConfigurationError("--resume: expected -o with the folder of the run")
    name = arguments.config.stem if arguments.config else "training"
    return Path("runs") / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
