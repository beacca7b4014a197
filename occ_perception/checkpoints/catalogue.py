"""Every model and variant, what it needs, and what its authors report: the data behind ``occ_perception models``."""

from __future__ import annotations

from typing import Any

from occ_perception.checkpoints.key_table import skeleton
from occ_perception.models import NANO_PANOPTIC, offsetocc_config
from occ_perception.models.alocc_config import PANOPTIC_BASES, VARIANTS, ALOccConfig
from occ_perception.models.offsetocc_config import OffsetOccConfig


def describe_models() -> list[dict[str, Any]]:
    """One entry per model: name, parameters (trainable), labels, needs, published figures and their source."""
    carving = {
        "name": "lidar-carving",
        "parameters": 0,
        "labels": "geometry",
        "needs": "LiDAR; no weights",
        "published": {},
        "source": "this project",
    }
    offsetocc = (_describe_offsetocc(config) for config in offsetocc_config.VARIANTS.values())
    panoptic = (_describe_panoptic(name) for name in PANOPTIC_BASES)
    return [
        carving,
        _describe_nano(),
        _describe_nano_panoptic(),
        *(_describe(config) for config in VARIANTS.values()),
        *panoptic,
        *offsetocc,
    ]


def _describe_nano() -> dict[str, Any]:
    return {
        "name": "nano",
        "parameters": _parameters("nano"),
        "labels": "occ3d",
        "needs": "cameras at 352x128, LiDAR, or both; vehicle pose; weights",
        "mask_training": True,
        "history_frames": 1,
        "flow": True,
        "published": {},
        "source": "this project",
    }


def _describe_nano_panoptic() -> dict[str, Any]:
    parameters = sum(p.numel() for p in skeleton(NANO_PANOPTIC).parameters())
    source = "this project: OffsetOcc's modules (arXiv 2505.09562) on nano"
    return {**_describe_nano(), "name": NANO_PANOPTIC, "parameters": parameters, "source": source}


def _describe_offsetocc(config: OffsetOccConfig) -> dict[str, Any]:
    height, width = config.image_size
    published = {"mIoU": 28.0, "IoU": 43.9, "LiDAR PQ": 29.4} if config.name == "offsetocc" else {}
    return {
        "name": config.name,
        "parameters": sum(p.numel() for p in skeleton(config.name).parameters()),  # stage 2 freezes most of them
        "labels": config.label_set,
        "needs": f"6 cameras at {width}x{height}, weights",
        "mask_training": False,
        "history_frames": 0,
        "flow": False,
        "published": published,
        "source": "OffsetOcc (arXiv 2505.09562), tables 1 and 2 (trained without, scored with the camera mask)",
    }


def _describe_panoptic(name: str) -> dict[str, Any]:
    base = _describe(VARIANTS[PANOPTIC_BASES[name]])
    parameters = sum(p.numel() for p in skeleton(name).parameters())
    source = "this project: OffsetOcc's modules (arXiv 2505.09562) on ALOcc"
    return {**base, "name": name, "parameters": parameters, "published": {}, "source": source}


def _parameters(model: str) -> int:
    return sum(p.numel() for p in skeleton(model).parameters() if p.requires_grad)


def _describe(config: ALOccConfig) -> dict[str, Any]:
    height, width = config.image_size
    needs = f"6 cameras at {width}x{height}, vehicle pose, weights"
    if config.uses_lidar_depth:
        needs += ", LiDAR"
    evaluated = "with" if config.mask_trained else "without"
    return {
        "name": config.name,
        "parameters": _parameters(config.name),
        "labels": config.label_set,
        "needs": needs,
        "mask_training": config.mask_trained,
        "history_frames": config.history_frames,
        "flow": config.flow,
        "published": dict(config.published.scores),
        "source": f"{config.published.source} (trained and scored {evaluated} the camera mask)"
        if config.label_set == "occ3d"
        else config.published.source,
    }
