"""The environment of ROS processes, and the shared memory that dead ones leave. Needs no ROS but where it says so."""

import fcntl
import importlib.util
import logging
import mmap
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import namedtuple

import pytest
from conftest import REPOSITORY

from occ_perception.errors import ConfigurationError
from occ_perception.installation import share_path
from occ_perception.ros import environment, shared_memory

PROFILE_VARIABLES = {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"}
Usage = namedtuple("Usage", "free")


@pytest.fixture(autouse=True)
def _roomy_shared_memory(monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: Usage(free=2**33))


def test_missing_settings_are_only_the_missing_ones(tmp_path):
    bare = environment.missing_settings({})
    assert PROFILE_VARIABLES & set(bare)
    assert "ROS_LOG_DIR" in bare
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in bare, "a library must not fence a robot's network"
    assert "ROS_DOMAIN_ID" not in bare
    set_by_user = dict.fromkeys(bare, "mine")
    assert environment.missing_settings(set_by_user) == {}
    assert "ROS_LOG_DIR" not in environment.missing_settings({"HOME": str(tmp_path)})


@pytest.mark.parametrize("name", [*sorted(PROFILE_VARIABLES), "FASTDDS_BUILTIN_TRANSPORTS"])
def test_transports_chosen_by_the_user_stay(name):
    assert not PROFILE_VARIABLES & set(environment.missing_settings({name: "/mine.xml"}))


def test_small_shared_memory_keeps_the_default_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: Usage(free=environment.SEGMENT_BYTES))
    with caplog.at_level(logging.WARNING):
        assert not PROFILE_VARIABLES & set(environment.missing_settings({}))
    assert "64 MB free, large messages need 128 MB" in caplog.text


def test_the_profile_is_what_the_code_says_and_fences_nothing():
    text = (REPOSITORY / "config" / "fastdds.xml").read_text()
    segments = [int(e.text) for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}segment_size")]
    assert segments == [environment.SEGMENT_BYTES]
    assert "interfaceWhiteList" not in text


def test_children_find_the_libraries_of_ros_wheels_by_themselves(monkeypatch):
    if importlib.util.find_spec("ros_wheels_bootstrapper") is None:
        pytest.skip("ROS does not come from wheels here")
    # The trap: the mark that a restarted Python leaves is inherited, the library path is not.
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    command = [sys.executable, "-c", "import rclpy"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode != 0
    assert subprocess.run(command, env=environment.child_environment(), timeout=60).returncode == 0


def test_private_networks_stay_on_this_machine(monkeypatch):
    monkeypatch.setenv("ROS_DISCOVERY_SERVER", "robot:11811")
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    settings = environment.private_network()
    child = environment.child_environment(settings)
    assert child["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert child["ROS_DOMAIN_ID"] == settings["ROS_DOMAIN_ID"]
    assert "ROS_DISCOVERY_SERVER" not in child
    assert "ROS_DISCOVERY_SERVER" in environment.child_environment(), "only where asked to be private"
    domains = {int(environment.private_network()["ROS_DOMAIN_ID"]) for _ in range(50)}
    assert len(domains) > 10
    assert domains <= set(range(1, 102))


def test_files_of_the_package_are_found():
    assert share_path("config/fastdds.xml").read_text().startswith("<?xml")
    with pytest.raises(ConfigurationError, match=r"'config/none.yaml' of occ_perception is in none of"):
        share_path("config/none.yaml")


# --- Shared memory ---------------------------------------------------------------------------------------------------

SEGMENT, LOCK = "fastdds_00112233aabbccdd", "fastdds_00112233aabbccdd_el"
PORT = ("fastdds_port7411", "fastdds_port7411_el", "sem.fastdds_port7411_mutex")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A shared-memory folder with one segment, one port and a stranger's file, all a minute old."""
    for name in (SEGMENT, LOCK, *PORT, "lttng-ust-wait-6", "fastdds_notes.txt"):
        (tmp_path / name).write_bytes(bytes(64))
    now = time.time()
    monkeypatch.setattr(shared_memory.time, "time", lambda: now + 60)
    return tmp_path


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_segments_of_dead_processes_are_removed(folder):
    assert shared_memory.remove_stale_segments(folder) == [SEGMENT, PORT[0]]
    assert left(folder) == {"lttng-ust-wait-6", "fastdds_notes.txt"}


def test_segments_whose_owner_lives_are_kept(folder):
    with (folder / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shared_memory.remove_stale_segments(folder) == [PORT[0]]
    assert {SEGMENT, LOCK} <= left(folder)


def test_segments_somebody_maps_are_kept(folder):
    with (folder / PORT[0]).open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert shared_memory.remove_stale_segments(folder) == [SEGMENT]
    assert set(PORT) <= left(folder)


def test_young_segments_are_kept(folder, monkeypatch):
    now = time.time()
    monkeypatch.setattr(shared_memory.time, "time", lambda: now - 55)
    before = left(folder)
    assert shared_memory.remove_stale_segments(folder) == []
    assert left(folder) == before


def test_every_process_cleans_up_before_it_takes_its_own(monkeypatch):
    called = []
    monkeypatch.setattr(environment, "remove_stale_segments", lambda: called.append(True))
    monkeypatch.setattr(environment.os, "environ", {"PATH": "/bin"})
    environment.prepare_process()
    assert called == [True]

    def refused():
        raise PermissionError("/dev/shm")

    monkeypatch.setattr(environment, "remove_stale_segments", refused)
    environment.prepare_process()  # said, and no reason not to start


def test_machines_without_shared_memory(tmp_path):
    assert shared_memory.remove_stale_segments(tmp_path / "none") == []
