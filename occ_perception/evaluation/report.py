"""Reports of an evaluation: one per metric (`metrics.report`), a summary that says what the figures hide, and one table
over all corruptions, absolute and relative to clean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from occ_perception.errors import DatasetError
from occ_perception.evaluation.evaluator import Evaluation
from occ_perception.evaluation.scoring import POINT_METRICS
from occ_perception.files import write_whole
from occ_perception.metrics.accumulator import MetricResult
from occ_perception.metrics.report import Report, aligned, null_for_nan

_IN_TABLE = (
    "mIoU", "IoU", "mIoU_D", "RayIoU", "Occ score", "mAVE_TP", "mAVE", "SSC mIoU", "SC IoU",
    "recall", "IoU where known", "unknown", "RayPQ", "lidarseg_iou mIoU", "panoptic PQ", "tracking IDF1",
)  # fmt: skip
"""Figures of the corruption table, in this order, those that there are."""


def write_reports(evaluation: Evaluation) -> Path:
    """Write a report per metric and ``summary.json`` / ``summary.txt`` into the run's folder; returns that folder.

    Raises:
        DatasetError: a file cannot be written, or no scene was scored.
    """
    if not evaluation.scored:
        raise DatasetError(f"no scene could be scored: {evaluation.failed}")
    subject, grid_frame = describe(evaluation), evaluation.settings["grid_frame"]
    try:
        for name, metric in evaluation.reported().items():
            Report.of(metric, grid_frame, subject).write(evaluation.folder, name)
        write_whole(evaluation.folder / "summary.json", _json(_summary(evaluation)))
        write_whole(evaluation.folder / "summary.txt", summary_text(evaluation).encode())
    except OSError as error:
        raise DatasetError(f"cannot write the report to {evaluation.folder}: {error}") from error
    return evaluation.folder


def describe(evaluation: Evaluation) -> str:
    """What was scored on what, in one line."""
    settings = evaluation.settings
    parts = [f"{settings['subject']} on {settings['dataset']}, labels {settings['labels']}"]
    if "weights" in settings:
        trained_on = f", trained on {settings['trained_on']}" if settings["trained_on"] else ""
        parts.append(f"weights {settings['weights']}{trained_on}")
    if settings.get("corruption", "clean") != "clean":
        parts.append(f"corruption {settings['corruption']} ({settings['corruption_text']})")
    parts.append(f"{len(evaluation.scored)} scenes ({evaluation.selection})")
    if evaluation.failed:
        parts.append(f"INCOMPLETE: {len(evaluation.failed)} more scenes could not be scored")
    return "; ".join(parts)


def summary_text(evaluation: Evaluation) -> str:
    """The figures of the headline mask, and everything a reader must know before quoting them."""
    tally = evaluation.tally
    lines = [
        describe(evaluation),
        f"grid frame  {evaluation.settings['grid_frame']}",
        f"frames      {tally.frames} scored; {tally.unlabelled} keyframes without label; "
        f"{tally.sensors_missing} with a sensor missing; {tally.held} where nothing came and the last answer was held",
        f"unknown     {_percent(tally.unknown, tally.voxels)} of all voxels were answered 'unknown' and are counted as "
        "not occupied",
    ]
    lines += [f"failed      {scene}: {reason}" for scene, reason in sorted(evaluation.failed.items())]
    for name, metric in evaluation.reported().items():
        result, label = metric.compute(), metric.label
        shown = "  ".join(f"{figure} {_format(result, figure)}" for figure in result.values)
        lines += ["", f"{label.title}, mask {label.mask}, {label.variant} [{name}]", f"  {shown}"]
        lines += [f"  warning: {warning}" for warning in result.warnings]
    return "\n".join(lines) + "\n"


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Figures by name, ratios 0..1, of the metrics without mask and of those with the headline mask.

    Those of LiDAR points and of tracking have the name of their metric before their own: they have an mIoU, or a
    recall, too.
    """
    values: dict[str, float] = {}
    for name, metric in evaluation.reported().items():
        if metric.settings.get("mask", evaluation.mask) == evaluation.mask:
            prefix = f"{name} " if name in POINT_METRICS or name == "tracking" else ""
            values.update({f"{prefix}{figure}": value for figure, value in metric.compute().values.items()})
    return values


