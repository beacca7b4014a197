"""Sensor messages from strangers: any field order, padding, byte order and pixel format, and lies about sizes."""

import numpy as np
import pytest

from occ_perception.data.point_clouds import pack_rgb, point_cloud_view, points_from_message
from occ_perception.data.sensor_messages import camera_from_message, image_from_message, stamp_to_ns
from occ_perception.errors import InvalidInputError
from occ_perception.geometry import PinholeCamera, rigid

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField

from occ_perception.ros.messages import camera_to_message, points_to_message

XYZI = np.array([[1, 2, 3, 10], [4, 5, 6, 20], [7, 8, 9, np.nan]], np.float64)
DATATYPES = {"f4": PointField.FLOAT32, "f8": PointField.FLOAT64, "u1": PointField.UINT8, "u2": PointField.UINT16}


def cloud(names="xyz", code="f4", order="<", step_padding=0, shape=(1, 3), row_padding=0):
    """The points of XYZI with the fields in the order of ``names`` (i = intensity), in memory as asked."""
    offsets = [3 + np.dtype(code).itemsize * k for k in range(len(names))]  # 3 bytes nobody told about
    step = offsets[-1] + np.dtype(code).itemsize + step_padding
    layout = np.dtype(
        {"names": list(names), "formats": [order + code] * len(names), "offsets": offsets, "itemsize": step}
    )
    points = np.zeros(3, layout)
    for name in names:
        points[name] = XYZI[:, "xyzi".index(name)]
    height, width = shape
    rows = points.view(np.uint8).reshape(height, width * step)
    rows = np.pad(rows, ((0, 0), (0, row_padding)), constant_values=255)
    return PointCloud2(
        height=height,
        width=width,
        point_step=step,
        row_step=rows.shape[1],
        is_bigendian=order == ">",
        fields=[
            PointField(name=n, offset=o, datatype=DATATYPES[code], count=1) for n, o in zip(names, offsets, strict=True)
        ],
        data=rows.tobytes(),
    )


@pytest.mark.parametrize("names", ["xyz", "zyxi", "ixzy"])
@pytest.mark.parametrize(("code", "order"), [("f4", "<"), ("f4", ">"), ("f8", "<"), ("f8", ">")])
@pytest.mark.parametrize(("shape", "row_padding"), [((1, 3), 0), ((3, 1), 0), ((3, 1), 5)])
def test_any_layout_gives_the_same_points(names, code, order, shape, row_padding):
    message = cloud(names, code, order, step_padding=2, shape=shape, row_padding=row_padding)
    wanted = [n for n in "xyzi" if n in names]
    got = points_from_message(deserialize_message(serialize_message(message), PointCloud2), wanted)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, XYZI[:, : len(wanted)])


def test_empty_cloud_with_an_absurd_step():
    with pytest.raises(InvalidInputError, match="distinct fields within 4294967295 bytes"):
        points_from_message(PointCloud2(fields=cloud().fields, point_step=2**32 - 1))


def test_empty_cloud():
    assert points_from_message(PointCloud2(fields=cloud().fields, point_step=15)).shape == (0, 3)


def test_doubles_beyond_float_become_infinite_without_a_warning():
    message = points_to_message(0, "lidar", {n: np.array([1e300]) for n in "xyz"})
    assert np.isinf(points_from_message(message)).all()


def test_driver_that_leaves_the_row_step_zero():
    message = cloud()
    message.row_step = 0
    np.testing.assert_array_equal(points_from_message(message), XYZI[:, :3])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.fields.pop(), r"fields \['z'\] are missing, it has \['x', 'y'\]"),
        (lambda m: m.fields.clear(), "expected distinct fields"),
        (lambda m: setattr(m.fields[0], "name", "y"), "expected distinct fields"),
        (lambda m: setattr(m.fields[0], "datatype", 9), "unknown datatype 9"),
        (lambda m: setattr(m.fields[2], "offset", 12), "within 15 bytes"),
        (lambda m: setattr(m.fields[0], "count", 2**31), "within 15 bytes"),
        (lambda m: setattr(m, "point_step", 0), "within 0 bytes"),
        (lambda m: setattr(m, "point_step", 2**32 - 1), "do not fit 45 bytes"),
        (lambda m: setattr(m, "width", 4), "do not fit 45 bytes"),
        (lambda m: setattr(m, "height", 2**32 - 1), "do not fit 45 bytes"),
        (lambda m: setattr(m, "data", bytes(44)), "do not fit 44 bytes"),
    ],
)
def test_malformed_clouds_are_refused(change, says):
    message = cloud()
    change(message)
    with pytest.raises(InvalidInputError, match=says):
        points_from_message(message)


def test_arrays_in_a_point_are_no_coordinates():
    message = cloud()
    message.fields[0].count = 2
    with pytest.raises(InvalidInputError, match=r"fields \['x'\] are missing"):
        points_from_message(message)


