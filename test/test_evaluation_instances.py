"""Instances, points and identities through the evaluator: truth scores what it must, mistakes cost what they should."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes_tree import VERSION, NuScenesTree

from occ_perception import cli
from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.point_labels import CHALLENGE_FROM_GENERAL
from occ_perception.evaluation.evaluator import Evaluation, EvaluationSettings, evaluate
from occ_perception.evaluation.folder_subject import FolderSubject
from occ_perception.evaluation.instance_truth import CLASS_OF_CATEGORY, InstanceTruth, lidar_boxes
from occ_perception.evaluation.model_subject import ModelSubject
from occ_perception.evaluation.point_truth import PointTruth
from occ_perception.evaluation.report import figures, write_reports
from occ_perception.evaluation.truth import LIDAR, GroundTruth
from occ_perception.geometry import OCC3D_GRID, transform_points
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays
from occ_perception.models.base import ModelOutput
from occ_perception.occupancy import ModelInfo, Visibility
from occ_perception.occupancy_files import save_occupancy, save_submission
from occ_perception.ontology import FREE, LIDARSEG, OCC3D
from occ_perception.session import Session, SessionSettings
from occ_perception.tracking.settings import TrackingSettings

CAR = OCC3D.id_of("car")
GENERAL = {int(c): g for g, c in reversed(list(enumerate(CHALLENGE_FROM_GENERAL)))}
SCENE = "scene-0002"


def true_instances(dataset: NuScenes, truth: GroundTruth, scene_name: str) -> dict[str, np.ndarray]:
    """Instances from boxes by sample token; only those of cars."""
    scene, source = dataset.scene(scene_name), InstanceTruth(dataset, truth.set)
    result = {}
    for token in truth.samples(scene):
        label = truth.read(scene, token)
        result[token] = np.where(label.semantics == CAR, source.read(scene, token, label).ids, 0)
    return result


@pytest.fixture(scope="module")
def labelled(synthetic_nuscenes: NuScenesTree, tmp_path_factory: pytest.TempPathFactory) -> NuScenesTree:
    """The tree with point labels of both packs, read out of its grids: every point has the label of its voxel."""
    root = tmp_path_factory.mktemp("labelled")
    for name in (VERSION, "gts", "samples"):
        (root / name).symlink_to(synthetic_nuscenes.root / name)
    dataset, truth = NuScenes(root), GroundTruth("occ3d", root)
    for pack in ("lidarseg", "panoptic"):
        (root / pack / VERSION).mkdir(parents=True)
    for name in truth.scenes(dataset):
        scene, instances = dataset.scene(name), true_instances(dataset, truth, name)
        for token, frame in zip(instances, dataset.frames(scene, LIDAR), strict=True):
            sweep, semantics = frame.lidar[0], truth.read(scene, token).semantics
            cells, inside = OCC3D_GRID.cells_of(
                transform_points(sweep.ego_from_lidar, sweep.points[:, :3].astype(float))
            )
            at = tuple(cells.T)
            classes = OCC3D.map_to(LIDARSEG)[semantics[at]]
            classes[~inside | (classes >= LIDARSEG.num_classes)] = 0
            general = np.array([GENERAL[c] for c in classes.tolist()], np.uint16)
            file = scene.keyframes[token][LIDAR].token
            general.astype(np.uint8).tofile(root / "lidarseg" / VERSION / f"{file}_lidarseg.bin")
            numbers = np.where(classes == LIDARSEG.id_of("car"), instances[token][at], 0)
            np.savez(
                root / "panoptic" / VERSION / f"{file}_panoptic.npz", data=(general * 1000 + numbers).astype(np.uint16)
            )
    return NuScenesTree(root, synthetic_nuscenes.tokens, synthetic_nuscenes.truth, synthetic_nuscenes.stamps_ns)


class KnowsInstances:
    """Publishes the truth with its instances, numbered anew in every frame, or as ``merge`` makes them."""

    image_spec = None
    uses_lidar = True
    history_interval_s = 0.0

    def __init__(self, tree: NuScenesTree, merge=lambda ids: ids, instances: bool = True) -> None:
        self.info = ModelInfo("knows", OCC3D, OCC3D_GRID)
        self.tree, self.merge, self.gives = tree, merge, instances
        dataset, truth = NuScenes(tree.root), GroundTruth("occ3d", tree.root)
        self.instances = {
            t: i for name in truth.scenes(dataset) for t, i in true_instances(dataset, truth, name).items()
        }
        self.random = np.random.default_rng(0)

    def step(self, inputs, state, prev_ego_from_ego) -> ModelOutput:
        token = self.tree.token_at(inputs.frame.stamp_ns)
        semantics = self.tree.truth[token]
        shuffled = np.append(0, self.random.permutation(255) + 1)[self.instances[token]]
        seen = np.where(semantics == FREE, Visibility.FREE_SEEN, Visibility.OCCUPIED_SEEN).astype(np.uint8)
        ids = torch.from_numpy(self.merge(shuffled)) if self.gives else None
        return ModelOutput(torch.from_numpy(semantics), torch.from_numpy(seen), instances=ids, state=0)


def score(tree: NuScenesTree, model, output: Path, labels: str = "occ3d", rays: bool = False, **settings) -> Evaluation:
    truth = GroundTruth(labels, tree.root)
    subject = ModelSubject(model, session=Session(model, settings=SessionSettings(**settings)))
    return evaluate(
        NuScenes(tree.root), truth, subject, output, EvaluationSettings(rays=rays, scenes=(SCENE,), mask="camera")
    )


@pytest.fixture
def one_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rays from one place only: what is tested is what becomes of them."""
    name = "occ_perception.evaluation.scoring.cast_evaluation_rays"
    monkeypatch.setattr(name, lambda truth, said, origins, *rest: cast_evaluation_rays(truth, said, origins[:1], *rest))