def corruption_table(evaluations: Sequence[Evaluation], output: Path, stem: str) -> str:
    """One row per corruption, the first is clean; written as STEM.json and STEM.txt, returned as text.

    Relative figures are the share of the clean figure that is left, in per cent (of errors: how they grew).

    Raises:
        DatasetError: a file cannot be written.
    """
    clean = evaluations[0]
    rows = [_table_row(evaluation, figures(clean)) for evaluation in evaluations]
    content = {
        "subject": describe(clean),
        "settings": {k: v for k, v in clean.settings.items() if not k.startswith("corruption")},
        "mask": clean.mask,
        "units": _units(clean),
        "rows": rows,
    }
    text = _table_text(clean, rows)
    try:
        write_whole(output / f"{stem}.json", _json(content))
        write_whole(output / f"{stem}.txt", text.encode())
    except OSError as error:
        raise DatasetError(f"cannot write the table to {output}: {error}") from error
    return text


def _table_row(evaluation: Evaluation, clean: Mapping[str, float]) -> dict[str, Any]:
    found = figures(evaluation)
    values = {name: found.get(name, math.nan) for name in _IN_TABLE if name in clean}
    return {
        "corruption": evaluation.settings["corruption"],
        "description": evaluation.settings["corruption_text"],
        "seed": evaluation.settings["seed"],
        **asdict(evaluation.tally),
        "failed_scenes": sorted(evaluation.failed),
        "values": values,
        "relative_to_clean": {n: value / clean[n] if clean[n] else math.nan for n, value in values.items()},
    }


def _table_text(clean: Evaluation, rows: Sequence[Mapping[str, Any]]) -> str:
    units = _units(clean)
    names = list(rows[0]["values"])
    figure_columns = [column for name in names for column in (f"{name} [{units.get(name, '%')}]", "rel. %")]
    table = [["corruption", "frames", "held", *figure_columns]]
    for row in rows:
        cells = [row["corruption"], str(row["frames"]), str(row["held"])]
        for name in names:
            scale, digits = (1, 3) if name in units else (100, 2)
            cells += [_number(row["values"][name], scale, digits), _number(row["relative_to_clean"][name], 100, 1)]
        table.append(cells)
    header = f"{describe(clean)}\ngrid frame {clean.settings['grid_frame']}; mask {clean.mask}; seed {rows[-1]['seed']}"
    failed = [f"INCOMPLETE {row['corruption']}: without {row['failed_scenes']}" for row in rows if row["failed_scenes"]]
    return "\n".join([header, "", *aligned(table), *failed]) + "\n"


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    name, value = evaluation.headline()
    return {
        "subject": describe(evaluation),
        "settings": dict(evaluation.settings),
        "headline_mask": evaluation.mask,
        "headline": {name: value},
        "scenes": evaluation.scored,
        "failed_scenes": evaluation.failed,
        "tally": asdict(evaluation.tally),
        "unknown_counted_as": "not occupied",
        "metrics": {name: dict(metric.compute().values) for name, metric in evaluation.reported().items()},
    }


def _units(evaluation: Evaluation) -> dict[str, str]:
    units: dict[str, str] = {}
    for metric in evaluation.metrics.values():
        units.update(metric.compute().units)
    return units


def _format(result: MetricResult, name: str) -> str:
    if name in result.units:
        return f"{_number(result.values[name], 1, 3)} {result.units[name]}"
    return f"{_number(result.values[name], 100, 2)} %"


def _number(value: float, scale: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{scale * value:.{digits}f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _json(content: Any) -> bytes:
    return json.dumps(null_for_nan(content), indent=2, allow_nan=False).encode()
