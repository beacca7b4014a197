"""Which topics the node takes as the graph fills up. Needs no ROS."""

from occ_perception.data.topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, POINT_CLOUD
from occ_perception.parameters import Parameters
from occ_perception.ros.discovery import SensorDiscovery, SensorPlan


def camera(name, kind=COMPRESSED_IMAGE, info=True):
    image = f"/{name}/image_raw" + ("/compressed" if kind == COMPRESSED_IMAGE else "")
    return [(image, kind), *([(f"/{name}/camera_info", CAMERA_INFO)] if info else [])]


LIDAR = [("/lidar_top/points", POINT_CLOUD)]


def discovery(cameras=True, lidar=True, calibrated=frozenset(), **parameters):
    return SensorDiscovery(Parameters(**parameters), cameras, lidar, calibrated)


def test_waits_until_the_graph_has_settled():
    found = discovery()
    assert found.update([], 0.0) is None
    assert "any camera with CameraInfo" in found.missing
    assert found.update(camera("left"), 0.5) is None
    graph = camera("left") + camera("right") + LIDAR
    assert found.update(graph, 1.2) is None  # it has just changed
    plan = found.update(graph, 2.3)
    assert plan.camera_names == ("left", "right")
    assert (plan.lidar, plan.lidar_name) == ("/lidar_top/points", "lidar_top")
    assert found.update(graph, 3.0) is None  # nothing new


def test_later_cameras_are_added_and_silent_ones_stay():
    found = discovery(lidar=False)
    found.update(camera("left"), 0.0)
    assert found.update(camera("left"), 1.1).camera_names == ("left",)
    assert found.update(camera("right"), 2.0) is None
    assert found.update(camera("right"), 3.1).camera_names == ("left", "right")


def test_starts_without_what_does_not_come():
    found = SensorDiscovery(Parameters(cameras=("left", "right"), discovery_time=4.0), True, True, frozenset())
    for now in (0.0, 1.5, 3.9):
        assert found.update(camera("left"), now) is None
    assert "cameras ['right'] with CameraInfo" in found.missing
    assert found.update(camera("left"), 4.1).camera_names == ("left",)


def test_a_camera_without_calibration_is_none():
    graph = camera("left", info=False)
    found = discovery(discovery_time=0.0)
    assert found.update(graph, 0.0) is None
    assert "/left/image_raw/compressed" in found.missing
    known = discovery(calibrated=frozenset({"left"}))
    known.update(graph, 0.0)
    assert known.update(graph, 1.1).camera_names == ("left",)


def test_models_without_images_take_no_cameras_unless_asked():
    graph = camera("left") + LIDAR
    found = discovery(cameras=False)
    found.update(graph, 0.0)
    assert found.update(graph, 1.1) == SensorPlan((), "/lidar_top/points")
    asked = SensorDiscovery(Parameters(cameras=("left",)), False, True, frozenset())
    asked.update(graph, 0.0)
    assert asked.update(graph, 1.1).camera_names == ("left",)
    none = SensorDiscovery(Parameters(cameras=("none",), lidar="none"), True, True, frozenset())
    none.update(graph, 0.0)
    assert none.update(graph, 9.0) is None


def test_configured_topics_need_no_graph():
    parameters = Parameters(cameras=("a", "b"), image_topics=("/x/rect", "/y/z/compressed"))
    plan = SensorDiscovery(parameters, True, False, frozenset({"b"})).update([("/x/rect", IMAGE)], 0.0)
    assert [(c.name, c.image_type, c.info, c.rectified) for c in plan.cameras] == [
        ("a", IMAGE, "/x/camera_info", True),
        ("b", COMPRESSED_IMAGE, None, False),
    ]


def test_named_lidar_is_waited_for():
    found = SensorDiscovery(Parameters(lidar="lidar_rear"), False, True, frozenset())
    assert found.update(LIDAR, 0.0) is None
    assert "LiDAR lidar_rear" in found.missing
    graph = [*LIDAR, ("/lidar_rear/points", POINT_CLOUD)]
    found.update(graph, 1.0)
    assert found.update(graph, 2.1).lidar == "/lidar_rear/points"