def test_truth_is_perfect(labelled: NuScenesTree, tmp_path: Path, one_thread: None, one_origin: None) -> None:
    result = score(labelled, KnowsInstances(labelled), tmp_path, rays=True)
    values = figures(result)
    assert values["RayPQ"] == 1.0
    assert values["lidarseg_iou mIoU"] == 1.0
    panoptic = result.metrics["panoptic"].compute()
    present = np.isfinite(result.metrics["lidarseg_iou"].compute().per_class["IoU"]).sum()
    assert values["panoptic PQ"] == values["panoptic_in_grid PQ"] == present / 16  # its mean counts absent classes as 0
    assert panoptic.per_class["PQ"][LIDARSEG.id_of("car") - 1] == 1.0
    assert sum(panoptic.per_class["true positive"][: LIDARSEG.id_of("truck")]) >= 3  # several cars
    assert values["tracking IDF1"] == values["tracking MOTA"] == 1.0
    assert values["mIoU"] == 1.0  # that of voxels
    folder = write_reports(result)
    for name in ("ray_pq", "lidarseg_iou", "panoptic", "panoptic_in_grid", "tracking"):
        assert (folder / f"{name}.json").is_file()
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["instances"], settings["points"]) == ("annotated boxes", "lidarseg, panoptic")


def test_all_cars_as_one_cost_panoptic_quality_and_nothing_else(
    labelled: NuScenesTree, tmp_path: Path, one_thread: None, one_origin: None
) -> None:
    perfect = figures(score(labelled, KnowsInstances(labelled), tmp_path, rays=True))
    model = KnowsInstances(labelled, merge=lambda ids: (ids > 0).astype(np.int64))
    result = score(labelled, model, tmp_path / "merged", rays=True)
    values = figures(result)
    for name in ("RayPQ", "panoptic PQ", "tracking IDF1"):
        assert values[name] < perfect[name] - 0.05, name
    for name in ("mIoU", "RayIoU", "lidarseg_iou mIoU"):
        assert values[name] == perfect[name], name
    assert result.metrics["panoptic"].compute().per_class["PQ"][LIDARSEG.id_of("car") - 1] < 0.2


def test_without_instances_there_is_no_panoptic_figure(labelled: NuScenesTree, tmp_path: Path) -> None:
    result = score(labelled, KnowsInstances(labelled, instances=False), tmp_path)
    values = figures(result)
    assert values["lidarseg_iou mIoU"] == 1.0
    assert not {name for name in values if "PQ" in name or "IDF1" in name}
    assert "panoptic" not in (write_reports(result) / "summary.txt").read_text()
    connected = score(
        labelled,
        KnowsInstances(labelled, instances=False),
        tmp_path,
        tracking=TrackingSettings(connect_voxels=True),
    )
    assert connected.folder != result.folder
    assert figures(connected)["panoptic PQ"] > 0.9 * values["lidarseg_iou mIoU"] * 5 / 16


