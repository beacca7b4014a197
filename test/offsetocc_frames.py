"""A small world for OffsetOcc: a floor and a few objects between two cameras, on a grid of 24 x 24 x 8 voxels."""

import dataclasses
from pathlib import Path

import numpy as np

from occ_perception.data.labels import GridLabel
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import CameraRig, PinholeCamera, VoxelGrid, rigid_from_rotation
from occ_perception.models.offsetocc_config import offsetocc_config
from occ_perception.models.panoptic_config import PanopticConfig
from occ_perception.ontology import FREE, OCC3D
from occ_perception.training.task import LabelledFrame

SIZE = (64, 160)
GRID = VoxelGrid((-4.8, -4.8, -1.0), 0.4, (24, 24, 8))
HEAD = PanopticConfig(channels=32, queries=12, layers=2, heads=4, hidden=64, offsets_per_side=4, voting_radius=2)
BASELINE = dataclasses.replace(
    offsetocc_config("offsetocc-small-baseline"),
    image_size=SIZE,
    resize=0.1,
    grid_origin=GRID.origin,
    grid_size=GRID.size,
    backbone_blocks=(1, 1, 1, 1),
    backbone_width=8,
    channels=32,
    encoder_layers=2,
    heads=4,
    hidden=64,
)
WHOLE = dataclasses.replace(BASELINE, name="offsetocc-small", panoptic=HEAD)
CAR, PEDESTRIAN = OCC3D.id_of("car"), OCC3D.id_of("pedestrian")


def camera(yaw):
    """Level, 1 m above the origin, 90 degrees wide."""
    forward, right = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    intrinsics = np.array([[SIZE[1] / 2, 0, SIZE[1] / 2], [0, SIZE[1] / 2, SIZE[0] / 2], [0, 0, 1.0]])
    return PinholeCamera(intrinsics, rigid_from_rotation(rotation, [0, 0, 1.0]), SIZE[1], SIZE[0])


RIG = CameraRig({"CAM_FRONT": camera(0.0), "CAM_BACK": camera(np.pi)})
# Per object: class, first cell, number of cells; all even, so that half the resolution can tell them.
OBJECTS = ((CAR, (14, 6, 2), (6, 4, 2)), (CAR, (14, 14, 2), (6, 4, 2)), (PEDESTRIAN, (4, 12, 2), (2, 2, 4)))


def labelled_frame(seed=0, objects=OBJECTS, instances=True, pose=None, cameras=tuple(RIG)):
    """Images of noise (frames differ), a floor, and ``objects`` with their boxes."""
    random = np.random.default_rng(seed)
    pose = np.eye(4) if pose is None else pose
    images = {name: CameraImage(0, random.integers(0, 256, (*SIZE, 3), np.uint8), pose) for name in cameras}
    label, boxes, classes = _label(objects)
    label = label if instances else dataclasses.replace(label, instances=None)
    ids = np.arange(1, len(objects) + 1) if instances else None
    return LabelledFrame(Frame(0, RIG, images, odom_from_ego=pose), label, np.eye(4), boxes, classes, ids)


def _label(objects):
    semantics, instances = np.full(GRID.size, FREE, np.uint8), np.zeros(GRID.size, np.uint16)
    semantics[:, :, :2] = OCC3D.id_of("driveable_surface")
    boxes = np.zeros((len(objects), 9))
    for row, (class_id, first, count) in enumerate(objects):
        cells = tuple(slice(f, f + c) for f, c in zip(first, count, strict=True))
        semantics[cells], instances[cells] = class_id, row + 1
        boxes[row, 3:6] = np.array(count) * GRID.voxel_size
        boxes[row, :3] = GRID.lower + np.array(first) * GRID.voxel_size + boxes[row, 3:6] / 2
    seen = np.ones(GRID.size, bool)
    label = GridLabel(semantics, OCC3D, GRID, "base_link", 0, seen, seen, None, instances, Path("made up"))
    return label, boxes, np.array([class_id for class_id, _, _ in objects], np.int64)
