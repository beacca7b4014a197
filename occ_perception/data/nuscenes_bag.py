"""nuScenes scenes as rosbag2, one bag a scene, several scenes in parallel; what is finished is not made again."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_scene_bag import SceneBag
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.errors import DatasetError, OccPerceptionError

logger = logging.getLogger(__name__)

_PLANNED_AHEAD = 2


def from_nuscenes(
    root: str | os.PathLike[str],
    version: str | None,
    scenes: Sequence[str],
    output: str | os.PathLike[str],
    settings: SceneBagSettings | None = None,
    *,
    overwrite: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> list[Path]:
    """Write one bag per scene, named ``nuscenes-<version>-<scene>``.

    A bag that is there already, made of the same files with the same settings, is left as it is, so an interrupted
    conversion goes on where it was.  Files that are not installed are left out, counted in the log and in the bag's
    metadata.  A scene that cannot be converted does not keep the others from it.

    Args:
        root: nuScenes folder; version: its tables' folder, None = the only one there.
        scenes: names; empty = all.
        output: folder the bags go into.
        settings: what of each scene, and how.
        overwrite: make all bags anew, also those that are there.
        workers: processes; each converts one scene at a time.
        progress: show a progress bar.

    Returns:
        The bags' folders, in the order of the scenes.

    Raises:
        DatasetError: unknown scene, or some scenes could not be converted: unknown camera, damaged tables or files, a
            bag that was made in another way, a disk that refuses.  The message tells for each scene.
    """
    source = NuScenes(root, version)
    names = list(dict.fromkeys(scenes)) or list(source.scene_names)
    unknown = sorted(set(names) - set(source.scene_names))
    if unknown:
        raise DatasetError(f"nuScenes {source.version} at {root} has no scene {unknown}, only {source.scene_names}")
    failures: dict[str, str] = {}
    plans = _plans(source, names, Path(output), settings or SceneBagSettings(), failures)
    if workers > 1 and len(names) > 1:
        _convert_in_parallel(plans, len(names), workers, overwrite, progress, failures)
    else:
        _convert_one_by_one(plans, overwrite, progress, failures)
    if failures:
        told = "; ".join(failures[name] for name in names if name in failures)
        raise DatasetError(f"{len(failures)} of {len(names)} scenes were not converted: {told}")
    return [Path(output) / f"nuscenes-{source.version}-{name}" for name in names]


def _plans(
    source: NuScenes, names: Sequence[str], output: Path, settings: SceneBagSettings, failures: dict[str, str]
) -> Iterator[SceneBag]:
    """Plans of the scenes one after the other: all of trainval at once would not fit into memory."""
    for name in names:
        with _noted(name, failures):
            yield SceneBag.plan(source, name, output, settings)


@contextmanager
def _noted(name: str, failures: dict[str, str]) -> Iterator[None]:
    """Note why a scene fails, and go on."""
    try:
        yield
    except OccPerceptionError as error:
        logger.error("scene %s: %s", name, error)
        failures[name] = str(error)


def _convert_one_by_one(plans: Iterator[SceneBag], overwrite: bool, progress: bool, failures: dict[str, str]) -> None:
    for plan in plans:
        name = plan.scene.name
        with _noted(name, failures), tqdm(total=plan.size, unit="B", unit_scale=True, disable=not progress) as bar:
            bar.set_description(name)
            if not plan.write(overwrite, bar.update):
                logger.info("scene %s: its bag is there already", name)


def _convert_in_parallel(
    plans: Iterator[SceneBag], count: int, workers: int, overwrite: bool, progress: bool, failures: dict[str, str]
) -> None:
    """Plans go to processes, a few ahead; forking would copy threads of libraries in any state, so they are spawned."""
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, spawn) as pool,
        tqdm(total=count, unit="scene", disable=not progress) as bar,
    ):
        running: dict[Future[bool], str] = {}
        try:
            for plan in plans:
                running[pool.submit(plan.write, overwrite)] = plan.scene.name
                if len(running) >= workers + _PLANNED_AHEAD:
                    _collect(running, bar, failures)
            while running:
                _collect(running, bar, failures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(running: dict[Future[bool], str], bar: tqdm, failures: dict[str, str]) -> None:
    """Wait for a scene and take its result."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        name = running.pop(future)
        with _noted(name, failures):
            try:
                if not future.result():
                    logger.info("scene %s: its bag is there already", name)
            except BrokenProcessPool as error:
                raise DatasetError(f"scene '{name}': the process that converted it died") from error
        bar.update()
