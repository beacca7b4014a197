"""Put what CMake installs for a ROS interface package into a pip wheel. Used by setup.py and compat/*/setup.py."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Distribution
from setuptools.command.build_ext import build_ext

FIXUPS = Path(__file__).resolve().parent / "wheel_fixups.cmake"
PURELIB = os.path.relpath(sysconfig.get_path("purelib"), sys.prefix)
DataFiles = list[tuple[str, list[str]]]


def setup_keywords(package: str, source: Path, share_folders: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments for ``setuptools.setup`` of the ROS package in the folder ``source``.

    Args:
        package: name of the ROS package, which is also that of the Python package.
        source: folder of its CMakeLists.txt and setup.py.
        share_folders: folders that go to share/<package> even where there is no rosidl.
    """

    class BuildPackageInterfaces(BuildInterfaces):
        ros_package = package
        source_folder = source

    return {
        "distclass": PlatformDistribution,
        "cmdclass": {"build_ext": BuildPackageInterfaces},
        "data_files": _share_files(package, source, share_folders),
    }


def ros_prefixes() -> list[str]:
    """Installation prefixes of ROS with this Python environment as the last; empty when none of them has rosidl."""
    sourced = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    prefixes = list(dict.fromkeys([*sourced, sys.prefix]))
    has_rosidl = any(Path(prefix, "share", "rosidl_default_generators").is_dir() for prefix in prefixes)
    return prefixes if has_rosidl else []


class PlatformDistribution(Distribution):
    """Its wheels are for one platform exactly when they carry generated messages."""

    def has_ext_modules(self) -> bool:
        return bool(ros_prefixes())


class BuildInterfaces(build_ext):
    """Run the package's CMakeLists.txt and take over everything it installs.

    The generated Python modules go into the package; what belongs elsewhere under the prefix (libraries, the ament
    index, headers, executables) goes there as data files, which pip records and removes again. An editable install
    puts the generated modules into site-packages too: `extend_path` in the sources' ``__init__.py`` joins both.
    """

    ros_package: str
    source_folder: Path

    def run(self) -> None:
        stage = self._install_to_stage(Path(self.build_temp).resolve() / "cmake")
        generated, elsewhere = [], []
        for path in sorted(p for p in stage.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            relative = path.relative_to(stage)
            if relative.parts[0] != "python":
                elsewhere.append((relative.parent, path))
            elif relative.parts[1] == self.ros_package and path.suffix != ".c":
                in_package = Path(*relative.parts[1:])
                if not (self.source_folder / in_package).exists():
                    generated.append((in_package, path))
        if self.editable_mode:
            elsewhere += [(Path(PURELIB) / relative.parent, path) for relative, path in generated]
        else:
            for relative, path in generated:
                target = Path(self.build_lib) / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
        self.distribution.data_files = _grouped(elsewhere, self.source_folder)
        if self.editable_mode:
            self.run_command("install_data")  # setuptools' editable_wheel decided before us that there are none

    def _install_to_stage(self, work: Path) -> Path:
        """Configure, build and install with CMake; returns the prefix that holds the result."""
        shutil.rmtree(work, ignore_errors=True)  # its cache may be of another ROS or another environment
        stage = work / "stage"
        prefixes = ros_prefixes()
        cmake, ninja = _tool("cmake"), _tool("ninja")
        if cmake is None:
            raise SystemExit("cmake not found, and generating the messages needs it: pip install cmake ninja")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "BUILD_TESTING": "OFF",
            "CMAKE_INSTALL_PREFIX": stage,
            "CMAKE_INSTALL_LIBDIR": "lib",
            "CMAKE_INSTALL_RPATH": "$ORIGIN;$ORIGIN/../../..",  # site-packages/<package> and lib both find lib
            "CMAKE_PREFIX_PATH": ";".join(prefixes),
            "CMAKE_PROJECT_INCLUDE": FIXUPS,
            "PYTHON_INSTALL_DIR": "python",
            "Python3_EXECUTABLE": Path(sys.prefix, "bin", "python3"),
        }
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        configure = [cmake, "-S", str(self.source_folder), "-B", str(work), *generator]
        configure += [f"-D{key}={value}" for key, value in options.items()]
        environment = _build_environment(prefixes)
        for command in (configure, [cmake, "--build", str(work), "--parallel"], [cmake, "--install", str(work)]):
            subprocess.run(command, check=True, env=environment)
        return stage

    # setuptools asks these for its list of extension modules, of which there are none.
    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


def _build_environment(prefixes: list[str]) -> dict[str, str]:
    """Environment in which the generators see the whole ROS.

    pip's isolated build hides site-packages by way of PYTHONPATH; replacing it brings the ROS wheels back.
    """
    overlays = [str(Path(prefix, PURELIB)) for prefix in prefixes if prefix != sys.prefix]
    inherited = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and _below(p, prefixes)]
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(prefixes),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*overlays, *inherited])),
    }


def _below(path: str, prefixes: list[str]) -> bool:
    return any(Path(prefix) in Path(path).parents for prefix in prefixes)


def _tool(name: str) -> str | None:
    """A program of this environment (PyPI has wheels of cmake and ninja) or of the system."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", os.defpath)]))


def _share_files(package: str, source: Path, folders: tuple[str, ...]) -> DataFiles:
    files = [path for folder in folders for path in sorted((source / folder).rglob("*")) if path.is_file()]
    shared = [(Path("share", package, path.relative_to(source).parent), path) for path in files]
    return _grouped([entry for entry in shared if "__pycache__" not in entry[1].parts], source)


def _grouped(files: list[tuple[Path, Path]], source: Path) -> DataFiles:
    """(folder under the prefix, file) pairs as setuptools wants them: by folder, files relative to setup.py."""
    folders: dict[str, list[str]] = {}
    for folder, path in files:
        folders.setdefault(str(folder), []).append(os.path.relpath(path, source))
    return sorted(folders.items())
