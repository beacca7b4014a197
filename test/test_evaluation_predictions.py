"""``eval --predictions``: right files score what they should, every kind of wrong file ends with one clear line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation_predictions import write_predictions
from nuscenes_tree import NuScenesTree, token_of

from occ_perception import cli
from occ_perception.data.nuscenes import NuScenes
from occ_perception.evaluation.evaluator import EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.report import figures
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.models import create_model
from occ_perception.occupancy_files import save_occupancy
from occ_perception.ontology import GEOMETRY, OCC3D, OPENOCC
from occ_perception.session import Session


def run(tree: NuScenesTree, predictions: Path, output: Path, *more: str) -> int:
    arguments = ["eval", "--root", str(tree.root), "--predictions", str(predictions), "-o", str(output)]
    return cli.main([*arguments, *more])


def summary(output: Path) -> dict:
    return json.loads(next(output.glob("*/summary.json")).read_text())


@pytest.mark.parametrize("key", ["pred", "semantics", "arr_0"])
def test_round_trip_of_the_truth(synthetic_nuscenes: NuScenesTree, tmp_path: Path, key: str) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files", key=key)
    assert run(synthetic_nuscenes, folder, tmp_path / "out", "--no-rays", "--scenes", "scene-0001") == 0
    stored = summary(tmp_path / "out")
    assert stored["headline"] == {"mIoU": 1.0}
    assert stored["tally"]["frames"] == 2
    assert set(stored["metrics"]) == {"semantic_iou_camera", "semantic_iou_lidar", "semantic_iou_none"}


def test_report_states_what_was_scored(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, capsys: pytest.CaptureFixture, one_thread: None
) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "my_network", noise=0.2)
    assert run(synthetic_nuscenes, folder, tmp_path / "out", "--mask", "lidar", "--scenes", "scene-0003") == 0
    printed = capsys.readouterr().out
    for text in (
        "my_network on nuScenes v1.0-mini",
        "labels occ3d",
        "1 scenes (scenes named)",
        "mIoU",
        "RayIoU",
        "as the files come",
    ):
        assert text in printed
    run_folder = next((tmp_path / "out").iterdir())
    report = json.loads((run_folder / "semantic_iou_lidar.json").read_text())
    assert report["mask"] == "lidar"
    assert report["ontology"] == "occ3d"
    assert report["frames"] == 1
    assert 0.1 < report["values"]["mIoU"] < 0.9
    assert (run_folder / "ray_iou.png").is_file()


def test_real_keyframe_against_itself_and_mirrored(keyframe: Path, tmp_path: Path, one_thread: None) -> None:
    """Plumbing only: one-sweep labels are no ground truth to quote figures on."""
    label = next((keyframe / "pseudo_gt").rglob("labels.npz"))
    semantics = np.load(label)["semantics"]
    results = {}
    for name, prediction in (("same", semantics), ("x mirrored", semantics[::-1]), ("y mirrored", semantics[:, ::-1])):
        folder = tmp_path / name
        folder.mkdir()
        np.savez_compressed(folder / f"{label.parent.name}.npz", pred=prediction)
        dataset = NuScenes(keyframe)
        truth = GroundTruth("occ3d", keyframe, keyframe / "pseudo_gt")
        subject = FolderSubject(folder, truth.set)
        results[name] = figures(evaluate(dataset, truth, subject, tmp_path / "out", EvaluationSettings()))
    assert results["same"]["mIoU"] == results["same"]["IoU"] == results["same"]["RayIoU"] == 1.0
    for name in ("x mirrored", "y mirrored"):
        assert results[name]["mIoU"] < 0.2
        assert results[name]["IoU"] < 0.4
        assert results[name]["RayIoU"] < 0.3


def wrong_files() -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """What a file may hold, and what the message must say."""
    fine = np.full((200, 200, 16), 17, np.uint8)
    too_high, unknown = fine.copy(), fine.copy()
    too_high[3, 4, 5], unknown[3, 4, 5] = 18, 255
    return {
        "class id out of range": ({"pred": too_high}, r"\[18\] are not classes of occ3d"),
        "unknown": ({"pred": unknown}, "255 is no prediction"),
        "our id of free": ({"pred": np.where(fine == 17, 254, fine).astype(np.uint8)}, r"\[254\] are not classes"),
        "wrong grid size": ({"pred": fine[:, :, :8]}, r"expected int/uint \(200, 200, 16\), got uint8 \(200, 200, 8\)"),
        "axes swapped": ({"pred": fine.transpose(2, 0, 1)}, r"got uint8 \(16, 200, 200\)"),
        "scores instead of classes": ({"pred": fine.astype(np.float32)}, "got float32"),
        "negative": ({"pred": fine.astype(np.int64) - 18}, r"\[-1\] are not classes"),
        "no such key": ({"occupancy": fine}, r"expected an array 'pred', got \['occupancy'\]"),
        "objects": ({"pred": np.array([{"a": 1}], dtype=object)}, "pickled objects"),
    }


@pytest.mark.parametrize("case", wrong_files())
def test_wrong_files_are_named_and_not_scored(synthetic_nuscenes: NuScenesTree, tmp_path: Path, case: str) -> None:
    arrays, message = wrong_files()[case]
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    token = synthetic_nuscenes.tokens["scene-0003"][0]
    np.savez(folder / f"{token}.npz", **arrays)
    truth = GroundTruth("occ3d", synthetic_nuscenes.root)
    settings = EvaluationSettings(rays=False, scenes=("scene-0003",))
    result = evaluate(
        NuScenes(synthetic_nuscenes.root), truth, FolderSubject(folder, truth.set), tmp_path / "out", settings
    )
    assert not result.scored
    assert token in result.failed["scene-0003"]
    assert re.search(message, result.failed["scene-0003"])


def test_one_wrong_file_ends_with_status_and_reason(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    (folder / f"{synthetic_nuscenes.tokens['scene-0003'][0]}.npz").write_bytes(b"PK\x03\x04 truncated")
    assert run(synthetic_nuscenes, folder, tmp_path / "out", "--no-rays") == 1
    printed = capsys.readouterr().out
    assert "INCOMPLETE: 1 more scenes could not be scored" in printed
    assert "damaged or no NumPy file" in printed


def test_missing_tokens_are_listed_before_anything_is_scored(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    lost = synthetic_nuscenes.tokens["scene-0002"][1:]
    for token in lost:
        (folder / f"{token}.npz").unlink()
    assert run(synthetic_nuscenes, folder, tmp_path / "out", "--no-rays") == 2
    message = capsys.readouterr().err
    assert "2 of the 3 labelled samples of scene-0002" in message
    assert all(token in message for token in lost)
    assert "Traceback" not in message
    assert not list((tmp_path / "out").rglob("scene-*"))


def test_wrong_arguments(synthetic_nuscenes: NuScenesTree, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    for more, message in (
        (["--corruptions", "all"], "are for --model"),
        (["--shard", "3/3"], "expected 0 <= i < n, got 3/3"),
        (["--shard", "one"], "expected i/n such as 0/3, got 'one'"),
        (["--scenes", "scene-7"], "scene-7"),
    ):
        assert run(synthetic_nuscenes, folder, tmp_path / "out", "--no-rays", *more) == 2
        assert message in capsys.readouterr().err
    assert run(synthetic_nuscenes, tmp_path / "nowhere", tmp_path / "out") == 2
    assert "no folder" in capsys.readouterr().err


def test_split_comes_from_the_file_occ3d_ships(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_predictions(synthetic_nuscenes, tmp_path / "files")
    (tmp_path / "gts").symlink_to(synthetic_nuscenes.root / "gts")
    more = ["--no-rays", "--split", "val", "--labels-folder", str(tmp_path / "gts")]
    assert run(synthetic_nuscenes, folder, tmp_path / "out", *more) == 2
    assert "annotations.json" in capsys.readouterr().err
    (tmp_path / "annotations.json").write_text(json.dumps({"train_split": ["scene-0001"], "val_split": ["scene-0003"]}))
    assert run(synthetic_nuscenes, folder, tmp_path / "out", *more) == 0
    assert "1 scenes (split val)" in capsys.readouterr().out
    (tmp_path / "annotations.json").write_text(json.dumps({"val_split": "scene-0003"}))
    assert run(synthetic_nuscenes, folder, tmp_path / "out", *more) == 2
    assert "expected a list of scene names" in capsys.readouterr().err


def test_openocc_submission_with_flow(synthetic_nuscenes: NuScenesTree, tmp_path: Path, one_thread: None) -> None:
    truth = GroundTruth("openocc", synthetic_nuscenes.root)
    dataset = NuScenes(synthetic_nuscenes.root)
    scene = dataset.scene("scene-0003")
    token = truth.samples(scene)[0]
    label = truth.read(scene, token)
    files = {"flow": label.flow, "bad flow": np.full_like(label.flow, np.nan)}
    results = {}
    for name, flow in files.items():
        (tmp_path / name).mkdir()
        np.savez_compressed(tmp_path / name / f"{token}.npz", pred=OPENOCC.to_dataset(label.semantics), flow=flow)
        subject = FolderSubject(tmp_path / name, truth.set)
        settings = EvaluationSettings(mask="none", scenes=(scene.name,))
        results[name] = evaluate(dataset, truth, subject, tmp_path / "out", settings)
    assert figures(results["flow"])["Occ score"] == 1.0
    assert "not finite" in results["bad flow"].failed[scene.name]


def test_openoccupancy_files_call_free_zero(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    dataset = NuScenes(synthetic_nuscenes.root)
    scene = dataset.scene("scene-0003")
    token = scene.samples[0][0]
    labels = tmp_path / "labels" / f"scene_{scene.token}" / "occupancy"
    labels.mkdir(parents=True)
    rows = [[20, 30 + c, 40, c] for c in range(17)]  # z, y, x, class; class 0 is noise and not scored
    np.save(
        labels / f"{token_of('scene-0003', 'LIDAR_TOP', _lidar_stamp(synthetic_nuscenes, token))}.npy", np.array(rows)
    )
    prediction = np.zeros((512, 512, 40), np.uint8)
    for z, y, x, c in rows:
        prediction[x, y, z] = c or 5
    prediction[40, 31, 20] = 0  # the barrier is missed
    (tmp_path / "files").mkdir()
    np.savez_compressed(tmp_path / "files" / f"{token}.npz", pred=prediction)
    truth = GroundTruth("openoccupancy", synthetic_nuscenes.root, tmp_path / "labels")
    subject = FolderSubject(tmp_path / "files", truth.set)
    values = figures(evaluate(dataset, truth, subject, tmp_path / "out", EvaluationSettings(mask="none")))
    assert values["SC IoU"] == values["SSC mIoU"] == pytest.approx(15 / 16)


def _lidar_stamp(tree: NuScenesTree, token: str) -> int:
    """The drive's own stamp of a keyframe sweep, from which the tree makes its tokens."""
    scene = next(i for i, tokens in enumerate(tree.tokens.values()) if token in tokens)
    return tree.stamps_ns[token][0] - scene * 100_000_000_000


def test_output_of_a_replay_is_scored_by_its_stamps(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    dataset = NuScenes(synthetic_nuscenes.root)
    session = Session(create_model("lidar-carving"))
    for frame in dataset.frames(dataset.scene("scene-0002"), "LIDAR_TOP"):
        save_occupancy(tmp_path / "replayed" / f"{frame.stamp_ns}.npz", session.step(frame))
    truth = GroundTruth("occ3d", synthetic_nuscenes.root)
    subject = FolderSubject(tmp_path / "replayed", truth.set)
    assert subject.ontology is GEOMETRY
    settings = EvaluationSettings(scenes=("scene-0002",))
    result = evaluate(dataset, truth, subject, tmp_path / "out", settings)
    assert figures(result)["IoU"] > 0.5
    assert result.tally.unknown > 0
    (tmp_path / "replayed" / f"{frame.stamp_ns}.npz").unlink()
    np.savez(
        tmp_path / "replayed" / f"{frame.stamp_ns}.npz",
        pred=OCC3D.to_dataset(next(iter(synthetic_nuscenes.truth.values()))),
    )
    mixed = evaluate(dataset, truth, subject, tmp_path / "out", settings)
    assert "expected the output of a replay" in mixed.failed["scene-0002"]
