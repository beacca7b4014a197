"""Objects from voxels: class, score, box and velocity of each, whatever the ids; and instances where there are none."""

from dataclasses import replace

import numpy as np
import pytest

from occ_perception.box_fitting import fit_boxes
from occ_perception.connected_instances import MIN_VOXELS, connected_instances
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, VoxelGroups
from occ_perception.instances import fitting_ids, objects_from_voxels, thing_voxels
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN

GRID = VoxelGrid((-10.0, -10.0, 0.0), 0.4, (50, 50, 6))
CAR, TRUCK, PERSON, ROAD = (OCC3D.id_of(n) for n in ("car", "truck", "pedestrian", "driveable_surface"))


def ids_of(*objects: np.ndarray, grid: VoxelGrid = GRID, dtype: type = np.uint16) -> np.ndarray:
    """A grid with the masks of objects 1, 2, ..."""
    ids = np.zeros(grid.size, dtype)
    for number, mask in enumerate(objects, start=1):
        ids[mask] = number
    return ids


def box(x: float, y: float, length: float, width: float, yaw: float, grid: VoxelGrid = GRID) -> np.ndarray:
    """Cells whose centre is in an upright box from the ground to 1.6 m, bool [X, Y, Z]."""
    centers = grid.centers().astype(np.float64)
    dx, dy = centers[..., 0] - x, centers[..., 1] - y
    along, across = np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx
    return (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2) & (centers[..., 2] < 1.6)


def objects_of(ids: np.ndarray, semantics: np.ndarray | int = CAR, grid: VoxelGrid = GRID, **more):
    if isinstance(semantics, int):
        semantics = np.where(ids > 0, semantics, FREE).astype(np.uint8)
    groups = thing_voxels(ids, semantics, OCC3D)
    return objects_from_voxels(groups, semantics, grid, OCC3D, **more)


def off_by(angle: float, other: float, period: float = np.pi) -> float:
    """Difference of two directions that are the same every ``period``, degrees."""
    return float(np.degrees(abs((angle - other + period / 2) % period - period / 2)))


# --- Voxels by object


def test_voxels_of_an_object_are_its_own_and_no_others():
    ids = np.random.default_rng(0).choice(np.array([0, 0, 3, 7, 60_000], np.uint16), GRID.size)
    semantics = np.full(GRID.size, CAR, np.uint8)
    seen = np.full(GRID.size, Visibility.OCCUPIED_SEEN, np.uint8)
    occupancy = Occupancy(1, ModelInfo("m", OCC3D, GRID), semantics, seen, instances=ids)
    for number in (3, 7, 60_000):
        np.testing.assert_array_equal(occupancy.instance_voxels(number), np.flatnonzero(ids == number))
    assert occupancy.instance_voxels(5).size == occupancy.instance_voxels(0).size == 0
    assert occupancy.instance_groups is occupancy.instance_groups  # sorted once
    assert occupancy.instance_groups.ids.tolist() == [3, 7, 60_000]
    np.testing.assert_array_equal(occupancy.instance_groups.renumbered(np.array([3, 7, 60_000]), ids.size), ids.ravel())


def test_without_instances_there_are_no_voxels():
    free, seen = np.full(GRID.size, FREE, np.uint8), np.full(GRID.size, Visibility.FREE_SEEN, np.uint8)
    occupancy = Occupancy(1, ModelInfo("m", OCC3D, GRID), free, seen)
    assert occupancy.instance_voxels(1).size == 0
    assert len(occupancy.instance_groups) == 0


def test_only_voxels_of_things_count():
    ids = ids_of(box(0, 0, 4, 2, 0))
    semantics = np.where(ids > 0, CAR, FREE).astype(np.uint8)
    semantics[20, 25], semantics[21, 25], semantics[22, 25] = ROAD, UNKNOWN, FREE
    kept = thing_voxels(ids, semantics, OCC3D).voxels
    np.testing.assert_array_equal(kept, np.flatnonzero((ids > 0) & (semantics == CAR)))


