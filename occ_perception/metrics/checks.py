"""Checks of what is handed to a metric: wrong input raises instead of scoring something else."""

from __future__ import annotations

import logging

import numpy as np

from occ_perception.errors import InvalidInputError
from occ_perception.ontology import FREE, UNKNOWN, Ontology

logger = logging.getLogger(__name__)


def check_ground_truth(labels: np.ndarray, ontology: Ontology) -> None:
    """Ground truth of any shape: uint8 classes of the ontology, FREE, or UNKNOWN (not labelled)."""
    _check_labels("ground truth", labels, ontology, unknown_allowed=True)


def check_prediction(labels: np.ndarray, ontology: Ontology, shape: tuple[int, ...]) -> None:
    """Prediction: uint8 classes of the ontology or FREE everywhere, of the ground truth's shape.

    UNKNOWN is refused: benchmarks score every voxel, and counting unknown as free would be a choice made in silence
    (`Occupancy.prediction` has what the model said everywhere).
    """
    if labels.shape != shape:
        raise InvalidInputError(f"prediction: expected the ground truth's grid {shape}, got {labels.shape}")
    _check_labels("prediction", labels, ontology, unknown_allowed=False)


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Any array of a known shape."""
    if array.shape != shape:
        raise InvalidInputError(f"{name}: expected {shape}, got {array.shape}")


def check_instances(name: str, instances: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Instance ids 0..65535 of any integer type, as int64."""
    check_shape(name, instances, shape)
    if instances.dtype.kind not in "iu":
        raise InvalidInputError(f"{name}: expected integer instance ids, got {instances.dtype}")
    if instances.size and (instances.min() < 0 or instances.max() > 65535):
        low, high = int(instances.min()), int(instances.max())
        raise InvalidInputError(f"{name}: instance ids must be 0..65535, got {low}..{high}")
    return instances.astype(np.int64)


def check_flow(name: str, flow: np.ndarray, shape: tuple[int, ...], finite: bool) -> np.ndarray:
    """Flow, float [*shape, 2] in m/s, as float32; must be finite where asked."""
    check_shape(name, flow, (*shape, 2))
    if flow.dtype.kind != "f":
        raise InvalidInputError(f"{name}: expected floating point m/s, got {flow.dtype}")
    with np.errstate(over="ignore"):
        flow = flow.astype(np.float32, copy=False)
    if finite and not np.isfinite(flow).all():
        bad = np.argwhere(~np.isfinite(flow))
        raise InvalidInputError(f"{name}: {len(bad)} values are not finite, the first at {bad[0].tolist()}")
    return flow


def align_prediction(labels: np.ndarray, predicted: Ontology, scored: Ontology) -> np.ndarray:
    """Renumber a prediction made in one label set to the label set it is scored in; warns if they differ.

    Args:
        labels: uint8, classes of ``predicted`` or FREE.

    Raises:
        InvalidInputError: the prediction holds classes that the scored label set does not have.
    """
    if predicted.class_names == scored.class_names:
        return labels
    logger.warning(
        "class order differs: the prediction is %s %s, the labels are %s %s; renumbering by name",
        predicted.name, predicted.class_names, scored.name, scored.class_names,
    )  # fmt: skip
    renumbered = predicted.map_to(scored)[labels]
    lost = np.unique(labels[renumbered == UNKNOWN])
    if lost.size:
        names = [predicted.class_names[i] if i < predicted.num_classes else int(i) for i in lost.tolist()]
        raise InvalidInputError(f"prediction: classes {names} of {predicted.name} do not exist in {scored.name}")
    return renumbered


def _check_labels(name: str, labels: np.ndarray, ontology: Ontology, unknown_allowed: bool) -> None:
    if labels.dtype != np.uint8:
        raise InvalidInputError(f"{name}: expected uint8 class ids, got {labels.dtype}")
    allowed = np.zeros(256, bool)
    allowed[: ontology.num_classes] = allowed[FREE] = True
    allowed[UNKNOWN] = unknown_allowed
    valid = allowed[labels]
    if not valid.all():
        bad = np.unique(labels[~valid]).tolist()
        where = np.argwhere(~valid)[0].tolist()
        raise InvalidInputError(
            f"{name}: expected classes 0..{ontology.num_classes - 1} of {ontology.name} or free ({FREE}), "
            f"got {bad} in {int((~valid).sum())} places, the first at {where}"
        )
