"""Writes a small synthetic nuScenes tree: tables in nuScenes' schema, JPEGs, LiDAR files, Occ3D and OpenOcc labels.

Scenes are `StreetDrive`s of different seeds, placed in one global frame.  Labels are the made-up world's exact
occupancy where a dense LiDAR at the real one's place would see it (as Occ3D: what is not seen is stored as free, with
mask 0), and its boxes' velocities.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from street.drive import START_NS, StreetDrive
from street.lidar import COLUMNS, PERIOD_NS, RINGS

from occ_perception.geometry import OCC3D_GRID, inverse, quaternion_from_rotation, rigid, transform_points
from occ_perception.metrics.evaluation_rays import ray_directions
from occ_perception.ontology import FREE, OCC3D, OPENOCC

VERSION = "v1.0-mini"
_SWEEPS_PER_KEYFRAME = 10
_SCENE_INTERVAL_NS = 100_000_000_000


@dataclass
class NuScenesTree:
    """What was written, with the exact answers.

    Attributes:
        root: dataset root; the labels lie in root/gts and root/openocc_v2.
        tokens: sample tokens by scene name, in time order.
        truth: uint8 [200, 200, 16] by sample token, Occ3D classes or FREE, as stored.
        stamps_ns: (LiDAR, CAM_FRONT) stamps by sample token.
    """

    root: Path
    tokens: dict[str, list[str]] = field(default_factory=dict)
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    stamps_ns: dict[str, tuple[int, int]] = field(default_factory=dict)
    tables: dict[str, list[dict]] = field(default_factory=dict)

    def token_at(self, stamp_ns: int) -> str:
        """The sample whose LiDAR or front image has this stamp."""
        return next(token for token, stamps in self.stamps_ns.items() if stamp_ns in stamps)


def write_tree(
    root: Path,
    keyframes: dict[str, int],
    image_size: tuple[int, int] = (160, 90),
    sweeps: bool = False,
    labels: bool = True,
) -> NuScenesTree:
    """Write scenes, ``keyframes`` by scene name; ``sweeps`` adds what lies between (20 Hz LiDAR, 12 Hz images)."""
    tree = NuScenesTree(root)
    tree.tables = {name: [] for name in _TABLES}
    _write_common_rows(tree)
    for index, (name, count) in enumerate(keyframes.items()):
        _SceneWriter(tree, index, name, count, image_size).write(sweeps, labels)
    (root / VERSION).mkdir(parents=True)
    for name, rows in tree.tables.items():
        (root / VERSION / f"{name}.json").write_text(json.dumps(rows))
    return tree


_TABLES = (
    "scene", "log", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "sample_annotation",
    "instance", "category", "attribute", "visibility", "map",
)  # fmt: skip


def token_of(*parts: object) -> str:
    """A token as nuScenes': 32 hexadecimal digits."""
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def _write_common_rows(tree: NuScenesTree) -> None:
    for channel in ("LIDAR_TOP", *(name.upper() for name in StreetDrive().rig)):
        modality = "lidar" if channel == "LIDAR_TOP" else "camera"
        tree.tables["sensor"].append({"token": token_of("sensor", channel), "channel": channel, "modality": modality})
    category = {"token": token_of("category", "vehicle.car"), "name": "vehicle.car", "description": ""}
    tree.tables["category"].append(category)
    tree.tables["visibility"].append({"token": "4", "level": "v80-100", "description": ""})
    tree.tables["map"].append(
        {"token": token_of("map"), "log_tokens": [], "category": "semantic_prior", "filename": ""}
    )


