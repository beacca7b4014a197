"""What the demo tells of a run: rate, latency and voxels in words, and pictures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from occ_perception.bag_frames import BagFrames
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.topics import detect_topics, lidar_name
from occ_perception.demo.inputs import DemoInput
from occ_perception.demo.perceive import Perceived
from occ_perception.frame import Frame
from occ_perception.occupancy import Occupancy
from occ_perception.parameters import AUTO, Parameters
from occ_perception.viz.film import write_film
from occ_perception.viz.picture import Origin, weights_statement, write_pictures


def print_report(perceived: Perceived) -> None:
    """Print model, rate, latency by stage and voxels by class."""
    last = perceived.grids[-1]
    print(f"  model     {last.info.name}, {weights_statement(last.info)}; {perceived.way}")
    print(f"  grids     {_rate_text(perceived)}")
    for number, (stage, text) in enumerate(perceived.latencies.items()):
        print(f"  {'latency' if number == 0 else '':9} {stage:44} {text}")
    counts = ", ".join(f"{name} {count:,}" for name, count in last.counts().items())
    print(f"  last grid {counts}; {last.temporal.frames} past frames used")


def _rate_text(perceived: Perceived) -> str:
    count, distinct = len(perceived.stamps_ns), len(set(perceived.stamps_ns))
    text = f"{count} received, {distinct} different stamps"
    if distinct > 1 and perceived.duration_s > 0:
        text += f", {(count - 1) / perceived.duration_s:.1f} a second"
    return f"{text}; of {perceived.sets}" if perceived.sets else text


def draw(source: DemoInput, perceived: Perceived, output: Path) -> list[Path]:
    """Write pictures of the newest grid that has an image of every camera around it, and a film of all that were kept.

    Returns their paths; one grid makes no film.

    Raises:
        DatasetError: the bag cannot be read.
    """
    frames = _frames_of(source.bag, perceived.grids)
    grid = max(perceived.grids, key=lambda g: (_image_count(frames.get(g.stamp_ns)), g.stamp_ns))
    origin = Origin(source.title, perceived.way)
    paths = write_pictures(output, source.name, grid, frames.get(grid.stamp_ns), origin)
    if len({g.stamp_ns for g in perceived.grids}) > 1:
        paths.append(output / f"{source.name}.webp")
        write_film(paths[-1], perceived.grids, frames, origin)
    return paths


def _image_count(frame: Frame | None) -> int:
    return 0 if frame is None else len(frame.images)


def _frames_of(bag_path: Path, grids: Collection[Occupancy]) -> dict[int, Frame]:
    """The bag's frames at the grids' stamps, with images even if the model did not use any."""
    stamps = {grid.stamp_ns for grid in grids}
    with BagReader(bag_path) as bag:
        anchor = AUTO
        if not any(grid.cameras for grid in grids):  # then the LiDAR was the anchor
            anchor = lidar_name(detect_topics(bag.topic_types).lidar or "")
        return {
            frame.stamp_ns: frame for frame in BagFrames(bag, Parameters(anchor=anchor)) if frame.stamp_ns in stamps
        }