def test_empty_scenes():
    nothing = np.zeros(GRID.size, np.uint16)
    assert objects_of(nothing) == ()
    assert objects_of(ids_of(box(0, 0, 4, 2, 0)), np.full(GRID.size, FREE, np.uint8)) == ()
    assert (
        objects_of(nothing, flow=np.zeros((*GRID.size, 2), np.float32), confidence=np.zeros(GRID.size, np.uint8)) == ()
    )


def test_ids_beyond_uint16_are_told_apart_and_renumbered():
    ids = ids_of(box(-5, 0, 4, 2, 0), box(5, 0, 4, 2, 0), dtype=np.int64)
    large = np.where(ids == 1, 65_536, np.where(ids == 2, 131_072, 0))  # both are 0 in uint16
    first, second = objects_of(large)
    assert (first.id, second.id) == (65_536, 131_072)
    assert first.center[0] < -4 < 4 < second.center[0]
    np.testing.assert_array_equal(fitting_ids(large), ids)
    np.testing.assert_array_equal(fitting_ids(ids.astype(np.int16)), ids)
    assert fitting_ids(ids.astype(np.int16)).dtype == np.uint16


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (np.full(GRID.size, -1, np.int16), "ids of 0 and more, got -1"),
        (np.ones(GRID.size, np.float32), "expected integers .* got float32"),
        (np.ones((3, 3, 3), np.int32), r"expected integers \(50, 50, 6\), got int32 \(3, 3, 3\)"),
    ],
)
def test_ids_that_are_none_are_refused(ids, says):
    with pytest.raises(InvalidInputError, match=says):
        thing_voxels(ids, np.full(GRID.size, CAR, np.uint8), OCC3D)


def test_more_objects_than_ids_are_refused():
    ids = np.arange(OCC3D_GRID.num_voxels).reshape(OCC3D_GRID.size)
    with pytest.raises(InvalidInputError, match="at most 65535 objects"):
        thing_voxels(ids, np.full(OCC3D_GRID.size, CAR, np.uint8), OCC3D)
    with pytest.raises(InvalidInputError, match="at most 65535 ids"):
        fitting_ids(ids)
    with pytest.raises(InvalidInputError, match="got float64"):
        fitting_ids(ids.astype(np.float64))
    with pytest.raises(InvalidInputError, match="from -1"):
        fitting_ids(ids - 1)


# --- Class, score, velocity


