"""The node on the bench: real DDS, faults injected one at a time, and it must say what is wrong and go on."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("occ_perception.msg", reason="needs the generated messages")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_bench import JPEG, MS, PLAN, START, CameraModel, bench, columns, edge, ring
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from occ_perception.data.topics import IMAGE, CameraTopics
from occ_perception.image_codec import encode_jpeg
from occ_perception.msg import VoxelGrid as VoxelGridMessage
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.ros.discovery import SensorPlan
from occ_perception.ros.environment import prepare_process, private_network
from occ_perception.ros.messages import ns_to_stamp, points_to_message

LIDAR_ONLY = SensorPlan((), PLAN.lidar)


@pytest.fixture(autouse=True)
def _own_network(monkeypatch, tmp_path, one_thread):
    for name, value in {**private_network(), "ROS_LOG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    prepare_process()


@pytest.fixture
def carving():
    with bench(plan=LIDAR_ONLY) as made:
        made.calibrate(())
        made.drive()
        yield made


@pytest.fixture
def cameras():
    model = CameraModel()
    with bench(model, offsets__cam_back=0.01, fallback_after=2, retry_after=0.3, silent_after=0.5) as made:
        made.model = model
        made.calibrate()
        made.drive()
        yield made


def test_a_sweep_becomes_a_grid_of_its_stamp(carving):
    for k in range(3):
        carving.sweep(START + 100 * k * MS)
        carving.expect_grids(k + 1)
    grid = carving.grids[-1]
    assert [g.stamp_ns for g in carving.grids] == [START, START + 100 * MS, START + 200 * MS]
    assert grid.info.name == "lidar-carving"
    assert grid.lidar_used
    assert grid.temporal.frames == 2
    wall = grid.grid.cells_of(np.array([[10.05, 0.05, 1.8]]))[0][0]
    assert grid.semantics[tuple(wall)] == grid.ontology.id_of("occupied")
    inside = grid.grid.cells_of(np.array([[8.05, 0.05, 1.8]]))[0][0]
    assert grid.semantics[tuple(inside)] == FREE
    beyond = grid.grid.cells_of(np.array([[15.05, 0.05, 1.8]]))[0][0]
    assert grid.semantics[tuple(beyond)] == UNKNOWN


def test_images_become_a_grid_and_unseen_space_is_unknown(cameras):
    cameras.images(START)
    (grid,) = cameras.expect_grids(1)
    assert grid.stamp_ns == START
    assert grid.cameras_used == ("cam_front", "cam_back")
    assert grid.semantics[6, 4, 2] == 2
    assert np.all(grid.semantics[:4] == UNKNOWN)  # both cameras of the bench look forward
    assert np.any(grid.visibility == Visibility.FREE_SEEN)


def test_points_with_nan_infinity_or_none_at_all(carving):
    bad = ring()
    bad[::3] = np.nan
    bad[1::3] = np.inf
    for k, points in enumerate((bad, np.full((50, 3), np.nan, np.float32), np.empty((0, 3), np.float32), ring())):
        carving.sweep(START + 100 * k * MS, points)
        carving.expect_grids(k + 1)
    assert carving.grids[-1].occupied().any()
    assert all(not np.any((g.semantics == FREE) & (g.visibility != Visibility.FREE_SEEN)) for g in carving.grids)


def test_field_order_types_and_rubbish_of_point_clouds(carving):
    carving.sweep(START)
    usual = carving.expect_grids(1)[0]
    points = columns(ring())
    other = {"ring": np.zeros(len(ring()), np.uint16), **{axis: points[axis].astype(np.float64) for axis in "zyx"}}
    carving.node.session.reset()
    carving.sweep(START + 100 * MS, message=points_to_message(START + 100 * MS, "lidar_top", other))
    carving.expect_grids(2)
    # The vehicle moves between the stamps but not relative to what it sees, so the grids are the same.
    np.testing.assert_array_equal(carving.grids[1].semantics, usual.semantics)
    truncated = points_to_message(START + 200 * MS, "lidar_top", points)
    truncated.data = truncated.data[: len(truncated.data) // 2]
    flat = points_to_message(START + 300 * MS, "lidar_top", {"x": points["x"], "y": points["y"]})
    for count, message in enumerate((truncated, flat), start=1):
        carving.sweep(0, message=message)
        carving.spin(lambda n=count: carving.node.monitor.sensor("lidar_top").unreadable == n, "an unreadable cloud")
    level, message, _ = carving.status("sensor lidar_top")
    assert level == DiagnosticStatus.WARN
    assert "fields ['z'] are missing" in message
    before = len(carving.grids)
    carving.sweep(START + 400 * MS)
    carving.spin(lambda: len(carving.grids) > before and carving.grids[-1].stamp_ns == START + 400 * MS, "a grid")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (JPEG[: len(JPEG) // 3], "cannot be decoded"),
        (b"", "expected JPEG or PNG"),
        (b"GIF89a" + bytes(100), "expected JPEG or PNG"),
        (encode_jpeg(np.zeros((90, 160, 3), np.uint8)), "image is 160x90 but its calibration is for 320x180"),
    ],
    ids=["truncated", "empty", "another format", "another size"],
)
def test_an_unreadable_image_costs_its_camera_only(cameras, data, complaint):
    cameras.image("cam_front", START)
    cameras.image("cam_back", START + 10 * MS, data)
    (grid,) = cameras.expect_grids(1)
    assert grid.cameras_used == ("cam_front",)
    level, message, values = cameras.status("sensor cam_back")
    assert level == DiagnosticStatus.WARN
    assert complaint in message
    assert values["unreadable"] == "1"
    assert cameras.status("sensor cam_front")[0] == DiagnosticStatus.OK
    cameras.images(START + 100 * MS)
    assert cameras.expect_grids(2)[1].cameras_used == ("cam_front", "cam_back")


def test_camera_without_calibration_is_left_out_until_it_has_one():
    with bench(CameraModel()) as made:
        made.calibrate(("cam_front",))
        made.images(START)
        assert made.expect_grids(1)[0].cameras == ("cam_front",)
        level, message, _ = made.status("sensor cam_back")
        assert (level, message) == (DiagnosticStatus.ERROR, "no calibration has come")
        made.calibrate()
        made.images(START + 100 * MS)
        assert made.expect_grids(2)[1].cameras_used == ("cam_front", "cam_back")


def test_a_camera_that_stops_does_not_stop_the_others(cameras):
    for k in range(12):
        cameras.images(START + 100 * k * MS, ("cam_front", "cam_back") if k < 3 else ("cam_front",))
        cameras.expect_grids(k + 1)
    assert [len(g.cameras_used) for g in cameras.grids] == [2] * 3 + [1] * 9
    level, message, _ = cameras.status("sensor cam_back")
    assert level == DiagnosticStatus.ERROR
    assert "silent for" in message


def test_missing_transforms_mean_no_fusion_not_no_grid():
    with bench(plan=LIDAR_ONLY) as made:
        made.calibrate(())
        for k in range(2):
            made.sweep(START + 100 * k * MS)
            made.expect_grids(k + 1)
        assert made.grids[-1].temporal.frames == 0
        assert "no pose" in made.grids[-1].temporal.reset
        level, message, _ = made.status("transforms")
        assert level == DiagnosticStatus.WARN
        assert "frame 'odom' is unknown" in message
        made.drive()
        for k in range(2, 4):
            made.sweep(START + 100 * k * MS)
            made.expect_grids(k + 1)
        assert made.grids[-1].temporal.frames == 1
        assert made.status("transforms")[0] == DiagnosticStatus.OK


def test_missing_mounting_is_named():
    with bench(plan=LIDAR_ONLY) as made:
        made.drive()
        made.sweep(START)
        (grid,) = made.expect_grids(1)
        assert np.all(grid.semantics == UNKNOWN)
        assert not grid.lidar_used
        level, message, values = made.status("model")
        assert "lidar_top left out: frame 'lidar_top' is unknown" in values["notes"]
        assert level == DiagnosticStatus.WARN
        assert "100.0 % of the grid is unknown" in message
        level, message, _ = made.status("sensor lidar_top")
        assert level == DiagnosticStatus.ERROR
        assert "left out: frame 'lidar_top' is unknown" in message


def test_an_output_that_died_is_not_reported_as_well(carving):
    for k in range(5):
        carving.sweep(START + 100 * k * MS)
        carving.expect_grids(k + 1)
    level, message, values = carving.status("model")
    assert level == DiagnosticStatus.OK, message
    rate = float(values["rate (Hz)"])
    carving.spin(seconds=1.3)
    level, message, values = carving.status("model")
    assert level == DiagnosticStatus.ERROR
    assert message.startswith("no grid for 1.")
    assert float(values["rate (Hz)"]) < rate / 2


def test_a_grid_that_says_nothing_is_no_good_state(carving):
    carving.sweep(START, np.full((50, 3), np.nan, np.float32))
    carving.expect_grids(1)
    level, message, _ = carving.status("model")
    assert level == DiagnosticStatus.WARN
    assert "unknown" in message or "no usable points" in message
    carving.sweep(START + 100 * MS)
    carving.expect_grids(2)
    assert carving.status("model")[0] == DiagnosticStatus.OK


def test_min_cameras_counts_images_that_could_be_decoded():
    with bench(CameraModel(), min_cameras=2, fallback="false") as made:
        made.calibrate()
        made.drive()
        made.image("cam_front", START)
        made.image("cam_back", START + 10 * MS, JPEG[: len(JPEG) // 3])
        topic = "sets dropped: too few usable images"
        made.spin(lambda: made.node.monitor.counted().get(topic) == 1, "a dropped set")
        assert made.grids == []
        level, message, _ = made.status("model")
        assert level == DiagnosticStatus.WARN
        assert "expected 2 usable images, got 1 ['cam_front']: cam_back left out" in message
        made.images(START + 100 * MS)
        assert made.expect_grids(1)[0].cameras_used == ("cam_front", "cam_back")


def test_images_that_can_never_be_decoded_end_in_the_fallback(cameras):
    for k in range(2):
        cameras.images(START + 100 * k * MS)
        cameras.expect_grids(k + 1)
    for k in range(2, 5):
        for camera in ("cam_front", "cam_back"):
            cameras.image(camera, START + 100 * k * MS, b"rubbish")
        cameras.spin(seconds=0.1)
    cameras.sweep(START + 400 * MS)
    cameras.spin(lambda: cameras.grids[-1].info.name == "lidar-carving", "a grid of the fallback")


def test_one_form_that_fails_does_not_keep_back_the_others(carving):
    forms = carving.node._outputs._forms

    def broken(occupancy):
        raise ValueError("no")

    forms.insert(0, (forms[0][0], broken))
    carving.sweep(START)
    carving.expect_grids(1)
    assert carving.node.monitor.recent_problems()["publishing failed"] == "/perception/voxels: ValueError: no"
    assert carving.status("model")[0] == DiagnosticStatus.WARN


def test_the_lidar_has_its_name_on_the_wire(carving):
    received = []
    carving._driver.create_subscription(VoxelGridMessage, "/perception/voxels", received.append, 5)
    carving.sweep(START)
    carving.spin(lambda: received, "a grid")
    assert list(received[0].lidars) == ["lidar_top"]


def test_late_transforms_are_waited_for():
    with bench(plan=LIDAR_ONLY, tf_timeout=5.0) as made:
        made.calibrate(())
        made.drive(last=START)
        made.sweep(START + 60 * MS)
        made.spin(seconds=0.3)
        assert made.grids == []
        made.drive(first=START + 50 * MS, last=START + 100 * MS)
        made.expect_grids(1)
        assert made.grids[0].temporal.reset == "first frame"


def test_stamps_that_go_back_start_anew(cameras):
    """A bag that loops: the second turn has the stamps and poses of the first."""
    for turn in range(2):
        for k in range(3):
            cameras.images(START + 300 * k * MS)
            cameras.expect_grids(3 * turn + k + 1)
        cameras.drive()
    assert [g.stamp_ns for g in cameras.grids[:3]] == [g.stamp_ns for g in cameras.grids[3:]]
    assert "time went back" in cameras.grids[3].temporal.reset
    assert cameras.grids[4].temporal.frames == 1
    assert cameras.status("synchronisation")[2]["time went back"] == "1"
    assert cameras.status("transforms")[2]["time went back"] != "0"


def test_refused_transforms_are_reported(carving):
    message = TFMessage(transforms=[])
    carving.publish(TFMessage, "/tf", message)
    for wrong in (edge("odom", "odom", START, (0, 0, 0), (0, 0, 0, 1)), edge("a", "b", START, (0, 0, 0), (0, 0, 0, 0))):
        carving.publish(TFMessage, "/tf", TFMessage(transforms=[wrong]))
    carving.spin(lambda: carving.node.monitor.counted().get("transforms refused") == 2, "two refusals")
    assert carving.status("transforms")[0] == DiagnosticStatus.WARN
    carving.sweep(START)
    carving.expect_grids(1)


def test_a_model_that_fails_is_replaced_by_carving_until_it_works_again(cameras):
    cameras.model.error = RuntimeError("out of memory")
    stamp = START
    for _ in range(3):
        stamp += 50 * MS
        cameras.images(stamp)
        cameras.spin(seconds=0.1)
    cameras.sweep(stamp)
    (grid,) = cameras.expect_grids(1)
    assert grid.info.name == "lidar-carving"
    level, message, _ = cameras.status("model")
    assert level == DiagnosticStatus.WARN
    assert "fallback to LiDAR carving: the model failed 2 times in a row: RuntimeError: out of memory" in message
    cameras.model.error = None
    end = time.monotonic() + 5
    while cameras.grids[-1].info.name != "camera-stub" and time.monotonic() < end:
        stamp += 50 * MS
        cameras.images(stamp)
        cameras.spin(seconds=0.1)
    assert cameras.grids[-1].info.name == "camera-stub"
    assert cameras.status("model")[2]["fallback"] == "not active"
    grids = len(cameras.grids)
    cameras.sweep(stamp + 500 * MS)
    cameras.spin(seconds=0.3)
    assert all(g.info.name == "camera-stub" for g in cameras.grids[grids:])


def test_carving_takes_over_when_no_camera_works(cameras):
    cameras.images(START)
    cameras.expect_grids(1)
    cameras.spin(seconds=0.7)
    cameras.sweep(START + 700 * MS)
    cameras.sweep(START + 800 * MS)
    cameras.spin(lambda: cameras.grids[-1].info.name == "lidar-carving", "a grid of the fallback")
    assert "no camera works" in cameras.status("model")[1]


def test_carving_takes_over_from_cameras_that_never_sent_anything(cameras):
    cameras.sweep(START)
    cameras.spin(seconds=0.7)
    assert cameras.grids == []
    cameras.sweep(START + 700 * MS)
    cameras.sweep(START + 800 * MS)
    assert cameras.expect_grids(1)[0].info.name == "lidar-carving"


def test_every_fallback_starts_with_a_session_of_its_own(cameras):
    """The model's thread may still be in the last one: it is never reset under its feet."""
    sessions = [cameras.node._new_fallback_session() for _ in range(2)]
    cameras.node._fallback_session = sessions[0]
    sessions.append(cameras.node._new_fallback_session())
    assert len(set(map(id, sessions))) == 3
    assert sessions[2].model is sessions[0].model