def test_points_are_looked_up_where_they_were_when_the_grid_was(labelled: NuScenesTree, tmp_path: Path) -> None:
    """A grid of the camera's moment is 0.2 m away from the sweep's; the same points then lie in other voxels.

    (lidarseg's mIoU does not show it here: points in free voxels take the class of the nearest voxel.)
    """
    scores = {}
    for frame in ("lidar", "camera"):
        model = KnowsInstances(labelled)
        subject = ModelSubject(model, grid_frame=frame)
        truth, settings = GroundTruth("occ3d", labelled.root), EvaluationSettings(rays=False, scenes=(SCENE,))
        result = evaluate(NuScenes(labelled.root), truth, subject, tmp_path, settings)
        scores[frame] = figures(result)["panoptic_in_grid mIoU"]
    # The camera's grid is really the LiDAR's, so moving the points to where it says it is makes them miss.
    assert 0.1 * scores["lidar"] < scores["camera"] < 0.9 * scores["lidar"]


def test_every_wrong_identity_costs_idf1(labelled: NuScenesTree, tmp_path: Path) -> None:
    """Without tracking the shuffled numbers are those of each frame alone."""
    values = figures(score(labelled, KnowsInstances(labelled), tmp_path, tracking=TrackingSettings(enabled=False)))
    assert values["tracking recall"] == 1.0
    assert values["tracking MOTA"] < 1.0
    assert values["tracking IDF1"] < 0.9


def test_instances_of_label_files(labelled: NuScenesTree, tmp_path: Path, one_thread: None, one_origin: None) -> None:
    """SparseOcc's layout: Occ3D's files with ``instances``; who they are over time is not known."""
    model = KnowsInstances(labelled)
    folder = labelled.root / "occ3d_panoptic"
    dataset, truth = NuScenes(labelled.root), GroundTruth("occ3d", labelled.root)
    scene, source = dataset.scene(SCENE), InstanceTruth(dataset, truth.set)
    for token in truth.samples(scene):
        label = truth.read(scene, token)
        (folder / SCENE / token).mkdir(parents=True)
        with np.load(labelled.root / "gts" / SCENE / token / "labels.npz") as arrays:
            ids = source.read(scene, token, label).ids
            np.savez_compressed(folder / SCENE / token / "labels.npz", **arrays, instances=ids)
    values = figures(score(labelled, model, tmp_path, "occ3d_panoptic", rays=True))
    assert values["RayPQ"] == 1.0
    assert "tracking IDF1" not in values


def test_instances_in_prediction_files(
    labelled: NuScenesTree, tmp_path: Path, one_thread: None, one_origin: None
) -> None:
    model, folder = KnowsInstances(labelled), tmp_path / "predictions"
    folder.mkdir()
    for token in labelled.tokens[SCENE]:
        pred = OCC3D.to_dataset(labelled.truth[token])
        np.savez_compressed(
            folder / f"{token}.npz", pred=pred, instances=model.instances[token].astype(np.int32) * 70_000
        )
    truth = GroundTruth("occ3d", labelled.root)
    subject = FolderSubject(folder, truth.set)
    settings = EvaluationSettings(rays=True, scenes=(SCENE,))
    values = figures(evaluate(NuScenes(labelled.root), truth, subject, tmp_path / "out", settings))
    assert values["RayPQ"] == 1.0
    assert values["panoptic_in_grid PQ"] > 0.2
    assert "tracking IDF1" not in values
    np.savez_compressed(folder / f"{token}.npz", pred=pred, instances=np.full(OCC3D_GRID.size, -1))
    result = evaluate(NuScenes(labelled.root), truth, subject, tmp_path / "out", settings)
    assert f"{token}.npz: instances: expected ids of 0 and more" in result.failed[SCENE]


