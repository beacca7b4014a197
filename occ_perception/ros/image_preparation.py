"""Images are decoded and resized while they wait for their set, on a few threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from occ_perception.assembler import Measurement
from occ_perception.errors import InvalidInputError, OccPerceptionError
from occ_perception.frame import CameraImage, PreparedImage
from occ_perception.measurements import image_measurement
from occ_perception.ros.monitor import Monitor


class ImagePreparation:
    """Prepares images; of one camera at most one waits for its turn, a newer one replaces it.

    Args:
        prepare: a camera's image as network input, see `Session.prepare`; thread safe.
        threads: how many work at once.
        monitor: told of durations, and of images that cannot be used.
    """

    def __init__(
        self, prepare: Callable[[str, CameraImage], CameraImage | PreparedImage], threads: int, monitor: Monitor
    ) -> None:
        self._prepare = prepare
        self._monitor = monitor
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        self._newest: dict[str, Future[Measurement]] = {}

    def submit(self, camera: str, stamp_ns: int, message: Any) -> Callable[[], Measurement]:
        """Begin with an Image or CompressedImage message; call the result for the image, or for why there is none."""
        waiting = self._newest.get(camera)
        if waiting is not None and waiting.cancel():
            self._monitor.count("images overtaken by newer ones")
        future = self._pool.submit(self._read, camera, stamp_ns, message)
        self._newest[camera] = future
        return partial(_result, future)

    def close(self) -> None:
        """Stop; images that wait are given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, camera: str, stamp_ns: int, message: Any) -> Measurement:
        with self._monitor.timed("prepare one image"):
            measured = image_measurement(message, stamp_ns)
            if isinstance(measured, CameraImage):
                try:
                    measured = self._prepare(camera, measured)
                except OccPerceptionError as error:
                    measured = error
        if isinstance(measured, OccPerceptionError):
            self._monitor.unreadable(camera, str(measured))
        return measured


def _result(future: Future[Measurement]) -> Measurement:
    try:
        return future.result()
    except CancelledError:
        return InvalidInputError("image overtaken by a newer one before it could be read")
