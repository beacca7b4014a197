"""Models through the evaluator: truth scores 100, what is shifted or unknown does not, and the report says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from nuscenes_tree import NuScenesTree

from occ_perception.data.nuscenes import NuScenes
from occ_perception.errors import ConfigurationError, DatasetError, NumericsError
from occ_perception.evaluation.answers import Answer, LastAnswer
from occ_perception.evaluation.evaluator import Evaluation, EvaluationSettings, evaluate
from occ_perception.evaluation.mapped_subject import MappedSubject
from occ_perception.evaluation.model_subject import SENSORS, ModelSubject
from occ_perception.evaluation.protocols import CLEAN, Corruption, all_corruptions
from occ_perception.evaluation.report import corruption_table, figures, write_reports
from occ_perception.evaluation.truth import GroundTruth
from occ_perception.frame import Frame
from occ_perception.geometry import OCC3D_GRID, VoxelGrid, inverse, rigid
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays
from occ_perception.models import create_model
from occ_perception.models.base import ImageSpec, ModelInput, ModelOutput
from occ_perception.occupancy import ModelInfo, Occupancy
from occ_perception.ontology import FREE, GEOMETRY, OCC3D, OPENOCC, UNKNOWN, Ontology
from occ_perception.session import Session


class TruthModel:
    """Knows the labels of the tree, and spoils them as told."""

    image_spec: ImageSpec | None = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, tree: NuScenesTree, change: Callable[[np.ndarray], np.ndarray] = lambda truth: truth) -> None:
        self.info = ModelInfo("truth", OCC3D, OCC3D_GRID)
        self.tree, self.change = tree, change
        self.states: list[object] = []
        self.seen: list[ModelInput] = []
        self.fail_at: str | None = None

    def step(self, inputs: ModelInput, state: object, prev_ego_from_ego: torch.Tensor | None) -> ModelOutput:
        token = self.tree.token_at(inputs.frame.stamp_ns)
        if token == self.fail_at:
            raise NumericsError("head: NaN")
        self.states.append(state)
        self.seen.append(inputs)
        return ModelOutput(torch.from_numpy(self.change(self.tree.truth[token].copy())), state=token)


def shifted(truth: np.ndarray) -> np.ndarray:
    """Everything one cell further ahead."""
    moved = np.roll(truth, 1, axis=0)
    moved[0] = FREE
    return moved


def score(
    tree: NuScenesTree,
    model: TruthModel,
    output: Path,
    labels: str = "occ3d",
    mask: str | None = None,
    **change: object,
) -> Evaluation:
    truth = GroundTruth(labels, tree.root)
    settings = {"rays": False, "scenes": (), **{k: v for k, v in change.items() if k in ("rays", "scenes")}}
    subject = ModelSubject(model, **{k: v for k, v in change.items() if k not in settings})
    mask = mask or truth.set.masks[0]
    return evaluate(NuScenes(tree.root), truth, subject, output, EvaluationSettings(mask=mask, **settings))


@pytest.mark.parametrize("mask", ["camera", "lidar", "none"])
def test_truth_scores_100(synthetic_nuscenes: NuScenesTree, tmp_path: Path, mask: str) -> None:
    result = score(synthetic_nuscenes, TruthModel(synthetic_nuscenes), tmp_path, mask=mask, scenes=("scene-0001",))
    assert result.headline() == ("mIoU", 1.0)
    assert figures(result)["IoU"] == figures(result)["mIoU_D"] == 1.0
    assert result.tally.frames == 2
    assert not result.failed
    assert not result.pending


@pytest.mark.parametrize("ontology", [OCC3D, GEOMETRY], ids=["classes", "geometry"])
def test_each_mask_scores_its_own_voxels(synthetic_nuscenes: NuScenesTree, tmp_path: Path, ontology: Ontology) -> None:
    """Wrong only where the LiDAR sees and no camera does, and once more where nothing sees."""
    scene, token = "scene-0003", synthetic_nuscenes.tokens["scene-0003"][0]
    with np.load(synthetic_nuscenes.root / "gts" / scene / token / "labels.npz") as label:
        camera, lidar = label["mask_camera"].astype(bool), label["mask_lidar"].astype(bool)
    behind = np.argwhere(lidar & ~camera)
    assert len(behind) > 10

    def wrong_there(truth: np.ndarray) -> np.ndarray:
        for cells in (behind, np.argwhere(~lidar)[:500]):
            truth[tuple(cells.T)] = np.where(truth[tuple(cells.T)] == FREE, 0, FREE)
        return truth

    model = TruthModel(synthetic_nuscenes, wrong_there)
    model.info = ModelInfo("wrong", ontology, OCC3D_GRID)
    if ontology is GEOMETRY:
        model.change = lambda truth: np.where(wrong_there(truth) == FREE, FREE, 0).astype(np.uint8)
    iou = {}
    for mask in ("camera", "lidar", "none"):
        iou[mask] = figures(score(synthetic_nuscenes, model, tmp_path, mask=mask, scenes=(scene,)))["IoU"]
    assert iou["camera"] == 1.0
    assert iou["none"] < iou["lidar"] < 1.0


def test_rays_of_truth_score_100_and_of_shifted_truth_less(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, one_thread: None
) -> None:
    perfect = score(synthetic_nuscenes, TruthModel(synthetic_nuscenes), tmp_path / "a", rays=True)
    assert figures(perfect)["RayIoU"] == 1.0
    worse = score(
        synthetic_nuscenes, TruthModel(synthetic_nuscenes, shifted), tmp_path / "b", rays=True, scenes=("scene-0003",)
    )
    values = figures(worse)
    assert 0.1 < values["mIoU"] < 0.9
    assert 0.1 < values["RayIoU"] < 0.97
    assert values["RayIoU@1"] < values["RayIoU@4"]


def test_rays_start_at_the_lidar_of_every_keyframe(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    starts = []

    def remember(truth: np.ndarray, said: np.ndarray, origins: np.ndarray, *rest: object) -> object:
        starts.append(origins)
        return cast_evaluation_rays(truth, said, origins[:1], *rest)

    monkeypatch.setattr("occ_perception.evaluation.scoring.cast_evaluation_rays", remember)
    score(synthetic_nuscenes, TruthModel(synthetic_nuscenes), tmp_path, rays=True, scenes=("scene-0002",))
    scene = NuScenes(synthetic_nuscenes.root).scene("scene-0002")
    records = [scene.keyframes[token]["LIDAR_TOP"] for token, _ in scene.samples]
    odom_from_lidar = [record.odom_from_ego(scene.origin) @ record.mount.ego_from_sensor for record in records]
    assert len(starts) == 3
    for record, origins in zip(records, starts, strict=True):
        ego_from_odom = inverse(record.odom_from_ego(scene.origin))
        np.testing.assert_allclose(origins, [(ego_from_odom @ pose)[:3, 3] for pose in odom_from_lidar], atol=1e-4)
    assert np.abs(starts[0][2] - starts[0][0])[0] > 5  # the vehicle drove on


def test_state_is_handed_on_within_a_scene_and_never_across(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    class Listening(Session):
        """Remembers why state was dropped."""

        reasons: ClassVar[list[str]] = []

        def step(self, frame: Frame) -> Occupancy:
            occupancy = super().step(frame)
            self.reasons.append(occupancy.temporal.reset)
            return occupancy

    model = TruthModel(synthetic_nuscenes)
    score(synthetic_nuscenes, model, tmp_path, session=Listening(model))
    tokens = synthetic_nuscenes.tokens.values()
    assert model.states == [before for scene in tokens for before in (None, *scene[:-1])]
    assert Listening.reasons == [why for scene in tokens for why in ("first frame", *[""] * (len(scene) - 1))]


def test_grid_frame_switch_anchors_the_frame(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    token = synthetic_nuscenes.tokens["scene-0003"][0]
    lidar_stamp, camera_stamp = synthetic_nuscenes.stamps_ns[token]
    stamps = []
    for frame in ("camera", "lidar", "auto"):
        model = TruthModel(synthetic_nuscenes)
        result = score(synthetic_nuscenes, model, tmp_path, grid_frame=frame, scenes=("scene-0003",))
        stamps += [inputs.frame.stamp_ns for inputs in model.seen]
        text = (write_reports(result) / "semantic_iou_camera.txt").read_text()
        assert ("CAM_FRONT stamp" in text) == (frame == "camera")
        assert ("LIDAR_TOP keyframe stamp" in text) == (frame != "camera")
    assert stamps == [camera_stamp, lidar_stamp]  # "auto" is "lidar" for a LiDAR model, whose result is there already


@pytest.mark.parametrize(
    ("sensors", "images", "lidar"), [("all", True, True), ("camera", True, False), ("lidar", False, True)]
)
def test_the_model_is_given_the_sensors_asked_for(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, sensors: str, images: bool, lidar: bool
) -> None:
    model = TruthModel(synthetic_nuscenes)
    model.image_spec = ImageSpec(16, 32, resize_from=(32, 18), resize=1.0, optional=True)
    result = score(synthetic_nuscenes, model, tmp_path, sensors=sensors, scenes=("scene-0001",))
    given = [inputs.frame for inputs in model.seen]
    assert result.headline() == ("mIoU", 1.0)
    assert {bool(frame.images) for frame in given} == {images}
    assert {bool(frame.lidar) for frame in given} == {lidar}
    assert result.settings["sensors"] == SENSORS[sensors]


def test_geometry_models_get_iou_and_say_how_much_is_unknown(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    def half_unknown(truth: np.ndarray) -> np.ndarray:
        geometry = np.where(truth == FREE, FREE, GEOMETRY.id_of("occupied")).astype(np.uint8)
        geometry[:, :100] = UNKNOWN
        return geometry

    model = TruthModel(synthetic_nuscenes, half_unknown)
    model.info = ModelInfo("half", GEOMETRY, OCC3D_GRID)
    result = score(synthetic_nuscenes, model, tmp_path, scenes=("scene-0001",), mask="none")
    values = figures(result)
    occupied = sum((synthetic_nuscenes.truth[t] != FREE).sum() for t in synthetic_nuscenes.tokens["scene-0001"])
    known = sum((synthetic_nuscenes.truth[t][:, 100:] != FREE).sum() for t in synthetic_nuscenes.tokens["scene-0001"])
    assert values["IoU"] == values["recall"] == pytest.approx(known / occupied)
    assert values["IoU where known"] == 1.0
    assert values["unknown"] == 0.5
    assert "mIoU" not in values
    assert result.tally.unknown * 2 == result.tally.voxels
    text = (write_reports(result) / "summary.txt").read_text()
    assert "50.00 % of all voxels were answered 'unknown' and are counted as not occupied" in text


def test_unknown_of_a_class_model_counts_as_free_and_is_reported(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path
) -> None:
    def behind_unknown(truth: np.ndarray) -> np.ndarray:
        truth[:100] = UNKNOWN
        return truth

    def behind_free(truth: np.ndarray) -> np.ndarray:
        truth[:100] = FREE
        return truth

    unknown, free = (
        score(synthetic_nuscenes, TruthModel(synthetic_nuscenes, change), tmp_path / name, scenes=("scene-0003",))
        for name, change in (("unknown", behind_unknown), ("free", behind_free))
    )
    assert figures(unknown) == figures(free)
    assert figures(unknown)["mIoU"] < 1
    assert unknown.tally.unknown * 2 == unknown.tally.voxels
    assert free.tally.unknown == 0


def test_carving_end_to_end(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    result = score(synthetic_nuscenes, create_model("lidar-carving"), tmp_path, mask="lidar", scenes=("scene-0002",))
    values = figures(result)
    assert 0.5 < values["IoU"] < 0.95  # one sweep of 32 beams sees most of what a dense one sees, not all
    assert values["precision"] > 0.9
    assert 0 < values["unknown"] < 0.6


def test_openocc_scores_flow(synthetic_nuscenes: NuScenesTree, tmp_path: Path, one_thread: None) -> None:
    to_openocc = OCC3D.map_to(OPENOCC)

    class FlowModel(TruthModel):
        def __init__(self, tree: NuScenesTree, flow: np.ndarray | None) -> None:
            super().__init__(tree, lambda truth: to_openocc[truth])
            self.info, self.flow = ModelInfo("flow", OPENOCC, OCC3D_GRID), flow

        def step(self, *inputs: object) -> ModelOutput:
            output = super().step(*inputs)
            output.flow = None if self.flow is None else torch.from_numpy(self.flow)
            return output

    token = synthetic_nuscenes.tokens["scene-0003"][0]
    truth = GroundTruth("openocc", synthetic_nuscenes.root)
    scene = NuScenes(synthetic_nuscenes.root).scene("scene-0003")
    flow = truth.read(scene, token).flow
    assert np.abs(flow).max() > 5
    results = {
        name: score(
            synthetic_nuscenes,
            FlowModel(synthetic_nuscenes, f),
            tmp_path / name,
            "openocc",
            scenes=(scene.name,),
            rays=True,
        )
        for name, f in (("right", flow), ("still", np.zeros_like(flow)), ("none", None))
    }
    values = {name: figures(result) for name, result in results.items()}
    assert values["right"]["Occ score"] == 1.0
    assert values["right"]["mAVE"] == 0.0
    assert values["still"]["mAVE_TP"] > 0.1
    assert values["still"]["Occ score"] < 1.0
    assert "mAVE" not in values["none"]  # no velocities, so no velocity error; not the error of standing still
    assert values["none"]["RayIoU"] == 1.0


def test_an_occ3d_model_is_scored_on_openocc_labels_by_class_names(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path, one_thread: None
) -> None:
    truth = GroundTruth("openocc", synthetic_nuscenes.root)
    subject = MappedSubject(ModelSubject(TruthModel(synthetic_nuscenes)), OPENOCC)
    result = evaluate(
        NuScenes(synthetic_nuscenes.root), truth, subject, tmp_path, EvaluationSettings("none", scenes=("scene-0003",))
    )
    assert figures(result)["RayIoU"] == 1.0
    assert "by name" in result.settings["classes"]
    with pytest.raises(ConfigurationError, match="without a namesake"):
        MappedSubject(ModelSubject(create_model("lidar-carving")), OPENOCC)


def test_what_cannot_be_compared_is_refused(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    model = TruthModel(synthetic_nuscenes)
    with pytest.raises(ConfigurationError, match=r"occ3d.*openocc.*would mean nothing"):
        score(synthetic_nuscenes, model, tmp_path, "openocc", rays=True)
    with pytest.raises(ConfigurationError, match="have no mask 'camera'"):
        score(synthetic_nuscenes, model, tmp_path, "openocc", mask="camera")
    with pytest.raises(ConfigurationError, match="scene-0009"):
        score(synthetic_nuscenes, model, tmp_path, scenes=("scene-0009",))
    with pytest.raises(ConfigurationError, match=r"unknown labels 'occ4d'.*openoccupancy"):
        GroundTruth("occ4d", synthetic_nuscenes.root)
    with pytest.raises(DatasetError, match="nuScenes-Occupancy"):
        GroundTruth("openoccupancy", synthetic_nuscenes.root)
    model.info = ModelInfo("small", OCC3D, VoxelGrid((-8.0, -8, -1), 0.4, (40, 40, 16)))
    with pytest.raises(ConfigurationError, match="small answers on"):
        score(synthetic_nuscenes, model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_scene_that_fails_is_named_left_out_and_tried_again(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    model = TruthModel(synthetic_nuscenes)
    model.fail_at = synthetic_nuscenes.tokens["scene-0002"][1]
    result = score(synthetic_nuscenes, model, tmp_path)
    assert result.scored == ["scene-0001", "scene-0003"]
    assert result.failed == {"scene-0002": "head: NaN"}
    folder = write_reports(result)
    for name in ("summary.txt", "semantic_iou_camera.txt"):
        assert "INCOMPLETE: 1 more scenes could not be scored" in (folder / name).read_text()
    model.fail_at = None
    again = score(synthetic_nuscenes, model, tmp_path)
    assert again.scored == ["scene-0001", "scene-0002", "scene-0003"]
    assert not again.failed
    assert "INCOMPLETE" not in (write_reports(again) / "summary.txt").read_text()


def test_missing_blobs_fail_their_scene_only(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    root = tmp_path / "partial"
    root.mkdir()
    for name in ("v1.0-mini", "gts"):
        (root / name).symlink_to(synthetic_nuscenes.root / name)
    for path in (synthetic_nuscenes.root / "samples" / "LIDAR_TOP").glob("scene-000[12]*"):
        (root / "samples" / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
        (root / "samples" / "LIDAR_TOP" / path.name).symlink_to(path)
    partial = NuScenesTree(root, truth=synthetic_nuscenes.truth, stamps_ns=synthetic_nuscenes.stamps_ns)
    result = score(partial, TruthModel(partial), tmp_path / "out")
    assert list(result.failed) == ["scene-0003"]
    assert "not installed" in result.failed["scene-0003"]
    assert figures(result)["mIoU"] == 1.0


def test_corruption_table_is_absolute_and_relative_and_leaves_the_truth_alone(
    synthetic_nuscenes: NuScenesTree, tmp_path: Path
) -> None:
    class LooksAtItsInput(TruthModel):
        """Right as long as it has all its beams and all its frames."""

        def step(self, inputs: ModelInput, state: object, prev_ego_from_ego: torch.Tensor | None) -> ModelOutput:
            output = super().step(inputs, state, prev_ego_from_ego)
            if len(inputs.frame.lidar[0].points) < 1084 * 32:
                output.semantics[:100] = FREE
            return output

    model = LooksAtItsInput(synthetic_nuscenes)
    wanted = {"frames_dropped_50%", "beams_1_of_2", "extrinsics_1deg"}
    corruptions = [CLEAN, *(c for c in all_corruptions(()) if c.name in wanted)]
    results = [score(synthetic_nuscenes, model, tmp_path, corruption=c) for c in corruptions]
    text = corruption_table(results, tmp_path, "table")
    table = json.loads((tmp_path / "table.json").read_text())
    assert text == (tmp_path / "table.txt").read_text()
    rows = {row["corruption"]: row for row in table["rows"]}
    assert list(rows) == [c.name for c in corruptions]
    assert rows["clean"]["relative_to_clean"]["mIoU"] == 1.0
    assert rows["extrinsics_1deg"]["values"]["mIoU"] == 1.0
    beams = rows["beams_1_of_2"]
    assert 0.2 < beams["values"]["mIoU"] < 0.8
    assert beams["relative_to_clean"]["mIoU"] == beams["values"]["mIoU"]
    dropped = rows["frames_dropped_50%"]
    assert 0 < dropped["held"] < dropped["frames"] == 6
    assert 0.1 < dropped["values"]["mIoU"] < 1
    line = next(line for line in text.splitlines() if line.startswith("beams_1_of_2"))
    assert f"{100 * beams['values']['mIoU']:.2f}" in line
    truths = [r.metrics["semantic_iou_camera"].counts["confusion"].sum(axis=1).tolist() for r in results]
    assert all(truth == truths[0] for truth in truths)
    assert len({r.folder for r in results}) == 4


def test_damaged_images_reach_a_camera_model(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    """Through decoding and the session: what the model sees is dark or missing, and the tally says what was missing."""

    class CameraModel(TruthModel):
        image_spec = ImageSpec(32, 64, resize_from=(160, 90), resize=0.4, mean=(0, 0, 0), std=(1, 1, 1))
        uses_lidar = False

    wanted = {"without_CAM_BACK", "darkened_0.25", "extrinsics_5deg", "jpeg_wrong_bytes_10"}
    cameras = tuple(NuScenes(synthetic_nuscenes.root).scene("scene-0003").channels("camera"))
    results, seen = {}, {}
    for corruption in (CLEAN, *(c for c in all_corruptions(cameras) if c.name in wanted)):
        model = CameraModel(synthetic_nuscenes)
        results[corruption.name] = score(
            synthetic_nuscenes, model, tmp_path, corruption=corruption, scenes=("scene-0003",)
        )
        seen[corruption.name] = model.seen[0] if model.seen else None
    assert len(results) == 5
    clean, dark = seen["clean"], seen["darkened_0.25"]
    assert all(clean.present)
    assert results["clean"].tally.sensors_missing == results["darkened_0.25"].tally.sensors_missing == 0
    assert float(dark.images.mean() / clean.images.mean()) == pytest.approx(0.25, abs=0.02)
    assert results["without_CAM_BACK"].tally.sensors_missing == 1
    missing = [
        n
        for n, here in zip(seen["without_CAM_BACK"].cameras, seen["without_CAM_BACK"].present, strict=True)
        if not here
    ]
    assert missing == ["CAM_BACK"]
    assert seen["extrinsics_5deg"].frame.rig.fingerprint != clean.frame.rig.fingerprint
    damaged, tally = seen["jpeg_wrong_bytes_10"], results["jpeg_wrong_bytes_10"].tally
    assert tally.frames == 1
    assert not results["jpeg_wrong_bytes_10"].failed
    assert tally.held or tally.sensors_missing or not torch.equal(damaged.images, clean.images)


def test_held_answers_move_with_the_vehicle() -> None:
    """What stands still ends up where it now is, seen from the new place; what comes into view is unknown."""
    grid = VoxelGrid((-4.0, -4.0, 0.0), 1.0, (8, 8, 2))
    semantics = np.full(grid.size, FREE, np.uint8)
    semantics[6, 3, 0] = 4  # centre at (2.5, -0.5)
    flow = np.zeros((*grid.size, 2), np.float32)
    flow[6, 3, 0] = 3.0, 0.0
    instances = np.zeros(grid.size, np.uint16)
    instances[6, 3, 0] = 9
    last = LastAnswer(Answer(semantics, flow, instances), np.eye(4))
    ahead = last.moved_to(rigid([2.0, 0, 0], [0, 0, 0, 1]), grid)
    assert ahead.held
    assert np.argwhere(ahead.semantics == 4).tolist() == np.argwhere(ahead.instances == 9).tolist() == [[4, 3, 0]]
    assert ahead.instances.sum() == 9
    assert (ahead.semantics[6:] == UNKNOWN).all()
    assert (ahead.semantics[:6] != UNKNOWN).all()
    turned = last.moved_to(rigid([0, 0, 0], [0, 0, np.sqrt(0.5), np.sqrt(0.5)]), grid)  # a quarter to the left
    assert np.argwhere(turned.semantics == 4).tolist() == [[3, 1, 0]]  # centre at (-0.5, -2.5)
    np.testing.assert_allclose(turned.flow[3, 1, 0], [0.0, -3.0], atol=1e-6)


def test_a_lost_frame_is_scored_with_the_frame_before(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    tokens = synthetic_nuscenes.tokens["scene-0002"]

    def lose(which: str) -> Corruption:
        def fault(frame: Frame) -> Frame:
            lost = frame.stamp_ns in synthetic_nuscenes.stamps_ns[which]
            return replace(frame, images={}, lidar=()) if lost else frame

        return Corruption(f"lost_{which}", "test", "any", fault, "one frame is lost")

    first, last = (
        score(synthetic_nuscenes, TruthModel(synthetic_nuscenes), tmp_path, corruption=lose(t), scenes=("scene-0002",))
        for t in (tokens[0], tokens[-1])
    )
    assert first.tally.held == last.tally.held == 1
    assert first.tally.unknown == OCC3D_GRID.num_voxels  # nothing had come yet
    assert 0 < last.tally.unknown < 0.2 * OCC3D_GRID.num_voxels
    assert figures(first)["IoU"] < 0.7 < figures(last)["IoU"] < 1
