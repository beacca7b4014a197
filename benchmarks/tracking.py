"""Objects and their identities: what they cost per frame, and how well identities last.

    python benchmarks/tracking.py [--seconds 20] [--cities 2] [--no-quality]

Cost: 50 cars in motion on a grid of 200 x 200 x 16, one core; the budget is 10 ms a frame for all of it.

Quality: true instances, numbered anew in every frame, through a session.  "street" is the tests' world of boxes
(test/moving_objects.py), "cities" are seeded scenes of the synthetic world, of which those objects are seen that the
LiDAR hits.  Damage: a share of the voxels lost; a share of the objects lost; a share merged with their neighbours and
as many split; anew in every frame.  "best" is the IDF1 of perfect identities on the same detections, the harmonic mean
of recall and precision; switches are per object and minute.  An object that was missing for more than a second counts
as another, as it does for the tracker; "switches, all" is without that exception.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

from moving_objects import (
    Body,
    Continuous,
    KnownObjects,
    MovingObjects,
    Snapshot,
    merged_and_split,
    straight,
    street,
    voxels_dropped,
)

from benchmarks.report import measure, report
from occ_perception.connected_instances import connected_instances
from occ_perception.data.synthetic.drive import START_NS, CityDrive
from occ_perception.data.synthetic.labels import SceneLabels
from occ_perception.geometry import OCC3D_GRID
from occ_perception.instances import objects_from_voxels, thing_voxels
from occ_perception.metrics.tracking import TrackedFrame, TrackingScore
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN
from occ_perception.session import Session
from occ_perception.tracking.objects import ObjectsOverTime
from occ_perception.tracking.settings import TrackingSettings

BUDGET_MS = 10.0
LEAST_RETURNS = 5
DAMAGES: dict[str, Callable[[Snapshot, np.random.Generator], Snapshot] | None] = {
    "none": None,
    "30 % of voxels lost": voxels_dropped(0.3, 0.0),
    "10 % of objects lost": voxels_dropped(0.0, 0.1),
    "5 % merged, 5 % split": merged_and_split(0.05),
}


def fifty_cars() -> MovingObjects:
    """Ten rows of five cars, every other row in motion, around a vehicle that drives among them."""
    bodies = []
    for row in range(10):
        for column in range(5):
            path = straight(-28.0 + 12 * column + row, -31.5 + 7 * row, 2.0 + 2.0 * (row % 2))
            bodies.append(Body(len(bodies) + 1, "car", (4.5, 1.9, 1.6), path))
    return MovingObjects(bodies, lambda t: (3.0 * t, 0.0, 0.02 * t), OCC3D_GRID)


def cost_rows() -> list[dict[str, object]]:
    """The object stage of a session, and its parts."""
    world = fifty_cars()
    rows: list[dict[str, object]] = []
    for flow in (True, False):
        stage, wall, cpu = ObjectsOverTime(ModelInfo("benchmark", OCC3D, OCC3D_GRID), TrackingSettings()), [], []
        for k in range(60):
            shot = world.at(k / 10)
            published = {"semantics": shot.semantics, "visibility": shot.visibility, "confidence": None}
            published |= {"flow": shot.flow if flow else None, "prediction": shot.semantics}
            start, start_cpu = time.perf_counter(), time.thread_time()
            result = stage.update(shot.stamp_ns, shot.odom_from_ego, k > 0, published, shot.identities, ())
            cpu.append((time.thread_time() - start_cpu) * 1e3)
            wall.append((time.perf_counter() - start) * 1e3)
        what = f"all of it, {len(result['objects'])} objects, {'flow' if flow else 'no flow'}"
        figures = {"median_ms": round(float(np.median(wall[5:])), 2), "worst_ms": round(max(wall[5:]), 2)}
        figures |= {"cpu_ms": round(float(np.median(cpu[5:])), 2), "budget_ms": BUDGET_MS}
        rows.append({"stage": what, **figures})
    shot = world.at(1.0)
    groups = thing_voxels(shot.identities, shot.semantics, OCC3D)
    steps = {
        "  voxels by object": lambda: thing_voxels(shot.identities, shot.semantics, OCC3D),
        "  boxes, classes, velocities": lambda: objects_from_voxels(
            groups, shot.semantics, OCC3D_GRID, OCC3D, flow=shot.flow
        ),
        "connected components (off by default)": lambda: connected_instances(shot.semantics, OCC3D, shot.flow),
    }
    return rows + [{"stage": stage, **measure(run)} for stage, run in steps.items()]


class City:
    """Snapshots of a synthetic city like those of `MovingObjects`."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.drive = CityDrive(seed, seconds)
        self.labels, self.grid = SceneLabels(self.drive.scene), OCC3D_GRID
        self._shots: dict[float, Snapshot] = {}

    def at(self, time_s: float) -> Snapshot:
        """Everything at a time."""
        time_s = round(time_s, 6)
        if time_s not in self._shots:
            self._shots[time_s] = self._look(time_s)
        return self._shots[time_s]

    def _look(self, time_s: float) -> Snapshot:
        label = self.labels.at(time_s).label
        assert label.instances is not None
        assert label.flow is not None
        returns = np.bincount(self.drive.scan(START_NS + round(time_s * 1e9)).instances, minlength=65_536)
        semantics, hidden = label.semantics.copy(), returns[label.instances] < LEAST_RETURNS
        hidden &= label.instances > 0
        semantics[hidden] = UNKNOWN
        visibility = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN).astype(np.uint8)
        visibility[hidden] = Visibility.OCCLUDED
        identities = np.where(hidden, 0, label.instances).astype(np.uint16)
        pose = self.drive.odom_from_ego(START_NS + round(time_s * 1e9))
        stamp_ns = round(time_s * 1e9) + 10**9
        return Snapshot(stamp_ns, pose, semantics, identities, np.nan_to_num(label.flow), visibility)