def test_without_fallback_nothing_speaks_for_the_model():
    model = CameraModel()
    model.error = ValueError("broken")
    with bench(model, fallback="false", fallback_after=1) as made:
        made.calibrate()
        for k in range(3):
            made.images(START + 50 * k * MS)
            made.sweep(START + 50 * k * MS)
            made.spin(lambda failures=k + 1: made.node.monitor.counted().get("model failed") == failures, "a failure")
        assert made.grids == []
        assert made.status("model")[0] == DiagnosticStatus.ERROR


def test_late_work_is_skipped_and_counted(cameras):
    cameras.model.delay_s = 0.2
    for k in range(12):
        cameras.images(START + 50 * k * MS)
        cameras.spin(seconds=0.05)
    cameras.spin(lambda: cameras.grids and cameras.grids[-1].stamp_ns == START + 550 * MS, "the newest set")
    skipped = int(cameras.status("model")[2]["sets skipped: the model was busy"])
    assert len(cameras.grids) + skipped == 12
    assert 3 <= len(cameras.grids) <= 6


def test_images_that_a_slow_model_will_skip_are_not_decoded(cameras):
    cameras.model.delay_s = 0.8
    for k in range(2):  # the node learns how long the model takes
        cameras.images(START + 100 * k * MS)
        cameras.expect_grids(k + 1)
    decoded = cameras.node.monitor.counted()["images prepared"]
    for k in range(2, 10):
        cameras.images(START + 100 * k * MS)
    cameras.spin(lambda: cameras.grids[-1].stamp_ns == START + 900 * MS, "the newest set")
    assert cameras.grids[-1].cameras_used == ("cam_front", "cam_back")
    assert cameras.node.monitor.counted()["images prepared"] - decoded <= 8, "of 16"


