"""Images are decoded and resized on a few threads: while they wait for their set, if the model will soon want them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from occ_perception.assembler import Measurement
from occ_perception.errors import OccPerceptionError
from occ_perception.frame import CameraImage, PreparedImage
from occ_perception.measurements import image_measurement
from occ_perception.ros.monitor import Monitor


class ImagePreparation:
    """Makes network input of image messages.

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

    def take(self, camera: str, stamp_ns: int, message: Any) -> PendingImage:
        """An Image or CompressedImage message that has come."""
        return PendingImage(self._pool, lambda: self._read(camera, stamp_ns, message))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, camera: str, stamp_ns: int, message: Any) -> Measurement:
        with self._monitor.timed("prepare one image"):
            measured = image_measurement(message, stamp_ns)
            if isinstance(measured, CameraImage):
                try:
                    measured = self._prepare(camera, measured)
                except OccPerceptionError as error:
                    measured = error
        self._monitor.count("images prepared")
        if isinstance(measured, OccPerceptionError):
            self._monitor.unreadable(camera, str(measured))
        return measured


class PendingImage:
    """An image that is prepared from when somebody asks for it."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], Measurement]) -> None:
        self._pool = pool
        self._work = work
        self._future: Future[Measurement] | None = None

    def begin(self) -> Future[Measurement]:
        """Start the preparation, if it has not begun."""
        if self._future is None:
            self._future = self._pool.submit(self._work)
            del self._work  # and with it the message
        return self._future

    def read(self) -> Measurement:
        """The image, or why there is none; waits for the preparation."""
        return self.begin().result()
