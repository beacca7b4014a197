"""Synthetic scenes as a dataset in nuScenes' layout, several scenes at a time; what is finished is not made again.

    root/v1.0-trainval/*.json                       tables
    root/samples/<CHANNEL>/*.jpg, *.pcd.bin         images and sweeps of the keyframes
    root/lidarseg, panoptic/v1.0-trainval/          class and instance of every LiDAR point of the keyframes
    root/gts/<scene>/<sample>/labels.npz            Occ3D semantics, masks, and SparseOcc's instances
    root/annotations.json                           Occ3D's list of the split's scenes
    root/openocc_v2/<scene>/<sample>/labels.npz     OpenOcc v2 semantics and flow
    root/image_labels/<scene>/<sample>.npz          depth and class behind the images' pixels (see data/image_labels)
    root/bags/<scene>                               rosbags, if asked for

Tables come last, when all scenes are there; a scene is finished when its rows are in root/.world.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from occ_perception.data.synthetic.dataset_tables import VERSION, Rows, merged
from occ_perception.data.synthetic.rig import KEYFRAMES_PER_SECOND, TRAINING_SIZE, city_rig
from occ_perception.errors import ConfigurationError, DatasetError
from occ_perception.files import write_whole

logger = logging.getLogger(__name__)

SPLITS = {"train": 0, "val": 1 << 31}
"""Splits and where their scenes' seeds begin: no number of scenes makes them meet."""
MAX_SEED, MAX_SCENES, MAX_FRAMES = 100_000, 10_000, 600
_STATE = ".world"
_SCENE_INTERVAL_NS = 1_000_000_000_000
_FRAME_BYTES = 1_400_000  # six images, a sweep and their labels, roughly


@dataclass(frozen=True)
class WorldSettings:
    """What a synthetic dataset is made of.

    Attributes:
        scenes: how many.
        frames: keyframes of each, 2 Hz.
        seed: another seed gives other scenes throughout.
        split: one of `SPLITS`; training and held-out scenes have no seed in common.
        image_size: width and height, see `rig.city_rig`.
        bags: write a rosbag of every scene as well.

    Raises:
        ConfigurationError: a number or image size that makes no sense; the message says what does.
    """

    scenes: int
    frames: int
    seed: int = 0
    split: str = "train"
    image_size: tuple[int, int] = TRAINING_SIZE
    bags: bool = False

    def __post_init__(self) -> None:
        for what, value, low, high in (
            ("scenes", self.scenes, 1, MAX_SCENES),
            ("frames", self.frames, 1, MAX_FRAMES),
            ("seed", self.seed, 0, MAX_SEED),
        ):
            if not low <= value <= high:
                raise ConfigurationError(f"{what}: expected {low} to {high}, got {value}")
        if self.split not in SPLITS:
            raise ConfigurationError(f"unknown split '{self.split}'; known: {', '.join(SPLITS)}")
        city_rig(0, self.image_size)  # refuses sizes that are no part of an image

    @property
    def seconds(self) -> float:
        """Length of a scene."""
        return self.frames / KEYFRAMES_PER_SECOND

    def scene_seeds(self) -> list[int]:
        """Seeds of the scenes."""
        first = SPLITS[self.split] + self.seed * MAX_SCENES
        return list(range(first, first + self.scenes))

    def identity(self) -> dict[str, Any]:
        """What must be equal for a dataset to be continued; more scenes are no other dataset."""
        same = {"frames": self.frames, "seed": self.seed, "split": self.split, "image_size": list(self.image_size)}
        return {"format": 2, **same}


