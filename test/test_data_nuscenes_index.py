"""The index of nuScenes' large tables: the same answers as a plain join, from any formatting, and a cache to trust."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from nuscenes_tree import VERSION, write_tree

from occ_perception.data import array_cache, nuscenes_index, nuscenes_tables
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_tokens import find_tokens, hex_tokens, token_array
from occ_perception.errors import DatasetError

RECORDS = f"{VERSION}/.occ_perception_records_1.npz"
BOXES = f"{VERSION}/.occ_perception_boxes_1.npz"


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, list[dict]]:
    """Rows by table; annotations of both scenes."""
    tree = write_tree(
        tmp_path_factory.mktemp("tree"), {"scene-0001": 3, "scene-0002": 2}, (64, 36), sweeps=True, labels=False
    )
    return tree.tables


def save(root: Path, tables: dict[str, list[dict]], **formatting) -> Path:
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, **formatting))
    return root


def changed(tables: dict[str, list[dict]], table: str, row: int, **values) -> dict[str, list[dict]]:
    rows = list(tables[table])
    rows[row] = {**rows[row], **values}
    return {**tables, table: rows}


def contents(root: Path) -> dict:
    """Everything the reader says, as plain values."""
    source = NuScenes(root)
    said = {}
    for name in source.scene_names:
        scene = source.scene(name)
        said[name] = {
            "samples": scene.samples,
            "records": [
                (
                    *(r.token, r.sample_token, r.stamp_ns, str(r.path.relative_to(root)), r.is_keyframe, r.width),
                    *(r.height, r.channel, r.translation.tolist(), r.quaternion_xyzw.tolist()),
                )
                for channel in sorted(scene.records)
                for r in scene.records[channel]
            ],
            "boxes": [
                (
                    *(b.token, b.instance_token, b.category, b.size, np.nan_to_num(b.velocity, nan=1e9).tolist()),
                    *(b.num_lidar_points, b.num_radar_points, b.global_from_box.tolist()),
                )
                for token, _ in scene.samples
                for b in source.annotations(token)
            ],
        }
    return said


def plainly_joined(tables: dict[str, list[dict]], scene: str) -> tuple[list, list]:
    """Records and velocities of a scene by looking up rows one by one."""
    by_token = {name: {row["token"]: row for row in rows} for name, rows in tables.items()}
    scene_token = next(row["token"] for row in tables["scene"] if row["name"] == scene)
    records = []
    for row in tables["sample_data"]:
        if by_token["sample"][row["sample_token"]]["scene_token"] == scene_token:
            pose = by_token["ego_pose"][row["ego_pose_token"]]
            mount = by_token["calibrated_sensor"][row["calibrated_sensor_token"]]
            w, *xyz = pose["rotation"]
            channel = by_token["sensor"][mount["sensor_token"]]["channel"]
            records.append(
                (
                    *(row["token"], row["sample_token"], row["timestamp"] * 1000, row["filename"]),
                    *(row["is_key_frame"], row["width"], row["height"], channel, pose["translation"], [*xyz, w]),
                )
            )
    velocities = []
    for row in tables["sample_annotation"]:
        if by_token["sample"][row["sample_token"]]["scene_token"] == scene_token:
            ends = [by_token["sample_annotation"].get(row[side], row) for side in ("prev", "next")]
            stamps = [by_token["sample"][end["sample_token"]]["timestamp"] for end in ends]
            moved = np.subtract(ends[1]["translation"], ends[0]["translation"])
            elapsed = (stamps[1] - stamps[0]) * 1e-6
            velocities.append((row["token"], (moved / elapsed if elapsed else np.full(3, 1e9)).tolist()))
    return sorted(records, key=lambda record: (record[7], record[2])), sorted(velocities)


@pytest.mark.parametrize("indent", [None, 0, 1])
def test_says_what_a_plain_join_says(tables, tmp_path, monkeypatch, indent):
    """Rows in any order, in any formatting, cut into pieces in any place."""
    rng = np.random.default_rng(0)
    shuffled = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in tables.items()}
    shuffled["scene"] = tables["scene"]
    monkeypatch.setattr(nuscenes_tables, "PIECE_BYTES", 1777)
    said = contents(save(tmp_path, shuffled, indent=indent))
    for scene in ("scene-0001", "scene-0002"):
        records, velocities = plainly_joined(tables, scene)
        assert len(records) > 50
        assert said[scene]["records"] == records
        boxes = sorted((box[0], box[4]) for box in said[scene]["boxes"])
        assert [token for token, _ in boxes] == [token for token, _ in velocities]
        np.testing.assert_allclose([v for _, v in boxes], [v for _, v in velocities], rtol=1e-12)
    assert any(0.1 < np.abs(velocity).max() < 100 for _, velocity in velocities)


def test_tokens_are_found_and_kept_whole():
    """Zero bytes at the end of a token count, NumPy would drop them."""
    texts = ["00" * 16, "ab" + "00" * 15, "ab" * 16, "0" * 31 + "1"]
    tokens = token_array(texts, "test")
    assert hex_tokens(tokens) == texts
    wanted = token_array(["ab" * 16, "cd" * 16, "ab" + "00" * 15, "ab" * 16], "test")
    assert find_tokens(wanted, tokens).tolist() == [2, -1, 1, 2]
    assert find_tokens(wanted, tokens[:0]).tolist() == [-1] * 4


# -- cache


@pytest.fixture
def caching(monkeypatch, tmp_path):
    """Small tables are cached too; the user's cache folder is a temporary one."""
    monkeypatch.setattr(array_cache, "MIN_SOURCE_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def parsing(monkeypatch) -> list[str]:
    """Names of the large tables that are parsed."""
    parsed = []
    original = nuscenes_tables.column_pieces

    def watched(folder, name):
        parsed.append(name)
        return original(folder, name)

    monkeypatch.setattr(nuscenes_index, "column_pieces", watched)
    return parsed


def test_small_tables_leave_no_files(tables, tmp_path):
    root = save(tmp_path, tables)
    contents(root)
    assert not list((root / VERSION).glob(".*"))


def test_second_opening_reads_the_cache_only(tables, tmp_path, caching, parsing):
    root = save(tmp_path / "data", tables)
    first = contents(root)
    assert sorted(parsing) == ["ego_pose", "sample", "sample_annotation", "sample_data"]
    assert {path.name for path in (root / VERSION).glob(".*")} == {Path(RECORDS).name, Path(BOXES).name}
    parsing.clear()
    assert contents(root) == first
    assert parsing == []


def test_changed_tables_make_the_cache_anew(tables, tmp_path, caching, parsing):
    root = save(tmp_path / "data", tables)
    before = contents(root)
    path = root / VERSION / "ego_pose.json"
    text = path.read_text()
    status = path.stat()
    first = str(tables["ego_pose"][0]["translation"][0])
    path.write_text(text.replace(first, "7" + first[1:], 1))
    assert path.stat().st_size == status.st_size
    array_cache.os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # only the content tells
    parsing.clear()
    after = contents(root)
    assert "ego_pose" in parsing
    assert after != before
    parsing.clear()
    path.touch()
    assert contents(root) == after
    assert "ego_pose" in parsing


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "objects", "other layout", "not its rows"])
@pytest.mark.parametrize("cache", [RECORDS, BOXES])
def test_damaged_cache_is_made_anew(tables, tmp_path, caching, parsing, caplog, damage, cache):
    root = save(tmp_path / "data", tables)
    expected = contents(root)
    path = root / cache
    _damage(path, damage)
    parsing.clear()
    with caplog.at_level(logging.WARNING):
        assert contents(root) == expected
    assert ("sample_data" if cache == RECORDS else "sample_annotation") in parsing
    assert "cache is damaged and made anew" in caplog.text
    parsing.clear()
    assert contents(root) == expected
    assert parsing == []


