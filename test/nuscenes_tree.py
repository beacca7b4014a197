"""A small made-up nuScenes tree (tables and files) of synthetic drives, for tests of readers and converters."""

import json
from pathlib import Path

import numpy as np

from occ_perception.data.synthetic_drive import SyntheticDrive
from occ_perception.geometry import quaternion_from_rotation

MAP_ORIGIN = np.array([600.0, 1600.0, 0.0])


def make_tree(
    root: Path, scenes: int = 2, seconds: float = 1.5, version: str = "v1.0-mini"
) -> dict[str, SyntheticDrive]:
    """Write scenes ``scene-0001``...; keyframes every 10th sweep; returns their drives by scene name."""
    tables = {name: [] for name in ("scene", "log", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")}
    tables |= {"sample_annotation": [], "instance": [], "category": [{"token": "c-car", "name": "vehicle.car"}]}
    drives = {}
    for number in range(1, scenes + 1):
        drive = SyntheticDrive(seconds, seed=number, image_size=(64, 36))
        drives[f"scene-{number:04}"] = drive
        _add_scene(root, tables, f"scene-{number:04}", drive, first_scene=number == 1)
    folder = root / version
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return drives


def _add_scene(root, tables, scene, drive, first_scene):
    tables["log"].append({"token": f"log-{scene}", "vehicle": "n000", "location": "nowhere"})
    tables["scene"].append({"token": scene, "name": scene, "description": "made up", "log_token": f"log-{scene}"})
    mounts = {name.upper(): (camera.ego_from_camera, camera.intrinsics) for name, camera in drive.rig.items()}
    mounts["LIDAR_TOP"] = (drive.ego_from_lidar, None)
    for channel, (ego_from_sensor, intrinsics) in mounts.items():
        modality = "camera" if intrinsics is not None else "lidar"
        if first_scene:
            tables["sensor"].append({"token": f"s-{channel}", "channel": channel, "modality": modality})
        tables["calibrated_sensor"].append(
            {
                "token": f"cs-{scene}-{channel}",
                "sensor_token": f"s-{channel}",
                "camera_intrinsic": [] if intrinsics is None else intrinsics.tolist(),
                **_pose(ego_from_sensor),
            }
        )
    keyframes = drive.sweep_stamps()[9::10]
    samples = [f"sample-{scene}-{i}" for i in range(len(keyframes))]
    for i, stamp in enumerate(keyframes):
        tables["sample"].append({"token": samples[i], "timestamp": stamp // 1000, "scene_token": scene})
    _add_annotations(tables, scene, drive, keyframes, samples)
    images = set(drive.set_stamps()) | set(keyframes)
    for stamp in drive.sweep_stamps():
        keyframe = stamp in keyframes
        following = next((i for i, k in enumerate(keyframes) if k >= stamp), len(keyframes) - 1)
        shots = [(stamp, "LIDAR_TOP")]
        shots += [(drive.image_stamp(c, stamp), c.upper()) for c in drive.rig] if stamp in images else []
        for taken, channel in shots:
            taken = taken // 1000 * 1000  # nuScenes has microseconds
            name = f"{'samples' if keyframe else 'sweeps'}/{channel}/{scene}_{taken // 1000}"
            name += ".pcd.bin" if channel == "LIDAR_TOP" else ".jpg"
            _add_record(root, tables, scene, drive, channel, taken, name, samples[following], keyframe)


def _add_record(root, tables, scene, drive, channel, stamp, name, sample, keyframe):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if channel == "LIDAR_TOP":
        scan = drive.scan(stamp)
        np.column_stack([scan.points, scan.rings]).astype("<f4").tofile(path)
    else:
        path.write_bytes(drive.jpeg(channel.lower(), stamp))
    token = f"{scene}-{channel}-{stamp}"
    global_from_ego = drive.odom_from_ego(stamp)
    global_from_ego[:3, 3] += MAP_ORIGIN
    tables["ego_pose"].append({"token": token, "timestamp": stamp // 1000, **_pose(global_from_ego)})
    tables["sample_data"].append(
        {
            "token": token,
            "sample_token": sample,
            "ego_pose_token": token,
            "calibrated_sensor_token": f"cs-{scene}-{channel}",
            "filename": name,
            "width": 0 if channel == "LIDAR_TOP" else 64,
            "height": 0 if channel == "LIDAR_TOP" else 36,
            "timestamp": stamp // 1000,
            "is_key_frame": keyframe,
        }
    )


def _add_annotations(tables, scene, drive, keyframes, samples):
    """The leading car, which drives 7 m/s."""
    tables["instance"].append({"token": f"i-{scene}", "category_token": "c-car"})
    for i, stamp in enumerate(keyframes):
        boxes = drive.world.boxes(drive.time_s(stamp))
        leading = len(boxes) - 2
        yaw = boxes.yaws[leading]
        length, width, height = boxes.sizes[leading]
        tables["sample_annotation"].append(
            {
                "token": f"a-{scene}-{i}",
                "sample_token": samples[i],
                "instance_token": f"i-{scene}",
                "translation": (boxes.centers[leading] + MAP_ORIGIN).tolist(),
                "size": [width, length, height],
                "rotation": [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)],
                "num_lidar_pts": 5,
                "num_radar_pts": 0,
                "prev": f"a-{scene}-{i - 1}" if i else "",
                "next": f"a-{scene}-{i + 1}" if i + 1 < len(keyframes) else "",
            }
        )


def _pose(matrix):
    x, y, z, w = quaternion_from_rotation(matrix[:3, :3])
    return {"translation": matrix[:3, 3].tolist(), "rotation": [w, x, y, z]}