class _SceneWriter:
    """One scene: its drive, where it lies in the global frame, and when."""

    def __init__(self, tree: NuScenesTree, index: int, name: str, count: int, image_size: tuple[int, int]) -> None:
        self.tree, self.name, self.count = tree, name, count
        self.drive = StreetDrive(max(0.5 * count, 0.5), seed=index, image_size=image_size, speed=6.0 + index)
        yaw = 0.4 + index
        self.global_from_world = rigid([400.0 + 150 * index, 1200.0, 0.0], [0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])
        self.shift_ns = index * _SCENE_INTERVAL_NS
        self.tokens = [token_of(name, "sample", k) for k in range(count)]

    def write(self, sweeps: bool, labels: bool) -> None:
        self._scene_rows()
        self._calibration_rows()
        annotations: dict[str, dict] = {}
        for k, token in enumerate(self.tokens):
            stamp = self._keyframe_stamp(k)
            self._sample_row(k, stamp)
            self._sweep(token, stamp, is_key=True)
            fronts = {name: self._image(token, name, stamp, is_key=True) for name in self.drive.rig}
            self.tree.stamps_ns[token] = (stamp + self.shift_ns, fronts["cam_front"] + self.shift_ns)
            self._annotate(k, token, stamp, annotations)
            if labels:
                self._labels(token, stamp)
            if sweeps:
                self._between(k, token)
        self.tree.tokens[self.name] = self.tokens

    def _keyframe_stamp(self, k: int) -> int:
        return START_NS + PERIOD_NS * (1 + _SWEEPS_PER_KEYFRAME * k)

    # -- rows

    def _scene_rows(self) -> None:
        log, scene = token_of(self.name, "log"), token_of(self.name, "scene")
        self.tree.tables["log"].append(
            {
                "token": log,
                "logfile": self.name,
                "vehicle": "synthetic",
                "date_captured": "2026-11-21",
                "location": "made-up",
            }
        )
        self.tree.tables["map"][0]["log_tokens"].append(log)
        self.tree.tables["scene"].append(
            {
                "token": scene,
                "name": self.name,
                "description": "synthetic street",
                "log_token": log,
                "nbr_samples": self.count,
                "first_sample_token": self.tokens[0],
                "last_sample_token": self.tokens[-1],
            }
        )

    def _calibration_rows(self) -> None:
        mounts = {"LIDAR_TOP": (self.drive.ego_from_lidar, [])}
        for name, camera in self.drive.rig.items():
            mounts[name.upper()] = (camera.ego_from_camera, camera.intrinsics.tolist())
        for channel, (pose, intrinsics) in mounts.items():
            row = {"token": token_of(self.name, "mount", channel), "sensor_token": token_of("sensor", channel)}
            self.tree.tables["calibrated_sensor"].append({**row, **_pose(pose), "camera_intrinsic": intrinsics})

    def _sample_row(self, k: int, stamp: int) -> None:
        neighbours = {
            "prev": self.tokens[k - 1] if k else "",
            "next": self.tokens[k + 1] if k + 1 < self.count else "",
        }
        row = {"token": self.tokens[k], "timestamp": (stamp + self.shift_ns) // 1000}
        self.tree.tables["sample"].append({**row, **neighbours, "scene_token": token_of(self.name, "scene")})

    def _data_row(self, sample: str, channel: str, stamp: int, is_key: bool, size: tuple[int, int]) -> Path:
        """Add the row of a measurement and its pose; returns where the file goes."""
        token, stamp_us = token_of(self.name, channel, stamp), (stamp + self.shift_ns) // 1000
        suffix = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        folder = "samples" if is_key else "sweeps"
        filename = f"{folder}/{channel}/{self.name}__{channel}__{stamp_us}.{suffix}"
        pose = _pose(self.global_from_world @ self.drive.odom_from_ego(stamp))
        self.tree.tables["ego_pose"].append({"token": token, "timestamp": stamp_us, **pose})
        self.tree.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": token_of(self.name, "mount", channel),
                "timestamp": stamp_us,
                "fileformat": "pcd" if channel == "LIDAR_TOP" else "jpg",
                "is_key_frame": is_key,
                "width": size[0],
                "height": size[1],
                "filename": filename,
                "prev": "",
                "next": "",
            }
        )
        path = self.tree.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # -- measurements

    def _image(self, sample: str, camera: str, set_stamp: int, is_key: bool) -> int:
        stamp = self.drive.image_stamp(camera, set_stamp) // 1000 * 1000  # the tables count microseconds
        size = (self.drive.rig[camera].width, self.drive.rig[camera].height)
        self._data_row(sample, camera.upper(), stamp, is_key, size).write_bytes(self.drive.jpeg(camera, stamp))
        return stamp

    def _sweep(self, sample: str, stamp: int, is_key: bool) -> None:
        """As nuScenes: all columns of 32, a beam without return at the origin."""
        scan = self.drive.scan(stamp)
        column = COLUMNS - 1 + np.round(scan.offsets_s * 1e9 / PERIOD_NS * COLUMNS).astype(int)
        points = np.zeros((COLUMNS, RINGS, 5), "<f4")
        points[..., 4] = np.arange(RINGS)
        points[column, scan.rings, :4] = scan.points
        self._data_row(sample, "LIDAR_TOP", stamp, is_key, (0, 0)).write_bytes(points.tobytes())

    def _between(self, k: int, token: str) -> None:
        """Sweeps that lead to keyframe k; before the first there are none."""
        for step in range(1, _SWEEPS_PER_KEYFRAME) if k else ():
            stamp = self._keyframe_stamp(k - 1) + step * PERIOD_NS
            self._sweep(token, stamp, is_key=False)
            if stamp in self.drive.set_stamps():
                for name in self.drive.rig:
                    self._image(token, name, stamp, is_key=False)

    # -- truth

    def _annotate(self, k: int, token: str, stamp: int, previous: dict[str, dict]) -> None:
        """Cars near the vehicle."""
        boxes = self.drive.world.boxes(self.drive.time_s(stamp))
        ego = self.drive.odom_from_ego(stamp)
        near = np.linalg.norm(boxes.centers - ego[:3, 3], axis=1) < 50
        points = transform_points(ego @ self.drive.ego_from_lidar, self.drive.scan(stamp).points[:, :3].astype(float))
        for b in np.flatnonzero(near & (boxes.class_ids == OCC3D.id_of("car"))).tolist():
            instance = token_of(self.name, "instance", b)
            world_from_box = rigid(boxes.centers[b], [0, 0, np.sin(boxes.yaws[b] / 2), np.cos(boxes.yaws[b] / 2)])
            local = np.abs(transform_points(inverse(world_from_box), points))
            row = {
                "token": token_of(self.name, "annotation", b, k),
                "sample_token": token,
                "instance_token": instance,
                "visibility_token": "4",
                "attribute_tokens": [],
                **_pose(self.global_from_world @ world_from_box),
                "size": [boxes.sizes[b, 1], boxes.sizes[b, 0], boxes.sizes[b, 2]],
                "prev": "",
                "next": "",
                "num_lidar_pts": int((local <= boxes.sizes[b] / 2).all(axis=1).sum()),
                "num_radar_pts": 0,
            }
            before = previous.get(instance)
            if before is None:
                self.tree.tables["instance"].append(
                    {"token": instance, "category_token": token_of("category", "vehicle.car"), "nbr_annotations": 1}
                )
            elif before["sample_token"] == self.tokens[k - 1]:
                row["prev"], before["next"] = before["token"], row["token"]
            previous[instance] = row
            self.tree.tables["sample_annotation"].append(row)

    def _labels(self, token: str, stamp: int) -> None:
        everything = self.drive.ground_truth(stamp)
        by_lidar = _seen_by_lidar(everything != FREE, self.drive.ego_from_lidar[:3, 3])
        by_camera = by_lidar.copy()
        by_camera[by_lidar] = self._in_an_image(np.argwhere(by_lidar))
        truth = np.where(by_lidar, everything, FREE).astype(np.uint8)
        self.tree.truth[token] = truth
        folder = self.tree.root / "gts" / self.name / token
        folder.mkdir(parents=True)
        np.savez_compressed(
            folder / "labels.npz",
            semantics=OCC3D.to_dataset(truth),
            mask_lidar=by_lidar.astype(np.uint8),
            mask_camera=by_camera.astype(np.uint8),
        )
        folder = self.tree.root / "openocc_v2" / self.name / token
        folder.mkdir(parents=True)
        openocc = OPENOCC.to_dataset(OCC3D.map_to(OPENOCC)[truth])
        np.savez_compressed(folder / "labels.npz", semantics=openocc, flow=self._flow(truth, stamp))

    def _in_an_image(self, cells: np.ndarray) -> np.ndarray:
        """Which cells [N, 3] have their centre in a camera's picture, bool [N]."""
        centers = OCC3D_GRID.lower + (cells + 0.5) * OCC3D_GRID.voxel_size
        cameras = self.drive.rig.values()
        return np.any([c.project(transform_points(inverse(c.ego_from_camera), centers))[2] for c in cameras], axis=0)

    def _flow(self, truth: np.ndarray, stamp: int) -> np.ndarray:
        """Velocity over ground in vehicle axes of voxels on moving cars, float16 [200, 200, 16, 2]."""
        flow = np.zeros((*OCC3D_GRID.size, 2), np.float16)
        boxes, ego = self.drive.world.boxes(self.drive.time_s(stamp)), self.drive.odom_from_ego(stamp)
        cells = np.argwhere(truth == OCC3D.id_of("car"))
        centers = transform_points(ego, OCC3D_GRID.lower + (cells + 0.5) * OCC3D_GRID.voxel_size)
        for b in np.flatnonzero(np.linalg.norm(boxes.velocities, axis=1)).tolist():
            on_box = np.linalg.norm(centers[:, :2] - boxes.centers[b, :2], axis=1) < boxes.sizes[b, 0] / 2 + 0.4
            flow[tuple(cells[on_box].T)] = ego[:2, :2].T @ boxes.velocities[b]
        return flow


def _seen_by_lidar(occupied: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Voxels that dense rays from a position [3] reach, up to and including the first occupied one; bool [X, Y, Z]."""
    steps = np.arange(0.0, 50.0, 0.4, np.float32)
    points = position.astype(np.float32) + steps[:, None, None] * ray_directions()
    cells, inside = OCC3D_GRID.cells_of(points.reshape(-1, 3))
    linear = OCC3D_GRID.linear_index(cells)
    hit = (occupied.ravel()[linear] & inside).reshape(points.shape[:2])
    reached = (np.cumsum(hit, axis=0) - hit == 0).ravel() & inside
    seen = np.zeros(occupied.size, bool)
    seen[linear[reached]] = True
    return seen.reshape(occupied.shape)


def _pose(matrix: np.ndarray) -> dict[str, list[float]]:
    """Columns of a table row: translation and rotation (w, x, y, z)."""
    x, y, z, w = quaternion_from_rotation(matrix[:3, :3]).tolist()
    return {"translation": matrix[:3, 3].tolist(), "rotation": [w, x, y, z]}
