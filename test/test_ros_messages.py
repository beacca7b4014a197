"""Grids and instances on the wire: what goes in comes out, and what contradicts itself is refused."""

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, rigid
from occ_perception.occupancy import Instance, ModelInfo, Occupancy, TemporalStatus, Visibility
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, OPENOCC, UNKNOWN, Ontology

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import MarkerArray

from occ_perception.data.bag_markers import MARKERS, instances_message
from occ_perception.data.bag_messages import INSTANCES, VOXEL_GRID, voxel_grid, voxel_instances
from occ_perception.data.flow_encoding import FLOW_UNKNOWN, flow_from_wire, flow_to_wire
from occ_perception.data.message_definitions import message_store
from occ_perception.data.voxel_messages import pack_visibility, unpack_visibility
from occ_perception.msg import VoxelGrid as VoxelGridMessage
from occ_perception.msg import VoxelInstanceArray
from occ_perception.ros.messages import (
    instances_from_message,
    instances_to_message,
    ns_to_stamp,
    occupancy_from_message,
    occupancy_to_message,
    pose_from_message,
    pose_to_message,
    stamp_to_ns,
    transform_from_message,
    transform_to_message,
)
from occ_perception.ros.object_markers import markers_of

STAMP_NS = 1_532_402_927_612_460_000
FORMS = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
CAR = OPENOCC.id_of("car")


def over_the_wire(message):
    """The message as a subscriber gets it: serialised and deserialised by the real middleware code."""
    return deserialize_message(serialize_message(message), type(message))


def random_occupancy(seed, optional=True):
    """A consistent grid of random size, label set and content; flow in whole millimetres per second."""
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 8, 3))
    ontology = [OCC3D, OPENOCC, GEOMETRY, Ontology("foreign", ("a", "b"), ((160, 160, 160),) * 2)][seed % 4]
    semantics = rng.integers(0, ontology.num_classes, size).astype(np.uint8)
    visibility = rng.choice([Visibility.OCCUPIED_SEEN, Visibility.OCCLUDED], size).astype(np.uint8)
    kind = rng.random(size)
    semantics[kind > 0.3], visibility[kind > 0.3] = FREE, Visibility.FREE_SEEN
    semantics[kind > 0.6], visibility[kind > 0.6] = UNKNOWN, Visibility.UNKNOWN
    visibility[kind > 0.8] = Visibility.OCCLUDED
    occupied = semantics < FREE
    grid = VoxelGrid(tuple(rng.uniform(-50, 50, 3)), float(rng.choice([0.1, 0.2, 0.4, 0.5])), size)
    flow = (rng.integers(-30_000, 30_000, (*size, 2)) / 1000 * occupied[..., None]).astype(np.float32)
    return Occupancy(
        stamp_ns=STAMP_NS + seed,
        info=ModelInfo("some_model", ontology, grid, weights="0123abcd", trained_on="a drive"),
        semantics=semantics,
        visibility=visibility,
        confidence=(rng.integers(0, 256, size) * occupied).astype(np.uint8) if optional else None,
        instances=(rng.integers(0, 65_536, size) * occupied).astype(np.uint16) if optional else None,
        flow=flow if optional else None,
        cameras=("front", "left", "right"),
        cameras_used=("front", "right"),
        lidar_used=bool(seed % 2),
        temporal=TemporalStatus(frames=seed % 17, reset="time went back" if seed % 3 else ""),
    )


def small_occupancy(**changes):
    """2x2x2: one car, one free voxel, the rest unknown."""
    semantics = np.full((2, 2, 2), UNKNOWN, np.uint8)
    visibility = np.zeros((2, 2, 2), np.uint8)
    semantics[0, 1, 1], visibility[0, 1, 1] = CAR, Visibility.OCCUPIED_SEEN
    semantics[1, 0, 0], visibility[1, 0, 0] = FREE, Visibility.FREE_SEEN
    info = ModelInfo("m", OPENOCC, VoxelGrid((-1.0, -1.0, 0.0), 0.4, (2, 2, 2)))
    return Occupancy(STAMP_NS, info, **{"semantics": semantics, "visibility": visibility, **changes})


