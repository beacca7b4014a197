"""How every benchmark prints: a table on screen, the same rows as JSON under benchmarks/out/."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

OUTPUT = Path(__file__).resolve().parent / "out"


def measure(run: Callable[[], object], repeats: int = 20, warm_up: int = 3) -> dict[str, float]:
    """Wall and CPU time of one call in milliseconds: median and worst wall, median CPU (all threads)."""
    for _ in range(warm_up):
        run()
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        cpu.append((time.process_time() - start_cpu) * 1e3)
        wall.append((time.perf_counter() - start) * 1e3)
    return {
        "median_ms": round(statistics.median(wall), 2),
        "worst_ms": round(max(wall), 2),
        "cpu_ms": round(statistics.median(cpu), 2),
    }


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": model, "cores": os.cpu_count(), "load_1min": load, "gpu": gpu, "torch": torch.__version__}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table and write them, with the machine, to benchmarks/out/NAME.json."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    print(f"{name} on {machine()}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    OUTPUT.mkdir(exist_ok=True)
    partial = OUTPUT / f"{name}.json.part"
    partial.write_text(json.dumps({"machine": machine(), "rows": list(rows)}, indent=2))
    partial.replace(OUTPUT / f"{name}.json")
