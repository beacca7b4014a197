"""Launch files and the RViz configuration.

``launch`` is not on PyPI, so here the files run against stand-ins that record what was built: which actions, with which
arguments.  That ROS's own launch takes them is not shown by this test.
"""

import py_compile
import runpy
import sys
from types import ModuleType

import pytest
import yaml
from conftest import REPOSITORY

LAUNCH = REPOSITORY / "launch"


class Recorded:
    """Any launch class: remembers its arguments."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


class LaunchConfiguration(Recorded):
    def perform(self, context):
        return context[self.args[0]]


MODULES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "IncludeLaunchDescription", "OpaqueFunction",
        "RegisterEventHandler",
    ],
    "launch.conditions": ["IfCondition"],
    "launch.event_handlers": ["OnProcessExit"],
    "launch.events": ["Shutdown"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["PathJoinSubstitution"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.substitutions": ["FindPackagePrefix", "FindPackageShare"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    for name, classes in MODULES.items():
        module = ModuleType(name)
        for cls in classes:
            setattr(module, cls, type(cls, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch.substitutions"].LaunchConfiguration = LaunchConfiguration


def describe(name):
    (description,) = runpy.run_path(str(LAUNCH / name))["generate_launch_description"]().args
    return {a.args[0]: a.kwargs.get("default_value") for a in description if kind(a) == "DeclareLaunchArgument"}, [
        a for a in description if kind(a) != "DeclareLaunchArgument"
    ]


def kind(action):
    return type(action).__name__


def processes(**given):
    """What perception.launch.py starts with these arguments."""
    defaults, (opaque,) = describe("perception.launch.py")
    return opaque.kwargs["function"]({**defaults, **given})


@pytest.mark.parametrize("name", ["perception.launch.py", "replay.launch.py"])
def test_launch_files_compile(name, tmp_path):
    py_compile.compile(str(LAUNCH / name), cfile=str(tmp_path / "compiled"), doraise=True)


def test_arguments():
    defaults, _ = describe("perception.launch.py")
    assert set(defaults) == {"model", "weights", "device", "params", "bag", "rate", "loop", "use_sim_time", "rviz"}


def test_live_starts_the_node_only():
    node, rviz = processes()
    assert (node.kwargs["package"], node.kwargs["executable"], node.kwargs["name"]) == (
        "occ_perception", "perception", "perception",
    )  # fmt: skip
    assert node.kwargs["parameters"] == []
    assert rviz.kwargs["executable"] == "rviz2"
    assert rviz.kwargs["condition"].args[0].args == ("rviz",)


def test_arguments_override_the_parameter_file():
    node, _ = processes(model="alocc-3d", weights="w.safetensors", device="cuda", params="p.yaml")
    overrides = {"model": "alocc-3d", "weights": "w.safetensors", "device": "cuda"}
    assert node.kwargs["parameters"] == ["p.yaml", overrides]


def test_simulated_time_is_as_asked_else_as_the_parameter_file_says():
    assert processes(params="p.yaml")[0].kwargs["parameters"] == ["p.yaml"]
    assert processes(use_sim_time="true")[0].kwargs["parameters"] == [{"use_sim_time": True}]
    node, *_, rviz = processes(use_sim_time="false", bag="drive")
    assert node.kwargs["parameters"] == rviz.kwargs["parameters"] == [{"use_sim_time": False}]


def test_a_bag_is_played_with_its_clock_and_ends_it_all():
    node, play, handler, rviz = processes(bag="drive", rate="0.5", loop="true")
    assert node.kwargs["parameters"] == [{"use_sim_time": True}]
    assert rviz.kwargs["parameters"] == [{"use_sim_time": True}]
    command = play.kwargs["cmd"]
    assert command[0].args[0][1:] == ["lib", "occ_perception", "play"]
    assert command[1:] == ["drive", "--clock", "--rate", "0.5", "--delay", "4", "--loop"]
    on_exit = handler.args[0]
    assert on_exit.kwargs["target_action"] is play
    assert kind(on_exit.kwargs["on_exit"][0].kwargs["event"]) == "Shutdown"
    assert "--loop" not in processes(bag="drive")[1].kwargs["cmd"]


def test_player_command_is_one_that_play_understands():
    from occ_perception.ros.play import _parser

    options = _parser().parse_args([str(a) for a in processes(bag="drive", loop="true")[1].kwargs["cmd"][1:]])
    assert (options.rate, options.loop, options.clock, options.delay) == (1.0, True, 100.0, 4.0)


def test_replay_passes_everything_on():
    arguments, (include,) = describe("replay.launch.py")
    known, _ = describe("perception.launch.py")
    assert set(arguments) == set(known)
    assert arguments["bag"] is None  # must be given
    assert arguments["rviz"] == "true"
    assert {name for name, _ in include.kwargs["launch_arguments"]} == set(known)
    assert include.args[0].args[0].args[0][1:] == ["launch", "perception.launch.py"]


def test_rviz_shows_our_topics_and_the_bags():
    config = yaml.safe_load((REPOSITORY / "config" / "rviz" / "occupancy.rviz").read_text())
    manager = config["Visualization Manager"]
    displays = {d["Name"]: d for d in manager["Displays"]}
    topics = {d["Topic"]["Value"] for d in displays.values() if "Topic" in d}
    assert {"/perception/points", "/perception/markers", "/perception/ground_grid", "/lidar_top/points"} <= topics
    assert sum(t.endswith("/image_raw/compressed") for t in topics) == 6
    assert (displays["Occupancy"]["Style"], displays["Occupancy"]["Size (m)"]) == ("Boxes", 0.4)
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
