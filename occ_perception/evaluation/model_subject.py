"""A model as the subject of an evaluation: streamed through whole scenes by the same `Session` that drives the car."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.evaluation.answers import Answer, LastAnswer, nothing_known
from occ_perception.evaluation.protocols import CLEAN, Corruption
from occ_perception.evaluation.truth import LIDAR
from occ_perception.frame import Frame
from occ_perception.models.base import PerceptionModel
from occ_perception.occupancy import Occupancy
from occ_perception.session import Session

logger = logging.getLogger(__name__)

GRID_FRAMES = {
    "camera": ("CAM_FRONT", "base_link at the CAM_FRONT stamp (as BEVDet-family models are trained and published)"),
    "lidar": (LIDAR, "base_link at the LIDAR_TOP keyframe stamp (that of the labels)"),
}
"""Where the model's grid is anchored: channel and words.  Labels always refer to the LIDAR_TOP keyframe."""


SENSORS = {
    "all": "everything that the recording has",
    "camera": "cameras only",
    "lidar": "LiDAR only",
}
"""What the model is given, in words."""


class ModelSubject:
    """Streams keyframes (2 Hz) through a session; it is reset at every scene border.

    A stamp at which a corruption leaves nothing usable is scored with the last answer, moved with the vehicle (before
    the first: all unknown).  Without a corruption the same is an error: then files are missing or damaged.

    Args:
        model: see `models.create_model`.
        device: where it runs.
        grid_frame: one of `GRID_FRAMES`, or "auto": "camera" for models that need cameras, else "lidar".
        sensors: one of `SENSORS`.
        corruption: see `evaluation.protocols`.
        seed: of the corruption, for the record.
        session: to share its caches between corruptions; a new one if not given.
    """

    frame = "base_link"

    def __init__(
        self,
        model: PerceptionModel,
        device: torch.device | str = "cpu",
        grid_frame: str = "auto",
        corruption: Corruption = CLEAN,
        seed: int = 0,
        session: Session | None = None,
        sensors: str = "all",
    ) -> None:
        if grid_frame == "auto":
            grid_frame = "camera" if model.image_spec and not model.image_spec.optional else "lidar"
        self._anchor, self.grid_frame = GRID_FRAMES[grid_frame]
        self.session = session or Session(model, device)
        self.model, self.corruption, self._sensors = model, corruption, sensors
        self.name, self.ontology, self.grid = model.info.name, model.info.ontology, model.info.grid
        self.identity = {
            "model": model.info.name,
            "weights": model.info.weights,
            "trained_on": model.info.trained_on,
            "device": self.session.device.type,
            "grid_frame": self.grid_frame,
            "sensors": SENSORS[sensors],
            "corruption": corruption.name,
            "corruption_text": corruption.description,
            "seed": "-" if corruption is CLEAN else str(seed),
            "connected_instances": str(self.session.settings.tracking.connect_voxels),
        }

    def check(self, scene: Scene, tokens: Sequence[str]) -> None:
        """Whether files are installed shows when they are read."""

    def files(self, scene: Scene) -> list[Path]:
        """None: the recording is taken as unchanging."""
        return []

    def answers(self, dataset: NuScenes, scene: Scene, tokens: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """Every keyframe is streamed, labelled or not; those of ``tokens`` are yielded.

        Raises:
            DatasetError: a keyframe has no data the model can use, or a file is damaged.
            NumericsError: the network produced NaN or infinity.
        """
        self.session.reset()
        wanted, last = set(tokens), None
        keyframes = [token for token, _ in scene.samples if scene.keyframes[token]]
        for token, frame in zip(keyframes, dataset.frames(scene, self._anchor), strict=True):
            if not self._usable(self._given(frame)):
                raise DatasetError(f"{scene.name}, sample {token}: no data for {self.name}; {'; '.join(frame.notes)}")
            occupancy = self._perceive(self.corruption.apply(self._given(frame)))
            if occupancy is not None:
                answer = _answer(occupancy, self.model.uses_lidar, frame.odom_from_ego)
                if frame.odom_from_ego is not None:
                    last = LastAnswer(answer, frame.odom_from_ego)
            elif last is not None and frame.odom_from_ego is not None:
                answer = last.moved_to(frame.odom_from_ego, self.grid)
            else:
                answer = nothing_known(self.grid)
            if token in wanted:
                yield token, answer

    def _given(self, frame: Frame) -> Frame:
        """The frame with the measurements of the chosen sensors only."""
        if self._sensors == "camera":
            return replace(frame, lidar=())
        return replace(frame, images={}) if self._sensors == "lidar" else frame

    def _perceive(self, frame: Frame) -> Occupancy | None:
        """The model's answer; None if a corruption left nothing for it to use."""
        if not self._usable(frame):
            return None
        try:
            return self.session.step(frame)
        except InvalidInputError:
            if self.corruption is CLEAN:
                raise
            logger.info("%s: the session refused a frame, the last answer is held", self.corruption.name, exc_info=True)
            return None

    def _usable(self, frame: Frame) -> bool:
        return bool((self.session.needs_images and frame.images) or (self.model.uses_lidar and frame.lidar))


def _answer(occupancy: Occupancy, uses_lidar: bool, odom_from_grid: np.ndarray | None) -> Answer:
    if occupancy.prediction is None:
        raise InvalidInputError(f"model {occupancy.info.name}: the session gave no prediction to score")
    missing = occupancy.cameras_used != occupancy.cameras or (uses_lidar and not occupancy.lidar_used)
    return Answer(
        occupancy.prediction,
        occupancy.flow,
        occupancy.predicted_instances,
        occupancy.instances,
        odom_from_grid,
        sensors_missing=missing,
    )