def _damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    with np.load(path) as archive:
        arrays = dict(archive)
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "objects":
        np.savez(path, **{**arrays, "made_from": np.array([{"code": print}], object)})
    elif how == "other layout":
        np.savez(path, **{k: v if k == "made_from" else np.zeros(3) for k, v in arrays.items()})
    else:
        name = "records" if "records" in arrays else "boxes"
        np.savez(path, **{**arrays, name: arrays[name][:-1]})


def test_cache_of_a_read_only_dataset_is_in_the_users_folder(tables, tmp_path, caching, parsing, monkeypatch):
    root = save(tmp_path / "data", tables)
    original = array_cache.write_whole

    def refuse(path, data):
        if root in path.parents:
            raise PermissionError(13, "Read-only file system", str(path))
        original(path, data)

    monkeypatch.setattr(array_cache, "write_whole", refuse)
    first = contents(root)
    assert not list((root / VERSION).glob(".*"))
    assert len(list((tmp_path / "home/occ_perception").glob("*.npz"))) == 2
    parsing.clear()
    assert contents(root) == first
    assert parsing == []
    other = shutil.copytree(root, tmp_path / "other")
    assert contents(other) == first
    assert "sample_data" in parsing


def test_user_without_a_home_caches_beside_the_tables_only(tables, tmp_path, caching, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(array_cache.os.path, "expanduser", lambda path: path)
    root = save(tmp_path / "data", tables)
    contents(root)
    assert array_cache.cache_places("records_1", root / VERSION) == [root / RECORDS]
    assert (root / RECORDS).is_file()


def test_full_disk_leaves_nothing_and_is_said(tables, tmp_path, caching, monkeypatch, caplog):
    root = save(tmp_path / "data", tables)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("occ_perception.files.os.replace", full)
    with caplog.at_level(logging.WARNING):
        contents(root)
    assert "no cache could be written" in caplog.text
    assert not list((root / VERSION).glob(".*"))
    assert not list((tmp_path / "home/occ_perception").glob("*"))


# -- damaged tables


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("sample_data", {"timestamp": "soon"}, "sample_data.json: timestamp: expected numbers"),
        ("sample_data", {"filename": 3}, "sample_data.json: filename: expected text"),
        ("sample_data", {"ego_pose_token": "xyz"}, "sample_data.json: ego_pose_token: .*hexadecimal digits, got 'xyz'"),
        ("sample_data", {"sample_token": None}, "sample_data.json: sample_token: .*got None"),
        ("sample", {"timestamp": 10**30}, "sample.json: timestamp: expected numbers"),
        ("ego_pose", {"translation": [1.0, 2.0]}, "ego_pose.json: translation: expected numbers"),
        ("ego_pose", {"rotation": None}, "ego_pose.json: rotation: expected numbers"),
    ],
)
def test_values_that_are_no_such_thing_are_named(tables, tmp_path, table, values, message):
    with pytest.raises(DatasetError, match=message):
        NuScenes(save(tmp_path, changed(tables, table, 5 if table != "sample" else 1, **values)))


