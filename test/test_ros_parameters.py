"""One dataclass of parameters: complete defaults, files that only override, and clear refusals."""

import dataclasses

import pytest
import yaml
from conftest import REPOSITORY

from occ_perception.calibration import load_calibration
from occ_perception.errors import ConfigurationError
from occ_perception.models import create_model
from occ_perception.models.lidar_carving_config import LidarCarvingConfig, OwnVehicle
from occ_perception.parameters import Parameters

CONFIG = REPOSITORY / "config"


def test_documented_file_lists_every_parameter_with_its_default():
    assert Parameters.from_file(CONFIG / "perception.yaml") == Parameters()
    written = yaml.safe_load((CONFIG / "perception.yaml").read_text())["/**"]["ros__parameters"]
    expected = {field.name for field in dataclasses.fields(Parameters)} - {"offsets"}  # an example, commented out
    assert set(written) == expected


def test_every_parameter_is_documented():
    documented = [line.strip().split(":")[0] for line in Parameters.__doc__.splitlines() if line.startswith("        ")]
    assert documented == [field.name for field in dataclasses.fields(Parameters)]


def test_nuscenes_file():
    parameters = Parameters.from_file(CONFIG / "nuscenes.yaml")
    rules = parameters.synchronisation(parameters.camera_names, "lidar_top", needs_images=True)
    assert rules.preferred_anchor == "cam_front"
    assert rules.offsets_s["cam_back_left"] == -0.0005
    assert len(rules.cameras) == 6


def test_own_section_wins_and_other_nodes_are_ignored(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text(
        "/**: {ros__parameters: {tolerance: 0.03, use_sim_time: true}}\n"
        "perception: {ros__parameters: {tolerance: 0.04}}\n"
        "another_node: {ros__parameters: {speed: 3.0}}\n"
    )
    assert Parameters.from_file(file) == Parameters(tolerance=0.04)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": "x"}, r"unknown parameter 'modle' \(did you mean 'model'\?\); the parameters are: model, weights, "),
        ({"tolerance": "wide"}, "tolerance: expected float, got str 'wide'"),
        ({"min_cameras": 2.5}, "min_cameras: expected int, got float 2.5"),
        ({"min_cameras": True}, "min_cameras: expected int, got bool"),
        ({"fallback": 1}, "fallback: expected bool, got int"),
        ({"cameras": [1, 2]}, "cameras: expected list of strings"),
        ({"offsets": {"cam_front": "soon"}}, r"offsets.cam_front: expected float, got str"),
        ({"offsets.cam_front": None}, r"offsets.cam_front: expected float, got NoneType"),
        ({"encoding": "zip"}, "encoding: expected one of sparse, dense, got 'zip'"),
        ({"deadline": 0}, "deadline: expected at least 0.001"),
        ({"deadline": float("nan")}, "deadline: expected a finite number"),
        ({"tolerance": float("inf")}, "tolerance: expected a finite number"),
        ({"diagnostics_period": float("inf")}, "diagnostics_period: expected a finite number"),
        ({"ground_grid_max_height": float("inf")}, "ground_grid_max_height: expected a finite number"),
        ({"retry_after": 1e300}, "retry_after: expected a finite number, at most 1e"),
        ({"torch_threads": 10**12}, "torch_threads: expected a finite number, at most 1e"),
        ({"offsets.cam_front": float("-inf")}, "offsets.cam_front: expected a finite number"),
        ({"device": "meta"}, "device: expected auto, cpu, cuda or cuda:N, got 'meta'"),
        ({"ground_grid_min_height": 3.0}, "ground_grid_min_height must be below"),
        ({"base_frame": "odom"}, "two different frames"),
        ({"lidar_compensated": "maybe"}, "lidar_compensated: expected one of auto, yes, no, got 'maybe'"),
        ({"lidar_min_range": -1.0}, "0 <= min_range < max_range, got -1"),
        ({"own_vehicle_front": -2.0}, "own vehicle: expected finite numbers, rear <= front"),
        ({"own_vehicle_half_width": float("nan")}, "expected (a )?finite number"),
        ({"ground_height": float("inf")}, "expected a finite (number|ground_height)"),
        ({"tracking_memory": -1.0}, "tracking: expected a memory of 0 s or more"),
        ({"tracking_confirm": 0}, "1 frame or more, got 1.0 and 0"),
        ({"image_topics": ["/a"]}, "expected one topic for each of the cameras"),
    ],
)
def test_wrong_names_and_values_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=message):
        Parameters.from_mapping(values)


