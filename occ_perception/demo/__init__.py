"""The demo: a recorded drive through the perception node over real ROS 2, and pictures of what it saw.

Player, perception and listener are separate processes on a private ROS domain of this machine.  Where ROS 2 is not
installed the same bags are replayed without it, and everything printed and drawn says so.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from occ_perception.demo.inputs import DemoInput, find_keyframes, nuscenes_input, synthetic_input
from occ_perception.demo.perceive import ModelChoice, missing_for_ros, perceive_live, perceive_offline
from occ_perception.demo.report import draw, print_report
from occ_perception.errors import ConfigurationError, OccPerceptionError

__all__ = ["add_arguments", "run_demo"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options."""
    parser.add_argument("--model", default="nano", help="see 'occ_perception models' (default %(default)s)")
    parser.add_argument("--weights", type=Path, default=None, help=".safetensors; default: those of the package")
    parser.add_argument("--allow-untrained", action="store_true", help="run a network with random weights, marked so")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--nuscenes",
        type=Path,
        nargs="*",
        default=None,
        help="nuScenes roots to show too (default: ../shared/data/nuscenes_keyframe* beside the checkout, if any)",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of the synthetic drive (default %(default)s)"
    )
    parser.add_argument("--offline", action="store_true", help="replay without ROS 2 even where it is installed")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo/out"), help="folder for the pictures")


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo on every input; returns 0 only if each of them gave grids and pictures.

    Raises:
        ConfigurationError: an option makes no sense, whatever the input.
    """
    start = time.monotonic()
    if logging.getLogger().level == logging.INFO:  # not with --verbose; the pictures' frames would be announced too
        logging.getLogger("occ_perception").setLevel(logging.WARNING)
    model = ModelChoice(arguments.model, arguments.weights, arguments.device, arguments.allow_untrained)
    missing = "" if arguments.offline else missing_for_ros()
    if missing:
        print(f"ROS 2 is not installed here (missing: {missing}): replaying the bags without it.")
    perceive = perceive_offline if arguments.offline or missing else perceive_live
    failed = []
    with _terminated_like_interrupted(), tempfile.TemporaryDirectory(prefix="occ_perception_demo_") as temporary:
        work = Path(temporary)
        for name, make in _inputs(arguments, work):
            try:
                source = make()
                print(f"\n== {source.title}\n   {source.description}", flush=True)
                perceived = perceive(source, model, work / f"run_{source.name}")
                print_report(perceived)
                for path in draw(source, perceived, arguments.output):
                    print(f"  wrote     {path}", flush=True)
            except ConfigurationError:
                raise  # the same mistake on every input: one line, at once
            except OccPerceptionError as error:
                failed.append(name)
                print(f"  FAILED: {error}", flush=True)
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'done'}; {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


def _inputs(arguments: argparse.Namespace, work: Path) -> list[tuple[str, Callable[[], DemoInput]]]:
    """What to show, by name; each is made when its turn comes."""
    roots = find_keyframes() if arguments.nuscenes is None else arguments.nuscenes
    shown = ", ".join(str(root) for root in roots) or "none (--nuscenes ROOT shows one)"
    print(f"nuScenes recordings: {shown}; and a synthetic drive of {arguments.seconds:g} s", flush=True)
    real = [(root.name, partial(nuscenes_input, root, work)) for root in roots]
    return [*real, ("synthetic drive", partial(synthetic_input, work, arguments.seconds))]


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that child processes and temporary bags go too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