@pytest.mark.parametrize("keep", [0.2, 0.7, 0.999])
def test_cut_table_is_named(tables, tmp_path, monkeypatch, keep):
    """An archive that was not unpacked to its end."""
    monkeypatch.setattr(nuscenes_tables, "PIECE_BYTES", 3000)
    root = save(tmp_path, tables, indent=0)
    path = root / VERSION / "ego_pose.json"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DatasetError, match=r"ego_pose.json is not valid JSON.*from byte \d+"):
        NuScenes(root)


def test_row_without_a_column_is_counted_over_pieces(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(nuscenes_tables, "PIECE_BYTES", 3000)
    rows = [dict(row) for row in tables["ego_pose"]]
    del rows[71]["rotation"]
    with pytest.raises(DatasetError, match=r"ego_pose.json: row 71 lacks \['rotation'\]"):
        NuScenes(save(tmp_path, {**tables, "ego_pose": rows}))


def test_a_lost_pose_costs_its_scene_only(tables, tmp_path):
    poses = tables["ego_pose"][:-1]
    source = NuScenes(save(tmp_path, {**tables, "ego_pose": poses}))
    assert source.scene("scene-0001").records
    lost = tables["ego_pose"][-1]["token"]
    with pytest.raises(DatasetError, match=f"ego_pose.json: no row for sample_data '{lost}'"):
        source.scene("scene-0002")


def test_rows_of_lost_samples_are_left_out_and_said(tables, tmp_path, caplog):
    lost = tables["sample"][0]["token"]
    with caplog.at_level(logging.WARNING):
        source = NuScenes(save(tmp_path, {**tables, "sample": tables["sample"][1:]}))
        assert source.annotations(lost) == []
        assert source.annotations(tables["sample"][1]["token"])
    assert "sample_data.json: 7 rows are of samples that are not there" in caplog.text
    assert len(source.scene("scene-0001").samples) == 2


def test_empty_tables_are_a_dataset_without_records(tables, tmp_path):
    """As the boxes of v1.0-test; and a scene without anything says so."""
    empty = {**tables, "sample_annotation": [], "instance": []}
    source = NuScenes(save(tmp_path, empty))
    assert source.annotations(source.scene("scene-0001").samples[0][0]) == []
    source = NuScenes(save(tmp_path, {**empty, "sample_data": [], "ego_pose": [], "sample": []}))
    with pytest.raises(DatasetError, match="scene 'scene-0001' has no rows"):
        source.scene("scene-0001")
