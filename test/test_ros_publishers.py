"""The other forms of an occupancy: surface points, markers, ground grid."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("occ_perception.msg", reason="needs the generated messages")

from visualization_msgs.msg import Marker

from occ_perception.data.point_clouds import point_cloud_view
from occ_perception.geometry import VoxelGrid
from occ_perception.ground_grid import ground_grid
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, TemporalStatus, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.ros.messages import points_to_message
from occ_perception.ros.object_markers import markers_of
from occ_perception.ros.publishers import ground_grid_message, surface_columns

GRID = VoxelGrid((-2.0, -1.0, -1.0), 0.5, (8, 6, 5))
STAMP = 12_345_678_901
CAR = OCC3D.id_of("car")


def occupancy(**more):
    """A solid block of 3 x 3 x 3 car voxels, one of which is hidden inside."""
    semantics = np.full(GRID.size, FREE, np.uint8)
    semantics[2:5, 1:4, 1:4] = CAR
    semantics[0] = UNKNOWN
    visibility = np.full(GRID.size, Visibility.FREE_SEEN, np.uint8)
    visibility[semantics < FREE] = Visibility.OCCUPIED_SEEN
    visibility[semantics == UNKNOWN] = Visibility.UNKNOWN
    return Occupancy(STAMP, ModelInfo("m", OCC3D, GRID), semantics, visibility, **more)


def test_points_are_the_surface():
    cloud = point_cloud_view(points_to_message(STAMP, "base_link", surface_columns(occupancy())))
    assert cloud.dtype.names == ("x", "y", "z", "rgb", "label", "instance", "vx", "vy", "vz")
    assert len(cloud) == 26
    cells = {tuple(c) for c in np.stack(np.nonzero(occupancy().occupied()), -1)} - {(3, 2, 2)}
    centers = np.stack([cloud["x"], cloud["y"], cloud["z"]], -1)
    assert {tuple(c) for c in GRID.cells_of(centers)[0].tolist()} == cells
    np.testing.assert_allclose(centers, GRID.lower + (GRID.cells_of(centers)[0] + 0.5) * 0.5, atol=1e-6)
    assert set(cloud["label"]) == {CAR}
    assert np.all(np.isnan(cloud["vx"]))
    red, green, blue = OCC3D.colors[CAR]
    assert set(cloud["rgb"].view(np.uint32)) == {red << 16 | green << 8 | blue}


def test_points_at_the_border_of_the_grid_are_surface():
    full = occupancy()
    semantics = np.full(GRID.size, CAR, np.uint8)
    solid = Occupancy(STAMP, full.info, semantics, np.full(GRID.size, Visibility.OCCUPIED_SEEN, np.uint8))
    x, y, z = GRID.size
    assert len(surface_columns(solid)["x"]) == x * y * z - (x - 2) * (y - 2) * (z - 2)


def test_points_carry_flow_and_instances():
    flow = np.full((*GRID.size, 2), np.nan, np.float32)
    flow[2] = (3.0, -1.0)
    instances = np.zeros(GRID.size, np.uint16)
    instances[2] = 7
    columns = surface_columns(occupancy(flow=flow, instances=instances))
    moving = np.isclose(columns["x"], -0.75)
    assert set(columns["instance"][moving]) == {7}
    np.testing.assert_array_equal(np.unique(columns["vx"][moving]), [3.0])
    np.testing.assert_array_equal(np.unique(columns["vz"][moving]), [0.0])
    assert np.all(np.isnan(columns["vx"][~moving]))


def test_nothing_occupied_is_an_empty_cloud_and_no_boxes():
    empty = occupancy()
    empty.semantics[empty.occupied()] = FREE
    assert points_to_message(STAMP, "base_link", surface_columns(empty)).width == 0
    assert [m.action for m in markers_of(empty, "base_link").markers] == [Marker.DELETEALL]


MOVING = Instance(3, CAR, 0.9, (1.0, 2.0, 0.5), (4.0, 2.0, 1.5), math.pi / 2, (0.0, 5.0, 0.0))
HIDDEN = Instance(4, CAR, 0.9, (5.0, 2.0, 0.5), (4.0, 2.0, 1.5), 0.0, (math.nan,) * 3, occluded=True)


def drawn(**more):
    """Markers of the objects by namespace and id."""
    return {(m.ns, m.id): m for m in markers_of(occupancy(**more), "base_link").markers[1:]}


def test_markers_delete_then_draw():
    markers = markers_of(occupancy(objects=(MOVING, HIDDEN)), "base_link").markers
    assert markers[0].action == Marker.DELETEALL
    assert {(m.ns, m.id) for m in markers[1:]} == {
        ("boxes", 3), ("headings", 3), ("names", 3), ("velocities", 3), ("boxes", 4), ("headings", 4), ("names", 4),
    }  # fmt: skip
    assert all(m.action == Marker.ADD for m in markers[1:])
    assert all(1.0 < m.lifetime.sec + m.lifetime.nanosec * 1e-9 < 2.0 for m in markers[1:])  # two periods of 2 Hz
    assert all(m.header.frame_id == "base_link" and m.header.stamp.nanosec == 345_678_901 for m in markers)
    kinds = {m.ns: m.type for m in markers[1:]}
    assert kinds == {
        "boxes": Marker.CUBE, "headings": Marker.LINE_STRIP, "names": Marker.TEXT_VIEW_FACING,
        "velocities": Marker.ARROW,
    }  # fmt: skip


def test_box_heading_velocity_and_label():
    markers = drawn(objects=(MOVING, HIDDEN))
    box = markers["boxes", 3]
    assert (box.scale.x, box.scale.y, box.scale.z) == (4.0, 2.0, 1.5)
    assert (box.pose.position.x, box.pose.orientation.z) == (1.0, pytest.approx(math.sqrt(0.5)))
    red, green, blue = OCC3D.colors[CAR]
    assert (box.color.r, box.color.g, box.color.b) == pytest.approx((red / 255, green / 255, blue / 255))
    assert [(p.x, p.y) for p in markers["velocities", 3].points] == [(1.0, 2.0), (1.0, 7.0)]
    middle, front = markers["headings", 3].points
    assert (front.x - middle.x, front.y - middle.y) == pytest.approx((0.0, 2.0))
    assert markers["names", 3].text == "car 3\n5.0 m/s"
    assert markers["names", 4].text == "car 4"  # its speed is not known
    assert ("velocities", 4) not in markers


def test_what_is_occluded_is_faded():
    markers = drawn(objects=(MOVING, HIDDEN))
    for name in ("boxes", "headings", "names"):
        assert 0 < markers[name, 4].color.a < 0.5 * markers[name, 3].color.a


def test_what_is_gone_is_deleted():
    """A viewer that keeps what it is told: after every message it shows the objects of that message and no others."""
    shown: dict[tuple[str, int], Marker] = {}

    def show(*objects, **more):
        for marker in markers_of(occupancy(objects=objects, **more), "base_link").markers:
            if marker.action == Marker.DELETEALL:
                shown.clear()
            elif marker.action == Marker.DELETE:
                shown.pop((marker.ns, marker.id), None)
            else:
                shown[marker.ns, marker.id] = marker
        return {identity for _, identity in shown}

    assert show(MOVING, HIDDEN) == {3, 4}
    assert show(HIDDEN) == {4}
    still = replace(MOVING, velocity=(0.0, 0.0, 0.0))
    assert show(MOVING) == show(still) == {3}
    assert ("velocities", 3) not in shown  # the arrow went when it stopped
    assert show(replace(MOVING, id=9), temporal=TemporalStatus(0, "time went back")) == {9}  # after a reset
    assert show() == set()  # the model gives none


def test_ground_grid_is_laid_out_as_ros_wants_it():
    seen = occupancy()
    seen.semantics[1:, :, 0] = OCC3D.id_of("driveable_surface")
    message = ground_grid_message(seen, "base_link", ground_grid(seen, 0.2, 1.0))
    assert (message.info.width, message.info.height) == GRID.size[:2]
    assert message.info.resolution == pytest.approx(0.5)
    assert (message.info.origin.position.x, message.info.origin.position.y) == (-2.0, -1.0)
    cells = np.array(message.data).reshape(message.info.height, message.info.width)  # rows along y
    assert set(cells[:, 0]) == {-1}
    assert np.all(cells[1:4, 2:5] == 100)
    assert cells[0, 2] == 0
    assert message.header.frame_id == "base_link"
