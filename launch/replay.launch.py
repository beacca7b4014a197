"""Play a bag through the perception node and show it in RViz.

ros2 launch occ_perception replay.launch.py bag:=DIR
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

PASSED_ON = {
    "model": "",
    "weights": "",
    "device": "",
    "params": "",
    "rate": "1.0",
    "loop": "true",
    "use_sim_time": "",
    "rviz": "true",
}


def generate_launch_description():
    """perception.launch.py with a bag, which must be given, and with RViz."""
    share = FindPackageShare("occ_perception")
    arguments = [DeclareLaunchArgument("bag", description="the bag, a folder or a file")]
    arguments += [
        DeclareLaunchArgument(name, default_value=default, description="see perception.launch.py")
        for name, default in PASSED_ON.items()
    ]
    values = {name: LaunchConfiguration(name) for name in ("bag", *PASSED_ON)}
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "perception.launch.py"])),
        launch_arguments=values.items(),
    )
    return LaunchDescription([*arguments, perception])