def test_diagnostics_are_published_and_complete(cameras):
    cameras.images(START)
    cameras.expect_grids(1)
    cameras.spin(lambda: cameras.diagnostics, "diagnostics", 3.0)
    names = {s.name for s in cameras.diagnostics[-1].status}
    sensors = {f"perception: sensor {n}" for n in ("cam_front", "cam_back", "lidar_top")}
    assert names == sensors | {f"perception: {n}" for n in ("model", "synchronisation", "transforms", "latency")}
    _, _, values = cameras.status("latency")
    stages = {"prepare one image", "wait for the set", "assemble", "model", "publish"}
    assert {f"{s} (ms)" for s in stages} <= set(values)
    assert cameras.status("model")[2]["weights"] == "stub"


def test_quality_of_service_that_does_not_fit_is_reported():
    with bench(plan=LIDAR_ONLY) as made:
        weak = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        publisher = made._driver.create_publisher(TFMessage, "/tf", weak)
        made.spin(lambda: "quality of service" in made.node.monitor.recent_problems(), "a report")
        text = made.node.monitor.recent_problems()["quality of service"]
        assert text.startswith("/tf: a publisher does not offer the reliability")
        made._driver.destroy_publisher(publisher)


def test_sensors_may_be_best_effort():
    with bench(plan=LIDAR_ONLY) as made:
        made.calibrate(())
        weak = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        message = points_to_message(START, "lidar_top", columns(ring()))
        made.publish(PointCloud2, "/lidar_top/points", message, weak)
        made.expect_grids(1)


