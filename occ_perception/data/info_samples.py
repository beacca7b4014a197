"""What info pickles say about a sample, whichever family they are of (datasets.md 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np


@dataclass(frozen=True)
class InfoRecord:
    """One measurement of a sensor.

    Attributes:
        channel: such as CAM_FRONT or LIDAR_TOP.
        path: relative to the root of a nuScenes tree (samples/... or sweeps/...).
        token: of the sample_data row; empty if the file does not say.
        stamp_ns: nanoseconds.
        ego_from_sensor: float64 [4, 4].
        global_from_ego: float64 [4, 4], at the record's own stamp.
        intrinsics: float64 [3, 3] of a camera, else None.
    """

    channel: str
    path: PurePosixPath
    token: str
    stamp_ns: int
    ego_from_sensor: np.ndarray
    global_from_ego: np.ndarray
    intrinsics: np.ndarray | None = None


@dataclass(frozen=True)
class InfoBoxes:
    """Annotated boxes of a sample, LiDAR frame, always length, width, height and yaw about LiDAR z.

    Attributes:
        boxes: float64 [N, 7]; centre x, y, z, length, width, height (metres), yaw (radians).
        names: N detection class names; "ignore" for classes outside the ten.
        velocity: float64 [N, 2], m/s over ground along LiDAR x and y; NaN when not known.
        num_lidar_points: int64 [N].
        valid: bool [N], the file's own flag (at least one LiDAR or radar return).
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    velocity: np.ndarray
    num_lidar_points: np.ndarray
    valid: np.ndarray

    def global_from_boxes(self, global_from_lidar: np.ndarray) -> np.ndarray:
        """Poses of the boxes with their tilt undone: annotations are upright in the global frame.

        The yaw in these files is the annotation's yaw less the heading of the LiDAR's x axis.  Found by fitting: both
        real keyframes agree with their tables to 1e-9 rad, the angle of the tilted heading is up to 4e-4 rad off.

        Returns:
            float64 [N, 4, 4]; heading is x.
        """
        yaw = self.boxes[:, 6] + np.arctan2(global_from_lidar[1, 0], global_from_lidar[0, 0])
        poses = np.tile(np.eye(4), (len(self.boxes), 1, 1))
        poses[:, 0, 0] = poses[:, 1, 1] = np.cos(yaw)
        poses[:, 1, 0] = np.sin(yaw)
        poses[:, 0, 1] = -poses[:, 1, 0]
        poses[:, :3, 3] = self.boxes[:, :3] @ global_from_lidar[:3, :3].T + global_from_lidar[:3, 3]
        return poses


@dataclass(frozen=True)
class SampleInfo:
    """One keyframe.

    Attributes:
        token: of the sample.
        stamp_ns: of the sample, nanoseconds.
        scene_token, scene_name: empty if the file does not say.
        previous, next: neighbouring sample tokens; empty at a scene's ends or if the file does not say.
        lidar: the LIDAR_TOP keyframe.
        cameras: by channel.
        boxes: annotations; None if the file has none (test split).
        camera_time_boxes: BEVDet's ``ann_infos``, float64 [N, 9]: x, y, z, length, width, height, yaw, vx, vy in the
            ego frame at the CAM_FRONT stamp; None if the file has none.
        camera_time_names: their class names.
        lidar_sweeps: earlier sweeps, newest first (mmdetection3d 1.0).
        camera_sweeps: SparseOcc's earlier images, newest first, each by channel.
    """

    token: str
    stamp_ns: int
    scene_token: str
    scene_name: str
    previous: str
    next: str
    lidar: InfoRecord
    cameras: Mapping[str, InfoRecord]
    boxes: InfoBoxes | None
    camera_time_boxes: np.ndarray | None
    camera_time_names: tuple[str, ...]
    lidar_sweeps: tuple[InfoRecord, ...]
    camera_sweeps: tuple[Mapping[str, InfoRecord], ...]
