"""Rows of nuScenes' tables (specs/datasets.md section 1) for synthetic scenes: tokens, poses, prev and next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from occ_perception.geometry import CameraRig, quaternion_from_rotation

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Rows by table name."""

TABLES = (
    "scene", "log", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "sample_annotation",
    "instance", "category", "attribute", "visibility", "map",
)  # fmt: skip
LIDAR = "LIDAR_TOP"
VERSION = "v1.0-trainval"


def token_of(*parts: object) -> str:
    """The token of something, 32 hexadecimal digits: equal names, equal tokens."""
    return hashlib.md5("/".join(map(str, ("occ_perception world", *parts))).encode()).hexdigest()


def pose_columns(matrix: np.ndarray) -> Row:
    """Translation and rotation (w, x, y, z) of a transform [4, 4]."""
    x, y, z, w = quaternion_from_rotation(matrix[:3, :3]).tolist()
    return {"translation": matrix[:3, 3].tolist(), "rotation": [w, x, y, z]}


def scene_rows(name: str, description: str, tokens: list[str], rig: CameraRig, ego_from_lidar: np.ndarray) -> Rows:
    """What is there once per scene: scene, log, and its vehicle's calibration.

    Args:
        name: of the scene.
        description: in words.
        tokens: of its samples, in time order.
        rig: cameras by lower-case channel.
        ego_from_lidar: mounting pose.
    """
    scene: Row = {"token": token_of(name, "scene"), "name": name, "description": description}
    scene |= {"log_token": token_of(name, "log"), "nbr_samples": len(tokens)}
    scene |= {"first_sample_token": tokens[0], "last_sample_token": tokens[-1]}
    log: Row = {"token": token_of(name, "log"), "logfile": name, "vehicle": "synthetic"}
    log |= {"date_captured": "2026-11-21", "location": "synthetic-city"}
    mounts: dict[str, tuple[np.ndarray, list[list[float]]]] = {LIDAR: (ego_from_lidar, [])}
    mounts |= {c.upper(): (camera.ego_from_camera, camera.intrinsics.tolist()) for c, camera in rig.items()}
    calibrations: list[Row] = [
        {"token": mount_token(name, channel), "sensor_token": token_of("sensor", channel)}
        | pose_columns(pose)
        | {"camera_intrinsic": intrinsics}
        for channel, (pose, intrinsics) in mounts.items()
    ]
    return {"scene": [scene], "log": [log], "calibrated_sensor": calibrations}


def mount_token(scene: str, channel: str) -> str:
    """Of the calibration of a sensor in a scene."""
    return token_of(scene, "mount", channel)


def common_rows(scenes: Iterable[Rows]) -> Rows:
    """What is there once per dataset: sensors, categories, visibility levels, the map the devkit insists on."""
    scenes = list(scenes)
    categories = sorted({row["category"] for rows in scenes for row in rows["instance"]})
    channels = sorted({row["channel"] for rows in scenes for row in rows["sample_data"]})
    levels = ("v0-40", "v40-60", "v60-80", "v80-100")
    return {
        "sensor": [
            {"token": token_of("sensor", c), "channel": c, "modality": "lidar" if c == LIDAR else "camera"}
            for c in channels
        ],
        "category": [{"token": category_token(c), "name": c, "description": ""} for c in categories],
        "visibility": [{"token": str(i), "level": level, "description": ""} for i, level in enumerate(levels, 1)],
        "attribute": [],
        "map": [
            {
                "token": token_of("map"),
                "log_tokens": [row["token"] for rows in scenes for row in rows["log"]],
                "category": "semantic_prior",
                "filename": "maps/placeholder.png",
            }
        ],
    }


def category_token(category: str) -> str:
    """Of a category's row."""
    return token_of("category", category)


def linked(rows: list[Row]) -> list[Row]:
    """Rows with prev and next set to the tokens of their neighbours in the list."""
    tokens = ["", *(row["token"] for row in rows), ""]
    return [row | {"prev": tokens[i], "next": tokens[i + 2]} for i, row in enumerate(rows)]


def merged(scenes: list[Rows]) -> Mapping[str, list[Row]]:
    """All tables of a dataset."""
    tables: Rows = {name: [] for name in TABLES}
    for rows in scenes:
        for name, some in rows.items():
            tables[name] += some
    for name, some in common_rows(scenes).items():
        tables[name] += some
    return tables
