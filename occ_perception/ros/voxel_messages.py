"""`Occupancy` as rclpy's ``VoxelGrid``; what is in it, and reading it, is `occ_perception.data.voxel_messages`."""

from __future__ import annotations

from occ_perception.data.voxel_messages import fill_voxel_grid
from occ_perception.msg import VoxelGrid as VoxelGridMessage
from occ_perception.occupancy import Occupancy
from occ_perception.ros.geometry_messages import ns_to_stamp


def occupancy_to_message(
    occupancy: Occupancy,
    *,
    frame_id: str = "base_link",
    sparse: bool = True,
    lidars: tuple[str, ...] = ("lidar",),
) -> VoxelGridMessage:
    """Put a grid on the wire.

    The sparse form keeps confidence, flow and instance of occupied voxels only; everything else survives both forms.

    Args:
        occupancy: the grid.
        frame_id: frame the grid's geometry is in.
        sparse: list the occupied voxels only; much smaller for outdoor scenes (a few per cent are occupied).
        lidars: names of the configured LiDARs; all are marked as used, or none (`Occupancy.lidar_used`).

    Raises:
        InvalidInputError: class ids outside the ontology; a FREE voxel that was not seen, or an UNKNOWN one that was
            seen to be free; more than 32 sensors.
    """
    message = VoxelGridMessage()
    message.header.stamp = ns_to_stamp(occupancy.stamp_ns)
    message.header.frame_id = frame_id
    fill_voxel_grid(message, occupancy, sparse=sparse, lidars=lidars)
    return message
