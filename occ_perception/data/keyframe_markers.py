"""The keyframe markers of nuScenes bags: which frames of a bag are samples of the dataset and can be scored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.drive_bag import SAMPLE_TOPIC
from occ_perception.errors import InvalidInputError
from occ_perception.frame import Frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keyframe:
    """A sample: its token, and the stamp of each of its sensors' keyframes by sensor name."""

    token: str
    stamps_ns: Mapping[str, int]

    def is_exactly(self, frame: Frame) -> bool:
        """Whether a frame's images and sweeps are the sample's own, all of them."""
        cameras = [name for name in frame.rig if name in self.stamps_ns]
        images = all(n in frame.images and frame.images[n].stamp_ns == self.stamps_ns[n] for n in cameras)
        return images and all(sweep.stamp_ns in self.stamps_ns.values() for sweep in frame.lidar)


class KeyframeMarkers:
    """The keyframes of a bag, found by the stamp of any of their sensors.

    Attributes:
        tokens: of all samples, in time order.
    """

    def __init__(self, keyframes: Iterable[Keyframe]) -> None:
        keyframes = tuple(keyframes)
        self.tokens = tuple(keyframe.token for keyframe in keyframes)
        self._by_stamp = {stamp: keyframe for keyframe in keyframes for stamp in keyframe.stamps_ns.values()}

    @classmethod
    def of(cls, bag: BagReader) -> KeyframeMarkers:
        """Those of a bag; none if it is not from nuScenes.  Markers that cannot be read are logged and left out."""
        keyframes = []
        for message in bag.messages([SAMPLE_TOPIC]):
            try:
                keyframes.append(_keyframe(bag.decode(message).data))
            except InvalidInputError as error:
                logger.warning("keyframe marker left out: %s", error)
        return cls(keyframes)

    def at(self, stamp_ns: int) -> Keyframe | None:
        """The keyframe one of whose sensors has this stamp."""
        return self._by_stamp.get(stamp_ns)


def _keyframe(text: str) -> Keyframe:
    try:
        content = json.loads(text)
        stamps = {str(name): int(data["stamp_ns"]) for name, data in content["sample_data"].items()}
        token = content["sample_token"]
        if not isinstance(token, str) or not token.isalnum():  # it becomes the name of a file
            raise ValueError(f"sample token {token!r}")
        return Keyframe(token, stamps)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{SAMPLE_TOPIC}: expected JSON with sample_token and sample_data: {error!r}"
        ) from error
