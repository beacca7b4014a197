"""The verb ``bag``: make bags, look into them, replay them."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

from occ_perception.data.bag_writer import STORAGES
from occ_perception.data.drive_bag import DEFAULT, PROFILES
from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError, OccPerceptionError
from occ_perception.parameters import Parameters
from occ_perception.replay_outputs import AUTO, FORMATS

logger = logging.getLogger(__name__)

FAILED, DAMAGED = 1, 3
"""Exit status of a replay: some bags could not be replayed; all were, but some are damaged (read up to the damage)."""

_LABELS_OF_ROOT = object()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``occ_perception bag`` takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_from_nuscenes(actions)
    _add_synthetic(actions)
    _add_info(actions)
    _add_replay(actions)


def _add_from_nuscenes(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "from-nuscenes",
        help="nuScenes scenes to rosbag2, one bag a scene",
        description="nuScenes scenes to rosbag2, one bag a scene. Bags that are there, made of the same files with the "
        "same settings, are left as they are: run it again to go on after an interruption.",
    )
    parser.add_argument("root", type=Path, help="dataset root (holds samples/ and the tables' folder)")
    parser.add_argument("--version", help="tables' folder, e.g. v1.0-trainval; default: the only one there")
    parser.add_argument("--scene", nargs="+", default=(), metavar="NAME", help="scene names; all if not given")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the bags")
    parser.add_argument("--profile", choices=tuple(PROFILES), default=DEFAULT.name, help="topic names as others expect")
    parser.add_argument("--storage", choices=tuple(STORAGES), default="mcap")
    parser.add_argument("--keyframes-only", action="store_true", help="2 Hz, without the sweeps between")
    parser.add_argument("--no-lidar", action="store_true")
    parser.add_argument("--cameras", nargs="+", metavar="CHANNEL", help="e.g. CAM_FRONT; all if not given")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the scene")
    parser.add_argument("--duration", type=float, help="seconds")
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="?",
        const=_LABELS_OF_ROOT,
        metavar="DIR",
        help="with a topic of ground-truth grids from Occ3D's labels in this folder (default ROOT/gts)",
    )
    parser.add_argument("--boxes", action="store_true", help="with a topic of the annotated boxes (MarkerArray)")
    parser.add_argument("--workers", type=int, default=1, help="scenes converted in parallel")
    parser.add_argument("--overwrite", action="store_true", help="make all bags anew, also those that are there")
    parser.set_defaults(run=_run_from_nuscenes)


def _run_from_nuscenes(arguments: argparse.Namespace) -> None:
    from occ_perception.data.nuscenes_bag import from_nuscenes
    from occ_perception.data.nuscenes_selection import SceneBagSettings

    labels = arguments.root / "gts" if arguments.labels is _LABELS_OF_ROOT else arguments.labels
    settings = SceneBagSettings(
        storage=arguments.storage,
        profile=arguments.profile,
        keyframes_only=arguments.keyframes_only,
        lidar=not arguments.no_lidar,
        cameras=tuple(arguments.cameras) if arguments.cameras else None,
        start_s=arguments.start,
        duration_s=arguments.duration,
        labels=labels,
        boxes=arguments.boxes,
    )
    bags = from_nuscenes(
        arguments.root,
        arguments.version,
        tuple(arguments.scene),
        arguments.output,
        settings,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
    )
    print("\n".join(str(bag) for bag in bags))


def _add_synthetic(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "synthetic",
        help="a drive through a made-up city as a rosbag2",
        description="A drive through a made-up city as a rosbag2: six cameras at 12 Hz, a LiDAR at 20 Hz and poses. "
        "Needs the extra 'world'. No training set of 'occ_perception world' holds any of these scenes.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the bag; must not be there yet")
    parser.add_argument("--seconds", type=float, default=5.0, help="length (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another scene (default %(default)s)")
    parser.add_argument(
        "--image-size",
        default="800x450",
        metavar="WxH",
        help="of a 16:9 image scaled to this width the lowest rows are kept (default %(default)s)",
    )
    parser.add_argument("--storage", choices=tuple(STORAGES), default="mcap")
    parser.set_defaults(run=_run_synthetic)


def _run_synthetic(arguments: argparse.Namespace) -> None:
    from occ_perception.data.synthetic.command import image_size_of
    from occ_perception.data.synthetic.dataset_writer import MAX_SEED, SPLITS
    from occ_perception.data.synthetic.drive import CityDrive, write_city_bag

    if not 0 <= arguments.seed <= MAX_SEED:
        raise ConfigurationError(f"seed: expected 0 to {MAX_SEED}, got {arguments.seed}")
    drive = CityDrive(SPLITS["val"] + arguments.seed, arguments.seconds, image_size_of(arguments.image_size))
    print(write_city_bag(arguments.output, drive, arguments.storage, progress=True))


def _add_info(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("info", help="what a bag holds, what of it we can use, and what is missing")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--json", action="store_true", help="machine readable")
    parser.set_defaults(run=_run_info)


def _run_info(arguments: argparse.Namespace) -> None:
    from occ_perception.data.bag_info import bag_info

    info = bag_info(arguments.bag)
    print(json.dumps(info.to_dict(), indent=2) if arguments.json else info)


def _add_replay(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "replay",
        help="run a model on bags without ROS, as fast as the machine allows",
        description="Run a model on bags without ROS. Bags whose output is there, made with the same model and "
        "settings, are left as they are. Exit status: 0 all whole, 1 some bags failed, 3 some bags are damaged and "
        "were read up to the damage.",
    )
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG")
    parser.add_argument("-o", "--output", type=Path, help="folder for .npz files")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=AUTO,
        help="submission: <token>.npz of the keyframes with 'pred' in the dataset's ids; keyframes: the same with all "
        "arrays; frames: <bag>/<stamp>.npz of every frame; auto: the first that the bag and the model can give",
    )
    parser.add_argument("--bag-output", type=Path, metavar="DIR", help="folder for bags of grids and objects")
    parser.add_argument("--storage", choices=tuple(STORAGES), default="mcap", help="of these bags")
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML with the node's parameters")
    parser.add_argument("--model", help="see 'occ_perception models' (default: the parameters' one)")
    parser.add_argument("--weights", type=Path, help=".safetensors of the model")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--shard", default="0/1", metavar="i/n", help="this worker's bags, i from 0")
    parser.add_argument("--overwrite", action="store_true", help="replay also where there is an output already")
    parser.set_defaults(run=_run_replay)


def _run_replay(arguments: argparse.Namespace) -> int:
    from occ_perception.models import create_model, resolve_device
    from occ_perception.replay_job import ReplaySettings, replay_bags
    from occ_perception.session import Session

    parameters = _parameters(arguments)
    shard = Shard.parse(arguments.shard)
    settings = ReplaySettings(
        folder=arguments.output,
        format=arguments.format,
        bags=arguments.bag_output,
        storage=arguments.storage,
        parameters=parameters,
        overwrite=arguments.overwrite,
    )
    device = resolve_device(parameters.device)
    weights = parameters.weights or None
    model = create_model(parameters.model, weights, device, parameters.allow_untrained, parameters.carving())
    logger.info("%s, weights %s, trained on: %s", model.info.name, model.info.weights, model.info.trained_on or "-")
    session = Session(model, device, parameters.session())
    failed = damaged = 0
    for result in replay_bags(arguments.bags, session, settings, shard, progress=True):
        if isinstance(result, OccPerceptionError):
            logger.error("%s", result)
            failed += 1
        else:
            print(result)
            damaged += bool(result.damage)
    session.close()
    return FAILED if failed else DAMAGED if damaged else 0


def _parameters(arguments: argparse.Namespace) -> Parameters:
    """Those of the file, with what the command line says of the model."""
    parameters = Parameters.from_file(arguments.params) if arguments.params else Parameters()
    return replace(
        parameters,
        model=arguments.model or parameters.model,
        weights=str(arguments.weights or parameters.weights),
        device=arguments.device or parameters.device,
    )
