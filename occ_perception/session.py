"""The streaming object: one `Frame` in, one `Occupancy` out, and all state in between.

The live node, the bag replayer, the evaluator and the benchmarks drive this same class, so what is measured
offline is what drives the car.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from occ_perception.continuity import Continuity, ContinuityLimits
from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage, Frame, PreparedImage
from occ_perception.geometry import CameraRig, check_rigid, inverse
from occ_perception.models.base import ModelInput, ModelOutput, PerceptionModel
from occ_perception.occupancy import Occupancy, TemporalStatus, Visibility
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.ops.relabel import relabel
from occ_perception.ops.threads import one_torch_thread
from occ_perception.ops.visibility import CameraVisibility, with_lidar
from occ_perception.preprocessing import ImagePipeline
from occ_perception.tracking.objects import ObjectsOverTime
from occ_perception.tracking.settings import TrackingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionSettings(ContinuityLimits):
    """When temporal state is dropped (see `ContinuityLimits`), how images are decoded and objects are tracked.

    Attributes:
        decode_threads: images of one frame decoded in parallel.
        min_cameras: fewest usable images (of the calibrated cameras) for a model that needs images.
        tracking: of objects, for models that give them.
    """

    decode_threads: int = 2
    min_cameras: int = 1
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass
class _Past:
    """Temporal state, and when and where it was made."""

    state: Any
    stamp_ns: int
    odom_from_ego: np.ndarray


class Session:
    """Runs one model on a stream of frames.

    Survives missing cameras, LiDAR and poses, backward time, gaps and changed calibration: whatever cannot be
    used is left out and named in `Occupancy.notes`; temporal state that no longer holds is dropped and
    `Occupancy.temporal.reset` says why.

    Args:
        model: see `models.create_model`.
        device: where images are prepared and visibility is computed; the model's own device.
        settings: rules for temporal state.
    """

    def __init__(
        self,
        model: PerceptionModel,
        device: torch.device | str = "cpu",
        settings: SessionSettings | None = None,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.settings = settings or SessionSettings()
        self._images = ImagePipeline(model.image_spec, self.device) if model.image_spec else None
        grid = model.info.grid
        self._visibility = CameraVisibility(grid.origin, grid.voxel_size, grid.size, self.device)
        self._objects = ObjectsOverTime(model.info, self.settings.tracking)
        self._past: _Past | None = None
        self._continuity = Continuity(self.settings, uses_images=model.image_spec is not None)
        self._continuity_of_tracks = Continuity(self.settings, uses_images=False)  # tracks live without the network
        self._lost = ""  # why there is no state though the frames follow each other
        self._pool = ThreadPoolExecutor(self.settings.decode_threads, thread_name_prefix="decode")

    def reset(self) -> None:
        """Forget everything about earlier frames; another stream begins, and ids of objects begin at 1 again."""
        self._past = None
        self._objects.restart()
        self._continuity.forget()
        self._continuity_of_tracks.forget()

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def needs_images(self) -> bool:
        """Whether images are of any use to the model."""
        return self._images is not None

    def prepare(self, name: str, image: CameraImage, rig: CameraRig) -> PreparedImage:
        """Decode one image ahead of its frame (thread safe).

        Raises:
            InvalidInputError: undecodable, or not the size its calibration is for, or not calibrated.
        """
        if self._images is None:
            raise InvalidInputError(f"model {self.model.info.name} uses no images")
        if name not in rig:
            raise InvalidInputError(f"camera {name} has no calibration; calibrated: {list(rig)}")
        return self._images.prepare(name, image, rig[name])

    @torch.inference_mode()
    def step(self, frame: Frame) -> Occupancy:
        """Perceive one frame.

        Raises:
            InvalidInputError: nothing in the frame is of use to the model, or a pose is not a rigid transform.
            NumericsError: the network produced NaN or infinity; temporal state has been dropped.
        """
        timings: dict[str, float] = {}
        notes = list(frame.notes)
        with _timed(timings, "preprocess"):
            inputs = self._prepare_inputs(frame, notes)
        reset = self._drop_stale_state(frame)
        prev_ego_from_ego = None
        if self._past is not None and frame.odom_from_ego is not None:
            prev_ego_from_ego = torch.from_numpy(inverse(self._past.odom_from_ego) @ frame.odom_from_ego)
        try:
            with _timed(timings, "model"):
                output = self.model.step(inputs, self._past.state if self._past else None, prev_ego_from_ego)
        except Exception as error:
            self._past = None  # whatever was half updated must not reach the next frame
            self._lost = f"the model failed on the frame before ({type(error).__name__})"
            raise
        self._keep_state(frame, output)
        with _timed(timings, "postprocess"):
            result = self._publishable(inputs, output)
        with _timed(timings, "objects"):
            result |= self._objects_of(frame, output, result, notes)
        timings.update({f"model/{name}": ms for name, ms in output.stages_ms.items()})
        has_lidar = self.model.uses_lidar and bool(frame.lidar)
        return Occupancy(
            stamp_ns=frame.stamp_ns,
            info=self.model.info,
            **result,
            cameras=inputs.cameras,
            cameras_used=tuple(n for n, here in zip(inputs.cameras, inputs.present, strict=True) if here),
            lidar_used=has_lidar if output.lidar_used is None else output.lidar_used,
            temporal=TemporalStatus(output.state_frames, reset),
            timings_ms=timings,
            notes=(*notes, *output.notes),
        )

    def _prepare_inputs(self, frame: Frame, notes: list[str]) -> ModelInput:
        if frame.odom_from_ego is None:
            notes.append("no pose of the vehicle: no temporal fusion, sensors are taken as simultaneous")
        else:
            check_rigid(frame.odom_from_ego, "odom_from_ego")
        if self.model.uses_lidar and not frame.lidar:
            notes.append("no LiDAR in this frame")
        if self._images is None:
            return ModelInput(frame)
        cameras = self._camera_order(frame.rig, notes)
        images = self._decode(frame, cameras, notes)
        missing = [name for name in cameras if name not in images]
        if missing:
            notes.append(f"cameras missing: {', '.join(missing)}")
        blind = self._images.spec.optional and not images and bool(frame.lidar)
        if not blind and len(images) < max(min(self.settings.min_cameras, len(cameras)), 1):
            raise InvalidInputError(
                f"expected {self.settings.min_cameras} usable images, got {len(images)}; "
                f"calibrated cameras: {list(cameras)}; {notes}"
            )
        return ModelInput(
            frame,
            cameras,
            tuple(name in images for name in cameras),
            self._images.batch(cameras, images),
            self._images.affines({name: frame.rig[name] for name in cameras}) if cameras else None,
        )

    def _camera_order(self, rig: CameraRig, notes: list[str]) -> tuple[str, ...]:
        """The rig's cameras in the order the weights were trained with, if the names tell."""
        trained = self.model.image_spec.cameras if self.model.image_spec else ()
        by_name = {name.lower(): name for name in rig}  # "CAM_FRONT" in the weights' paper, "cam_front" on the bus
        if trained and set(by_name) <= {name.lower() for name in trained}:
            return tuple(by_name[name.lower()] for name in trained if name.lower() in by_name)
        if trained and len(rig) > 0:
            notes.append(f"camera names {list(rig)} are not the trained ones; the rig's own order is used")
        return tuple(rig)

    def _decode(self, frame: Frame, cameras: tuple[str, ...], notes: list[str]) -> dict[str, PreparedImage]:
        def prepare(name: str) -> PreparedImage | InvalidInputError:
            image = frame.images[name]
            if isinstance(image, PreparedImage):
                return image
            try:
                return self.prepare(name, image, frame.rig)
            except InvalidInputError as error:
                return error

        delivered = [name for name in cameras if name in frame.images]
        images = {}
        for name, result in zip(delivered, self._pool.map(prepare, delivered), strict=True):
            if isinstance(result, InvalidInputError):
                notes.append(f"camera {name} dropped: {result}")
            else:
                images[name] = result
        return images

    def _drop_stale_state(self, frame: Frame) -> str:
        """Drop state that does not belong to this frame; returns why, or an empty string."""
        reason = self._continuity.check(frame)
        if reason:
            if self._past is not None:
                logger.info("temporal state dropped: %s", reason)
            self._past = None
        elif self._past is None:
            reason = self._lost
        self._lost = ""
        return reason

    def _keep_state(self, frame: Frame, output: ModelOutput) -> None:
        """Store the new state, unless an older one is nearer to the interval the model was trained with."""
        if frame.odom_from_ego is None:
            self._past = None
            return
        if self._past is not None:
            since_state = (frame.stamp_ns - self._past.stamp_ns) * 1e-9
            if since_state < 0.9 * self.model.history_interval_s:
                return
        self._past = _Past(output.state, frame.stamp_ns, frame.odom_from_ego)

    def _publishable(self, inputs: ModelInput, output: ModelOutput) -> dict[str, Any]:
        """Apply 'unknown is not free': free needs to be seen, and a class needs a sensor that covers the voxel, or sees
        it if the model knows nothing of what is hidden."""
        semantics, visibility = output.semantics, output.visibility
        if visibility is None:
            visibility = self._visibility(semantics < FREE, self._present_cameras(inputs))
            if output.lidar_sight is not None:
                visibility = with_lidar(visibility, semantics < FREE, *output.lidar_sight)
        with one_torch_thread():  # what is left is a few short operations
            return self._masked(output, semantics, visibility)

    def _masked(self, output: ModelOutput, semantics: torch.Tensor, visibility: torch.Tensor) -> dict[str, Any]:
        known = visibility != Visibility.UNKNOWN
        if self.model.info.hidden_is_unknown:
            known &= visibility != Visibility.OCCLUDED
        free_but_unseen = (semantics == FREE) & (visibility != Visibility.FREE_SEEN)
        published = relabel(semantics, free_but_unseen | ~known, UNKNOWN)
        return {
            "semantics": _array(published, np.uint8),
            "visibility": _array(visibility, np.uint8),
            "confidence": _array(output.confidence, np.uint8),
            "flow": _array(output.flow, np.float32),
            "prediction": _array(semantics if output.prediction is None else output.prediction, np.uint8),
        }

    def _objects_of(
        self, frame: Frame, output: ModelOutput, published: dict[str, Any], notes: list[str]
    ) -> dict[str, Any]:
        """Objects, and where they are; objects that cannot be are left out with a note, as the grid is good still."""
        ids = None if output.instances is None else output.instances.cpu().numpy()
        continues = not self._continuity_of_tracks.check(frame)
        try:
            return self._objects.update(frame.stamp_ns, frame.odom_from_ego, continues, published, ids, output.objects)
        except InvalidInputError as error:
            notes.append(f"objects left out: {error}")
            return {}

    def _present_cameras(self, inputs: ModelInput) -> list[tuple[Any, torch.Tensor, torch.Tensor, int, int]]:
        spec, rig = self.model.image_spec, inputs.frame.rig
        cameras: list[tuple[Any, torch.Tensor, torch.Tensor, int, int]] = []
        if spec is None or inputs.image_affines is None:
            return cameras
        for row, (name, here) in enumerate(zip(inputs.cameras, inputs.present, strict=True)):
            if here:
                intrinsics = inputs.image_affines[row] @ torch.from_numpy(rig[name].intrinsics)
                key = (CameraRig({name: rig[name]}).fingerprint, spec.width, spec.height)
                ego_from_camera = torch.from_numpy(rig[name].ego_from_camera)
                cameras.append((key, intrinsics, ego_from_camera, spec.width, spec.height))
        return cameras


def _array(tensor: torch.Tensor | None, dtype: type) -> np.ndarray | None:
    return None if tensor is None else tensor.cpu().numpy().astype(dtype, copy=False)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = (time.perf_counter() - start) * 1e3