def test_files_of_a_replay_have_instances_and_ids_that_last(
    labelled: NuScenesTree, tmp_path: Path, one_thread: None, one_origin: None
) -> None:
    session, folder = Session(KnowsInstances(labelled)), tmp_path / "replayed"
    dataset, truth = NuScenes(labelled.root), GroundTruth("occ3d", labelled.root)
    for frame in dataset.frames(dataset.scene(SCENE), LIDAR):
        occupancy = session.step(frame)
        save_occupancy(folder / f"{occupancy.stamp_ns}.npz", occupancy)
    settings = EvaluationSettings(rays=True, scenes=(SCENE,))
    values = figures(evaluate(dataset, truth, FolderSubject(folder, truth.set), tmp_path / "out", settings))
    assert values["RayPQ"] == values["tracking IDF1"] == values["lidarseg_iou mIoU"] == 1.0
    save_submission(tmp_path / "submission.npz", occupancy)
    with np.load(tmp_path / "submission.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["pred", "instances"]
        np.testing.assert_array_equal(arrays["instances"], occupancy.predicted_instances)


def test_boxes_are_those_of_the_benchmark(synthetic_nuscenes: NuScenesTree) -> None:
    dataset = NuScenes(synthetic_nuscenes.root)
    scene = dataset.scene(SCENE)
    token = scene.samples[1][0]
    record, annotations = scene.keyframes[token][LIDAR], dataset.annotations(token)
    boxes = lidar_boxes(annotations, record)
    assert len(boxes) == len(annotations) > 3
    ego_from_lidar = record.mount.ego_from_sensor
    odom_from_lidar = record.odom_from_ego(scene.origin) @ ego_from_lidar
    for row, box in zip(boxes, annotations, strict=True):
        center = transform_points(odom_from_lidar, row[None, :3])[0] + scene.origin
        np.testing.assert_allclose(center, box.global_from_box[:3, 3], atol=1e-6)
        ahead = odom_from_lidar[:3, :3] @ [np.cos(row[6]), np.sin(row[6]), 0]
        np.testing.assert_allclose(ahead, box.global_from_box[:3, 0], atol=1e-6)
        assert tuple(row[3:6]) == box.size
    assert set(CLASS_OF_CATEGORY.values()) == {OCC3D.class_names[i] for i in OCC3D.thing_ids}


def test_identities_last_and_stuff_has_none(synthetic_nuscenes: NuScenesTree) -> None:
    dataset, truth = NuScenes(synthetic_nuscenes.root), GroundTruth("occ3d", synthetic_nuscenes.root)
    scene, source = dataset.scene(SCENE), InstanceTruth(dataset, truth.set)
    seen = []
    for token in truth.samples(scene):
        label = truth.read(scene, token)
        found = source.read(scene, token, label)
        assert (found.identities[label.semantics != CAR] == 0).all()
        of_cars = found.ids[label.semantics == CAR]
        assert len(set(np.unique(found.identities)) - {0}) == len(set(np.unique(of_cars)) - {0}) > 3
        seen.append(set(np.unique(found.identities).tolist()) - {0})
    assert len(seen[0] & seen[1]) > 2


def test_trees_without_annotations_or_packs_have_none(synthetic_nuscenes: NuScenesTree, tmp_path: Path) -> None:
    (tmp_path / VERSION).mkdir()
    for path in (synthetic_nuscenes.root / VERSION).iterdir():
        if path.name != "sample_annotation.json":
            (tmp_path / VERSION / path.name).symlink_to(path)
    dataset = NuScenes(tmp_path)
    truth = GroundTruth("occ3d", synthetic_nuscenes.root)
    assert InstanceTruth(dataset, truth.set).source == ""
    assert not InstanceTruth(dataset, GroundTruth("openocc", synthetic_nuscenes.root).set).has_identities
    assert PointTruth(dataset).packs == ()


def test_point_labels_that_are_not_of_the_sweep_fail_their_scene(labelled: NuScenesTree, tmp_path: Path) -> None:
    root = tmp_path / "wrong"
    root.mkdir()
    for name in (VERSION, "gts", "samples"):
        (root / name).symlink_to(labelled.root / name)
    (root / "lidarseg" / VERSION).mkdir(parents=True)
    scene = NuScenes(root).scene(SCENE)
    token = scene.keyframes[scene.samples[0][0]][LIDAR].token
    np.ones(5, np.uint8).tofile(root / "lidarseg" / VERSION / f"{token}_lidarseg.bin")
    wrong = NuScenesTree(root, labelled.tokens, labelled.truth, labelled.stamps_ns)
    result = score(wrong, KnowsInstances(wrong), tmp_path / "out")
    assert "lidarseg: expected a label for each of" in result.failed[SCENE]


def test_some_samples_without_point_labels_are_left_out(labelled: NuScenesTree, tmp_path: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    for name in (VERSION, "gts", "samples"):
        (root / name).symlink_to(labelled.root / name)
    (root / "lidarseg" / VERSION).mkdir(parents=True)
    scene = NuScenes(root).scene(SCENE)
    file = f"{scene.keyframes[scene.samples[0][0]][LIDAR].token}_lidarseg.bin"
    (root / "lidarseg" / VERSION / file).symlink_to(labelled.root / "lidarseg" / VERSION / file)
    some = NuScenesTree(root, labelled.tokens, labelled.truth, labelled.stamps_ns)
    result = score(some, KnowsInstances(some), tmp_path / "out")
    assert (result.tally.frames, result.metrics["lidarseg_iou"].frames) == (3, 1)


def test_connected_instances_are_refused_for_files(labelled: NuScenesTree, tmp_path: Path, capsys) -> None:
    arguments = ["eval", "--root", str(labelled.root), "--predictions", str(tmp_path), "--connect-instances"]
    assert cli.main(arguments) == 2
    assert "--connect-instances is for --model" in capsys.readouterr().err
