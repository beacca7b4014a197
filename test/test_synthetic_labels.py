"""Ground truth of synthetic scenes: agrees with what cameras and LiDAR measure, and with where things are."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from small_scenes import CAR, PEDESTRIAN, ROAD, box_between, walled_road

from occ_perception.data.synthetic.beams import Beams, seen_voxels
from occ_perception.data.synthetic.drive import CityDrive
from occ_perception.data.synthetic.labels import surface_returns
from occ_perception.data.synthetic.static_samples import StaticSamples
from occ_perception.data.synthetic.surface import solid_points, thinned, triangle_points
from occ_perception.geometry import OCC3D_GRID, inverse, transform_points
from occ_perception.ontology import FREE, OCC3D

FLAT = [OCC3D.id_of(name) for name in ("driveable_surface", "other_flat", "sidewalk", "terrain")]
DIAGONAL = OCC3D_GRID.voxel_size * np.sqrt(3)


@pytest.fixture(scope="module")
def drive():
    return CityDrive(5, 2.0, (352, 128), scene=walled_road())


@pytest.fixture(scope="module")
def keyframe(drive):
    return drive.keyframe(drive.keyframe_stamps()[2])


@pytest.fixture(scope="module")
def city():
    """A real city, one keyframe at the training size."""
    drive = CityDrive(1, 1.0)
    return drive, drive.keyframe(drive.keyframe_stamps()[1])


def cells(*ranges):
    """Slices of the grid for ranges in metres."""
    lower = OCC3D_GRID.lower
    return tuple(slice(*np.round((np.array(r) - low) / 0.4).astype(int)) for r, low in zip(ranges, lower, strict=True))


def views(drive, keyframe):
    """(depth, ego(at the LiDAR stamp)_from_camera, camera) of every image."""
    stamp = keyframe.frame.lidar[0].stamp_ns
    for name, image in keyframe.rendered.items():
        pose = inverse(drive.odom_from_ego(stamp)) @ drive.odom_from_ego(drive.image_stamp(name, stamp))
        yield image, pose @ drive.rig[name].ego_from_camera, drive.rig[name]


def image_points(image, ego_from_camera, camera):
    """Where each pixel's surface is, and its class."""
    v, u = np.nonzero(np.isfinite(image.depth))
    rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], 1) @ np.linalg.inv(camera.intrinsics).T
    return transform_points(ego_from_camera, rays * image.depth[v, u, None].astype(float)), image.class_ids[v, u]


# -- surfaces


def test_no_point_of_a_triangle_is_far_from_a_sample():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-3, 3, (40, 3, 3)) * rng.uniform(0.02, 1, (40, 1, 1))
    corners[0, 2] = corners[0, 1]  # no area at all
    points, owner = triangle_points(corners, 0.15)
    assert set(owner.tolist()) == set(range(40))
    for k in range(40):
        weights = rng.dirichlet(np.ones(3), 500)
        distance, _ = cKDTree(points[owner == k]).query(weights @ corners[k])
        assert distance.max() <= 0.15


def test_a_closed_box_is_filled_and_an_open_gap_is_not():
    points, class_ids = solid_points(box_between((-2, -1, 0.2), (2, 1, 1.5), CAR), 0.15)
    inside, _ = cKDTree(points).query(np.random.default_rng(1).uniform((-2, -1, 0.2), (2, 1, 1.5), (500, 3)))
    assert inside.max() < 0.15 * np.sqrt(3)
    assert set(class_ids) == {CAR}
    legs = [box_between((0, y, 0), (0.2, y + 0.2, 0.9), PEDESTRIAN) for y in (-0.5, 0.3)]
    points, _ = solid_points(type(legs[0]).merged(legs), 0.1)
    assert not (np.abs(points[:, 1]) < 0.25).any()


def test_thinning_keeps_every_class_of_every_cell():
    rng = np.random.default_rng(2)
    points, class_ids = rng.uniform(-1, 1, (5000, 3)), rng.integers(0, 17, 5000)
    kept = thinned(points, class_ids, 0.5)
    lattice = np.floor((points - points.min(0)) / 0.5).astype(int)
    assert len(kept) == len(np.unique(np.column_stack([lattice, class_ids]), axis=0))
    assert np.all(np.diff(kept) > 0)


# -- occupancy


def test_walls_road_and_objects_are_where_they_are(keyframe):
    semantics = keyframe.truth.label.semantics
    assert np.all(semantics[cells((-10, 10), (-8, 8), (-0.2, 0.2))][:, 10] == ROAD)
    assert np.all(semantics[cells((-10, 10), (8.8, 9.2), (0.2, 5.4))] == OCC3D.id_of("manmade"))
    assert np.all(semantics[cells((-10, 10), (-9.2, -8.8), (0.2, 3.8))] == OCC3D.id_of("vegetation"))
    assert np.all(semantics[cells((-10, 10), (1, 2.2), (0.6, 5.4))] == FREE)


