"""Labelled keyframes of synthetic scenes rendered when they are asked for, without a dataset on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from occ_perception.data.synthetic.drive import CityDrive, CityKeyframe
from occ_perception.data.synthetic.rig import KEYFRAMES_PER_SECOND
from occ_perception.errors import DatasetError
from occ_perception.frame import Frame
from occ_perception.geometry import CameraRig, inverse
from occ_perception.training.task import LabelledFrame

_SCENES_KEPT = 8  # of about 130 MB each: the streams that a loader process plays at a time


class WorldSource:
    """A `FrameSource` of made-up scenes; equal to what `dataset_writer` writes of the same seeds, but for the files.

    Args:
        seeds: of the scenes, see `WorldSettings.scene_seeds`.
        frames: keyframes of every scene.
        image_size: width and height.
        device: that renders.
    """

    def __init__(self, seeds: Sequence[int], frames: int, image_size: tuple[int, int], device: str = "cpu") -> None:
        self.seeds, self.frames, self.image_size, self.device = tuple(seeds), frames, image_size, device

    @property
    def scene_lengths(self) -> Sequence[int]:
        """Frames of every scene."""
        return [self.frames] * len(self.seeds)

    def load(self, scene: int, frame: int) -> LabelledFrame:
        """Render one keyframe.

        Raises:
            DatasetError: there is no such scene or frame.
        """
        if not 0 <= scene < len(self.seeds) or not 0 <= frame < self.frames:
            raise DatasetError(f"no frame {frame} of scene {scene} in {len(self.seeds)} scenes of {self.frames} frames")
        drive = _drive(self.seeds[scene], self.frames, self.image_size, self.device)
        return labelled_frame(drive.keyframe(drive.keyframe_stamps()[frame]))


@lru_cache(_SCENES_KEPT)
def _drive(seed: int, frames: int, image_size: tuple[int, int], device: str) -> CityDrive:
    """Per process, so that sources can be sent to loader processes."""
    return CityDrive(seed, frames / KEYFRAMES_PER_SECOND, image_size, device=device)


def labelled_frame(keyframe: CityKeyframe) -> LabelledFrame:
    """A keyframe as training takes it: cameras by nuScenes' names, and the boxes that a LiDAR return lies on."""
    frame, truth = keyframe.frame, keyframe.truth
    sweep = frame.lidar[-1]
    if frame.odom_from_ego is None or sweep.odom_from_ego is None:
        raise DatasetError("synthetic keyframe without poses")
    seen = np.isin(truth.box_ids, keyframe.scan.instances)
    return LabelledFrame(
        frame=_with_channels(frame),
        label=truth.label,
        ego_from_grid=inverse(frame.odom_from_ego) @ sweep.odom_from_ego,
        boxes=truth.boxes[seen],
        box_classes=truth.box_classes[seen],
        box_ids=truth.box_ids[seen],
        image_labels=keyframe.image_labels(),
    )


def _with_channels(frame: Frame) -> Frame:
    rig = CameraRig({name.upper(): camera for name, camera in frame.rig.items()})
    return replace(frame, rig=rig, images={name.upper(): image for name, image in frame.images.items()})