def test_simulated_time_without_a_clock_is_reported():
    with bench(plan=LIDAR_ONLY, use_sim_time="true") as made:
        made.calibrate(())
        made.sweep(START)
        made.spin(lambda: "clock" in made.node.monitor.recent_problems(), "a report")
        assert made.grids == []


def test_sensors_are_found_in_the_graph():
    """No plan: the node looks for topics, and says what it waits for."""
    with bench(CameraModel(), plan=None) as made:
        made.spin(lambda: "topics" in made.node.monitor.recent_problems(), "a report")
        text = made.node.monitor.recent_problems()["topics"]
        assert "waiting for any camera with CameraInfo" in text
        assert "/rosout" in text
        for camera in PLAN.cameras:
            made._driver.create_publisher(CompressedImage, camera.image, 5)
            made._driver.create_publisher(CameraInfo, camera.info, 5)
        made._driver.create_publisher(PointCloud2, PLAN.lidar, 5)
        made.spin(lambda: made.node.plan.cameras, "a plan")
        assert made.node.plan.camera_names == ("cam_back", "cam_front")
        assert made.node.plan.lidar_name == "lidar_top"
        made._driver.create_publisher(CompressedImage, "/cam_left/image_raw/compressed", 5)
        made._driver.create_publisher(CameraInfo, "/cam_left/camera_info", 5)
        made.spin(lambda: len(made.node.plan.cameras) == 3, "the camera that came later")
        made.calibrate()
        made.images(START)
        assert made.expect_grids(1)[0].cameras_used == ("cam_back", "cam_front")


