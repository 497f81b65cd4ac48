"""`make bench`: runs every side-by-side measurement and prints one table.

Each `bench_*.py` in this folder has a function `rows()` that returns `Row`s; a row compares our
figure with a reference measured in the same run. The table is also written to `build/bench.json`,
and with `--keep` to `results/bench.json`, from which docs/results.md is made.

    python tests/benchmarks/rows.py [--keep] [TOPIC ...]
"""

import importlib
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from row import Row

from gemkit.machine import describe_machine, versions

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
RESULTS, KEPT = ROOT / "build" / "bench.json", ROOT / "results" / "bench.json"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write(found: list[Row], path: Path) -> None:
    """Keep the rows known so far."""
    path.parent.mkdir(exist_ok=True)
    value = {
        "machine": describe_machine(),
        "versions": versions(),
        "rows": [row.to_json() for row in found],
    }
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(topics: list[str], keep: bool) -> int:
    """Run all topics, or those named, and return the number of bars that do not hold."""
    found: list[Row] = []
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has room for the whole table
    for path in sorted(FOLDER.glob("bench_*.py")):
        topic = path.stem.removeprefix("bench_")
        if topics and topic not in topics:
            continue
        started = time.perf_counter()
        module = importlib.import_module(path.stem)
        found += module.rows()
        write(found, RESULTS)
        console.print(f"{topic}: {time.perf_counter() - started:.0f} s", style="dim")
    table = Table("name", "ours", "reference", "unit", "ratio", "bar", "holds", "note")
    words = {True: "yes", False: "[red]no[/red]", None: ""}
    for row in found:
        table.add_row(
            row.name,
            _figure(row.ours),
            _figure(row.reference),
            row.unit,
            _figure(row.ratio),
            _figure(row.bar),
            words[row.holds],
            row.note,
        )
    console.print(table)
    console.print(f"written to {RESULTS.relative_to(ROOT)}")
    if keep:
        write(found, KEPT)
    return sum(row.holds is False for row in found)


if __name__ == "__main__":
    words = sys.argv[1:]
    missed = main([word for word in words if word != "--keep"], keep="--keep" in words)
    sys.exit(0 if "--keep" in words else missed)