def test_columns_survive_the_wire():
    columns = {
        "x": np.array([1.5, -2.5], np.float32),
        "rgb": pack_rgb(np.array([[255, 128, 1], [0, 0, 0]], np.uint8)),
        "label": np.array([3, 254], np.uint8),
        "instance": np.array([0, 65_535], np.uint16),
        "time": np.array([1e9, 2e9]),
    }
    message = deserialize_message(serialize_message(points_to_message(5, "base_link", columns)), PointCloud2)
    assert (message.header.frame_id, stamp_to_ns(message.header.stamp), message.is_dense) == ("base_link", 5, True)
    view = point_cloud_view(message)
    assert view.dtype.names == tuple(columns)
    for name, values in columns.items():
        assert view[name].dtype == values.dtype
        np.testing.assert_array_equal(view[name], values)
    assert view["rgb"][0].tobytes() == bytes([1, 128, 255, 0])  # b, g, r, 0 in memory


@pytest.mark.parametrize(
    "columns",
    [{}, {"x": np.zeros(2), "y": np.zeros(3)}, {"x": np.zeros(2, np.int64)}, {"x": np.zeros((2, 2))}],
    ids=["none", "lengths", "type", "shape"],
)
def test_columns_a_cloud_cannot_hold(columns):
    with pytest.raises(InvalidInputError, match="expected columns"):
        points_to_message(0, "base_link", columns)


# --- Images --------------------------------------------------------------------------------------------------------

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
ALPHA = np.full((2, 3, 1), 99, np.uint8)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("rgba8", np.concatenate([RGB, ALPHA], -1), RGB),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], -1), RGB),
        ("mono8", GREY, np.repeat(GREY, 3, -1)),
    ],
)
def test_every_pixel_format_gives_rgb(encoding, pixels, expected, padding):
    rows = np.pad(pixels.reshape(2, -1), ((0, 0), (0, padding)), constant_values=77)
    message = Image(height=2, width=3, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
    got = image_from_message(message)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "16UC1"}, "'16UC1' is not one of rgb8, bgr8"),
        ({"step": 8}, "expected step >= 9"),
        ({"height": 3}, "got step 9 and 18 bytes"),
        ({"width": 0}, "Image 0x2"),
        ({"data": b""}, "and 0 bytes"),
    ],
)
def test_malformed_images_are_refused(change, says):
    fields = {"height": 2, "width": 3, "encoding": "rgb8", "step": 9, "data": RGB.tobytes(), **change}
    with pytest.raises(InvalidInputError, match=says):
        image_from_message(Image(**fields))


def test_compressed_images_are_handed_on_as_they_are():
    jpeg = b"\xff\xd8\xff\xe0 and so on"
    assert image_from_message(CompressedImage(format="rgb8; jpeg compressed bgr8", data=jpeg)) == jpeg


@pytest.mark.parametrize("data", [b"", b"RIFF....WEBP", b"\x00" * 20])
def test_compressed_images_of_other_kinds_are_refused(data):
    with pytest.raises(InvalidInputError, match="expected JPEG or PNG, got format 'x'"):
        image_from_message(CompressedImage(format="x", data=data))


def test_impossible_stamps_are_refused():
    with pytest.raises(InvalidInputError, match="nanosec below 1e9"):
        stamp_to_ns(Time(sec=1, nanosec=10**9))


# --- Cameras -------------------------------------------------------------------------------------------------------

EGO_FROM_CAMERA = rigid((1.5, 0.0, 1.6), np.array([-0.5, 0.5, -0.5, 0.5]))
CAMERA = PinholeCamera(np.array([[1000.0, 0, 800], [0, 1100, 450], [0, 0, 1]]), EGO_FROM_CAMERA, 1600, 900)


def test_calibration_survives_the_wire():
    message = deserialize_message(serialize_message(camera_to_message(CAMERA, "cam_optical_frame", 7)), CameraInfo)
    for rectified in (False, True):
        got = camera_from_message(message, EGO_FROM_CAMERA, rectified=rectified)
        np.testing.assert_array_equal(got.intrinsics, CAMERA.intrinsics)
        assert (got.width, got.height) == (1600, 900)


def test_binning_and_region_of_interest_are_applied():
    message = camera_to_message(CAMERA, "cam", 0)
    message.binning_x, message.binning_y = 2, 2
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 200, 50, 1200, 800
    got = camera_from_message(message, EGO_FROM_CAMERA)
    np.testing.assert_array_equal(got.intrinsics, [[500, 0, 300], [0, 550, 200], [0, 0, 1]])
    assert (got.width, got.height) == (600, 400)


def test_distorted_images_are_refused_and_rectified_ones_taken():
    message = camera_to_message(CAMERA, "cam", 0)
    message.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    message.p[0] = 990.0
    with pytest.raises(InvalidInputError, match="rectify"):
        camera_from_message(message, EGO_FROM_CAMERA)
    assert camera_from_message(message, EGO_FROM_CAMERA, rectified=True).intrinsics[0, 0] == 990.0


def test_cameras_without_calibration_are_refused():
    message = CameraInfo(width=1600, height=900)
    message.header.frame_id = "cam_front"
    with pytest.raises(InvalidInputError, match="'cam_front': not calibrated"):
        camera_from_message(message, EGO_FROM_CAMERA)