def scored(model: KnownObjects, times: np.ndarray, as_known: bool) -> TrackingScore:
    """Identities over a drive, of the published grids."""
    known, frames, session = Continuous(), [], Session(model)
    for time_s in times.tolist():
        occupancy = session.step(model.frame(time_s))
        assert model.last is not None
        truth = known(model.last) if as_known else model.last.identities
        frames.append(TrackedFrame.of_grids(occupancy.stamp_ns, truth, occupancy.instances))
    result = TrackingScore()
    result.update(frames)
    session.close()
    return result


def quality_rows(seconds: float, cities: int) -> Iterator[dict[str, object]]:
    """Worlds, rates, with and without flow, and damage."""
    worlds: dict[str, list[MovingObjects | City]] = {
        "street": [street(seconds)],
        f"{cities} cities": [City(seed, seconds + 1) for seed in range(cities)],
    }
    for name, drives in worlds.items():
        for damage in DAMAGES:
            for hz, flow in ((10, True), (10, False), (2, True), (2, False)):
                times = 0.1 + np.arange(round(seconds * hz)) / hz
                known, everything = TrackingScore(), TrackingScore()
                for drive in drives:
                    known.merge(scored(KnownObjects(drive, flow, DAMAGES[damage]), times, as_known=True))
                    if DAMAGES[damage] is None:
                        everything.merge(scored(KnownObjects(drive, flow), times, as_known=False))
                yield _row(name, damage, hz, flow, known, everything)


def _row(
    world: str, damage: str, hz: int, flow: bool, known: TrackingScore, everything: TrackingScore
) -> dict[str, object]:
    values, all_values = known.compute().values, everything.compute().values
    best = 2 * values["recall"] * values["precision"] / (values["recall"] + values["precision"])
    per_minute = "switches per object and minute"
    return {
        "world": world,
        "damage": damage,
        "Hz": hz,
        "flow": "yes" if flow else "no",
        "objects": round(float(known.counts["true"][0]) / known.frames, 1),
        "IDF1": round(100 * values["IDF1"], 2),
        "best": round(100 * best, 2),
        "MOTA": round(100 * values["MOTA"], 2),
        "switches": round(values[per_minute], 2),
        "switches, all": round(all_values[per_minute], 2) if everything.frames else "",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--cities", type=int, default=2)
    parser.add_argument("--no-quality", action="store_true", help="cost only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report("tracking_cost", cost_rows())
    if not arguments.no_quality:
        report("tracking", list(quality_rows(arguments.seconds, arguments.cities)))
