"""Labelled frames of a tiny made-up place, for training tasks: six small images, a LiDAR, a grid of a few metres."""

from pathlib import Path

import numpy as np

from occ_perception.data.labels import GridLabel
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, inverse
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.ontology import FREE, OCC3D, OPENOCC
from occ_perception.training.task import LabelledFrame

GRID = VoxelGrid((-4.8, -4.8, -1.0), 0.4, (24, 24, 16))
IMAGE = (160, 90)
YAWS = (55, 0, -55, 110, 180, -110)
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # ego axes from optical axes, looking ahead
STEP_M = 0.5


def turn(degrees):
    """Rotation about z, [3, 3]."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def pose(rotation=None, translation=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.eye(3) if rotation is None else rotation, translation
    return matrix


def rig():
    cameras = {}
    for name, yaw in zip(NUSCENES_CAMERAS, YAWS, strict=True):
        mount = pose(turn(yaw) @ OPTICAL, turn(yaw) @ [0.5, 0.0, 1.5])
        intrinsics = np.array([[126.0, 0.0, 80.0], [0.0, 126.0, 45.0], [0.0, 0.0, 1.0]])
        cameras[name] = PinholeCamera(intrinsics, mount, *IMAGE)
    return CameraRig(cameras)


class TinySource:
    """Scenes of a vehicle that drives ahead over a road between two walls; images show noise of their own."""

    def __init__(self, scene_lengths=(2, 2), ontology=OCC3D, flow=False, grid=GRID):
        self.scene_lengths = scene_lengths
        self._ontology, self._flow, self._grid = ontology, flow, grid

    def load(self, scene, frame):
        random = np.random.default_rng((7, scene, frame))
        label = self._label(scene, frame)
        occupied = np.flatnonzero(label.semantics < FREE)
        odom_from_ego = pose(translation=(STEP_M * frame, 0.0, 0.0))
        ego_from_lidar = pose(turn(-90), (0.2, 0.0, 1.8))
        odom_from_lidar_ego = odom_from_ego @ pose(translation=(0.1, 0.0, 0.0))
        centres = np.c_[self._grid.center_of(occupied), np.ones(len(occupied))]
        points = (centres @ inverse(ego_from_lidar).T)[:, :3].astype(np.float32)
        images = {
            name: CameraImage(1000 * frame, random.integers(0, 256, (IMAGE[1], IMAGE[0], 3), np.uint8))
            for name in NUSCENES_CAMERAS
        }
        sweep = LidarSweep(1000 * frame + 10, points, ego_from_lidar, odom_from_lidar_ego)
        measured = Frame(1000 * frame, rig(), images, (sweep,), odom_from_ego)
        return LabelledFrame(measured, label, inverse(odom_from_ego) @ odom_from_lidar_ego)

    def _label(self, scene, frame):
        semantics = np.full(self._grid.size, FREE, np.uint8)
        semantics[:, :, 2] = self._ontology.id_of("driveable_surface")
        semantics[:, :4, 3:9] = self._ontology.id_of("manmade")
        semantics[14 + scene : 18 + scene, 12 - frame : 16 - frame, 3:6] = self._ontology.id_of("car")
        mask = np.ones(self._grid.size, bool)
        mask[:2] = False
        flow = None
        if self._flow:
            flow = np.zeros((*self._grid.size, 2), np.float32)
            flow[semantics == self._ontology.id_of("car")] = (1.0, -0.8)
        return GridLabel(
            semantics, self._ontology, self._grid, "base_link", None, None, mask, flow, None, Path(f"tiny{scene}")
        )


OPENOCC_SOURCE = {"ontology": OPENOCC, "flow": True}