def write_world(
    root: str | os.PathLike[str], settings: WorldSettings, workers: int | None = None, progress: bool = True
) -> int:
    """Write a dataset, or go on with one that was interrupted.

    Args:
        root: folder; it must be empty, or hold this very dataset.
        settings: what to write.
        workers: processes, each on one scene; None = one per core.
        progress: show a bar.

    Returns:
        How many keyframes were made (not those that were there).

    Raises:
        DatasetError: the folder holds something else, or the disk refuses or is too small.
        ConfigurationError: a number of workers below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"workers: expected 1 or more, got {workers}")
    root = Path(root)
    try:
        _refuse_foreign(root)
        with _alone(root):
            _claim(root, settings)
            _clear_leftovers(root)
            missing = [seed for seed in settings.scene_seeds() if not _is_finished(root, settings, seed)]
            frames = len(missing) * settings.frames
            _check_space(root, frames * _FRAME_BYTES)
            with tqdm(total=frames, unit="frame", disable=not progress) as bar:
                _write_scenes(root, settings, missing, min(workers or os.cpu_count() or 1, len(missing)), bar)
            _write_tables(root, settings)
    except OSError as error:
        raise DatasetError(f"{root}: cannot be written: {error}") from error
    return frames


def scene_name(seed: int) -> str:
    """Name of the scene of a seed."""
    return f"scene-{seed:010d}"


def _state_file(root: Path, seed: int) -> Path:
    return root / _STATE / f"{scene_name(seed)}.json"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: damaged ({error}); remove it to have its part made again") from error


def _is_finished(root: Path, settings: WorldSettings, seed: int) -> bool:
    """Whether all that is wanted of a scene is there."""
    bag = root / "bags" / scene_name(seed)
    return _state_file(root, seed).is_file() and (not settings.bags or (bag / "metadata.yaml").is_file())


def _refuse_foreign(root: Path) -> None:
    """Leave alone what no writer of ours has begun; every writer makes the folder of its lock first."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())) and not (root / _STATE).is_dir():
        raise _not_ours(root)


def _claim(root: Path, settings: WorldSettings) -> None:
    """Make the folder ours, or see that it is; with the lock held, so that no other settings come in between."""
    path = root / _STATE / "settings.json"
    if path.is_file():
        there = _json(path)
        if there != settings.identity():
            raise DatasetError(f"{root}: holds a dataset made with {there}, wanted {settings.identity()}")
        return
    if any(entry.name != _STATE for entry in root.iterdir()):
        raise _not_ours(root)
    write_whole(path, json.dumps(settings.identity()).encode())


def _not_ours(root: Path) -> DatasetError:
    return DatasetError(f"{root}: not empty, and no dataset of 'occ_perception world' that one could go on with")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other writers out."""
    lock_path = root / _STATE / ".lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"{root}: another process is writing there") from None
        yield


def _clear_leftovers(root: Path) -> None:
    """Remove the parts of files that a killed writer left."""
    for folder in ("samples", "lidarseg", "panoptic", "gts", "openocc_v2", "image_labels"):
        for leftover in (root / folder).rglob(".*.*"):
            leftover.unlink()


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DatasetError(f"{root}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def _write_scenes(root: Path, settings: WorldSettings, seeds: list[int], workers: int, bar: tqdm) -> None:
    if workers <= 1:
        for seed in seeds:
            _write_scene(root, settings, seed, bar.update)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of libraries in any state
    counter = spawn.Value("q", 0)
    with ProcessPoolExecutor(workers, spawn, _start_worker, (counter,)) as pool:
        waiting = {pool.submit(_write_scene_in_worker, root, settings, seed) for seed in seeds}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                for future in done:
                    _check(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise DatasetError("a process that rendered scenes died; out of memory? Try fewer workers") from error


_counter: Any = None


def _start_worker(counter: Any) -> None:
    """Several processes share the cores: one thread each."""
    import torch

    torch.set_num_threads(1)
    global _counter
    _counter = counter


def _count_one() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _write_scene_in_worker(root: Path, settings: WorldSettings, seed: int) -> None:
    _write_scene(root, settings, seed, _count_one)


def _write_scene(root: Path, settings: WorldSettings, seed: int, progress: Callable[[], object]) -> None:
    """All files of a scene, its rows last."""
    from occ_perception.data.synthetic.dataset_scene import SceneFiles
    from occ_perception.data.synthetic.drive import CityDrive, write_city_bag

    drive = CityDrive(seed, settings.seconds, settings.image_size)
    interval_ns = (seed % MAX_SCENES) * _SCENE_INTERVAL_NS
    rows = SceneFiles(root, scene_name(seed), drive, interval_ns).write(progress)
    if settings.bags:
        write_city_bag(root / "bags" / scene_name(seed), drive, overwrite=True)
    write_whole(_state_file(root, seed), json.dumps(rows).encode())


def _write_tables(root: Path, settings: WorldSettings) -> None:
    """Tables of all scenes that are there, and what belongs to the dataset as a whole."""
    scenes: list[Rows] = [_json(path) for path in sorted((root / _STATE).glob("scene-*.json"))]
    for name, rows in merged(scenes).items():
        write_whole(root / VERSION / f"{name}.json", json.dumps(rows).encode())
    names = [row["name"] for rows in scenes for row in rows["scene"]]
    lists = {f"{split}_split": names if split == settings.split else [] for split in SPLITS}
    write_whole(root / "annotations.json", json.dumps(lists).encode())
    write_whole(root / "maps" / "placeholder.png", _placeholder())


def _placeholder() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()
