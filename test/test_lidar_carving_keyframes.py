"""LiDAR carving on the two real nuScenes keyframes, against a beam-by-beam walk and the pseudo labels."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import OCC3D_GRID, rigid
from occ_perception.models.lidar_carving import LidarCarving
from occ_perception.models.lidar_carving_config import LidarCarvingConfig
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, UNKNOWN
from occ_perception.ops.ground import Footprint, GroundSettings, fit_ground
from occ_perception.session import Session

GRID = OCC3D_GRID
OCCUPIED, GROUND = GEOMETRY.id_of("occupied"), GEOMETRY.id_of("ground")


def read_sweep(root: Path) -> LidarSweep:
    """The LiDAR keyframe, straight from the tables."""

    def table(name):
        return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())

    channels = {row["token"]: row["channel"] for row in table("sensor")}
    mounts = {row["token"]: row for row in table("calibrated_sensor")}
    poses = {row["token"]: row for row in table("ego_pose")}
    (row,) = [
        row
        for row in table("sample_data")
        if channels[mounts[row["calibrated_sensor_token"]]["sensor_token"]] == "LIDAR_TOP"
    ]

    def transform(of):
        w, x, y, z = of["rotation"]
        return rigid(of["translation"], np.array([x, y, z, w]))

    return LidarSweep(
        row["timestamp"] * 1000,
        np.fromfile(root / row["filename"], "<f4").reshape(-1, 5),
        transform(mounts[row["calibrated_sensor_token"]]),
        transform(poses[row["ego_pose_token"]]),
    )


@dataclass(frozen=True)
class Carved:
    """A keyframe, the points in the vehicle frame without those on the vehicle, and what carving made of it."""

    sweep: LidarSweep
    points: np.ndarray
    semantics: np.ndarray
    own_points: np.ndarray

    def barred(self) -> np.ndarray:
        """Voxels that are never free, bool [X, Y, Z]: on the own vehicle, or with returns on it or too near."""
        barred = LidarCarvingConfig().own_vehicle.contains(GRID.center_of(np.arange(GRID.num_voxels)))
        barred = barred.reshape(GRID.size)
        cells, inside = GRID.cells_of(self.own_points)
        barred[tuple(cells[inside].T)] = True
        cells, inside = GRID.cells_of(self.points)
        barred[tuple(cells[inside].T)] = False  # other returns count
        return barred

    @property
    def origin(self) -> np.ndarray:
        return self.sweep.ego_from_lidar[:3, 3]

    def labels(self) -> np.ndarray:
        """Classes of the voxels of the points in range."""
        cells, inside = GRID.cells_of(self.points)
        return self.semantics[tuple(cells[inside].T)]


@cache
def carve(root: Path) -> Carved:
    sweep = read_sweep(root)
    frame = Frame(sweep.stamp_ns, lidar=(sweep,), odom_from_ego=sweep.odom_from_ego)
    semantics = Session(LidarCarving()).step(frame).semantics
    points = sweep.points[:, :3].astype(np.float64) @ sweep.ego_from_lidar[:3, :3].T + sweep.ego_from_lidar[:3, 3]
    x, y, z = points.T
    own = (x > -1.1) & (x < 4.1) & (np.abs(y) < 1.1) & (z < 2.1)
    return Carved(sweep, points[~own], semantics, points[own])


@pytest.fixture(params=["nuscenes_keyframe", "nuscenes_keyframe2"])
def root(request, shared):
    return shared / "data" / request.param


def walk(origin, ends):
    """Voxels entered before the one each beam ends in (Amanatides and Woo, one step per turn), bool [X, Y, Z]."""
    size = np.array(GRID.size)
    start = (origin - GRID.lower) / GRID.voxel_size
    direction = (ends - origin) / GRID.voxel_size
    last = np.floor((ends - GRID.lower) / GRID.voxel_size).astype(int)
    cell = np.broadcast_to(np.floor(start).astype(int), last.shape).copy()
    step = np.sign(direction).astype(int)
    with np.errstate(divide="ignore"):
        crossing = np.where(step == 0, np.inf, (cell + (step > 0) - start) / direction)
        spacing = np.where(step == 0, np.inf, np.abs(1 / direction))
    passed = np.zeros(GRID.size, bool)
    walking = np.arange(len(ends))
    while len(walking):
        here = cell[walking]
        walking = walking[np.all((here >= 0) & (here < size), axis=1) & np.any(here != last[walking], axis=1)]
        walking = walking[crossing[walking].min(axis=1) <= 1.0 + 1e-12]
        passed[tuple(cell[walking].T)] = True
        axis = crossing[walking].argmin(axis=1)
        cell[walking, axis] += step[walking, axis]
        crossing[walking, axis] += spacing[walking, axis]
    return passed


def grazing_distance(voxel, origin, ends):
    """How far (metres) the faces of a voxel must move for some beam to gain or lose it."""
    center = GRID.lower + (voxel + 0.5) * GRID.voxel_size
    direction = ends - origin
    for margin in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        meets = []
        for half in (GRID.voxel_size / 2 - margin, GRID.voxel_size / 2 + margin):
            times = (np.stack([center - half, center + half])[:, None] - origin) / direction
            enter, leave = times.min(axis=0).max(axis=1), times.max(axis=0).min(axis=1)
            meets.append(np.maximum(enter, 0) <= np.minimum(leave, 1))
        if np.any(meets[0] != meets[1]):
            return margin
    return np.inf


def skimmed(passed, semantics):
    """Voxels that beams crossed and that are unknown all the same: at most one a column, and on the ground."""
    unknown = passed & (semantics == UNKNOWN)
    assert unknown.sum(axis=2).max() == 1
    x, y, z = GRID.center_of(np.flatnonzero(unknown)).T
    near = np.hypot(x, y) < 15
    # Both keyframes' roads are within a few decimetres of z = 0 there, and half a voxel is 0.2 m.
    assert np.mean(np.abs(z[near]) < 0.6) > 0.95
    assert unknown.sum() < 6000
    return unknown


def test_every_point_in_range_is_in_an_occupied_or_ground_voxel_and_none_in_a_free_one(root):
    labels = carve(root).labels()
    share = np.isin(labels, [OCCUPIED, GROUND]).mean()
    print(f"{root.name}: {len(labels)} points in range, {share:.4%} in occupied or ground voxels")
    assert len(labels) > 20_000
    assert share == 1.0
    assert not np.any(labels == FREE)


def test_free_is_exactly_where_beams_went_and_unknown_where_none_did(root):
    points, origin, semantics = carve(root).points, carve(root).origin, carve(root).semantics
    passed = walk(origin, points) & ~carve(root).barred()
    passed &= ~skimmed(passed, semantics)
    cells, inside = GRID.cells_of(points)
    hit = np.zeros(GRID.size, bool)
    hit[tuple(cells[inside].T)] = True
    expected_free = passed & ~hit
    different = np.argwhere((semantics == FREE) != expected_free)
    print(f"{root.name}: {expected_free.sum()} voxels crossed, {len(different)} differ by rounding")
    assert expected_free.sum() > 80_000
    assert len(different) <= 10
    for voxel in different:  # beams along an edge of the voxel, where float32 rounds the other way
        assert grazing_distance(voxel, origin, points) <= 1e-4
    seen = passed | hit
    seen[tuple(different.T)] = (semantics != UNKNOWN)[tuple(different.T)]
    assert np.all(semantics[~seen] == UNKNOWN)
    assert np.all(semantics[seen] != UNKNOWN)


def test_agreement_with_the_pseudo_labels(keyframe):
    semantics = carve(keyframe).semantics
    (path,) = (keyframe / "pseudo_gt").rglob("labels.npz")
    labels = np.load(path)
    seen_there = labels["mask_lidar"] > 0
    occupied_there = labels["semantics"] != OCC3D.dataset_free_id
    free_there = seen_there & ~occupied_there
    occupied_here, free_here = semantics < FREE, semantics == FREE
    occupied_iou = (occupied_here & occupied_there).sum() / (occupied_here | occupied_there).sum()
    free_recall = (free_here & free_there).sum() / free_there.sum()
    free_precision = (free_here & seen_there).sum() / free_here.sum()
    ground_there = labels["semantics"] == OCC3D.id_of("driveable_surface")
    other_there = occupied_there & ~ground_there
    ground_recall = (semantics == GROUND)[ground_there].mean()
    other_recall = (semantics == OCCUPIED)[other_there].mean()
    print(
        f"{keyframe.name}: occupied IoU {occupied_iou:.3f}, "
        f"free recall {free_recall:.3f} precision {free_precision:.3f}, "
        f"pseudo ground kept {ground_recall:.3f}, other kept occupied {other_recall:.3f}"
    )
    assert occupied_iou > 0.99
    assert free_recall > 0.95
    assert free_precision > 0.95
    assert ground_recall > 0.85
    # The pseudo ground is a plane; banks and sidewalks that rise from it are "other" there and ground here.
    assert other_recall > 0.75


def test_objects_with_boxes_are_occupied_and_not_ground(root):
    """Points well above the bottom of an annotated box lie in occupied voxels."""
    sweep, points, semantics = carve(root).sweep, carve(root).points, carve(root).semantics
    rows = json.loads((root / "v1.0-mini" / "sample_annotation.json").read_text())
    world = points @ sweep.odom_from_ego[:3, :3].T + sweep.odom_from_ego[:3, 3]
    cells, in_range = GRID.cells_of(points)
    on_object = np.zeros(len(points), bool)
    for row in rows:
        w, x, y, z = row["rotation"]
        box = rigid(row["translation"], np.array([x, y, z, w]))
        local = (world - box[:3, 3]) @ box[:3, :3]
        width, length, height = row["size"]
        half = np.array([length, width, height]) / 2
        on_object |= (np.abs(local) <= half).all(axis=1) & (local[:, 2] > 0.5 - half[2])
    labels = semantics[tuple(cells[on_object & in_range].T)]
    print(f"{root.name}: {len(labels)} points on objects, {(labels == OCCUPIED).mean():.4f} occupied")
    assert len(labels) > 500
    assert (labels == OCCUPIED).mean() > 0.98


def test_road_near_the_vehicle_is_ground(root):
    """Columns in the vehicle's lane, up to 10 m away, that have no returns above the height of the road."""
    points, semantics = carve(root).points, carve(root).semantics
    x, y, z = points.T
    lane = (np.abs(y) < 1.5) & (np.abs(x - 1.5) > 3.6) & (np.abs(x - 1.5) < 10)
    cells, inside = GRID.cells_of(points)
    columns = cells[:, 0] * GRID.size[1] + cells[:, 1]
    road = lane & inside & ~np.isin(columns, columns[inside & (z > 0.2)])
    voxels = np.unique(cells[road & (np.abs(z) < 0.15)], axis=0)
    share = (semantics[tuple(voxels.T)] == GROUND).mean()
    print(f"{root.name}: {len(voxels)} road voxels near the vehicle, {share:.3f} ground")
    assert len(voxels) > 30
    assert share > 0.97


def test_ground_surface_equals_the_plane_of_the_keyframe_on_the_road(keyframe):
    """The plane of the keyframe's README, fitted by least squares to all near-ground points within 40 m."""
    points = carve(keyframe).points
    surface = fit_ground(points, GRID, Footprint((-1.1, -1.1), (4.1, 1.1)), GroundSettings())
    x, y = points[:, 0], points[:, 1]
    plane = 0.0022 * x + 0.0164 * y + 0.0129
    road = (np.abs(y) < 6) & (np.abs(x) < 20) & (np.abs(points[:, 2] - plane) < 0.15)
    off = np.abs(surface.at(points[road]) - plane[road])
    median, most = np.median(off), np.percentile(off, 95)
    print(f"{keyframe.name}: {road.sum()} road points off the plane by {median:.3f} m (median), {most:.3f} m (95 %)")
    assert road.sum() > 3000
    assert median < 0.06
    assert most < 0.15
