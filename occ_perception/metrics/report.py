"""Reports: a score together with what it means, as JSON, as a text table and as bars."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from occ_perception.files import write_whole
from occ_perception.metrics.accumulator import Accumulator, MetricLabel, MetricResult
from occ_perception.ontology import ontology_by_name
from occ_perception.viz.colors import BACKGROUND, PANEL, TEXT, TEXT_DIM, WARNING
from occ_perception.viz.drawing import MARGIN, font, stacked, text_block

_BAR_WIDTH, _ROW_HEIGHT, _NAME_WIDTH = 560, 24, 190


@dataclass(frozen=True)
class Report:
    """A score that can be quoted: every report says what was scored, in which frame, and on how many frames.

    Attributes:
        label: ontology, mask and evaluator variant.
        result: the figures.
        grid_frame: frame and moment of the grids, such as "ego frame at the LiDAR keyframe stamp".
        frames: how many were scored.
        subject: what was scored: model and weights, or a folder of predictions; and on which data.
        counters: the metric's settings and raw counters, from which everything can be computed again.
    """

    label: MetricLabel
    result: MetricResult
    grid_frame: str
    frames: int
    subject: str
    counters: Mapping[str, Any]

    @classmethod
    def of(cls, metric: Accumulator, grid_frame: str, subject: str) -> Report:
        """Report the present state of a metric."""
        return cls(metric.label, metric.compute(), grid_frame, metric.frames, subject, json.loads(metric.to_json()))

    def header(self) -> dict[str, str]:
        """What the figures mean, by name."""
        return {
            "metric": self.label.title,
            "subject": self.subject,
            "ontology": self.label.ontology,
            "mask": self.label.mask,
            "variant": self.label.variant,
            "grid frame": self.grid_frame,
            "frames": str(self.frames),
        }

    def to_json(self) -> str:
        """Everything as JSON; figures that do not exist are null, ratios are 0..1 in full precision."""
        per_class = {
            name: dict(zip(self.result.class_names, column, strict=True))
            for name, column in self.result.per_class.items()
        }
        content = {
            **self.header(),
            "frames": self.frames,
            "headline": self.result.headline,
            "values": dict(self.result.values),
            "per_class": per_class,
            "units": dict(self.result.units),
            "warnings": list(self.result.warnings),
            "counters": self.counters,
        }
        return json.dumps(null_for_nan(content), indent=2, allow_nan=False)

    def to_text(self) -> str:
        """Header, figures and one row per class; ratios in per cent with two decimals."""
        lines = [f"{name:<11} {value}" for name, value in self.header().items()]
        lines += [f"warning     {text}" for text in self.result.warnings]
        lines.append("")
        width = max(len(name) for name in self.result.values)
        lines += [f"{name:<{width}}  {self._format(name, value):>9}" for name, value in self.result.values.items()]
        lines.append("")
        columns = self.result.per_class
        table = [["class", *(f"{name} [{self._unit(name, values)}]" for name, values in columns.items())]]
        for row, class_name in enumerate(self.result.class_names):
            table.append([class_name, *(self._number(name, values[row]) for name, values in columns.items())])
        return "\n".join(lines + aligned(table)) + "\n"

    def bars(self) -> Image.Image:
        """One bar per class of the first per-class figure, in the class's colour."""
        name, values = next(iter(self.result.per_class.items()))
        width = 2 * MARGIN + _NAME_WIDTH + _BAR_WIDTH + 80
        headline = self.result.headline
        title = f"{self.label.title}: {headline} {self._format(headline, self.result.values[headline])}"
        meaning = [f"{key}: {value}" for key, value in self.header().items() if key not in ("metric", "subject")]
        paragraphs = [(title, 20, TEXT), (self.subject, 14, TEXT), (";  ".join(meaning), 13, TEXT_DIM)]
        paragraphs += [(f"warning: {text}", 13, WARNING) for text in self.result.warnings]
        paragraphs.append((f"{name} by class [{self._unit(name, values)}]", 14, TEXT))
        chart = Image.new("RGB", (width, _ROW_HEIGHT * len(values) + MARGIN), BACKGROUND)
        draw = ImageDraw.Draw(chart)
        known = [value for value in values if not math.isnan(value)]
        full = max([*known, 1e-12]) if name in self.result.units else 1.0
        colors = dict(zip(*_class_colors(self.label.ontology), strict=True))
        for row, (class_name, value) in enumerate(zip(self.result.class_names, values, strict=True)):
            self._draw_bar(draw, row, class_name, name, value, full, colors.get(class_name, TEXT_DIM))
        return stacked([text_block(width, paragraphs), chart])

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write STEM.json, STEM.txt and STEM.png, each whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        picture = io.BytesIO()
        self.bars().save(picture, format="PNG")
        contents = {"json": self.to_json().encode(), "txt": self.to_text().encode(), "png": picture.getvalue()}
        paths = [folder / f"{stem}.{suffix}" for suffix in contents]
        for path, data in zip(paths, contents.values(), strict=True):
            write_whole(path, data)
        return paths

    def _draw_bar(
        self,
        draw: ImageDraw.ImageDraw,
        row: int,
        class_name: str,
        column: str,
        value: float,
        full: float,
        color: tuple[int, int, int],
    ) -> None:
        top = row * _ROW_HEIGHT
        left = MARGIN + _NAME_WIDTH
        middle = top + _ROW_HEIGHT // 2
        draw.text((left - 10, middle), class_name, fill=TEXT, font=font(14), anchor="rm")
        draw.rectangle((left, top + 4, left + _BAR_WIDTH, top + _ROW_HEIGHT - 4), fill=PANEL)
        if math.isnan(value):
            draw.text((left + 8, middle), "not in the data", fill=TEXT_DIM, font=font(12), anchor="lm")
            return
        length = round(_BAR_WIDTH * min(value / full, 1.0))
        if length:
            draw.rectangle((left, top + 4, left + length, top + _ROW_HEIGHT - 4), fill=color)
        at = (left + _BAR_WIDTH + 8, middle)
        draw.text(at, self._number(column, value), fill=TEXT, font=font(14), anchor="lm")

    def _unit(self, name: str, values: Sequence[float]) -> str:
        return self.result.units.get(name, "count" if all(isinstance(v, int) for v in values) else "%")

    def _number(self, name: str, value: float) -> str:
        """A figure in the unit of its column, without the unit."""
        if isinstance(value, int):
            return f"{value}"
        if math.isnan(value):
            return "-"
        return f"{value:.3f}" if name in self.result.units else f"{100 * value:.2f}"

    def _format(self, name: str, value: float) -> str:
        return f"{self._number(name, value)} {self._unit(name, [value])}"


def _class_colors(ontology: str) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    label_set = ontology_by_name(ontology)
    return label_set.class_names, label_set.colors


def aligned(table: list[list[str]]) -> list[str]:
    """Rows as text: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]


def null_for_nan(value: Any) -> Any:
    """The same nested structure with None for NaN (JSON has none)."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [null_for_nan(item) for item in value]
    return value