def test_what_fails_while_sensors_are_adopted_is_said_and_tried_again(monkeypatch):
    with bench(plan=None) as made:
        made._driver.create_publisher(PointCloud2, PLAN.lidar, 5)
        adopt, tries = made.node.listen_to, []

        def failing_first(plan):
            tries.append(plan)
            if len(tries) < 3:
                raise RuntimeError("the middleware is not ready")
            adopt(plan)

        monkeypatch.setattr(made.node, "listen_to", failing_first)
        made.spin(lambda: len(tries) == 1, "a first try")
        assert "the middleware is not ready" in made.status("model")[1]
        made.spin(lambda: made.node.plan.lidar, "a plan")
        assert made.node.plan.lidar_name == "lidar_top"


def test_raw_images_and_calibration_from_a_file(tmp_path):
    pixels = np.zeros((180, 320, 3), np.uint8)
    file = tmp_path / "calibration.yaml"
    entry = "{width: 320, height: 180, intrinsics: [250, 250, 160, 90], position: [1, 0, 1.5], "
    file.write_text(f"cameras:\n  nose: {entry}orientation: [-0.5, 0.5, -0.5, 0.5]}}\n")
    plan = SensorPlan((CameraTopics("nose", "/nose/image", IMAGE, None, False),))
    with bench(CameraModel(), plan, calibration_file=file) as made:
        for k, (encoding, step) in enumerate((("rgb8", 960), ("bgr8", 960), ("bayer_rggb8", 320))):
            message = Image(height=180, width=320, encoding=encoding, step=step, data=pixels.tobytes()[: step * 180])
            message.header.stamp = ns_to_stamp(START + 100 * k * MS)
            made.publish(Image, "/nose/image", message)
            made.spin(lambda n=k + 1: made.node.monitor.counted().get("images prepared") == n, "an image")
            made.expect_grids(min(k + 1, 2))  # one after the other: a busy model would skip the older
        dropped = "sets dropped: too few usable images"
        made.spin(lambda: made.node.monitor.counted().get(dropped) == 1, "a frame without any image")
        level, message, _ = made.status("sensor nose")
        assert level == DiagnosticStatus.WARN
        assert "encoding 'bayer_rggb8' is not one of rgb8, bgr8" in message


