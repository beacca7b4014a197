"""The verb ``world``: write synthetic drives as a dataset to train on and to be scored on, and look at them."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from occ_perception.data.synthetic.dataset_writer import SPLITS, WorldSettings, write_world
from occ_perception.data.synthetic.rig import TRAINING_SIZE
from occ_perception.errors import ConfigurationError, DatasetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``occ_perception world`` takes."""
    parser.description = (
        "Write made-up city drives in nuScenes' layout with Occ3D and OpenOcc labels. Finished scenes are left as they "
        "are: run it again to go on after an interruption, or with more scenes to add some. Scenes of the splits train "
        "and val have no seed in common, whatever --seed."
    )
    parser.add_argument("--scenes", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--frames", type=int, default=20, help="keyframes of each scene, 2 Hz (default 20)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="dataset root, new or to go on")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes throughout (default 0)")
    parser.add_argument("--split", choices=tuple(SPLITS), default="train")
    parser.add_argument(
        "--image-size",
        default=f"{TRAINING_SIZE[0]}x{TRAINING_SIZE[1]}",
        metavar="WxH",
        help="of a 16:9 image scaled to this width the lowest rows are kept (default 704x256); 1600x900 = nuScenes'",
    )
    parser.add_argument("--workers", type=int, help="processes, each on one scene (default: one per core)")
    parser.add_argument("--bag", action="store_true", help="write a rosbag of every scene as well (12 Hz, LiDAR 20 Hz)")
    parser.add_argument("--preview", action="store_true", help="write pictures and a short film of the first scene")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write, and say how fast."""
    settings = WorldSettings(
        scenes=arguments.scenes,
        frames=arguments.frames,
        seed=arguments.seed,
        split=arguments.split,
        image_size=image_size_of(arguments.image_size),
        bags=arguments.bag,
    )
    start = time.perf_counter()
    frames = write_world(arguments.output, settings, arguments.workers)
    seconds = time.perf_counter() - start
    there = settings.scenes * settings.frames - frames
    print(
        f"{arguments.output}: {frames} frames in {seconds:.1f} s, {frames / seconds:.2f} frames/s"
        + (f"; {there} were there already" if there else "")
    )
    if arguments.preview:
        from occ_perception.data.synthetic.preview import write_preview

        try:
            for path in write_preview(arguments.output / "preview", settings.scene_seeds()[0], settings.seconds):
                print(path)
        except OSError as error:
            raise DatasetError(f"{arguments.output}: the preview cannot be written: {error}") from error


def image_size_of(text: str) -> tuple[int, int]:
    """Width and height written as "704x256".

    Raises:
        ConfigurationError: anything else.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if match is None:
        raise ConfigurationError(f"image size: expected WIDTHxHEIGHT such as 704x256, got '{text}'")
    return int(match[1]), int(match[2])
