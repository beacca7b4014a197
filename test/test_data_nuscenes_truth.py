"""Ground truth in nuScenes bags: Occ3D labels as grids that say free only where it was seen, and boxes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from occ_perception.data.bag_reader import BagReader
from occ_perception.data.labels import Occ3DLabels
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_bag import from_nuscenes
from occ_perception.data.nuscenes_selection import SceneBagSettings
from occ_perception.data.nuscenes_truth import occupancy_from_label
from occ_perception.data.voxel_messages import occupancy_from_message
from occ_perception.errors import DatasetError, InvalidInputError
from occ_perception.geometry import OCC3D_GRID, rotation_from_quaternion
from occ_perception.occupancy import Visibility
from occ_perception.ontology import FREE, OCC3D, UNKNOWN


def convert(root, output, *scenes, **settings):
    return from_nuscenes(root, None, scenes, output, SceneBagSettings(**settings), progress=False)


@pytest.fixture(scope="module")
def truth_bag(synthetic_nuscenes, tmp_path_factory):
    """(tree, bag with ground truth) of a scene with labels."""
    labels = synthetic_nuscenes.root / "gts"
    output = tmp_path_factory.mktemp("truth")
    (path,) = convert(synthetic_nuscenes.root, output, "scene-0002", labels=labels, boxes=True)
    return synthetic_nuscenes, path


def test_ground_truth_grids_say_free_only_where_it_was_seen(truth_bag):
    tree, path = truth_bag
    reader = Occ3DLabels(tree.root / "gts")
    with BagReader(path) as bag:
        messages = list(bag.messages(["/gt/occupancy"]))
        grids = [occupancy_from_message(bag.decode(m)) for m in messages]
        frames = {bag.decode(m).header.frame_id for m in messages}
        assert bag.custom_data["labelled_samples"] == "3"
    assert frames == {"base_link"}
    assert [m.log_time_ns for m in messages] == [tree.stamps_ns[t][0] for t in tree.tokens["scene-0002"]]
    for grid, token in zip(grids, tree.tokens["scene-0002"], strict=True):
        label = reader.read("scene-0002", token)
        occupied = tree.truth[token] != FREE
        assert (grid.ontology, grid.grid) == (OCC3D, OCC3D_GRID)
        np.testing.assert_array_equal(grid.semantics[occupied], tree.truth[token][occupied])
        np.testing.assert_array_equal(grid.semantics == FREE, ~occupied & label.mask_lidar)
        assert (grid.semantics[~occupied & ~label.mask_lidar] == UNKNOWN).all()
        assert 0 < occupied.sum() < (grid.semantics == FREE).sum()


def test_labelled_voxels_that_nobody_saw_are_occluded(truth_bag):
    tree, _ = truth_bag
    label = Occ3DLabels(tree.root / "gts").read("scene-0002", tree.tokens["scene-0002"][0], stamp_ns=5)
    hidden = replace(label, mask_lidar=np.zeros_like(label.mask_lidar), mask_camera=np.zeros_like(label.mask_lidar))
    grid = occupancy_from_label(hidden)
    assert set(np.unique(grid.visibility)) == {Visibility.UNKNOWN, Visibility.OCCLUDED}
    assert FREE not in grid.semantics
    with pytest.raises(InvalidInputError, match="both masks"):
        occupancy_from_label(replace(label, mask_camera=None))


def test_boxes_lie_where_they_are_annotated(truth_bag):
    tree, path = truth_bag
    source = NuScenes(tree.root)
    with BagReader(path) as bag:
        messages = [bag.decode(m) for m in bag.messages(["/annotations/boxes"])]
    numbers: dict[str, int] = {}
    for message, token in zip(messages, tree.tokens["scene-0002"], strict=True):
        boxes = {m.id: m for m in message.markers if m.ns == "boxes"}
        names = {m.id: m.text for m in message.markers if m.ns == "names"}
        arrows = {m.id: m.points for m in message.markers if m.ns == "velocities"}
        annotations = source.annotations(token)
        assert message.markers[0].action == 3  # DELETEALL
        assert {(m.lifetime.sec, m.lifetime.nanosec) for m in message.markers[1:]} == {(1, 200_000_000)}
        assert len(boxes) == len(annotations) > 0
        for annotation in annotations:
            center = annotation.global_from_box[:3, 3]
            number, box = next((n, b) for n, b in boxes.items() if np.allclose(_xyz(b.pose.position), center))
            assert numbers.setdefault(annotation.instance_token, number) == number  # the same in all frames
            assert names[number] == f"vehicle.car {number}"
            assert box.header.frame_id == "map"
            np.testing.assert_allclose(_xyz(box.scale), annotation.size)
            o = box.pose.orientation
            turned = rotation_from_quaternion(np.array([o.x, o.y, o.z, o.w]))
            np.testing.assert_allclose(turned, annotation.global_from_box[:3, :3], atol=1e-9)
            if number in arrows:
                start, end = (_xyz(p) for p in arrows[number])
                np.testing.assert_allclose(end - start, annotation.velocity, atol=1e-9)
            else:
                assert not np.linalg.norm(annotation.velocity) > 0.2


def _xyz(message):
    return np.array([message.x, message.y, message.z])


def test_ground_truth_opens_in_the_official_reader_and_in_rosbags_without_our_types(truth_bag):
    _, path = truth_bag
    with (path / f"{path.name}.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = {channel.topic: message for _, channel, _, message in reader.iter_decoded_messages()}
    assert decoded["/gt/occupancy"].ontology == "occ3d"
    assert len(decoded["/gt/occupancy"].indices) == len(decoded["/gt/occupancy"].semantics) > 0
    assert len(decoded["/annotations/boxes"].markers) > 1
    store = get_typestore(Stores.EMPTY)
    with Reader(path) as bag:
        for connection in bag.connections:
            types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
            store.register({name: t for name, t in types.items() if name not in store.fielddefs})
        seen = {c.topic: store.deserialize_cdr(raw, c.msgtype) for c, _, raw in bag.messages()}
    assert seen["/gt/occupancy"].model == "occ3d ground truth"
    assert seen["/annotations/boxes"].markers[1].ns == "boxes"


def test_samples_without_labels_are_left_out_and_told(synthetic_nuscenes, tmp_path, caplog):
    tokens = synthetic_nuscenes.tokens["scene-0002"]
    labels = tmp_path / "gts"
    shutil.copytree(synthetic_nuscenes.root / "gts/scene-0002" / tokens[1], labels / "scene-0002" / tokens[1])
    paths = convert(synthetic_nuscenes.root, tmp_path / "bags", "scene-0002", "scene-0003", labels=labels)
    counts = []
    for path in paths:
        with BagReader(path) as bag:
            counts.append(sum(t.count for t in bag.topics if t.name == "/gt/occupancy"))
    assert counts == [1, 0]
    assert "scene scene-0002: 1 of 3 samples have labels" in caplog.text
    assert "scene scene-0003: 0 of 1 samples have labels" in caplog.text


def test_labels_of_another_grid_leave_no_bag(synthetic_nuscenes, tmp_path):
    token = synthetic_nuscenes.tokens["scene-0003"][0]
    file = tmp_path / "gts/scene-0003" / token / "labels.npz"
    file.parent.mkdir(parents=True)
    small = np.zeros((10, 10, 2), np.uint8)
    np.savez(file, semantics=small, mask_lidar=small, mask_camera=small)
    with pytest.raises(DatasetError, match=r"scenes were not converted: .*labels.npz"):
        convert(synthetic_nuscenes.root, tmp_path / "bags", "scene-0003", labels=tmp_path / "gts")
    assert list((tmp_path / "bags").iterdir()) == []
