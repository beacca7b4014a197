"""Finding cameras, LiDAR and frames by names and types."""

import numpy as np
import pytest

from occ_perception.data.topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    POINT_CLOUD,
    TRANSFORMS,
    detect_frames,
    detect_topics,
    lidar_name,
    require_sensors,
)
from occ_perception.errors import DatasetError, NoPathError
from occ_perception.geometry import TransformTree

TF = [("/tf", TRANSFORMS), ("/tf_static", TRANSFORMS)]


def names(found):
    return [(c.name, c.image, c.info) for c in found.cameras]


def test_our_layout():
    topics = [("/cam_front/image_raw/compressed", COMPRESSED_IMAGE), ("/cam_front/camera_info", CAMERA_INFO), *TF]
    found = detect_topics([*topics, ("/lidar_top/points", POINT_CLOUD), ("/cam_front/image_raw", IMAGE)])
    assert names(found) == [("cam_front", "/cam_front/image_raw/compressed", "/cam_front/camera_info")]
    assert found.lidar == "/lidar_top/points"
    assert found.has_tf
    assert found.has_tf_static


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (  # foxglove's nuscenes2mcap and WATonomous
            [("/CAM_BACK/image_rect_compressed", COMPRESSED_IMAGE), ("/CAM_BACK/camera_info", CAMERA_INFO)],
            [("CAM_BACK", "/CAM_BACK/image_rect_compressed", "/CAM_BACK/camera_info")],
        ),
        (  # ros2_dataset_bridge
            [("/nuscenes/CAM_FRONT/image", IMAGE), ("/nuscenes/CAM_FRONT/camera_info", CAMERA_INFO)],
            [("CAM_FRONT", "/nuscenes/CAM_FRONT/image", "/nuscenes/CAM_FRONT/camera_info")],
        ),
        (  # Autoware
            [("/sensing/camera0/image", IMAGE), ("/sensing/camera0/info", CAMERA_INFO)],
            [("camera0", "/sensing/camera0/image", "/sensing/camera0/info")],
        ),
        (  # a RealSense: colour, not depth
            [
                ("/camera/color/image_raw", IMAGE),
                ("/camera/color/camera_info", CAMERA_INFO),
                ("/camera/depth/image_rect_raw", IMAGE),
                ("/camera/depth/camera_info", CAMERA_INFO),
            ],
            [("color", "/camera/color/image_raw", "/camera/color/camera_info")],
        ),
        (  # the last part alone does not tell them apart
            [
                ("/left/camera/image_raw", IMAGE),
                ("/left/camera/camera_info", CAMERA_INFO),
                ("/right/camera/image_raw", IMAGE),
                ("/right/camera/camera_info", CAMERA_INFO),
            ],
            [
                ("left_camera", "/left/camera/image_raw", "/left/camera/camera_info"),
                ("right_camera", "/right/camera/image_raw", "/right/camera/camera_info"),
            ],
        ),
    ],
)
def test_layouts_of_others(topics, expected):
    assert names(detect_topics(topics)) == expected


def test_rectified_images_are_preferred_and_marked():
    topics = [("/front/image_raw", IMAGE), ("/front/image_rect", IMAGE), ("/front/camera_info", CAMERA_INFO)]
    (camera,) = detect_topics(topics).cameras
    assert camera.image == "/front/image_rect"
    assert camera.rectified


def test_cameras_without_calibration_are_told_apart():
    topics = [("/front/image_raw", IMAGE)]
    found = detect_topics(topics)
    assert found.cameras == ()
    assert [c.name for c in found.uncalibrated] == ["front"]
    assert [c.name for c in detect_topics(topics, calibrated=("front",)).cameras] == ["front"]
    with pytest.raises(DatasetError, match=r"wanted the calibration topics \['/front/camera_info'\]"):
        detect_topics(topics, cameras=["front"])


def test_what_is_asked_for_and_not_there_is_named_with_what_is():
    topics = [("/front/image_raw", IMAGE), ("/front/camera_info", CAMERA_INFO), ("/scan", POINT_CLOUD)]
    with pytest.raises(
        DatasetError, match=r"bag x: wanted cameras \['rear'\].*/front/image_raw \[sensor_msgs/msg/Image\]"
    ):
        detect_topics(topics, cameras=["rear"], where="bag x")
    with pytest.raises(DatasetError, match=r"LiDAR 'top' \(point clouds: \['/scan'\]\)"):
        detect_topics(topics, lidar="top")


@pytest.mark.parametrize(
    ("clouds", "expected"),
    [
        (["/perception/points", "/lidar_top/points"], "/lidar_top/points"),
        (["/radar_front/points", "/velodyne_points"], "/velodyne_points"),
        (["/sensing/lidar/left/points", "/sensing/lidar/top/points"], "/sensing/lidar/top/points"),
        (["/radar_front/points"], None),
        ([], None),
    ],
)
def test_the_likeliest_lidar(clouds, expected):
    assert detect_topics([(c, POINT_CLOUD) for c in clouds]).lidar == expected


def test_lidar_by_topic_by_namespace_or_not_at_all():
    topics = [("/lidar_left/points", POINT_CLOUD), ("/lidar_top/points", POINT_CLOUD)]
    assert detect_topics(topics, lidar="/lidar_left/points").lidar == "/lidar_left/points"
    assert detect_topics(topics, lidar="lidar_left").lidar == "/lidar_left/points"
    assert detect_topics(topics, lidar="").lidar is None
    assert lidar_name("/lidar_left/points") == "lidar_left"
    assert lidar_name("/points") == "lidar"
    assert lidar_name("/front/points", ("front",)) == "front_lidar"


def test_too_little_is_refused():
    with pytest.raises(DatasetError, match=r"camera images with CameraInfo.*it has no topics at all"):
        require_sensors(detect_topics([]), [])
    cloud = [("/lidar/points", POINT_CLOUD)]
    with pytest.raises(DatasetError, match="/tf_static or /tf"):
        require_sensors(detect_topics(cloud), cloud)


def test_frames_are_found_among_those_joined_to_the_sensors():
    tree = TransformTree()
    pose = (np.zeros(3), np.array([0, 0, 0, 1.0]))
    tree.set("base_link", "lidar", 0, *pose, static=True)
    assert detect_frames(tree, ["lidar"]) == ("base_link", None)
    tree.set("map", "base_link", 5, *pose)
    assert detect_frames(tree, ["lidar"]) == ("base_link", "map")
    with pytest.raises(NoPathError, match="camera"):
        detect_frames(tree, ["lidar", "camera"])
