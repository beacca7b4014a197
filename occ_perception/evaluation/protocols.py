"""The corruption protocols: which faults, how strong, under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from occ_perception.errors import ConfigurationError
from occ_perception.evaluation.corruptions import (
    blur,
    compress,
    damage_jpeg,
    darken,
    disturb_extrinsics,
    drop_cameras,
    drop_frames,
    remove_beams,
)
from occ_perception.frame import Frame


@dataclass(frozen=True)
class Corruption:
    """One row of the table.

    Attributes:
        name: unique; includes the strength.
        group: kind of fault, what the command line takes.
        sensors: "camera", "lidar" or "any": whose measurements it damages.
        apply: the fault.
        description: for people.
    """

    name: str
    group: str
    sensors: str
    apply: Callable[[Frame], Frame]
    description: str


def _unchanged(frame: Frame) -> Frame:
    return frame


CLEAN = Corruption("clean", "clean", "any", _unchanged, "nothing is wrong")


@dataclass(frozen=True)
class _Ladder:
    """One kind of fault at rising strengths; ``name`` and ``description`` are format strings of the strength."""

    group: str
    sensors: str
    fault: Callable[..., Frame]
    parameter: str
    strengths: tuple[float, ...]
    name: str
    description: str
    seeded: bool = False

    def corruptions(self, seed: int) -> Iterator[Corruption]:
        for strength in self.strengths:
            arguments = {self.parameter: strength, **({"seed": seed} if self.seeded else {})}
            yield Corruption(
                self.name.format(strength),
                self.group,
                self.sensors,
                partial(self.fault, **arguments),
                self.description.format(strength),
            )


_LADDERS = (
    _Ladder(
        "frames_dropped", "any", drop_frames, "share", (0.1, 0.3, 0.5),
        "frames_dropped_{:.0%}", "{:.0%} of the frames do not arrive", seeded=True,
    ),
    _Ladder("darkened", "camera", darken, "factor", (0.5, 0.25, 0.1), "darkened_{:g}", "grey values times {:g}"),
    _Ladder(
        "blurred", "camera", blur, "sigma", (2.0, 4.0, 8.0),
        "blurred_{:g}px", "Gaussian blur of {:g} px at 1600 px width",
    ),
    _Ladder(
        "jpeg_compressed", "camera", compress, "quality", (20, 10, 5),
        "jpeg_quality_{}", "compressed again at JPEG quality {}",
    ),
    _Ladder(
        "jpeg_damaged", "camera", damage_jpeg, "damaged_bytes", (1, 10),
        "jpeg_wrong_bytes_{}", "wrong bytes in every JPEG: {}", seeded=True,
    ),
    _Ladder(
        "beams_removed", "lidar", remove_beams, "keep_every", (2, 4, 8),
        "beams_1_of_{}", "one LiDAR beam in {} is left",
    ),
    _Ladder(
        "extrinsics_disturbed", "any", disturb_extrinsics, "degrees", (0.5, 1.0, 2.0, 5.0),
        "extrinsics_{:g}deg", "every sensor is mounted {:g} degrees off its calibration", seeded=True,
    ),
)  # fmt: skip
GROUPS = ("camera_dropped", "camera_pair_dropped", *(ladder.group for ladder in _LADDERS))
"""Kinds of fault, in the order of the table."""


def all_corruptions(cameras: Sequence[str], seed: int = 0) -> tuple[Corruption, ...]:
    """Every protocol for a vehicle with these cameras, without `CLEAN`.

    Strengths are this project's own: there is no published protocol for occupancy to follow.
    """
    dropped = [_dropped((name,), "camera_dropped") for name in cameras]
    dropped += [_dropped(pair, "camera_pair_dropped") for pair in combinations(cameras, 2)]
    return (*dropped, *(corruption for ladder in _LADDERS for corruption in ladder.corruptions(seed)))


def choose_corruptions(
    wanted: Iterable[str], cameras: Sequence[str], uses_images: bool, uses_lidar: bool, seed: int = 0
) -> tuple[Corruption, ...]:
    """The protocols of some groups (or single names, or "all") that concern a model's sensors, without `CLEAN`.

    Raises:
        ConfigurationError: a name that is no group and no protocol, or that damages a sensor the model does not use.
    """
    used = {"any", *(["camera"] if uses_images else []), *(["lidar"] if uses_lidar else [])}
    everything = all_corruptions(cameras, seed)
    chosen: dict[str, Corruption] = {}
    for name in wanted:
        matching = [c for c in everything if name in ("all", c.group, c.name)]
        if not matching:
            raise ConfigurationError(
                f"unknown corruption '{name}'; groups: all, {', '.join(GROUPS)}; single: {[c.name for c in everything]}"
            )
        usable = [c for c in matching if c.sensors in used]
        if not usable:
            raise ConfigurationError(f"corruption '{name}' damages sensors that the model does not use")
        chosen.update({c.name: c for c in usable})
    return tuple(c for c in everything if c.name in chosen)


def _dropped(names: tuple[str, ...], group: str) -> Corruption:
    label = "+".join(names)
    return Corruption(
        f"without_{label}", group, "camera", partial(drop_cameras, names=names), f"no images of {' and '.join(names)}"
    )
