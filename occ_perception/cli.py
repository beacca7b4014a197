"""The command ``occ_perception``: a few verbs, each a thin call into the library."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from occ_perception import __version__
from occ_perception.errors import OccPerceptionError

_NODES = {
    "perception": "the live ROS 2 node (takes --ros-args)",
    "play": "play a rosbag2 into ROS 2 with its own stamps",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; bad input ends with one clear line and exit status 2, never with a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in _NODES:  # these parse their own arguments (--ros-args)
        return _run_node(argv[0], argv[1:])
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        return int(arguments.run(arguments) or 0)
    except OccPerceptionError as error:
        if arguments.verbose:
            raise
        print(f"occ_perception: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="occ_perception", description="3D occupancy perception for robots and cars.")
    parser.add_argument("--version", action="version", version=f"occ_perception {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="debug log and tracebacks")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_demo(verbs)
    _add_models(verbs)
    _add_import(verbs)
    _add_bag(verbs)
    _add_world(verbs)
    _add_eval(verbs)
    _add_train(verbs)
    _add_nodes(verbs)
    return parser


def _add_demo(verbs: argparse._SubParsersAction) -> None:
    from occ_perception import demo

    parser = verbs.add_parser("demo", help="play a drive into the perception node over ROS 2 and draw what it saw")
    demo.add_arguments(parser)
    parser.set_defaults(run=demo.run_demo)


def _add_models(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("models", help="list every model, what it needs, and its published figures")
    parser.add_argument("--json", action="store_true", help="machine readable")
    parser.set_defaults(run=_run_models)


def _run_models(arguments: argparse.Namespace) -> None:
    from occ_perception.checkpoints.catalogue import describe_models

    descriptions = describe_models()
    if arguments.json:
        print(json.dumps(descriptions, indent=2))
        return
    for description in descriptions:
        figures = ", ".join(f"{name} {value:g}" for name, value in description["published"].items()) or "none"
        print(f"{description['name']:26} {description['parameters'] / 1e6:6.1f} M parameters  {description['labels']}")
        print(f"{'':26} needs {description['needs']}; published: {figures}")
        print(f"{'':26} source: {description['source']}")


def _add_import(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser("import", help="turn a published .pth checkpoint into checked safetensors")
    parser.add_argument("checkpoint", type=Path, help="the authors' .pth (read with weights_only=True: no code runs)")
    parser.add_argument("--model", required=True, help="variant, see 'occ_perception models'")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".safetensors to write, with a .json card")
    parser.add_argument("--trained-on", default="", help="what the weights were trained on, for the model card")
    parser.add_argument("--licence", default="unknown", help="licence of the weights, for the model card")
    parser.set_defaults(run=_run_import)


def _run_import(arguments: argparse.Namespace) -> None:
    from occ_perception.checkpoints.importer import import_checkpoint

    card = import_checkpoint(
        arguments.model,
        arguments.checkpoint,
        arguments.output,
        trained_on=arguments.trained_on,
        licence=arguments.licence,
    )
    print(json.dumps(card, indent=2))


def _add_bag(verbs: argparse._SubParsersAction) -> None:
    from occ_perception import bag_command

    bag_command.add_arguments(verbs.add_parser("bag", help="make, inspect and replay rosbags"))


def _add_world(verbs: argparse._SubParsersAction) -> None:
    from occ_perception.data.synthetic import command

    command.add_arguments(verbs.add_parser("world", help="write synthetic city drives with exact ground truth"))


def _add_eval(verbs: argparse._SubParsersAction) -> None:
    from occ_perception.evaluation import command

    parser = verbs.add_parser("eval", help="score a model or prediction files on nuScenes, also with damaged inputs")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _add_train(verbs: argparse._SubParsersAction) -> None:
    from occ_perception.training import command

    parser = verbs.add_parser("train", help="train a model, on one device or (torchrun) many")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _add_nodes(verbs: argparse._SubParsersAction) -> None:
    for name, text in _NODES.items():
        verbs.add_parser(name, help=text, add_help=False)


def _run_node(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"occ_perception.ros.{name}")
    return int(module.main(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
