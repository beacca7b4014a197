"""Replaying bags into files, the unit of fleet-scale processing under any scheduler: one bag is done whole or not at
all, the same again is left out, and what one process does depends on nothing but its arguments.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from occ_perception import __version__
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.keyframe_markers import KeyframeMarkers
from occ_perception.data.sharding import Shard
from occ_perception.errors import ConfigurationError, OccPerceptionError
from occ_perception.parameters import Parameters
from occ_perception.replay import Replay
from occ_perception.replay_outputs import AUTO, FRAMES, BagOutput, FilesOutput, ReplayOutput, choose_format
from occ_perception.session import Session

logger = logging.getLogger(__name__)

# Parameters that change no grid of a replay (the session's model and device are told apart).
_WITHOUT_EFFECT = (
    *("model", "weights", "device", "allow_untrained", "fallback", "fallback_after", "retry_after", "discovery_time"),
    *("calibration_file", "encoding", "ground_grid_min_height", "ground_grid_max_height", "decode_threads"),
    *("torch_threads", "diagnostics_period"),
)
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class ReplaySettings:
    """What a replay writes, and how.

    Attributes:
        folder: for .npz files, None = none; format: see `replay_outputs`.
        bags: folder for bags of grids, None = none; storage: of these bags, "mcap" or "sqlite3".
        parameters: as for the node.
        overwrite: also where there is something already.

    Raises:
        ConfigurationError: neither folder is given.
    """

    folder: Path | None = None
    format: str = AUTO
    bags: Path | None = None
    storage: str = "mcap"
    parameters: Parameters = field(default_factory=Parameters)
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.folder is None and self.bags is None:
            raise ConfigurationError("replay: expected a folder for .npz files, one for bags, or both; got none")


@dataclass(frozen=True)
class ReplayReport:
    """What came of a bag.

    Attributes:
        bag: name.
        frames: perceived; refused: left out by the session (why is in the log).
        keyframes: samples of the dataset that the bag holds; keyframes_met: those that became a frame.
        not_exact: keyframes whose frame was not put together of the sample's own images and sweeps.
        unreadable: messages that are not what their type says.
        dropped: messages that made no frame, by reason, in words.
        damage: what is wrong with the bag, whose frames are those before the damage; "" if nothing.
        was_there: the output was there already.
    """

    bag: str
    frames: int
    refused: int
    keyframes: int
    keyframes_met: int
    not_exact: int
    unreadable: int
    dropped: str
    damage: str
    was_there: bool = False

    def __str__(self) -> str:
        said = f"{self.bag}: {self.frames} frames" + (f", {self.refused} refused" if self.refused else "")
        if self.keyframes:
            said += f", {self.keyframes_met} of {self.keyframes} keyframes"
            said += f", {self.not_exact} of them not of their own images" if self.not_exact else ""
        said += f", {self.unreadable} messages are unreadable" if self.unreadable else ""
        said += f"; DAMAGED, read up to the damage: {self.damage}" if self.damage else ""
        return said + ("; was there already" if self.was_there else "")


def replay_bags(
    bags: Sequence[Path], session: Session, settings: ReplaySettings, shard: Shard | None = None, progress: bool = False
) -> Iterator[ReplayReport | OccPerceptionError]:
    """Replay this worker's share of some bags; one that fails does not keep the others from it.

    Args:
        bags: in the same order for all workers.
        session: what perceives; it is reset before each bag.
        settings: what is written, and how.
        shard: which of the bags; None = all.
        progress: show a progress bar.

    Yields:
        For each bag what came of it, or the error it failed with (whose message names it).

    Raises:
        ConfigurationError: two bags of the same name, which would be written to the same place.
    """
    names = [bag_name(bag) for bag in bags]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"replay: expected bags of different names, got more than one {twice}")
    for bag in (shard or Shard()).of(bags):
        try:
            yield replay_bag(bag, session, settings, progress)
        except OccPerceptionError as error:
            yield error


def replay_bag(bag: Path, session: Session, settings: ReplaySettings, progress: bool = False) -> ReplayReport:
    """Replay one bag into the outputs that are not there yet.

    Raises:
        DatasetError: see `Replay`; an output is there that was made in another way; the disk refuses.
        ConfigurationError: parameters, or a format, that do not fit the bag or the model.
    """
    with BagReader(bag) as reader:
        markers = KeyframeMarkers.of(reader)
        outputs = _outputs(bag, session, settings, markers)
        reports = [None if settings.overwrite else output.finished_report() for output in outputs]
        finished = next((report for report in reports if report is not None), None)
        if finished is not None and all(reports):
            return ReplayReport(**finished | {"was_there": True})
        session.reset()
        with ExitStack() as stack:
            pending = [stack.enter_context(o) for o, there in zip(outputs, reports, strict=True) if there is None]
            report = _run(reader, session, settings.parameters, markers, pending, progress)
            for output in pending:
                output.finish(asdict(report))
    return report


def _run(
    reader: BagReader,
    session: Session,
    parameters: Parameters,
    markers: KeyframeMarkers,
    outputs: Sequence[ReplayOutput],
    progress: bool,
) -> ReplayReport:
    frames, met, not_exact = Replay(reader, session, parameters), 0, 0
    seconds = (reader.end_ns - reader.start_ns) * 1e-9
    with tqdm(total=round(seconds, 1), unit="s", desc=bag_name(reader.path), disable=not progress) as bar:
        for frame, occupancy in frames:
            keyframe = markers.at(frame.stamp_ns)
            if keyframe is not None:
                met += 1
                not_exact += not keyframe.is_exactly(frame)
            for output in outputs:
                output.add(occupancy, keyframe.token if keyframe else None)
            bar.update(round((frame.stamp_ns - reader.start_ns) * 1e-9 - bar.n, 3))
    return ReplayReport(
        bag=bag_name(reader.path),
        frames=frames.perceived,
        refused=frames.refused,
        keyframes=len(markers.tokens),
        keyframes_met=met,
        not_exact=not_exact,
        unreadable=sum(frames.frames.unreadable.values()),
        dropped=frames.drops(),
        damage=reader.damage,
    )


def _outputs(bag: Path, session: Session, settings: ReplaySettings, markers: KeyframeMarkers) -> list[ReplayOutput]:
    name, info, parameters = bag_name(bag), session.model.info, settings.parameters
    identity = _identity(bag, session, parameters)
    outputs: list[ReplayOutput] = []
    if settings.folder is not None:
        chosen = choose_format(settings.format, markers, info)
        if chosen != FRAMES and settings.format == AUTO:
            logger.info("%s: %s keyframes go to %s as '%s'", name, len(markers.tokens), settings.folder, chosen)
        outputs.append(FilesOutput(settings.folder, name, chosen, identity, markers))
    if settings.bags is not None:
        sparse = parameters.encoding == "sparse"
        path = settings.bags / name
        outputs.append(BagOutput(path, identity, parameters.base_frame, sparse, settings.overwrite, settings.storage))
    return outputs


def bag_name(bag: Path) -> str:
    """A bag's name: that of its folder, or of its file without the suffix."""
    return bag.stem if bag.suffix in (".mcap", ".db3") else bag.resolve().name


def _identity(bag: Path, session: Session, parameters: Parameters) -> dict[str, object]:
    """Everything that determines the grids of a bag."""
    info = session.model.info
    values = {name: value for name, value in asdict(parameters).items() if name not in _WITHOUT_EFFECT}
    calibration = Path(parameters.calibration_file).read_bytes() if parameters.calibration_file else b""
    return {
        "version": __version__,
        "bag": _fingerprint(bag),
        "model": info.name,
        "weights": info.weights,
        "trained_on": info.trained_on,
        "device": session.device.type,
        "parameters": values,
        "calibration": hashlib.sha256(calibration).hexdigest()[:16] if calibration else "",
    }


def _fingerprint(bag: Path) -> str:
    """A bag's files by name, size and their ends (in MCAP the index with its checksums): quick for any size."""
    digest = hashlib.sha256()
    for path in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                file.seek(max(size - _TAIL_BYTES, 0))
                digest.update(file.read())
    return digest.hexdigest()[:16]
