"""A small LiDAR simulator for tests: a height field and boxes, seen by 32 rings from a vehicle; exact but for noise."""

from collections.abc import Callable, Sequence

import numpy as np

from occ_perception.frame import Frame, LidarSweep
from occ_perception.geometry import inverse, rigid, transform_points
from occ_perception.models.lidar_carving import LidarCarving
from occ_perception.models.lidar_carving_config import LidarCarvingConfig
from occ_perception.occupancy import Occupancy, Visibility
from occ_perception.ontology import FREE, GEOMETRY, UNKNOWN
from occ_perception.session import Session

SENSOR = np.array([0.94, 0.0, 1.84])
EGO_FROM_LIDAR = rigid(SENSOR, np.array([0.0, 0.0, 0.0, 1.0]))
START_NS = 1_600_000_000_000_000_000
SWEEP_NS = 50_000_000

Box = tuple[Sequence[float], Sequence[float]]
"""Lower and upper corner, world frame, metres."""


def flat(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ground at zero."""
    return np.zeros(np.broadcast(x, y).shape)


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """odom_from_ego of a vehicle on level ground."""
    return rigid([x, y, 0.0], np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)]))


STANDING = pose()


def scan(
    odom_from_ego: np.ndarray,
    boxes: Sequence[Box] = (),
    height: Callable[[np.ndarray, np.ndarray], np.ndarray] = flat,
    columns: int = 360,
    noise: float = 0.02,
    seed: int = 0,
    reach: float = 65.0,
) -> np.ndarray:
    """Points of one sweep taken at an instant, float32 [N, 3], LiDAR frame (vehicle axes)."""
    rings = np.deg2rad(np.linspace(-30.67, 10.67, 32))
    azimuths = np.linspace(np.pi, -np.pi, columns, endpoint=False)[:, None]
    level = np.cos(rings)
    directions = np.stack(
        [level * np.cos(azimuths), level * np.sin(azimuths), np.broadcast_to(np.sin(rings), (columns, 32))], axis=-1
    ).reshape(-1, 3)
    origin = transform_points(odom_from_ego, SENSOR[None])[0]
    towards = directions @ odom_from_ego[:3, :3].T
    ranges = _ground_ranges(origin, towards, height, reach)
    with np.errstate(divide="ignore", invalid="ignore"):
        for lower, upper in boxes:
            first, second = (np.asarray(lower) - origin) / towards, (np.asarray(upper) - origin) / towards
            enter, leave = np.minimum(first, second).max(axis=1), np.maximum(first, second).min(axis=1)
            ranges = np.where((enter <= leave) & (enter > 0), np.minimum(ranges, enter), ranges)
    met = ranges < reach
    measured = ranges[met] + np.random.default_rng(seed).normal(0, noise, met.sum())
    return (directions[met] * measured[:, None]).astype(np.float32)


def _ground_ranges(
    origin: np.ndarray, towards: np.ndarray, height: Callable[[np.ndarray, np.ndarray], np.ndarray], reach: float
) -> np.ndarray:
    """March in steps of half a metre, then bisect."""
    ranges = np.full(len(towards), np.inf)

    def below(beams: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
        x, y, z = origin[:, None] + distance * towards[beams].T
        return z < height(x, y)

    beams = np.arange(len(towards))
    for distance in np.arange(0.5, reach, 0.5):
        under = below(beams, distance)
        near, far = np.full(under.sum(), distance - 0.5), np.full(under.sum(), distance)
        for _ in range(14):
            middle = (near + far) / 2
            inside = below(beams[under], middle)
            near, far = np.where(inside, near, middle), np.where(inside, middle, far)
        ranges[beams[under]] = far
        beams = beams[~under]
    return ranges


def sweep_frame(
    k: int, odom_from_ego: np.ndarray | None, points: np.ndarray, offsets_s: np.ndarray | None = None
) -> Frame:
    """Frame number ``k`` of a 20 Hz stream, anchored at its sweep."""
    stamp = START_NS + k * SWEEP_NS
    return Frame(
        stamp, lidar=(LidarSweep(stamp, points, EGO_FROM_LIDAR, odom_from_ego, offsets_s),), odom_from_ego=odom_from_ego
    )


def ego_points(points: np.ndarray) -> np.ndarray:
    """LiDAR points in the vehicle frame, float64, without those on the default own vehicle."""
    points = transform_points(EGO_FROM_LIDAR, points.astype(np.float64))
    x, y, z = points.T
    return points[~((x > -1.1) & (x < 4.1) & (np.abs(y) < 1.1) & (z < 2.1))]


def beams_to(
    points: Sequence[Sequence[float]],
    k: int = 0,
    odom_from_ego: np.ndarray | None = STANDING,
    offsets_s: np.ndarray | None = None,
) -> Frame:
    """Frame number ``k`` whose sweep has these returns, given in the vehicle frame."""
    lidar = transform_points(inverse(EGO_FROM_LIDAR), np.asarray(points, np.float64)).astype(np.float32)
    return sweep_frame(k, odom_from_ego, lidar, offsets_s)


def carve(frames: Sequence[Frame], config: LidarCarvingConfig | None = None) -> list[Occupancy]:
    """Occupancies of a stream of frames."""
    session = Session(LidarCarving(config))
    return [session.step(frame) for frame in frames]


def at(occupancy: Occupancy, *position: float) -> int:
    """Class at a position in the vehicle frame."""
    cell, inside = occupancy.grid.cells_of(np.array([position]))
    assert inside[0]
    return int(occupancy.semantics[tuple(cell[0])])


def check_consistency(occupancy: Occupancy) -> None:
    """Visibility says what the classes say."""
    semantics = occupancy.semantics
    expected = np.full(semantics.shape, Visibility.OCCUPIED_SEEN, np.uint8)
    expected[semantics == FREE] = Visibility.FREE_SEEN
    expected[semantics == UNKNOWN] = Visibility.UNKNOWN
    assert np.array_equal(occupancy.visibility, expected)
    assert set(np.unique(semantics)) <= {*range(GEOMETRY.num_classes), FREE, UNKNOWN}
