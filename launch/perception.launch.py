"""The perception node, optionally fed by a bag, optionally with RViz.

ros2 launch occ_perception perception.launch.py model:=alocc-3d weights:=alocc_3d.safetensors rviz:=true
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, OpaqueFunction, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackagePrefix, FindPackageShare

ARGUMENTS = {
    "model": ("", "which model, see 'occ_perception models'; empty = as in params, else lidar-carving"),
    "weights": ("", "its .safetensors file"),
    "device": ("", "auto, cpu, cuda, cuda:N"),
    "params": ("", "parameter file, for example config/nuscenes.yaml of this package"),
    "bag": ("", "bag to play into the node; empty = live sensors"),
    "rate": ("1.0", "how many times as fast as recorded the bag is played"),
    "loop": ("false", "start the bag again at its end"),
    "use_sim_time": ("", "true or false; empty = as in params, but true if a bag is played"),
    "rviz": ("false", "show the result in RViz"),
}


def generate_launch_description():
    """Arguments, then the processes they ask for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=launch_processes)])


def launch_processes(context):
    """The node, the player if there is a bag, and RViz if it is wanted."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides = {name: given[name] for name in ("model", "weights", "device") if given[name]}
    simulated = given["use_sim_time"].lower() in ("true", "1") if given["use_sim_time"] else bool(given["bag"])
    if given["use_sim_time"] or given["bag"]:
        overrides["use_sim_time"] = simulated
    perception = Node(
        package="occ_perception",
        executable="perception",
        name="perception",
        output="screen",
        parameters=[setting for setting in (given["params"], overrides) if setting],
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=[
            "-d",
            PathJoinSubstitution([FindPackageShare("occ_perception"), "config", "rviz", "occupancy.rviz"]),
        ],
        parameters=[{"use_sim_time": simulated}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return [perception, *(player(given) if given["bag"] else []), rviz]


def player(given):
    """The bag with its clock; when it has been played, everything ends."""
    executable = PathJoinSubstitution([FindPackagePrefix("occ_perception"), "lib", "occ_perception", "play"])
    loop = ["--loop"] if given["loop"].lower() in ("true", "1") else []
    # Discovery takes the node about a second, so the player waits before the first message.
    command = [executable, given["bag"], "--clock", "--rate", given["rate"], "--delay", "4", *loop]
    play = ExecuteProcess(cmd=command, name="play", output="screen")
    return [play, RegisterEventHandler(OnProcessExit(target_action=play, on_exit=[EmitEvent(event=Shutdown())]))]
