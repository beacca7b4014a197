"""The environment variables ROS processes need: sensible ones where the user set none, and private ones for tests.

Import this before rclpy. Nothing here fences a robot's network: which hosts are reached stays the user's choice, except
in `private_network`, which demos and tests ask for.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from occ_perception.installation import share_path
from occ_perception.ros.shared_memory import remove_stale_segments

SEGMENT_BYTES = 67_108_864
"""Shared memory that each process takes with config/fastdds.xml."""

_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_TRANSPORT_VARIABLES = (*_PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")
_KILTED_RCLPY = 9  # rclpy's major version from Kilted on, where the variable of the profile was renamed
_BOOTSTRAP_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_REACHES_OTHER_HOSTS = ("ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY")
_DOMAINS = range(1, 102)  # up to 101 DDS stays below Linux's ephemeral ports

_log = logging.getLogger(__name__)


def prepare_process() -> None:
    """Set what is missing in this process, and remove the shared memory of dead ones; call before rclpy is imported."""
    try:
        remove_stale_segments()  # first: whether there is room for ours may depend on it
    except OSError as error:
        _log.warning("shared memory of dead processes could not be removed: %s", error)
    os.environ.update(missing_settings(os.environ))


def child_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for a child process that runs ROS with this same Python.

    Args:
        settings: variables that win over everything, for example `private_network`.
    """
    environment = {**os.environ, **missing_settings(os.environ)}
    # ROS wheels find their libraries by restarting Python once with LD_LIBRARY_PATH set. A child that inherits the mark
    # "restarted" without the path cannot load them, so it shall find out for itself (20 ms).
    environment.pop(_BOOTSTRAP_GUARD, None)
    if settings and "ROS_AUTOMATIC_DISCOVERY_RANGE" in settings:
        for name in _REACHES_OTHER_HOSTS:
            environment.pop(name, None)
    return {**environment, **(settings or {})}


def private_network() -> dict[str, str]:
    """Settings that keep a group of processes to this machine and, most likely, to themselves.

    Draw once per group: every call picks another ROS domain at random.
    """
    domain = random.SystemRandom().choice(_DOMAINS)
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(domain)}


def missing_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What `prepare_process` adds to an environment; never a variable that is set."""
    settings: dict[str, str] = {}
    if not any(name in environment for name in _TRANSPORT_VARIABLES):
        settings.update(_transport_profile())
    if "AMENT_PREFIX_PATH" not in environment and Path(sys.prefix, "share", "ament_index").is_dir():
        settings["AMENT_PREFIX_PATH"] = sys.prefix  # the wheels do not say where they are
    if not any(name in environment for name in ("ROS_LOG_DIR", "ROS_HOME")) and not _can_write_home(environment):
        settings["ROS_LOG_DIR"] = str(Path(tempfile.gettempdir(), f"ros-log-{os.getuid()}"))
    return settings


def _transport_profile() -> dict[str, str]:
    """Fast DDS shared memory that holds a burst of camera images, if this machine has room for it."""
    shared_memory = Path("/dev/shm")
    free = shutil.disk_usage(shared_memory).free if shared_memory.is_dir() else 0
    if free < 2 * SEGMENT_BYTES:
        _log.warning(
            "/dev/shm has %d MB free, large messages need %d MB: keeping Fast DDS's small default, with which bursts "
            "of images are lost (in a container: more --shm-size)",
            free >> 20,
            2 * SEGMENT_BYTES >> 20,
        )
        return {}
    return dict.fromkeys(_profile_variables(), str(share_path("config/fastdds.xml")))


def _profile_variables() -> tuple[str, ...]:
    """The variable that this ROS reads: Kilted renamed it and warns about the old name, Jazzy knows only that."""
    try:
        major = int(metadata.version("rclpy").split(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return _PROFILE_VARIABLES
    return _PROFILE_VARIABLES[:1] if major >= _KILTED_RCLPY else _PROFILE_VARIABLES[1:]


def _can_write_home(environment: Mapping[str, str]) -> bool:
    home = environment.get("HOME")
    return home is not None and os.access(home, os.W_OK)
