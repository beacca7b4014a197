"""The part of pip's way in that setuptools cannot know by itself; names and dependencies are in pyproject.toml.

With rosidl in reach (ROS wheels in this environment, or a sourced ROS) the messages are generated and go into the
wheel together with launch files and executables: the same CMakeLists.txt that colcon builds. Without, only the
ROS-free core is installed.
"""

import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "cmake"))

from interface_wheel import setup_keywords  # noqa: E402

setup(**setup_keywords("occ_perception", HERE, share_folders=("launch", "config", "msg")))
