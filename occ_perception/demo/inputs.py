"""What the demo plays: real nuScenes keyframes where there are some, and always a synthetic drive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.data.synthetic.dataset_writer import SPLITS
from occ_perception.data.synthetic.drive import CityDrive, write_city_bag

_CHECKOUT = Path(__file__).resolve().parents[2]
_IMAGE_SIZE = (704, 396)
_HELD_OUT_SEED = SPLITS["val"] + 90_001
_LONGEST_S = 4.0
_SINGLE_SAMPLE_NS = 500_000_000


@dataclass(frozen=True)
class DemoInput:
    """A bag to show.

    Attributes:
        name: for file names.
        title: for people, on the pictures too.
        description: one line more.
        bag: its folder.
        repeat: it holds a single sample, which the player sends again and again until it was perceived.
    """

    name: str
    title: str
    description: str
    bag: Path
    repeat: bool = False


def find_keyframes() -> list[Path]:
    """nuScenes roots in ``../shared/data`` beside the checkout."""
    return sorted((_CHECKOUT.parent / "shared" / "data").glob("nuscenes_keyframe*"))


def nuscenes_input(root: Path, work: Path) -> DemoInput:
    """The first scene of a nuScenes root, at most `_LONGEST_S` of it, as a bag.

    Raises:
        DatasetError: it is no nuScenes folder, or damaged.
    """
    scene = NuScenes(root).scene_names[0]
    settings = SceneBagSettings(duration_s=_LONGEST_S)
    (bag,) = from_nuscenes(root, None, (scene,), work / root.name, settings, progress=False)
    with BagReader(bag) as reader:
        single = reader.end_ns - reader.start_ns < _SINGLE_SAMPLE_NS
    return DemoInput(
        root.name if "nuscenes" in root.name else f"nuscenes_{root.name}",
        f"nuScenes {scene}{' (one sample)' if single else ''}, (c) Motional, CC BY-NC-SA 4.0",
        f"real recording from {root}; pictures of it fall under its licence too",
        bag,
        single,
    )


def synthetic_input(work: Path, seconds: float) -> DemoInput:
    """A drive through the synthetic city made on the spot, of a scene that no training set holds.

    Raises:
        ConfigurationError: the renderer is not installed (the extra "world").
    """
    bag = write_city_bag(work / "synthetic", CityDrive(_HELD_OUT_SEED, seconds, _IMAGE_SIZE))
    return DemoInput(
        "synthetic",
        f"synthetic city, held-out seed {_HELD_OUT_SEED}",
        f"{seconds:g} s of a made-up city; 6 cameras at 12 Hz, LiDAR at 20 Hz",
        bag,
    )