def assert_same(got, expected):
    for name in ("stamp_ns", "info", "cameras", "cameras_used", "lidar_used", "temporal"):
        assert getattr(got, name) == getattr(expected, name), name
    for name in ("semantics", "visibility", "confidence", "instances", "flow"):
        a, b = getattr(got, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if b is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@FORMS
@pytest.mark.parametrize("optional", [False, True], ids=["minimal", "full"])
def test_random_grids_survive_the_wire(sparse, optional):
    for seed in range(60):
        occupancy = random_occupancy(seed, optional)
        message = over_the_wire(occupancy_to_message(occupancy, frame_id="base_link", sparse=sparse))
        assert message.header.frame_id == "base_link"
        # An encoding with nothing occupied lists nothing, so it cannot say that optional fields were there.
        if sparse and not occupancy.occupied().any():
            continue
        assert_same(occupancy_from_message(message), occupancy)


@FORMS
@pytest.mark.parametrize(
    "fill", [(FREE, Visibility.FREE_SEEN), (UNKNOWN, Visibility.UNKNOWN), (0, Visibility.OCCLUDED)]
)
def test_uniform_grids_survive(sparse, fill):
    semantics, visibility = (np.full((2, 2, 2), value, np.uint8) for value in fill)
    occupancy = small_occupancy(semantics=semantics, visibility=visibility)
    assert_same(occupancy_from_message(over_the_wire(occupancy_to_message(occupancy, sparse=sparse))), occupancy)


def test_sparse_form_is_what_the_message_file_says():
    message = occupancy_to_message(small_occupancy(), sparse=True)
    assert message.encoding == VoxelGridMessage.ENCODING_SPARSE
    assert list(message.indices) == [(0 * 2 + 1) * 2 + 1]
    assert list(message.semantics) == [CAR]
    # Voxel 3 is OCCUPIED_SEEN (2), voxel 4 FREE_SEEN (1), two bits each, lowest first.
    assert list(message.visibility) == [2 << 6, 1]
    assert [message.class_names[i] for i in message.semantics] == ["car"]


def test_dense_form_is_in_c_order():
    message = occupancy_to_message(small_occupancy(), sparse=False)
    assert list(message.indices) == []
    assert list(message.semantics) == [UNKNOWN] * 3 + [CAR, FREE] + [UNKNOWN] * 3
    assert list(message.visibility) == [0, 0, 0, 2, 1, 0, 0, 0]


def test_core_and_message_agree_on_the_constants():
    assert (VoxelGridMessage.FREE, VoxelGridMessage.UNKNOWN, VoxelGridMessage.FLOW_UNKNOWN) == (
        FREE,
        UNKNOWN,
        FLOW_UNKNOWN,
    )
    for value in Visibility:
        assert getattr(VoxelGridMessage, f"VISIBILITY_{value.name}") == value


def test_cameras_used_is_a_mask_over_the_names():
    message = occupancy_to_message(random_occupancy(1), lidars=("top", "rear"))
    assert (list(message.cameras), message.cameras_used) == (["front", "left", "right"], 0b101)
    assert (list(message.lidars), message.lidars_used) == (["top", "rear"], 0b11)


@FORMS
def test_free_without_being_seen_is_never_published(sparse):
    occupancy = small_occupancy(semantics=np.full((2, 2, 2), FREE, np.uint8))
    with pytest.raises(InvalidInputError, match="7 voxels are FREE without being FREE_SEEN"):
        occupancy_to_message(occupancy, sparse=sparse)


@FORMS
def test_unknown_but_seen_free_is_never_published(sparse):
    # The sparse form could not tell it from free.
    occupancy = small_occupancy(visibility=np.full((2, 2, 2), Visibility.FREE_SEEN, np.uint8))
    with pytest.raises(InvalidInputError, match="UNKNOWN although FREE_SEEN"):
        occupancy_to_message(occupancy, sparse=sparse)


@FORMS
def test_ids_that_are_no_class_are_never_published(sparse):
    semantics = np.full((2, 2, 2), OPENOCC.num_classes, np.uint8)
    with pytest.raises(InvalidInputError, match=r"ids \[16\] are not classes of 'openocc'"):
        occupancy_to_message(small_occupancy(semantics=semantics), sparse=sparse)


def test_too_many_cameras_for_the_mask():
    names = tuple(f"camera{i}" for i in range(33))
    with pytest.raises(InvalidInputError, match="at most 32"):
        occupancy_to_message(small_occupancy(cameras=names))


@pytest.mark.parametrize(
    ("sparse", "field", "value", "says"),
    [
        (False, "encoding", 7, "encoding: expected one of"),
        (False, "semantics", [FREE], "semantics: expected 8 entries, got 1"),
        (False, "visibility", [0] * 7, "visibility: expected 8 entries, got 7"),
        (False, "visibility", [4] * 8, "visibility: expected 0..3, got 4"),
        (False, "confidence", [1, 2], "confidence: expected 8"),
        (False, "instance", [1, 2], "instance: expected 8"),
        (False, "flow", [1] * 8, "flow: expected 16"),
        (False, "indices", [1], "indices: expected 0"),
        (False, "size_x", 0, "grid"),
        (False, "size_x", 2**32 - 1, "expected"),
        (False, "voxel_size", float("nan"), "voxel_size"),
        (False, "voxel_size", -0.4, "voxel_size"),
        (False, "class_names", ["only", "two"], "class_names: expected those of 'openocc'"),
        (False, "cameras_used", 1, "beyond the 0 names"),
        (True, "size_x", 2**32 - 1, "expected"),
        (True, "visibility", [0], "visibility: expected 2 entries, got 1"),
        (True, "indices", [8], "strictly ascending indices below 8"),
        (True, "indices", [3, 4], "semantics: expected 2"),
        (True, "semantics", [FREE], "lists occupied voxels only"),
        (True, "semantics", [200], "are not classes of 'openocc'"),
        (True, "flow", [1], "flow: expected 2"),
    ],
)
def test_malformed_messages_are_refused(sparse, field, value, says):
    message = occupancy_to_message(small_occupancy(), sparse=sparse)
    setattr(message, field, value)
    with pytest.raises(InvalidInputError, match=says):
        occupancy_from_message(message)


@pytest.mark.parametrize("indices", [[5, 3], [3, 3]], ids=["descending", "twice"])
def test_indices_out_of_order_are_refused(indices):
    message = occupancy_to_message(small_occupancy(), sparse=True)
    message.indices, message.semantics = indices, [CAR, CAR]
    with pytest.raises(InvalidInputError, match="strictly ascending"):
        occupancy_from_message(message)


def test_turned_or_broken_origins_are_refused():
    message = occupancy_to_message(small_occupancy())
    message.origin.orientation.z = 0.1
    with pytest.raises(InvalidInputError, match="rotation"):
        occupancy_from_message(message)
    message.origin.position.x = float("inf")
    with pytest.raises(InvalidInputError, match="finite position"):
        occupancy_from_message(message)


@FORMS
def test_damaged_messages_are_refused_or_read_consistently(sparse):
    """Whatever the bytes say, reading ends in the named error or in a grid that keeps the promise about FREE."""
    rng = np.random.default_rng(0)
    fields = ("indices", "semantics", "visibility", "confidence", "instance", "flow")
    outcomes = set()
    for seed in range(150):
        message = occupancy_to_message(random_occupancy(seed), sparse=sparse)
        values = getattr(message, rng.choice(fields))
        if len(values):
            values[int(rng.integers(len(values)))] = int(rng.integers(0, 256))
        if rng.random() < 0.3 and len(values):
            values.pop()
        try:
            got = occupancy_from_message(message)
        except InvalidInputError:
            outcomes.add("refused")
            continue
        outcomes.add("read")
        np.testing.assert_array_equal(got.visibility[got.semantics == FREE], Visibility.FREE_SEEN)
        assert not np.any(got.visibility[got.semantics == UNKNOWN] == Visibility.FREE_SEEN)
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 1001])
def test_packed_visibility(n):
    values = np.random.default_rng(n).integers(0, 4, n).astype(np.uint8)
    packed = pack_visibility(values)
    assert len(packed) == -(-n // 4)
    np.testing.assert_array_equal(unpack_visibility(packed, n), values)
    assert all(packed[i // 4] >> 2 * (i % 4) & 3 == v for i, v in enumerate(values))


def test_flow_saturates_and_keeps_what_is_not_known():
    flow = np.array([[0.0004, -0.0006], [1.5, -32.767], [100.0, -np.inf], [np.nan, 2.0]], np.float32)
    wire = flow_to_wire(flow)
    assert list(wire) == [0, -1, 1500, -32767, 32767, -32767, FLOW_UNKNOWN, 2000]
    back = flow_from_wire(np.frombuffer(wire, np.int16))
    np.testing.assert_allclose(back, [0, -0.001, 1.5, -32.767, 32.767, -32.767, np.nan, 2.0], rtol=1e-6)
    assert list(flow_to_wire(back)) == list(wire)


# --- Instances ---------------------------------------------------------------------------------------------------


def with_objects(**changes):
    labels = np.zeros((2, 2, 2), np.uint16)
    labels[0, 1, 1] = labels[1, 0, 0] = 300
    labels[0, 0, 0] = 7
    hidden = Instance(9, CAR, 0.25, (9.0, 0.0, 1.0), (4.0, 2.0, 1.5), 0.0, (np.nan,) * 3, occluded=True)
    seen = Instance(300, CAR, 0.5, (1.0, 2.0, 3.0), (4.0, 2.0, 1.5), -1.5, (5.0, 0.5, 0.0))
    objects = (hidden, seen, Instance(7, 3, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 3.0, (0.0, 0.0, 0.0)))
    return small_occupancy(**{"instances": labels, "objects": objects, **changes})


def test_objects_survive_the_wire_with_their_voxels():
    occupancy = with_objects()
    message = over_the_wire(instances_to_message(occupancy))
    assert stamp_to_ns(message.header.stamp) == STAMP_NS
    ranges = {i.id: list(message.voxel_indices[i.voxel_offset :][: i.voxel_count]) for i in message.instances}
    assert ranges == {9: [], 300: [3, 4], 7: [0]}
    assert [i.class_name for i in message.instances] == ["car", "car", OPENOCC.class_names[3]]
    objects, labels = instances_from_message(message)
    np.testing.assert_array_equal(labels, occupancy.instances)
    assert repr(objects) == repr(occupancy.objects)  # repr, because NaN is not equal to itself


def test_objects_without_voxels():
    objects, labels = instances_from_message(over_the_wire(instances_to_message(with_objects(instances=None))))
    assert [o.id for o in objects] == [9, 300, 7]
    assert labels is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: setattr(m.instances[0], "id", 0), "distinct ids"),
        (lambda m: setattr(m.instances[0], "id", 65_536), "distinct ids"),
        (lambda m: setattr(m.instances[0], "id", 7), "distinct ids"),
        (lambda m: setattr(m.instances[0], "class_id", 16), "classes 0..15"),
        (lambda m: setattr(m.instances[0].center, "y", np.nan), "a centre"),
        (lambda m: setattr(m.instances[0].size, "z", 0.0), "a size > 0"),
        (lambda m: setattr(m.instances[0].size, "x", np.inf), "a size > 0"),
        (lambda m: setattr(m.instances[1], "yaw", np.nan), "a finite yaw"),
        (lambda m: setattr(m.instances[1], "score", 1.5), "a score of 0..1"),
        (lambda m: setattr(m.instances[1], "score", np.nan), "a score of 0..1"),
        (lambda m: setattr(m.instances[0], "voxel_count", 3), "at most 3 voxels, as many as indices, got 6"),
        (lambda m: setattr(m.instances[1], "voxel_count", 9), "exceed the 3 indices"),
        (lambda m: setattr(m, "voxel_indices", [0, 1, 8]), "indices below 8"),
        (lambda m: setattr(m, "voxel_indices", []), "exceed the 0 indices"),
    ],
)
def test_malformed_objects_are_refused(change, says):
    message = instances_to_message(with_objects())
    change(message)
    with pytest.raises(InvalidInputError, match=says):
        instances_from_message(message)


