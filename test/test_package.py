"""The package as a whole: who imports whom, life without ROS, and that its descriptions agree with each other."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import occ_perception

PACKAGE = REPOSITORY / "occ_perception"
PACKAGE_XML = REPOSITORY / "package.xml"

# What the rooms at the bottom of the house may import of ours. The others may import anything but the rooms in FRONT.
ALLOWED = {
    "errors": set(),
    "geometry": {"errors"},
    "ops": {"errors", "geometry"},  # geometry: only to be told about a grid
    "layers": {"errors", "geometry", "ops"},
    "ontology": {"errors"},
    "frame": {"errors", "geometry"},
    "occupancy": {"errors", "geometry", "ontology"},
}
FORBIDDEN = {
    "models": {"session", "data", "metrics", "training", "viz", "replay"},
    "session": {"data", "metrics", "training", "viz", "replay"},
}
FRONT = {"ros", "cli", "demo"}

# Names that a machine without ROS does not have.
ROS_MODULES = {
    *("ament_index_python", "builtin_interfaces", "composition_interfaces", "cv_bridge", "diagnostic_msgs"),
    *("geometry_msgs", "launch", "launch_ros", "lifecycle_msgs", "message_filters", "nav_msgs", "rcl_interfaces"),
    *("rclpy", "rosbag2_py", "rosgraph_msgs", "rosidl_runtime_py", "rpyutils", "sensor_msgs", "sensor_msgs_py"),
    *("std_msgs", "std_srvs", "tf2_msgs", "tf2_py", "tf2_ros", "tf_transformations", "visualization_msgs"),
}


def sources(folder=PACKAGE):
    return [path for path in sorted(folder.rglob("*.py")) if PACKAGE / "msg" not in path.parents]


def imports(path):
    """Full names of the modules a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "occ_perception":
                names.update(f"occ_perception.{alias.name}" for alias in node.names)
    return names


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("occ_perception.")} - {room(path)}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_rules(path):
    used = rooms_imported(path)
    if room(path) in ALLOWED:
        assert used <= ALLOWED[room(path)]
    assert not used & FORBIDDEN.get(room(path), set())
    if room(path) not in FRONT:
        assert not used & FRONT


@pytest.mark.parametrize("path", [p for p in sources() if room(p) != "ros"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_ros_imports_ros(path):
    assert not {name.split(".")[0] for name in imports(path)} & ROS_MODULES
    assert not any(name.startswith("occ_perception.msg") for name in imports(path))


def test_everything_but_ros_imports_without_ros():
    """In a process where every ROS module is missing."""
    script = f"""
import importlib, pkgutil, sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ROS_MODULES!r} or name.startswith("occ_perception.msg"):
            raise ModuleNotFoundError(f"no ROS here: {{name}}", name=name)
sys.meta_path.insert(0, NoRos())
import occ_perception
names = [m.name for m in pkgutil.walk_packages(occ_perception.__path__, "occ_perception.", onerror=lambda name: None)]
kept = [n for n in names if n.split(".")[1] not in ("ros", "msg") and "typesupport" not in n and "__main__" not in n]
for name in kept:
    importlib.import_module(name)
print(len(kept), "modules")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= len([p for p in sources() if room(p) != "ros"]) - 1  # less our __init__.py


def test_versions_agree():
    declared = re.search(r"<version>(.+)</version>", PACKAGE_XML.read_text())[1]
    assert declared == occ_perception.__version__
    assert 'version = { attr = "occ_perception.__version__" }' in (REPOSITORY / "pyproject.toml").read_text()
    try:
        installed = importlib.metadata.version("occ-perception")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed by pip: nothing more to compare")
    assert installed == declared


def ros_package():
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    return catkin_pkg.parse_package(str(PACKAGE_XML), warnings=[])


def test_package_xml_is_valid_and_names_what_users_expect():
    package = ros_package()
    package.validate()
    assert (package.name, package.package_format, package.get_build_type()) == ("occ_perception", 3, "ament_cmake")
    keys = {d.name for d in package.build_depends + package.exec_depends + package.buildtool_depends}
    assert keys >= {
        *("rclpy", "sensor_msgs", "geometry_msgs", "nav_msgs", "visualization_msgs", "diagnostic_msgs", "tf2_msgs"),
        *("cv_bridge", "sensor_msgs_py", "tf_transformations", "launch_ros", "rosidl_default_generators"),
    }


def test_every_ros_package_in_use_is_declared():
    files = sources(PACKAGE / "ros") + sorted((REPOSITORY / "launch").glob("*.py"))
    used = {name.split(".")[0] for path in files for name in imports(path)} & ROS_MODULES
    assert used  # otherwise this test looks in the wrong place
    assert used <= {d.name for d in ros_package().exec_depends}


def test_executables_exist():
    """Both ways in start main() of modules that are there."""
    commands = dict(
        re.findall(r"^install_executable\((\w+) ([\w.]+)\)", (REPOSITORY / "CMakeLists.txt").read_text(), re.M)
    )
    assert set(commands) == {"occ_perception", "perception", "play"}
    assert f'occ_perception = "{commands["occ_perception"]}:main"' in (REPOSITORY / "pyproject.toml").read_text()
    for module in commands.values():
        path = REPOSITORY / Path(*module.split(".")).with_suffix(".py")
        assert path.is_file(), f"{module} is not there"
        defined = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
        imported = {
            a.asname or a.name
            for n in ast.parse(path.read_text()).body
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        }
        assert "main" in defined | imported, f"{module} has no main()"


def test_every_message_is_generated():
    pytest.importorskip("rclpy", reason="needs ROS 2")
    import occ_perception.msg

    names = [path.stem for path in sorted((REPOSITORY / "msg").glob("*.msg"))]
    assert "VoxelGrid" in names
    for name in names:
        text = (REPOSITORY / "msg" / f"{name}.msg").read_text()
        fields = re.findall(r"^[\w/]+(?:\[\d*\])? +([a-z]\w*)", text, re.M)
        generated = getattr(occ_perception.msg, name).get_fields_and_field_types()
        assert list(generated) == fields, f"{name} was generated from another version of msg/{name}.msg: run make setup"


def test_tested_versions_satisfy_the_declared_ones():
    requirements = pytest.importorskip("packaging.requirements", reason="needs packaging")
    block = re.search(r"^dependencies = \[(.*?)^\]", (REPOSITORY / "pyproject.toml").read_text(), re.M | re.S)[1]
    declared = [requirements.Requirement(text) for text in re.findall(r'"(.+)"', block)]
    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (REPOSITORY / "requirements/core.txt").read_text().lower(), re.M))
    assert set(pinned) == {r.name for r in declared}
    for requirement in declared:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
