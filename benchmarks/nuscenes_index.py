"""Opening nuScenes: the index of a table set as large as v1.0-trainval, made the first time and from its cache.

    python benchmarks/nuscenes_index.py [--scenes 850] [--folder /tmp]

Writes synthetic tables in nuScenes' own formatting (one value a line, no indentation; 850 scenes, 34 000 samples,
2.6 million records of 12 sensors each with an ego pose, 1.4 million boxes; 2.6 GB), without any sensor file, opens them
in fresh processes and deletes them.  ``peak_mb`` is the largest resident memory of such a process, imports included;
the target is <= 60 s and <= 6 GB at first and <= 3 s afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import report

VERSION = "v1.0-trainval"
SAMPLES = 40
BOXES_PER_SAMPLE = 41
CAMERAS = ("FRONT", "FRONT_RIGHT", "FRONT_LEFT", "BACK", "BACK_LEFT", "BACK_RIGHT")
RADARS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")
PERIOD_US = {"CAM": 83_333, "RADAR": 76_923, "LIDAR": 50_000}
START_US = 1_531_883_530_412_470
OPEN = """
import resource, sys, time
from occ_perception.data.nuscenes import NuScenes
start, cpu = time.perf_counter(), time.process_time()
dataset = NuScenes(sys.argv[1])
opened = time.perf_counter()
scene = dataset.scene(dataset.scene_names[-1])
records = sum(map(len, scene.records.values()))
boxes = sum(len(dataset.annotations(token)) for token, _ in scene.samples)
end, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = [round(value, 2) for value in (opened - start, end - start, time.process_time() - cpu)]
print(*seconds, peak // 1024, records, boxes)
"""


def main() -> None:
    """Write the tables, open them twice, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=850)
    parser.add_argument("--folder", type=Path, help="where there is room for 3 GB (default: the temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        start = time.perf_counter()
        write_tables(root / VERSION, arguments.scenes)
        size = sum(path.stat().st_size for path in (root / VERSION).iterdir())
        print(f"wrote {size / 1e9:.2f} GB of tables in {time.perf_counter() - start:.0f} s")
        report("nuscenes_index", [_opened(root, "first"), _opened(root, "cached"), _opened(root, "cached again")])


def _opened(root: Path, name: str) -> dict[str, object]:
    """Open in a fresh process, read one scene with its boxes."""
    output = subprocess.run([sys.executable, "-c", OPEN, str(root)], check=True, capture_output=True, text=True).stdout
    columns = ("open_s", "with_boxes_s", "cpu_s", "peak_mb", "records", "boxes")
    caches = sum(path.stat().st_size for path in (root / VERSION).glob(".*"))
    return {"opening": name, **dict(zip(columns, output.split(), strict=True)), "cache_mb": caches // 1_000_000}


def write_tables(folder: Path, scenes: int, seed: int = 0) -> None:
    """A table set of many scenes, row by row."""
    folder.mkdir()
    writer = _Tables(folder, scenes, np.random.default_rng(seed))
    writer.write()


class _Tables:
    """Writes the tables; tokens are random, records are made scene by scene."""

    def __init__(self, folder: Path, scenes: int, rng: np.random.Generator) -> None:
        self.folder, self.scenes, self.rng = folder, scenes, rng
        self.sensors = (
            *((f"CAM_{name}", "CAM") for name in CAMERAS),
            *((f"RADAR_{name}", "RADAR") for name in RADARS),
            ("LIDAR_TOP", "LIDAR"),
        )
        self.scene_tokens, self.log_tokens = self._tokens(scenes), self._tokens(scenes)
        self.sensor_tokens = self._tokens(len(self.sensors))
        self.mount_tokens = self._tokens(scenes * len(self.sensors))
        self.sample_tokens = self._tokens(scenes * SAMPLES)
        self.category_tokens = self._tokens(23)

    def write(self) -> None:
        """All tables."""
        self._dump("scene", self._scene_rows())
        self._dump("log", ({"token": t, "logfile": f"n{i}", "vehicle": "n015", "date_captured": "2018-07-18",
                            "location": "made-up"} for i, t in enumerate(self.log_tokens)))  # fmt: skip
        self._dump("sensor", ({"token": t, "channel": name, "modality": _modality(kind)}
                              for t, (name, kind) in zip(self.sensor_tokens, self.sensors, strict=True)))  # fmt: skip
        self._dump("calibrated_sensor", self._mount_rows())
        self._dump("sample", self._sample_rows())
        self._dump("category", ({"token": t, "name": f"class.{i}", "description": ""}
                                for i, t in enumerate(self.category_tokens)))  # fmt: skip
        self._write_records()
        self._write_boxes()

    def _tokens(self, count: int) -> list[str]:
        text = self.rng.bytes(16 * count).hex()
        return [text[32 * i : 32 * i + 32] for i in range(count)]

    def _dump(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(list(rows), indent=0))

    def _stamp(self, scene: int, step: float, period: int) -> int:
        return START_US + scene * 30_000_000 + round(step * period)

    def _scene_rows(self) -> Iterator[dict[str, Any]]:
        for i, token in enumerate(self.scene_tokens):
            yield {
                "token": token, "log_token": self.log_tokens[i], "nbr_samples": SAMPLES,
                "first_sample_token": self.sample_tokens[i * SAMPLES],
                "last_sample_token": self.sample_tokens[(i + 1) * SAMPLES - 1],
                "name": f"scene-{i:04d}", "description": "synthetic tables",
            }  # fmt: skip

    def _mount_rows(self) -> Iterator[dict[str, Any]]:
        for i, token in enumerate(self.mount_tokens):
            sensor = i % len(self.sensors)
            intrinsics = [[1266.4, 0.0, 816.2], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
            yield {
                "token": token, "sensor_token": self.sensor_tokens[sensor], "translation": [1.7, 0.015, 1.51],
                "rotation": [0.4998, -0.5030, 0.4997, -0.4974],
                "camera_intrinsic": intrinsics if self.sensors[sensor][1] == "CAM" else [],
            }  # fmt: skip

    def _sample_rows(self) -> Iterator[dict[str, Any]]:
        for i, token in enumerate(self.sample_tokens):
            scene, k = divmod(i, SAMPLES)
            yield {
                "token": token, "timestamp": self._stamp(scene, k, 500_000),
                "prev": self.sample_tokens[i - 1] if k else "",
                "next": self.sample_tokens[i + 1] if k + 1 < SAMPLES else "", "scene_token": self.scene_tokens[scene],
            }  # fmt: skip

    def _write_records(self) -> None:
        """sample_data and ego_pose; each record has its own pose of the same token."""
        with (self.folder / "sample_data.json").open("w") as data, (self.folder / "ego_pose.json").open("w") as poses:
            for scene in range(self.scenes):
                rows, pose_rows = [], []
                for sensor, (channel, kind) in enumerate(self.sensors):
                    mount = self.mount_tokens[scene * len(self.sensors) + sensor]
                    for row, pose in self._channel_rows(scene, channel, kind, mount):
                        rows.append(row)
                        pose_rows.append(pose)
                _append(data, rows, scene == 0)
                _append(poses, pose_rows, scene == 0)
            data.write("\n]")
            poses.write("\n]")

    def _channel_rows(self, scene: int, channel: str, kind: str, mount: str) -> Iterator[tuple[str, str]]:
        period, duration = PERIOD_US[kind], (SAMPLES - 1) * 500_000
        tokens = self._tokens(duration // period + 1)
        numbers = self.rng.normal(size=(len(tokens), 6)).tolist()
        last_key = -1
        suffix, size = {"CAM": ("jpg", (900, 1600)), "RADAR": ("pcd", (0, 0)), "LIDAR": ("pcd.bin", (0, 0))}[kind]
        for k, token in enumerate(tokens):
            sample = -(-k * period // 500_000)
            key = int(k * period) // 500_000 != last_key
            last_key = int(k * period) // 500_000
            stamp = self._stamp(scene, k, period)
            folder = "samples" if key else "sweeps"
            name = f"{folder}/{channel}/n015-2018-07-18-{scene:04d}+0800__{channel}__{stamp}.{suffix}"
            previous = tokens[k - 1] if k else ""
            following = tokens[k + 1] if k + 1 < len(tokens) else ""
            x, y, *rotation = numbers[k]
            yield (
                f'{{\n"token": "{token}",\n"sample_token": "{self.sample_tokens[scene * SAMPLES + sample]}",\n'
                f'"ego_pose_token": "{token}",\n"calibrated_sensor_token": "{mount}",\n"timestamp": {stamp},\n'
                f'"fileformat": "{suffix[:3]}",\n"is_key_frame": {"true" if key else "false"},\n"height": {size[0]},\n'
                f'"width": {size[1]},\n"filename": "{name}",\n"prev": "{previous}",\n"next": "{following}"\n}}',
                f'{{\n"token": "{token}",\n"timestamp": {stamp},\n"rotation": [\n{_lines(rotation)}\n],\n'
                f'"translation": [\n{_lines([400 + x, 1200 + y, 0.0])}\n]\n}}',
            )

    def _write_boxes(self) -> None:
        """sample_annotation and instance; an object stays for a whole scene."""
        instances = self._tokens(self.scenes * BOXES_PER_SAMPLE)
        self._dump("instance", ({"token": t, "category_token": self.category_tokens[i % 23],
                                 "nbr_annotations": SAMPLES, "first_annotation_token": "", "last_annotation_token": ""}
                                for i, t in enumerate(instances)))  # fmt: skip
        with (self.folder / "sample_annotation.json").open("w") as file:
            for scene in range(self.scenes):
                rows: list[str] = []
                for b in range(BOXES_PER_SAMPLE):
                    rows += self._track_rows(scene, instances[scene * BOXES_PER_SAMPLE + b])
                _append(file, rows, scene == 0)
            file.write("\n]")

    def _track_rows(self, scene: int, instance: str) -> Iterator[str]:
        tokens, numbers = self._tokens(SAMPLES), self.rng.normal(size=(SAMPLES, 7)).round(3).tolist()
        attribute = self.category_tokens[0]
        for k, token in enumerate(tokens):
            x, y, z, w, rz, *size = numbers[k]
            yield (
                f'{{\n"token": "{token}",\n"sample_token": "{self.sample_tokens[scene * SAMPLES + k]}",\n'
                f'"instance_token": "{instance}",\n"visibility_token": "4",\n"attribute_tokens": [\n"{attribute}"\n],\n'
                f'"translation": [\n{_lines([400 + x, 1200 + y, z])}\n],\n"size": [\n{_lines([1.9, *map(abs, size)])}'
                f'\n],\n"rotation": [\n{_lines([w, 0.0, 0.0, rz])}\n],\n"prev": "{tokens[k - 1] if k else ""}",\n'
                f'"next": "{tokens[k + 1] if k + 1 < SAMPLES else ""}",\n"num_lidar_pts": 5,\n"num_radar_pts": 0\n}}'
            )


def _modality(kind: str) -> str:
    return {"CAM": "camera", "RADAR": "radar", "LIDAR": "lidar"}[kind]


def _lines(values: Sequence[float]) -> str:
    return ",\n".join(map(repr, values))


def _append(file: Any, rows: Sequence[str], first: bool) -> None:
    file.write(("[\n" if first else ",\n") + ",\n".join(rows))


if __name__ == "__main__":
    main()