def test_carving_gets_the_footprint_and_defaults_are_its_own():
    assert Parameters().carving() == LidarCarvingConfig()
    values = {"rear": -0.3, "front": 0.5, "half_width": 0.25, "top": 0.6}
    parameters = Parameters.from_mapping(
        {f"own_vehicle_{name}": value for name, value in values.items()}
        | {"ground_height": -0.1, "lidar_min_range": 0.2}
    )
    expected = LidarCarvingConfig(own_vehicle=OwnVehicle(**values), ground_height=-0.1, min_range=0.2)
    assert create_model("lidar-carving", carving=parameters.carving()).config == expected


def test_yes_and_no_are_what_yaml_makes_of_them(tmp_path):
    file = tmp_path / "raw.yaml"
    file.write_text("lidar_compensated: no\n")
    parameters = Parameters.from_file(file)
    assert parameters.lidar_compensated == "no"
    assert not parameters.assembly().lidar_compensated
    assert Parameters().assembly().lidar_compensated


def test_values_are_taken_in_the_forms_ros_has():
    parameters = Parameters.from_mapping(
        {"tolerance": 1, "cameras": "cam_front", "image_topics": [""], "offsets.cam_front": -1, "min_cameras": 1}
    )
    assert parameters == Parameters(tolerance=1.0, cameras=("cam_front",), offsets={"cam_front": -1.0})


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "\x00"])
def test_files_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"bad\.yaml"):
        Parameters.from_file(tmp_path / "bad.yaml")
    with pytest.raises(ConfigurationError, match="absent"):
        Parameters.from_file(tmp_path / "absent.yaml")


def test_anchor_must_be_a_sensor():
    with pytest.raises(ConfigurationError, match="anchor 'nose' is none of the sensors"):
        Parameters(anchor="nose").synchronisation(("a",), "", needs_images=True)


def test_lidar_is_the_anchor_of_models_without_images():
    assert Parameters().synchronisation(("a",), "top", needs_images=False).preferred_anchor == "top"
    assert Parameters().synchronisation(("a",), "top", needs_images=True).preferred_anchor == "a"


def test_example_calibration_is_one():
    calibration = load_calibration(CONFIG / "calibration_example.yaml")
    camera = calibration.rig["cam_front"]
    assert (camera.width, camera.height) == (1600, 900)
    assert camera.ego_from_camera[:3, 2] == pytest.approx([1, 0, 0])  # it looks forward
    assert camera.ego_from_camera[:3, 1] == pytest.approx([0, 0, -1])  # and stands upright
    assert calibration.ego_from_lidar[2, 3] == 1.84


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsics": [1, 2, 3]}, "intrinsics: expected 4 finite numbers"),
        ({"intrinsics": [1, "x", 3, 4]}, "intrinsics: expected 4 numbers"),
        ({"width": None}, "width"),
        ({"orientation": [0, 0, 0, 0]}, "quaternion"),
        ({"colour": "red"}, "expected exactly the keys"),
        ({"position": [0, 0, float("nan")]}, "position: expected 3 finite numbers"),
    ],
)
def test_wrong_calibrations_are_refused(tmp_path, change, message):
    content = yaml.safe_load((CONFIG / "calibration_example.yaml").read_text())
    content["cameras"]["cam_front"].update(change)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match=message):
        load_calibration(tmp_path / "c.yaml")
