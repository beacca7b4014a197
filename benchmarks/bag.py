"""Throughput of bags on one core: converting a nuScenes scene, reading it raw and decoded, salvaging it.

    python benchmarks/bag.py

The scene is made up but of real sizes, its calibration, poses and stamps are those of the tests' street (test/street):
JPEGs of 140 kB (random bytes: they are copied, not decoded) at 12 Hz from six cameras and sweeps of 34 688 points at
20 Hz. The budget of converting is 150 MB/s of input.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

from street.drive import StreetDrive

from benchmarks.report import report
from occ_perception.bag_frames import BagFrames
from occ_perception.data.bag_reader import BagReader
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.geometry import quaternion_from_rotation
from occ_perception.parameters import Parameters

SECONDS = 20.0
JPEG_BYTES = 140_000
REPEATS = 3


def make_scene(root: Path) -> int:
    """Write a tree of one scene; returns the bytes of its files."""
    drive = StreetDrive(SECONDS)
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict]] = {"sample_data": [], "ego_pose": [], "calibrated_sensor": [], "sensor": []}
    mounts = {name.upper(): (c.ego_from_camera, c.intrinsics.tolist()) for name, c in drive.rig.items()}
    mounts["LIDAR_TOP"] = (drive.ego_from_lidar, [])
    for channel, (pose, intrinsics) in mounts.items():
        token = _token(channel)
        rows["sensor"].append({"token": token, "channel": channel, "modality": "camera" if intrinsics else "lidar"})
        mount = {"token": token, "sensor_token": token, "camera_intrinsic": intrinsics}
        rows["calibrated_sensor"].append(mount | _pose(pose))
        (root / "sweeps" / channel).mkdir(parents=True)
    shots = [(stamp, "LIDAR_TOP") for stamp in drive.sweep_stamps()]
    shots += [(drive.image_stamp(name, stamp), name.upper()) for stamp in drive.set_stamps() for name in drive.rig]
    sweep = np.zeros((1084, 32, 5), "<f4")
    sweep[..., :3] = rng.normal(0, 20, (1084, 32, 3))
    sweep[..., 4] = np.arange(32)
    total = 0
    for stamp, channel in shots:
        data = sweep.tobytes() if channel == "LIDAR_TOP" else rng.bytes(JPEG_BYTES)
        name, token = f"sweeps/{channel}/{stamp}", _token(f"{channel}-{stamp}")
        (root / name).write_bytes(data)
        total += len(data)
        keys = {"token": token, "sample_token": _token("sample"), "ego_pose_token": token}
        keys["calibrated_sensor_token"] = _token(channel)
        file = {"filename": name, "width": 800, "height": 450, "timestamp": stamp // 1000, "is_key_frame": False}
        rows["sample_data"].append(keys | file)
        rows["ego_pose"].append({"token": token, "timestamp": stamp // 1000} | _pose(drive.odom_from_ego(stamp)))
    scene, log = {"token": _token("scene"), "name": "scene-0001"}, {"token": _token("log")}
    rows["scene"] = [scene | {"description": "", "log_token": log["token"]}]
    rows["log"] = [log | {"vehicle": "", "location": ""}]
    sample = {"token": _token("sample"), "timestamp": drive.sweep_stamps()[0] // 1000, "scene_token": scene["token"]}
    rows["sample"] = [sample]
    (root / "v1.0-mini").mkdir()
    for table, content in rows.items():
        (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(content))
    return total


def _token(name: str) -> str:
    """A token as nuScenes': 32 hexadecimal digits."""
    return hashlib.md5(name.encode()).hexdigest()


def _pose(matrix: np.ndarray) -> dict[str, list[float]]:
    x, y, z, w = quaternion_from_rotation(matrix[:3, :3]).tolist()
    return {"translation": matrix[:3, 3].tolist(), "rotation": [w, x, y, z]}


def row(what: str, storage: str, size: int, run: Callable[[], object]) -> dict[str, object]:
    """Best of a few runs, by wall and by CPU time; the page cache is warm."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    megabytes = size / 1e6
    return {
        "what": what,
        "storage": storage,
        "MB": round(megabytes),
        "MB/s": round(megabytes / min(wall)),
        "MB/s of CPU": round(megabytes / min(cpu)),
    }


def bag_rows(root: Path, size: int, storage: str) -> list[dict[str, object]]:
    """Convert and read one storage."""
    output = root / storage

    def convert() -> None:
        from_nuscenes(root, None, (), output, SceneBagSettings(storage), overwrite=True, progress=False)

    rows = [row("convert nuScenes", storage, size, convert)]
    path = next(output.iterdir())

    def read(bag_path: Path, decode: bool) -> None:
        with BagReader(bag_path) as bag:
            for message in bag.messages():
                if decode:
                    bag.decode(message)

    def frames() -> None:
        with BagReader(path) as bag:
            for _ in BagFrames(bag, Parameters()):
                pass

    rows.append(row("read raw", storage, size, lambda: read(path, False)))
    rows.append(row("read and decode", storage, size, lambda: read(path, True)))
    rows.append(row("frames (synchronised)", storage, size, frames))
    file = next(f for f in path.iterdir() if f.suffix != ".yaml")
    os.truncate(file, file.stat().st_size - 1_000_000)
    rows.append(row("read raw, cut off", storage, size, lambda: read(file, False)))
    return rows


def main() -> None:
    """Print and store the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = make_scene(root)
        rows = [r for storage in ("mcap", "sqlite3") for r in bag_rows(root, size, storage)]
    report("bag", rows)


if __name__ == "__main__":
    main()
