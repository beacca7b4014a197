"""Run perception on a bag without ROS, as fast as the machine allows.

    for occupancy in replay("drive", session): ...

No clock is read and nothing is skipped, so a bag always gives the same frames (see `bag_frames`) and the same grids.
`replay_job` writes them to files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from occ_perception.bag_frames import BagFrames
from occ_perception.data.bag_reader import BagReader
from occ_perception.errors import DatasetError, OccPerceptionError
from occ_perception.frame import Frame
from occ_perception.occupancy import Occupancy
from occ_perception.parameters import Parameters
from occ_perception.session import Session

logger = logging.getLogger(__name__)


class Replay:
    """The frames of a bag with what a session makes of them, in order; iterate once.

    Args:
        bag: an open bag.
        session: what perceives; it is not reset first.
        parameters: as for the node; its model settings are not looked at.

    Attributes:
        perceived: frames so far.
        refused: frames that the session refused, which are logged and left out.
        frames: where they come from, with its counts of drops.

    Raises:
        DatasetError: see `BagFrames`; when iterated: no frame could be perceived at all (the message says why).
    """

    def __init__(self, bag: BagReader, session: Session, parameters: Parameters | None = None) -> None:
        self._bag, self._session = bag, session
        self.frames = BagFrames(bag, parameters, session.needs_images, session.model.uses_lidar)
        self.perceived = self.refused = 0

    def __iter__(self) -> Iterator[tuple[Frame, Occupancy]]:
        last_error = ""
        for frame in self.frames:
            try:
                occupancy = self._session.step(frame)
            except OccPerceptionError as error:
                last_error = str(error)
                self.refused += 1
                logger.warning("frame at %d left out: %s", frame.stamp_ns, error)
                continue
            self.perceived += 1
            yield frame, occupancy
        if self._bag.damage:
            logger.warning("bag %s: %s", self._bag.path, self._bag.damage)
        if not self.perceived:
            raise DatasetError(f"bag {self._bag.path}: no frame could be perceived: {last_error or self.drops()}")

    def drops(self) -> str:
        """Why messages made no frame, in words; "" if all did."""
        sync = self.frames.synchroniser
        counts = {f"{sensor} {reason.value}": n for (sensor, reason), n in sync.drops.items()}
        counts |= {f"sets {reason.value}": n for reason, n in sync.dropped_sets.items()}
        counts |= {f"{topic} unreadable": n for topic, n in self.frames.unreadable.items()}
        if not self.perceived and not self.refused:
            return f"no set of messages was complete; dropped: {counts}"
        return ", ".join(f"{what}: {n}" for what, n in counts.items())


def replay(path: str | os.PathLike[str], session: Session, parameters: Parameters | None = None) -> Iterator[Occupancy]:
    """Grids of a bag; frames the session refuses are logged and left out.

    Args:
        path: bag folder or file.
        session, parameters: see `Replay`.

    Raises:
        DatasetError: see `Replay`.
    """
    with BagReader(path) as bag:
        for _, occupancy in Replay(bag, session, parameters):
            yield occupancy
