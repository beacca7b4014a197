"""Prediction files for the tests of the evaluator."""

from pathlib import Path

import numpy as np
from nuscenes_tree import NuScenesTree

from occ_perception.ontology import OCC3D


def write_predictions(tree: NuScenesTree, folder: Path, noise: float = 0.0, key: str = "pred") -> Path:
    """The truth in submission format, a share of its occupied voxels (and as many free ones) relabelled."""
    folder.mkdir(parents=True)
    for number, (token, truth) in enumerate(tree.truth.items()):
        labels = OCC3D.to_dataset(truth)
        random = np.random.default_rng(number)
        wrong = random.random(labels.shape) < np.where(labels == 17, noise / 100, noise)
        labels[wrong] = random.integers(0, 18, int(wrong.sum()))
        arrays = {} if key == "arr_0" else {key: labels}
        np.savez_compressed(folder / f"{token}.npz", *([labels] if key == "arr_0" else []), **arrays)
    return folder
