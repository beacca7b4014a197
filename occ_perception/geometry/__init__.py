"""Voxel grids, rigid transforms, cameras, and the transform tree. Imports nothing else of ours but errors."""

from occ_perception.geometry.camera import CameraRig, ImageAffine, PinholeCamera
from occ_perception.geometry.grid import OCC3D_GRID, VoxelGrid
from occ_perception.geometry.transform_tree import TransformTree
from occ_perception.geometry.transforms import (
    check_rigid,
    inverse,
    quaternion_from_rotation,
    rigid,
    rigid_from_rotation,
    rotation_from_quaternion,
    slerp,
    transform_points,
)
from occ_perception.geometry.voxel_groups import VoxelGroups

__all__ = [
    "OCC3D_GRID",
    "CameraRig",
    "ImageAffine",
    "PinholeCamera",
    "TransformTree",
    "VoxelGrid",
    "VoxelGroups",
    "check_rigid",
    "inverse",
    "quaternion_from_rotation",
    "rigid",
    "rigid_from_rotation",
    "rotation_from_quaternion",
    "slerp",
    "transform_points",
]