def test_class_of_most_voxels_and_mean_confidence():
    ids = ids_of(box(-5, 0, 4, 2, 0), box(5, 0, 4, 2, 0))
    semantics = np.where(ids > 0, CAR, FREE).astype(np.uint8)
    second = np.argwhere(ids == 2)
    semantics[tuple(second[: len(second) * 2 // 3].T)] = TRUCK
    confidence = np.zeros(GRID.size, np.uint8)
    confidence[ids == 1] = 51
    confidence[tuple(second[::2].T)] = 255
    first, mixed = objects_of(ids, semantics, confidence=confidence)
    assert (first.class_id, mixed.class_id) == (CAR, TRUCK)
    assert first.score == pytest.approx(0.2)
    assert mixed.score == pytest.approx(len(second[::2]) / len(second))


def test_the_model_s_own_score_counts_and_ids_without_voxels_are_left_out():
    ids = ids_of(box(-5, 0, 4, 2, 0), box(5, 0, 4, 2, 0))
    said = [Instance(i, CAR, 0.25, (0, 0, 0), (1, 1, 1), 0.0, (0, 0, 0)) for i in (2, 9)]
    first, second = objects_of(ids, confidence=np.full(GRID.size, 255, np.uint8), said=said)
    assert (first.score, second.score) == (1.0, 0.25)
    # A score for another class than that of the voxels says nothing of what is published.
    other = [replace(item, class_id=TRUCK) for item in said]
    first, second = objects_of(ids, confidence=np.full(GRID.size, 51, np.uint8), said=other)
    assert (first.class_id, second.class_id) == (CAR, CAR)
    assert second.score == pytest.approx(0.2)
    assert objects_of(ids)[0].score == 1.0  # nobody says anything


def test_velocity_is_the_mean_flow_without_what_is_not_finite():
    ids = ids_of(box(-5, 0, 4, 2, 0), box(5, 0, 4, 2, 0), box(0, 6, 2, 2, 0))
    flow = np.zeros((*GRID.size, 2), np.float32)
    flow[ids == 1] = 2.0, -1.0
    flow[ids == 2] = np.nan
    some = np.argwhere(ids == 1)[:5]
    flow[tuple(some.T)] = [[np.nan, 1], [np.inf, 0], [0, -np.inf], [np.nan, np.nan], [1, np.nan]]
    first, second, third = objects_of(ids, flow=flow)
    assert first.velocity == pytest.approx((2.0, -1.0, 0.0))
    assert np.isnan(second.velocity).all()
    assert third.velocity == (0.0, 0.0, 0.0)
    assert np.isfinite([second.yaw, *second.center, *second.size]).all()
    assert np.isnan(objects_of(ids)[0].velocity).all()


# --- Boxes


@pytest.mark.parametrize("yaw", np.radians([0, 17, 45, 62, 90, 131, 175]).tolist())
def test_whole_objects_have_their_box(yaw):
    for length, width, tolerance in ((4.5, 1.9, 6.0), (9.0, 2.6, 4.0)):
        (item,) = objects_of(ids_of(box(1.1, -0.7, length, width, yaw)))
        assert off_by(item.yaw, yaw) < tolerance
        assert item.size == pytest.approx((length, width, 1.6), abs=0.55)
        assert item.center == pytest.approx((1.1, -0.7, 0.8), abs=0.2)
        assert -np.pi / 2 < item.yaw <= np.pi / 2


def test_boxes_of_many_are_those_of_each():
    random = np.random.default_rng(1)
    masks = [box(x, y, 4.0, 1.8, random.uniform(-3, 3)) for x in (-7, 0, 7) for y in (-7, -1, 5)]
    together = objects_of(ids_of(*masks))
    assert len(together) == 9
    for number, mask in enumerate(masks, start=1):
        (alone,) = objects_of(np.where(mask, number, 0))
        assert repr(together[number - 1]) == repr(alone)


def test_two_visible_sides_give_the_direction_of_the_whole():
    """The smallest rectangle around an L may as well lie along its hypotenuse: 20 degrees off for a car."""
    errors = []
    for yaw in np.radians(np.arange(0, 180, 10)):
        near_sides = box(0, 0, 4.5, 1.9, yaw)
        far = box(-0.45 * np.cos(yaw) + 0.45 * np.sin(yaw), -0.45 * np.sin(yaw) - 0.45 * np.cos(yaw), 4.5, 1.9, yaw)
        (item,) = objects_of(ids_of(near_sides & ~far))
        errors.append(off_by(item.yaw, yaw))
    assert np.mean(errors) < 5
    assert np.max(errors) < 18


@pytest.mark.parametrize("speed", [3.0, 0.5])
def test_what_moves_is_headed_along_its_motion(speed):
    ids = ids_of(box(0, 0, 4.5, 1.9, 0.5))
    flow = np.zeros((*GRID.size, 2), np.float32)
    flow[:] = -speed * np.cos(0.55), -speed * np.sin(0.55)
    (item,) = objects_of(ids, flow=flow)
    assert off_by(item.yaw, 0.5) < 6
    assert item.size[0] > item.size[1]
    backwards = off_by(item.yaw, 0.5 + np.pi, 2 * np.pi) < 6
    assert backwards == (speed > 1)


def test_the_rear_of_a_bus_is_broad_not_turned():
    ids = ids_of(box(0, 0, 0.9, 3.0, 0.0))
    flow = np.full((*GRID.size, 2), (6.0, 0.3), np.float32)
    moving, still = objects_of(ids, flow=flow)[0], objects_of(ids)[0]
    assert off_by(moving.yaw, 0.0, 2 * np.pi) < 6
    assert moving.size[0] < moving.size[1]
    assert off_by(still.yaw, np.pi / 2) < 6
    assert still.size[0] > still.size[1]


def test_a_footprint_without_direction_takes_that_of_its_motion():
    ids = ids_of(box(0.2, 0.2, 0.7, 0.7, 0.0))
    flow = np.full((*GRID.size, 2), (0.9, 0.9), np.float32)
    (walker,) = objects_of(ids, PERSON, flow=flow)
    assert walker.yaw == pytest.approx(np.pi / 4)
    assert np.max(walker.size[:2]) < 1.2


def test_one_voxel_is_an_object():
    ids = np.zeros(GRID.size, np.uint16)
    ids[25, 30, 2] = 4
    (item,) = objects_of(ids)
    assert item.center == pytest.approx((0.2, 2.2, 1.0))
    assert item.size == pytest.approx((0.4, 0.4, 0.4))
    assert (item.yaw, item.id) == (0.0, 4)


def test_every_voxel_centre_lies_in_its_box():
    random = np.random.default_rng(2)
    ids = np.zeros(GRID.size, np.uint16)
    for number in range(1, 30):
        x, y, z = random.integers((2, 2, 0), (45, 45, 4))
        ids[x : x + random.integers(1, 6), y : y + random.integers(1, 6), z : z + 2] = number
    ids[random.random(GRID.size) < 0.5] = 0
    for item in objects_of(ids):
        offset = GRID.center_of(np.flatnonzero(ids == item.id)) - item.center
        along = np.cos(item.yaw) * offset[:, 0] + np.sin(item.yaw) * offset[:, 1]
        across = np.cos(item.yaw) * offset[:, 1] - np.sin(item.yaw) * offset[:, 0]
        assert (np.abs([along, across, offset[:, 2]]).max(axis=1) <= np.array(item.size) / 2).all()


def test_no_groups_no_boxes():
    assert len(fit_boxes(VoxelGroups.none(), GRID).yaws) == 0


# --- Instances from classes alone


def test_connected_voxels_of_a_class_are_an_object():
    semantics = np.full(GRID.size, FREE, np.uint8)
    semantics[:, :, 0] = ROAD
    semantics[5:10, 5:8, 1:4] = CAR
    semantics[10, 8, 3] = CAR  # touches at a corner
    semantics[20:25, 5:8, 1:4] = CAR
    semantics[25:30, 5:8, 1:4] = TRUCK  # touches, but is of another class
    semantics[40, 40, 1:MIN_VOXELS] = PERSON  # too few
    ids = connected_instances(semantics, OCC3D)
    assert set(np.unique(ids)) == {0, 1, 2, 3}
    assert set(ids[5:11, 5:9, 1:4][semantics[5:11, 5:9, 1:4] == CAR]) == {1}
    assert (ids[20:25, 5:8, 1:4] == 2).all()
    assert (ids[25:30, 5:8, 1:4] == 3).all()
    assert ids[40, 40].max() == ids[:, :, 0].max() == 0


def test_ends_of_the_grid_do_not_touch():
    semantics = np.full(GRID.size, FREE, np.uint8)
    semantics[10, -1, 1:4] = semantics[11, 0, 1:4] = CAR
    semantics[20, 20:23, -1] = semantics[20, 21:24, 0] = CAR
    assert connected_instances(semantics, OCC3D).max() == 4


def test_neighbours_that_move_apart_are_two():
    semantics = np.full(GRID.size, FREE, np.uint8)
    semantics[5:15, 5:8, 1:4] = CAR
    flow = np.zeros((*GRID.size, 2), np.float32)
    flow[10:] = 5.0, 0.0
    assert connected_instances(semantics, OCC3D).max() == 1
    assert connected_instances(semantics, OCC3D, flow).max() == 2
    assert connected_instances(semantics, OCC3D, np.full_like(flow, np.nan)).max() == 1


def test_nothing_to_connect():
    assert connected_instances(np.full(GRID.size, FREE, np.uint8), OCC3D).max() == 0