def test_objects_are_solid_and_stand_in_the_road(drive, keyframe):
    label, truth = keyframe.truth.label, keyframe.truth
    centers = OCC3D_GRID.centers().reshape(-1, 3).astype(float)
    for box, class_id, instance in zip(truth.boxes, truth.box_classes, truth.box_ids, strict=True):
        turn = np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        local = np.abs((centers - box[:3]) @ turn)
        inside = (local <= box[3:6] / 2 - [0, 0, 0.2]).all(1)  # the car's underside is 0.2 m above the road
        assert inside.any()
        assert np.all(label.semantics.ravel()[inside] == class_id)
        assert np.all(label.instances.ravel()[inside] == instance)
        mine = label.instances.ravel() == instance
        assert np.all(local[mine] <= box[3:6] / 2 + 0.2 * np.sqrt(2) + 1e-6)
    person = truth.boxes[truth.box_classes == PEDESTRIAN][0]
    cell, _ = OCC3D_GRID.cells_of(np.array([[person[0], person[1], 0.05]]))
    assert label.semantics[tuple(cell[0])] == PEDESTRIAN  # not lost in the road


def test_boxes_and_flow_are_the_motion_of_the_objects(drive, keyframe):
    truth, stamp = keyframe.truth, keyframe.frame.lidar[0].stamp_ns
    time_s, odom_from_ego = drive.time_s(stamp), drive.odom_from_ego(stamp)
    assert set(truth.box_ids) == {1, 2, 7}
    for actor in drive.scene.actors:
        box = truth.boxes[truth.box_ids == actor.instance_id][0]
        ahead, behind = (actor.trajectory.pose(time_s + dt)[:3, 3] for dt in (0.1, -0.1))
        velocity = odom_from_ego[:2, :2].T @ ((ahead - behind) / 0.2)[:2]
        np.testing.assert_allclose(box[7:], velocity, atol=1e-6)
        np.testing.assert_allclose(
            odom_from_ego @ [*box[:2], 0, 1], actor.trajectory.pose(time_s)[:, 3] * [1, 1, 0, 1], atol=1e-9
        )
        flow = truth.label.flow[truth.label.instances == actor.instance_id]
        np.testing.assert_allclose(flow, np.broadcast_to(velocity, flow.shape), atol=1e-5)
    assert np.all(truth.label.flow[truth.label.instances == 0] == 0)
    assert np.any(np.abs(truth.label.flow) > 9)  # the oncoming car


def test_lidar_returns_of_moving_objects_are_where_the_objects_are_at_the_stamp(drive):
    stamp = drive.keyframe_stamps()[1]
    time_s = drive.time_s(stamp)
    returns = surface_returns(drive.scan(stamp, noise=False), time_s, drive.scene, drive.ego_from_lidar)
    for actor in drive.scene.actors:
        points = returns.points[:, returns.instances == actor.instance_id].T.astype(float)
        assert len(points) > 5
        local = np.abs(transform_points(inverse(actor.trajectory.pose(time_s)), points) - [0, 0, actor.size[2] / 2])
        assert np.all(local <= np.array(actor.size) / 2 + 1e-2)


def test_far_from_the_path_there_is_nothing(drive):
    samples = StaticSamples(drive.scene, OCC3D_GRID)
    assert len(samples.near(np.array([1e4, 1e4, 0.0]))) == 0
    assert samples.near(np.zeros(3)).points[2].min() > OCC3D_GRID.lower[2]


# -- masks


def test_nothing_behind_a_wall_is_seen(keyframe):
    label = keyframe.truth.label
    behind = cells((-10, 10), (10.4, 39.6), (0.2, 3.0))
    assert not label.mask_camera[behind].any()
    assert not label.mask_lidar[behind].any()
    between = cells((4, 10), (5.6, 8.4), (0.6, 1.8))
    assert label.mask_camera[between].all()
    wall = cells((2, 10), (8.8, 9.2), (0.6, 1.4))
    assert label.mask_camera[wall].mean() > 0.95
    assert not label.mask_camera[cells((-10, 10), (9.6, 10), (0.6, 3.0))].any()  # its back


def test_the_road_is_seen_as_far_as_nothing_hides_it(keyframe):
    label = keyframe.truth.label
    ahead = cells((5, 39.6), (-2, 0.4), (-0.2, 0.2))
    assert label.mask_camera[ahead].mean() > 0.97


def test_returns_and_the_way_to_them_are_in_the_lidar_mask(drive, keyframe):
    sweep = keyframe.frame.lidar[0]
    scan = drive.scan(sweep.stamp_ns, noise=False)
    points = transform_points(drive.ego_from_lidar, scan.points[:, :3].astype(float))
    for share in (1.0, 0.7, 0.4):
        cell, inside = OCC3D_GRID.cells_of(drive.ego_from_lidar[:3, 3] * (1 - share) + points * share)
        seen = keyframe.truth.label.mask_lidar[tuple(cell[inside].T)]
        assert seen.mean() > 0.97  # the sensor moves by 0.4 m in a turn; ways are those of its place at the end


