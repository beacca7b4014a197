"""Info pickles of three families against the nuScenes tables of the two real keyframes; code in pickles is refused."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from occ_perception.data.info_pickles import LENGTH_FIRST, WIDTH_FIRST, InfoFile
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_lidar import read_lidar
from occ_perception.data.restricted_pickle import load_plain_pickle
from occ_perception.errors import DatasetError
from occ_perception.geometry import inverse, transform_points

ARRAYS = ("gt_boxes", "gt_names", "gt_velocity", "num_lidar_pts", "num_radar_pts", "valid_flag")


class Truth:
    """What the tables say about the one sample of a keyframe folder."""

    def __init__(self, root: Path) -> None:
        nuscenes = NuScenes(root)
        scene = nuscenes.scene(nuscenes.scene_names[0])
        self.root = root
        self.token, self.stamp_ns = scene.samples[0]
        self.records = scene.keyframes[self.token]
        self.boxes = nuscenes.annotations(self.token)

    def global_from_ego(self, channel: str) -> np.ndarray:
        return self.records[channel].odom_from_ego(np.zeros(3))

    def camera_from_lidar(self, channel: str) -> np.ndarray:
        lidar = self.global_from_ego("LIDAR_TOP") @ self.records["LIDAR_TOP"].mount.ego_from_sensor
        return inverse(self.global_from_ego(channel) @ self.records[channel].mount.ego_from_sensor) @ lidar

    def check(self, info) -> None:
        """Records, calibration and boxes of a parsed sample equal the tables."""
        assert info.token == self.token
        assert info.stamp_ns == self.stamp_ns
        assert set(info.cameras) == set(self.records) - {"LIDAR_TOP"}
        for channel, record in [*info.cameras.items(), ("LIDAR_TOP", info.lidar)]:
            truth = self.records[channel]
            assert record.stamp_ns == truth.stamp_ns
            assert self.root / record.path == truth.path
            np.testing.assert_allclose(record.ego_from_sensor, truth.mount.ego_from_sensor, atol=1e-9)
            np.testing.assert_allclose(record.global_from_ego, self.global_from_ego(channel), atol=1e-6)
            if truth.mount.intrinsics is not None:
                np.testing.assert_allclose(record.intrinsics, truth.mount.intrinsics, atol=1e-9)
        self.check_boxes(info)

    def check_boxes(self, info) -> None:
        global_from_lidar = info.lidar.global_from_ego @ info.lidar.ego_from_sensor
        poses = info.boxes.global_from_boxes(global_from_lidar)
        np.testing.assert_allclose(info.boxes.boxes[:, 3:6], [box.size for box in self.boxes], atol=1e-9)
        np.testing.assert_allclose(poses, [box.global_from_box for box in self.boxes], atol=1e-9)
        assert info.boxes.num_lidar_points.tolist() == [box.num_lidar_points for box in self.boxes]
        points = read_lidar(self.root / info.lidar.path).points[:, :3].astype(np.float64)
        in_global = transform_points(global_from_lidar, points)
        for pose, box, count in zip(poses, info.boxes.boxes, info.boxes.num_lidar_points, strict=True):
            local = transform_points(inverse(pose), in_global)
            assert (np.abs(local) <= box[3:6] / 2).all(axis=1).sum() == count


@pytest.fixture(scope="module")
def second(shared: Path) -> Truth:
    return Truth(shared / "data" / "nuscenes_keyframe2")


@pytest.fixture(scope="module")
def first(shared: Path) -> Truth:
    return Truth(shared / "data" / "nuscenes_keyframe")


@pytest.fixture
def bevdet_info(shared: Path) -> dict:
    """The genuine BEVDet entry of the second keyframe, with arrays where the pickle has arrays."""
    info = json.loads((shared / "data" / "nuscenes_keyframe2" / "bevdet_info.json").read_text())
    info.update({key: np.array(info[key]) for key in ARRAYS})
    for camera in info["cams"].values():
        for key in ("cam_intrinsic", "sensor2lidar_rotation", "sensor2lidar_translation"):
            camera[key] = np.array(camera[key])
    return info


def save(path: Path, content, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_genuine_bevdet_info(tmp_path, bevdet_info, second, protocol):
    content = {"infos": [bevdet_info], "metadata": {"version": "v1.0-trainval"}}
    file = InfoFile(save(tmp_path / "infos.pkl", content, protocol))
    assert (file.family, file.version, file.box_convention, len(file)) == ("bevdet", "v1.0-trainval", WIDTH_FIRST, 1)
    info = file[0]
    second.check(info)
    assert info.scene_token == bevdet_info["scene_token"]
    assert info.boxes.names == tuple(bevdet_info["gt_names"])
    assert info.cameras["CAM_BACK"].token == bevdet_info["cams"]["CAM_BACK"]["sample_data_token"]


def test_camera_time_boxes_are_in_the_front_camera_ego_frame(tmp_path, bevdet_info, second):
    info = InfoFile(save(tmp_path / "infos.pkl", {"infos": [bevdet_info], "metadata": {}}))[0]
    ego_from_global = inverse(second.global_from_ego("CAM_FRONT"))
    centres = np.array([(ego_from_global @ box.global_from_box)[:3, 3] for box in second.boxes])
    offsets = np.linalg.norm(info.camera_time_boxes[:, None, :3] - centres, axis=2)
    matched = offsets.argmin(axis=1)
    assert offsets.min(axis=1).max() < 1e-9
    np.testing.assert_allclose(info.camera_time_boxes[:, 3:6], [second.boxes[i].size for i in matched])
    assert [info.boxes.names[i] for i in matched] == list(info.camera_time_names)


def test_mmdet3d_1_0_with_sweeps_and_labels(tmp_path, bevdet_info, second):
    del bevdet_info["ann_infos"], bevdet_info["scene_token"]
    boxes = bevdet_info["gt_boxes"]
    bevdet_info["gt_boxes"] = np.column_stack([boxes[:, [0, 1, 2, 4, 3, 5]], -boxes[:, 6] - np.pi / 2])
    front = dict(bevdet_info["cams"]["CAM_FRONT"])
    front["timestamp"] -= 83_000
    front["data_path"] = front["data_path"].replace("samples", "sweeps")
    bevdet_info["sweeps"] = [{"CAM_FRONT": front}, {"CAM_FRONT": front}]
    bevdet_info |= {"occ_path": "./data/nuscenes/gts/scene-0103/abc", "prev": "", "next": "n", "can_bus": np.zeros(18)}
    file = InfoFile(save(tmp_path / "sweep.pkl", {"infos": [bevdet_info] * 3, "metadata": {"version": "v1.0-mini"}}))
    assert (file.family, file.box_convention) == ("mmdet3d-1.0", LENGTH_FIRST)
    infos = list(file)
    second.check(infos[2])
    assert (infos[0].scene_name, infos[0].previous, infos[0].next) == ("scene-0103", "", "n")
    assert infos[0].camera_time_boxes is None
    assert len(infos[0].camera_sweeps) == 2
    sweep = infos[0].camera_sweeps[0]["CAM_FRONT"]
    assert sweep.path.parts[0] == "sweeps"
    assert sweep.stamp_ns == second.records["CAM_FRONT"].stamp_ns - 83_000_000
    assert infos[0].lidar_sweeps == ()
    assert [i.token for i in file[:2]] == [second.token] * 2


def test_mmdet3d_1_1_recovers_the_image_time_poses(tmp_path, first):
    extras = json.loads((first.root / "annotation_extras.json").read_text())
    detections = ["ignore" if name is None else name for name in extras["detection_class"]]
    classes = sorted(set(detections) - {"ignore"})
    images = {
        channel: {
            "img_path": record.path.name,
            "cam2img": record.mount.intrinsics.tolist(),
            "cam2ego": record.mount.ego_from_sensor.tolist(),
            "lidar2cam": first.camera_from_lidar(channel).astype(np.float32).tolist(),
            "sample_data_token": record.token,
            "timestamp": record.stamp_ns / 1e9,
        }
        for channel, record in first.records.items()
        if channel != "LIDAR_TOP"
    }
    lidar = first.records["LIDAR_TOP"]
    item = {
        "sample_idx": 0,
        "token": first.token,
        "timestamp": first.stamp_ns / 1e9,
        "ego2global": first.global_from_ego("LIDAR_TOP").tolist(),
        "images": images,
        "lidar_points": {"lidar_path": lidar.path.name, "lidar2ego": lidar.mount.ego_from_sensor.tolist()},
        "lidar_sweeps": [],
        "instances": [
            {
                "bbox_3d": box,
                "bbox_label_3d": classes.index(name) if name in classes else -1,
                "velocity": [float("nan")] * 2,
                "num_lidar_pts": annotation.num_lidar_points,
                "bbox_3d_isvalid": valid,
            }
            for box, name, valid, annotation in zip(
                extras["bbox_3d_lidar_frame_xyz_lwh_yaw"],
                detections,
                extras["bbox_3d_isvalid"],
                first.boxes,
                strict=True,
            )
        ],
    }
    metadata = {"categories": {name: i for i, name in enumerate(classes)}, "version": "v1.0-mini"}
    file = InfoFile(save(tmp_path / "v2.pkl", {"metainfo": metadata, "data_list": [item]}))
    assert (file.family, file.version, file.box_convention) == ("mmdet3d-1.1", "v1.0-mini", LENGTH_FIRST)
    info = file[0]
    for channel, record in info.cameras.items():  # float32 lidar2cam: 1e-5 of poses a thousand metres away
        np.testing.assert_allclose(record.global_from_ego, first.global_from_ego(channel), atol=2e-5)
        assert record.stamp_ns == first.records[channel].stamp_ns
        assert first.root / record.path == first.records[channel].path
    first.check_boxes(info)
    assert info.boxes.names == tuple(detections)
    assert "ignore" in detections
    assert info.boxes.valid.tolist() == extras["bbox_3d_isvalid"]
    assert np.isnan(info.boxes.velocity).all()


def test_undecidable_box_layout_is_said(tmp_path, bevdet_info, caplog):
    keep = bevdet_info["gt_names"] == "pedestrian"
    bevdet_info.update({key: bevdet_info[key][keep] for key in ARRAYS})
    file = InfoFile(save(tmp_path / "infos.pkl", {"infos": [bevdet_info], "metadata": {}}))
    assert file.box_convention == LENGTH_FIRST
    assert "to tell the box layout from" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cams": None}, "sample 0: "),
        ({"lidar2ego_rotation": [0, 0, 0, 0]}, "sample 0: quaternion"),
        ({"lidar2ego_translation": [0, np.nan, 0]}, "sample 0: lidar2ego_translation"),
        ({"lidar_path": "/etc/passwd"}, "sample 0: path '/etc/passwd'"),
        ({"lidar_path": "samples/../../x"}, "sample 0: path"),
        ({"timestamp": float("nan")}, "sample 0: timestamp"),
        ({"gt_velocity": np.zeros((3, 2))}, "sample 0: boxes"),
    ],
)
def test_broken_entries_are_named(tmp_path, bevdet_info, change, message):
    file = InfoFile(save(tmp_path / "infos.pkl", {"infos": [bevdet_info | change], "metadata": {}}))
    with pytest.raises(DatasetError, match=message) as caught:
        file[0]
    assert "infos.pkl" in str(caught.value)


def test_missing_keys_are_named(tmp_path, bevdet_info):
    del bevdet_info["cams"]
    file = InfoFile(save(tmp_path / "infos.pkl", {"infos": [bevdet_info], "metadata": {}}))
    with pytest.raises(DatasetError, match="sample 0 has no 'cams'"):
        file[0]
    with pytest.raises(DatasetError, match=r"'infos' or 'data_list', got \['other'\]"):
        InfoFile(save(tmp_path / "other.pkl", {"other": 1}))


# -- code in pickles


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_refused_and_not_run(tmp_path, protocol):
    trace = tmp_path / "ran"
    refused = 0
    for hostile in (
        Calls(os.system, f"touch {trace}"),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(getattr, os, "system"),
        Calls(open, str(trace), "w"),
        Calls(np.fromfile, "/etc/passwd"),
        {"infos": [np.array([Calls(os.system, f"touch {trace}")], dtype=object)]},
        pickle.loads,
        Path("/"),
    ):
        path = tmp_path / "hostile.pkl"
        try:
            path.write_bytes(pickle.dumps(hostile, protocol=protocol))
        except (pickle.PicklingError, TypeError):
            continue
        with pytest.raises(DatasetError, match="refused"):
            load_plain_pickle(path)
        refused += 1
    assert refused >= 6
    assert not trace.exists()


def reduce_array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    """A hand-made pickle of an array filled by the given opcodes."""
    new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return b"\x80\x04" + new + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb."


F8 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR"


@pytest.mark.parametrize(
    "program",
    [
        reduce_array(b"(J\xff\xff\xff\x7ft", F8, b"C\x08" + bytes(8)),  # more elements than bytes
        reduce_array(b"(J\xff\xff\xff\xfft", F8, b"C\x08" + bytes(8)),  # a negative size
        reduce_array(b"(K\x01t", b"cnumpy\ndtype\n(X\x01\x00\x00\x00O\x89\x88tR", b"C\x08" + bytes(8)),  # raw pointers
        reduce_array(b"(K\x01t", b"cnumpy\ndtype\n(X\x06\x00\x00\x00f8,f8,\x89\x88tR", b"C\x10" + bytes(16)),
        reduce_array(b"(K\x01t", b"N", b"C\x08" + bytes(8)),
        b"\x80\x04cnumpy\ndtype\n}X\x06\x00\x00\x00_buildK\x01sb.",  # set an attribute of a known function
        b"\x80\x04cnumpy\ndtype\nN}X\x06\x00\x00\x00_buildK\x01s\x86b.",
        b"\x80\x04c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipt R.",
    ],
)
def test_hand_made_pickles_are_refused(tmp_path, program):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(program)
    with pytest.raises(DatasetError, match=r"refused|damaged"):
        load_plain_pickle(path)
    good = {"a": np.arange(3.0)}
    np.testing.assert_array_equal(load_plain_pickle(save(tmp_path / "good.pkl", good))["a"], good["a"])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(tmp_path, protocol):
    content = {
        "floats": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": np.array(["car", "truck"]),
        "empty": np.zeros((0, 9)),
        "big endian": np.arange(3, dtype=">i4"),
        "strided": np.arange(10)[::2],
        "objects": np.array(["a", None], dtype=object),
        "scalars": [np.float32(3.5), np.int64(5), np.bool_(True), 1, 2.5, None, True, "text", b"", b"bytes", (1, 2)],
    }
    loaded = load_plain_pickle(save(tmp_path / "plain.pkl", content, protocol))
    assert loaded.pop("scalars") == content.pop("scalars")
    for key, value in content.items():
        np.testing.assert_array_equal(loaded[key], value)
        assert loaded[key].dtype.kind == value.dtype.kind


def test_damaged_pickles_are_named(tmp_path):
    path = save(tmp_path / "infos.pkl", {"infos": [{"a": np.arange(100)}]})
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-3], b"{}", b"PK\x03\x04", struct.pack("<10d", *range(10))):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"infos\.pkl"):
            InfoFile(path)
    with pytest.raises(DatasetError, match="no such file"):
        InfoFile(tmp_path / "nothing.pkl")
