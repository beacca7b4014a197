"""Small made-up labelled frames for nano: a floor, a wall and two cars in front of six cameras and a LiDAR."""

import numpy as np

from occ_perception.data.labels import GridLabel
from occ_perception.frame import CameraImage, Frame, LidarSweep
from occ_perception.geometry import OCC3D_GRID, CameraRig, PinholeCamera, rigid_from_rotation
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.ontology import FREE, OCC3D
from occ_perception.training.task import LabelledFrame

HALF_SECOND = 500_000_000
_YAWS = {"FRONT_LEFT": 55, "FRONT": 0, "FRONT_RIGHT": -55, "BACK_LEFT": 110, "BACK": 180, "BACK_RIGHT": -110}


def camera(yaw_degrees, width=704, height=256):
    yaw = np.deg2rad(yaw_degrees)
    forward, right = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    intrinsics = np.array([[557.0, 0, width / 2], [0, 557.0, height / 2], [0, 0, 1]])
    return PinholeCamera(intrinsics, rigid_from_rotation(rotation, [1.0, 0, 1.5]), width, height)


RIG = CameraRig({name: camera(_YAWS[name.removeprefix("CAM_")]) for name in NUSCENES_CAMERAS})


def labelled_frame(index=0, speed=4.0, seed=0):
    """Frame ``index`` of a drive along x at ``speed`` m/s, images of noise; a car at rest ahead, one passing."""
    x = speed * index * 0.5
    pose = rigid_from_rotation(np.eye(3), [x, 0, 0])
    random = np.random.default_rng((seed, index))
    stamp = 1_000_000_000 + index * HALF_SECOND
    images = {n: CameraImage(stamp, random.integers(0, 256, (256, 704, 3), np.uint8), pose) for n in RIG}
    label = scene_label(x, index * 0.5, stamp)
    cells = np.argwhere(label.semantics != FREE)
    points = OCC3D_GRID.lower + (cells[random.permutation(len(cells))[:4000]] + 0.5) * OCC3D_GRID.voxel_size
    mount = rigid_from_rotation(np.eye(3), [0.9, 0, 1.8])
    sweep = LidarSweep(stamp, (points - mount[:3, 3]).astype(np.float32), mount, pose)
    return LabelledFrame(Frame(stamp, RIG, images, (sweep,), pose), label, np.eye(4))


def scene_label(x, time_s, stamp):
    semantics = np.full(OCC3D_GRID.size, FREE, np.uint8)
    instances, flow = np.zeros(OCC3D_GRID.size, np.uint16), np.zeros((*OCC3D_GRID.size, 2), np.float32)
    semantics[:, :, 2] = OCC3D.id_of("driveable_surface")
    wall = int((30 - x + 40) / 0.4)
    semantics[wall : wall + 2, :, 3:8] = OCC3D.id_of("manmade")
    for number, (ahead, left, velocity) in enumerate([(12 - x, 0.0, 0.0), (6 - x + 6 * time_s, 6.0, 6.0)], 1):
        i, j = int((ahead + 40) / 0.4), int((left + 40) / 0.4)
        box = (slice(i - 5, i + 6), slice(j - 2, j + 3), slice(3, 7))
        semantics[box], instances[box], flow[box] = OCC3D.id_of("car"), number, (velocity, 0)
    seen = np.ones(OCC3D_GRID.size, bool)
    return GridLabel(semantics, OCC3D, OCC3D_GRID, "base_link", stamp, seen, seen, flow, instances, None)