def test_beams_into_the_sky_mark_no_end():
    beams = Beams(np.zeros((1, 3)), np.array([[0.0, 0.0, 3.0]]), np.array([False]))
    seen = seen_voxels(beams, np.eye(4), OCC3D_GRID)
    assert seen[100, 100].nonzero()[0].tolist() == list(range(2, 10))  # z = 0 in cell 2, up to and without z = 3


# -- agreement with the sensors, in a real city


def test_surfaces_in_images_are_in_occupied_voxels_of_their_class(city):
    """>= 97 % of all pixels' surface points lie in an occupied voxel, >= 93 % in one of their class (a voxel has one
    class, borders have two); what moves was photographed up to 50 ms before."""
    drive, keyframe = city
    semantics = drive.ground_truth(keyframe.frame.lidar[0].stamp_ns)
    found = []
    for view in views(drive, keyframe):
        points, class_ids = image_points(*view)
        cell, inside = OCC3D_GRID.cells_of(points)
        found.append(np.column_stack([semantics[tuple(cell[inside].T)], class_ids[inside]]))
    found = np.concatenate(found)
    assert len(found) > 300_000
    assert np.mean(found[:, 0] < FREE) >= 0.97
    assert np.mean(found[:, 0] == found[:, 1]) >= 0.93


def test_seen_occupied_voxels_have_surface_in_an_image(city):
    """>= 97 % of the occupied voxels in the camera mask whose centre is in an image: a pixel shows surface within one
    diagonal of the centre; or (roads far away, which pixels meet metres apart) the voxel's vertical axis goes through
    the surface, its top before what the image shows and its bottom behind it."""
    drive, keyframe = city
    label = keyframe.truth.label
    voxels = np.argwhere((label.semantics < FREE) & label.mask_camera)
    centers = OCC3D_GRID.lower + (voxels + 0.5) * 0.4
    in_image, on_axis = np.zeros(len(voxels), bool), np.zeros(len(voxels), bool)
    surface = []
    for image, ego_from_camera, camera in views(drive, keyframe):
        surface.append(image_points(image, ego_from_camera, camera)[0])
        behind = {}
        for height in (0.0, 0.2, -0.2):
            points = transform_points(inverse(ego_from_camera), centers + np.array([0, 0, height]))
            pixels, depth, visible = camera.project(points)
            column, row = np.where(visible[:, None], pixels, 0).astype(int).T
            behind[height] = np.where(visible, depth - image.depth[row, column], np.nan)
        in_image |= np.isfinite(behind[0.0])
        pixel = 0.2 + 0.03 * np.linalg.norm(centers - ego_from_camera[:3, 3], axis=1)  # its length on a road, metres
        on_axis |= (behind[0.2] <= pixel) & (behind[-0.2] >= -pixel)
    distance, _ = cKDTree(np.concatenate(surface)).query(centers, distance_upper_bound=2 * DIAGONAL)
    assert in_image.sum() > 5000
    assert np.mean((on_axis | (distance <= DIAGONAL))[in_image]) >= 0.97
    upright = in_image & ~np.isin(label.semantics[tuple(voxels.T)], FLAT)
    assert np.mean(distance[upright] <= DIAGONAL) >= 0.97


def test_lidar_returns_are_in_occupied_voxels(city):
    """>= 99 % of the noise-free returns, of labels that did not have them added."""
    drive, keyframe = city
    stamp = keyframe.frame.lidar[0].stamp_ns
    semantics = drive.ground_truth(stamp)
    scan = drive.scan(stamp, noise=False)
    returns = surface_returns(scan, drive.time_s(stamp), drive.scene, drive.ego_from_lidar)
    points = transform_points(inverse(drive.odom_from_ego(stamp)), returns.points.T.astype(float))
    cell, inside = OCC3D_GRID.cells_of(points)
    assert inside.sum() > 10_000
    assert np.mean(semantics[tuple(cell[inside].T)] < FREE) >= 0.99


def test_instances_of_a_city_match_its_boxes(city):
    drive, keyframe = city
    truth = keyframe.truth
    centers = OCC3D_GRID.centers().reshape(-1, 3).astype(float)
    ids = truth.label.instances.ravel()
    assert len(truth.boxes) > 5
    assert np.all(np.isin(np.unique(ids), [0, *(actor.instance_id for actor in drive.scene.actors)]))
    for box, class_id, instance in zip(truth.boxes, truth.box_classes, truth.box_ids, strict=True):
        mine = ids == instance
        turn = np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        local = np.abs((centers[mine] - box[:3]) @ turn)
        assert np.all(local <= box[3:6] / 2 + 0.25 * np.sqrt(2))
        assert set(truth.label.semantics.ravel()[mine]) <= {class_id}


@pytest.mark.slow
def test_all_classes_appear_over_several_scenes():
    present = set()
    for seed in range(6):
        drive = CityDrive(seed, 6.0)
        for stamp in drive.keyframe_stamps()[::5]:
            present |= set(np.unique(drive.ground_truth(stamp)).tolist())
    assert present == {*range(OCC3D.num_classes), FREE}
