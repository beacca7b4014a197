"""pip install ./compat/tf2_msgs: the messages of tf2 where ROS comes from PyPI wheels. Not for a ROS installation."""

import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "cmake"))  # pip builds in place, so the repository is around us

from interface_wheel import setup_keywords  # noqa: E402

setup(name="tf2-msgs-shim", version="0.1.0", packages=[], **setup_keywords("tf2_msgs", HERE))