# --- Stamps and transforms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_000_000_000, STAMP_NS, 2**31 * 10**9 - 1])
def test_stamps_are_exact(stamp_ns):
    assert stamp_to_ns(ns_to_stamp(stamp_ns)) == stamp_ns


@pytest.mark.parametrize("stamp_ns", [-1, 2**31 * 10**9])
def test_stamps_ros_cannot_hold(stamp_ns):
    with pytest.raises(InvalidInputError, match="stamp"):
        ns_to_stamp(stamp_ns)


def test_poses_and_transforms_survive_the_wire():
    rng = np.random.default_rng(3)
    for _ in range(20):
        matrix = rigid(rng.normal(size=3) * 100, rng.normal(size=4))
        np.testing.assert_allclose(pose_from_message(over_the_wire(pose_to_message(matrix))), matrix, atol=1e-12)
        message = over_the_wire(transform_to_message("odom", "base_link", STAMP_NS, matrix))
        assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
        np.testing.assert_allclose(transform_from_message(message), matrix, atol=1e-12)
        np.testing.assert_allclose(transform_from_message(message.transform), matrix, atol=1e-12)


def test_grids_written_without_ros_are_read_by_ros():
    rng = np.random.default_rng(0)
    size = (20, 10, 8)
    semantics = rng.choice(np.array([3, 7, FREE, UNKNOWN], np.uint8), size)
    seen = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN)
    visibility = np.where(semantics == UNKNOWN, Visibility.OCCLUDED, seen).astype(np.uint8)
    occupied = semantics < FREE
    occupancy = Occupancy(
        stamp_ns=1_700_000_000_123_456_789,
        info=ModelInfo("model", OCC3D, VoxelGrid((-1.0, -2.0, -3.0), 0.4, size), "weights", "words"),
        semantics=semantics,
        visibility=visibility,
        confidence=(rng.integers(0, 256, size) * occupied).astype(np.uint8),
        flow=(np.round(rng.normal(size=(*size, 2)), 3) * occupied[..., None]).astype(np.float32),
        instances=(rng.integers(1, 9, size) * occupied).astype(np.uint16),
        cameras=("a", "b"),
        cameras_used=("b",),
        lidar_used=True,
    )
    for sparse in (True, False):
        cdr = bytes(message_store().serialize_cdr(voxel_grid(occupancy, sparse=sparse), VOXEL_GRID))
        read = occupancy_from_message(deserialize_message(cdr, VoxelGridMessage))
        for name in ("semantics", "visibility", "confidence", "instances"):
            np.testing.assert_array_equal(getattr(read, name), getattr(occupancy, name), err_msg=name)
        np.testing.assert_allclose(read.flow, occupancy.flow, atol=5e-4)
        assert (read.info, read.stamp_ns, read.cameras_used) == (occupancy.info, occupancy.stamp_ns, ("b",))


def test_objects_written_without_ros_are_read_by_ros():
    for occupancy in (with_objects(), with_objects(objects=(), instances=None)):
        cdr = bytes(message_store().serialize_cdr(voxel_instances(occupancy), INSTANCES))
        message = deserialize_message(cdr, VoxelInstanceArray)
        assert repr(message) == repr(over_the_wire(instances_to_message(occupancy)))
        objects, labels = instances_from_message(message)
        assert repr(objects) == repr(occupancy.objects)
        if labels is not None:
            np.testing.assert_array_equal(labels, occupancy.instances)


def test_markers_written_without_ros_are_those_of_the_node():
    for occupancy in (with_objects(), with_objects(objects=())):
        cdr = bytes(message_store().serialize_cdr(instances_message(occupancy, "base_link"), MARKERS))
        assert repr(deserialize_message(cdr, MarkerArray)) == repr(over_the_wire(markers_of(occupancy, "base_link")))
