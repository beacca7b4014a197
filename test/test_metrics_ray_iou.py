"""RayIoU, its rays and origins against the official evaluator."""

import json
from pathlib import Path

import numpy as np
import pytest

from occ_perception.errors import InvalidInputError
from occ_perception.geometry import VoxelGrid, rigid
from occ_perception.metrics.accumulator import Accumulator
from occ_perception.metrics.evaluation_rays import cast_evaluation_rays, ray_directions, ray_origins
from occ_perception.metrics.ray_iou import RayIoU
from occ_perception.ontology import FREE, OCC3D, UNKNOWN

CASES = ["perfect", "all_free", "shift_x1", "noise", "class_confusion", "outside_mask_filled"]


@pytest.fixture(scope="module")
def golden(shared: Path):
    folder = shared / "golden"
    arrays = dict(np.load(folder / "metrics_rayiou.npz"))
    predictions = np.load(folder / "metrics_occ3d.npz")
    arrays.update({f"pred_{case}": OCC3D.from_dataset(predictions[f"pred_{case}"]) for case in CASES})
    arrays["truth"] = OCC3D.from_dataset(arrays["gt"])
    return arrays, json.loads((folder / "metrics_rayiou.json").read_text())


def frame_rays(arrays, case, frame):
    return cast_evaluation_rays(
        arrays["truth"][frame], arrays[f"pred_{case}"][frame], arrays[f"origins_frame{frame}"], OCC3D
    )


def test_ray_directions_are_the_official_ones(golden):
    np.testing.assert_array_equal(ray_directions(), golden[0]["lidar_rays"])


@pytest.mark.parametrize("which", [0, 1])
def test_origins_are_the_official_ones(golden, which):
    arrays, _ = golden
    index = int(arrays["poses_frame_index_of_origins"][which])
    scene = arrays["poses_scene_id"] == arrays["poses_scene_id"][index]
    mounts, poses = (
        np.stack([rigid(t, q) for t, q in zip(translations[scene], rotations[scene][:, [1, 2, 3, 0]], strict=True)])
        for translations, rotations in (
            (arrays[f"poses_{name}_translation"], arrays[f"poses_{name}_rotation_wxyz"])
            for name in ("lidar2ego", "ego2global")
        )
    )
    origins = ray_origins(mounts, poses, index - int(np.flatnonzero(scene)[0]))
    np.testing.assert_allclose(origins, arrays[f"origins_frame{which}"], atol=4e-6)  # one float32 rounding at 40 m


@pytest.mark.parametrize("case", CASES)
def test_official_numbers(golden, case):
    arrays, expected = golden
    metric = RayIoU()
    for frame in range(2):
        metric.update(frame_rays(arrays, case, frame))
    counts = np.vstack([metric.counts[f"{kind}_rays"] for kind in ("true", "predicted", "matched")])
    np.testing.assert_array_equal(counts, arrays[f"counts_gt_pred_tp1_tp2_tp4_{case}"][:, :17])
    values, official = metric.compute().values, expected[case]
    for name in ("RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"):
        assert values[name] == pytest.approx(official[name], abs=1e-9)
    np.testing.assert_allclose(metric.iou(), np.array(official["per_class_iou_1_2_4m"], float), atol=1e-9)


def test_every_ray_of_a_frame(golden):
    arrays, _ = golden
    rays = frame_rays(arrays, "shift_x1", 0)
    labels = arrays["ray_label_gt_frame0"]
    kept = labels != OCC3D.dataset_free_id
    np.testing.assert_array_equal(OCC3D.to_dataset(rays.true_label), labels[kept])
    np.testing.assert_array_equal(rays.true_depth, arrays["ray_dist_m_gt_frame0"][kept])
    np.testing.assert_array_equal(
        OCC3D.to_dataset(rays.predicted_label), arrays["ray_label_pred_shift_x1_frame0"][kept]
    )
    np.testing.assert_array_equal(rays.predicted_depth, arrays["ray_dist_m_pred_shift_x1_frame0"][kept])


def test_workers_merge_to_identical_results(golden):
    arrays, _ = golden
    rays = [frame_rays(arrays, "noise", frame) for frame in range(2)]
    alone, first, second = RayIoU(), RayIoU(), RayIoU()
    for r in rays:
        alone.update(r)
    first.update(rays[1])
    second.update(rays[0])
    first.merge(Accumulator.from_json(second.to_json()))
    assert first.to_json() == alone.to_json()
    assert repr(first.compute()) == repr(alone.compute())


def test_predicted_surface_behind_free_space_is_not_punished():
    truth = np.full((20, 20, 8), FREE, np.uint8)
    truth[15, :, :] = OCC3D.id_of("manmade")
    prediction = truth.copy()
    prediction[:5] = OCC3D.id_of("vegetation")
    grid = VoxelGrid((-4.0, -4.0, -1.0), 0.4, truth.shape)
    metric = RayIoU()
    metric.update(cast_evaluation_rays(truth, prediction, np.zeros((1, 3)), OCC3D, grid))
    assert metric.compute().values["RayIoU"] == 1.0


def test_bad_input_is_named():
    free = np.full((200, 200, 16), FREE, np.uint8)
    with pytest.raises(InvalidInputError, match="ray origins"):
        cast_evaluation_rays(free, free, np.zeros((0, 3)), OCC3D)
    with pytest.raises(InvalidInputError, match="finite"):
        cast_evaluation_rays(free, free, np.full((1, 3), np.nan), OCC3D)
    with pytest.raises(InvalidInputError, match="prediction"):
        cast_evaluation_rays(free, np.full_like(free, UNKNOWN), np.zeros((1, 3)), OCC3D)
    with pytest.raises(InvalidInputError, match="ground truth"):
        cast_evaluation_rays(free[:100], free, np.zeros((1, 3)), OCC3D)
    with pytest.raises(InvalidInputError, match="keyframes"):
        ray_origins(np.eye(4)[None], np.eye(4)[None], 1)