def test_deadlines_follow_simulated_time():
    with bench(CameraModel(), use_sim_time="true", deadline=0.5, silent_after=60.0) as made:

        def tick(stamp):
            made.publish(Clock, "/clock", Clock(clock=ns_to_stamp(stamp)))
            made.spin(lambda: made.node.get_clock().now().nanoseconds == stamp, "the clock")

        tick(START)
        made.calibrate()
        made.images(START, ("cam_front",))
        made.spin(lambda: made.node.monitor.sensor("cam_front").received == 1, "an image")
        made.spin(seconds=0.8)
        assert made.grids == [], "0.8 s of real time are none of simulated time"
        tick(START + 600 * MS)
        assert made.expect_grids(1)[0].cameras_used == ("cam_front",)
        tick(START - 5000 * MS)  # the bag begins anew
        made.images(START - 5000 * MS)
        made.expect_grids(2)
        assert made.grids[1].cameras_used == ("cam_front", "cam_back")
        assert made.status("synchronisation")[2]["time went back"] == "1"


def test_parameters_cannot_change_while_running(carving):
    change = carving.node.set_parameters([Parameter("tolerance", value=0.2), Parameter("use_sim_time", value=False)])
    assert [r.successful for r in change] == [False, True]
    assert "restart the node" in change[0].reason
    assert carving.node.get_parameter("tolerance").value == 0.05
    assert carving.node.get_parameter("cameras").value == ["auto"]
