"""Where training frames come from: a nuScenes-like tree on disk, or a world that is made as it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from occ_perception.errors import ConfigurationError
from occ_perception.training.task import FrameSource


@dataclass(frozen=True)
class NuScenesSettings:
    """A tree in nuScenes' layout with labels.

    Attributes:
        root: of the dataset.
        version: folder of the tables; "" = the only one there.
        labels: label set, see ``occ_perception eval --help``.
        split: official split (train, val, mini_val); "" = all scenes, or those named.
        scenes: by name.
    """

    root: str = ""
    version: str = ""
    labels: str = "occ3d"
    split: str = ""
    scenes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorldSettings:
    """The synthetic world.

    Attributes:
        scenes: how many; each has a seed of its own.
        first_seed: of the scenes; training and validation must not share seeds.  None: where those of the split begin
            (`dataset_writer.SPLITS`).
        frames: keyframes per scene.
        image_size: (width, height).
        device: that renders.
    """

    scenes: int = 100
    first_seed: int | None = None
    frames: int = 40
    image_size: tuple[int, int] = (704, 256)
    device: str = "cpu"


@dataclass(frozen=True)
class SourceSettings:
    """One source of frames.

    Attributes:
        kind: which of the two below; none = there is none.
    """

    kind: Literal["none", "nuscenes", "world"] = "none"
    nuscenes: NuScenesSettings = field(default_factory=NuScenesSettings)
    world: WorldSettings = field(default_factory=WorldSettings)


class OpenSource(NamedTuple):
    """A source and what a model card says of it."""

    frames: FrameSource
    facts: dict[str, Any]


def check_apart(training: SourceSettings, validation: SourceSettings) -> None:
    """Refuse to validate on made-up scenes that are trained on.

    Raises:
        ConfigurationError: the worlds share seeds, or make no sense.
    """
    if training.kind == validation.kind == "world":
        trained, held_out = _seeds(training.world, "train"), _seeds(validation.world, "val")
        if max(trained.start, held_out.start) < min(trained.stop, held_out.stop):
            raise ConfigurationError(
                f"data.validation.world: seeds {held_out.start}..{held_out.stop - 1} overlap those trained on "
                f"({trained.start}..{trained.stop - 1}); leave out first_seed, or set it apart"
            )


def open_source(settings: SourceSettings, split: Literal["train", "val"]) -> OpenSource | None:
    """The source that the settings name; None for kind "none".

    Args:
        split: what it is for; decides the seeds of a world that names none.

    Raises:
        ConfigurationError, DatasetError: it is not there, or holds no labelled frame.
    """
    if settings.kind == "none":
        return None
    frames: FrameSource
    if settings.kind == "nuscenes":
        frames, facts = _open_nuscenes(settings.nuscenes)
    else:
        frames, facts = _open_world(settings.world, split)
    lengths = tuple(frames.scene_lengths)
    if not sum(lengths):
        raise ConfigurationError(f"{settings.kind}: no labelled frames")
    return OpenSource(frames, {**facts, "scenes": len(lengths), "frames": sum(lengths)})


def _open_nuscenes(settings: NuScenesSettings) -> tuple[FrameSource, dict[str, Any]]:
    from occ_perception.evaluation.splits import split_scenes
    from occ_perception.evaluation.truth import LABEL_SETS
    from occ_perception.training.nuscenes_source import LABELS, NuScenesSource

    if not settings.root:
        raise ConfigurationError("nuscenes.root: expected the folder of the dataset, got none")
    if settings.labels not in LABELS:
        raise ConfigurationError(f"nuscenes.labels: expected one of {', '.join(LABELS)}, got '{settings.labels}'")
    if settings.split and settings.scenes:
        raise ConfigurationError("nuscenes: expected a split or names of scenes, got both")
    folder = Path(settings.root) / LABEL_SETS[settings.labels].folder
    scenes = split_scenes(settings.split, folder) if settings.split else settings.scenes
    source = NuScenesSource(settings.root, settings.version or None, settings.labels, scenes)
    split = settings.split or ("scenes named" if settings.scenes else "all labelled scenes")
    return source, {"name": f"nuScenes layout ({Path(settings.root).name})", "split": split, "labels": settings.labels}


def _seeds(settings: WorldSettings, split: Literal["train", "val"]) -> range:
    """Seeds of the scenes; raises ConfigurationError for numbers that make no sense."""
    from occ_perception.data.synthetic.dataset_writer import MAX_FRAMES, SPLITS

    first = SPLITS[split] if settings.first_seed is None else settings.first_seed
    if first < 0 or settings.scenes < 1 or not 1 <= settings.frames <= MAX_FRAMES:
        raise ConfigurationError(
            f"world: expected 1 or more scenes of 1 to {MAX_FRAMES} frames and a first_seed of 0 or more, got "
            f"{settings.scenes} of {settings.frames} from {first}"
        )
    return range(first, first + settings.scenes)


def _open_world(settings: WorldSettings, split: Literal["train", "val"]) -> tuple[FrameSource, dict[str, Any]]:
    from occ_perception.data.synthetic.rig import city_rig
    from occ_perception.data.synthetic.stream import WorldSource

    seeds = _seeds(settings, split)
    city_rig(seeds.start, settings.image_size)  # refuses sizes that are no part of an image
    world = WorldSource(seeds, settings.frames, settings.image_size, settings.device)
    return world, {"name": "synthetic world", "split": f"seeds {seeds.start}..{seeds.stop - 1}", "labels": "occ3d"}
