"""`make bench`: runs every side-by-side measurement and prints one table.

Each `bench_*.py` in this folder has a function `rows()` that returns `Row`s; a row compares our
figure with a reference measured in the same run. The table is also written to `build/bench.json`,
and with `--keep` to `results/bench.json`, from which docs/results.md is made.

    python tests/benchmarks/rows.py [--keep] [TOPIC ...]
"""

import importlib.util
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gemkit.machine import describe_machine, versions

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
RESULTS, KEPT = ROOT / "build" / "bench.json", ROOT / "results" / "bench.json"


@dataclass(frozen=True)
class Row:
    """One measurement beside its reference.

    Attributes:
        name: what was measured, with sample sizes.
        ours: our figure.
        reference: the other's figure in the same unit; None where the bar is absolute.
        unit: unit of both figures.
        bar: what the ratio (or, without reference, our figure) must reach; None for a goal.
        higher: whether more is better, for `ours`.
        note: what a reader should know (samples, what did not run).
    """

    name: str
    ours: float | None
    reference: float | None
    unit: str
    bar: float | None
    higher: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the reference."""
        if self.ours is None or not self.reference:
            return None
        return self.ours / self.reference if self.higher else self.reference / self.ours

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None where there is none or nothing was measured."""
        if self.bar is None or self.ours is None:
            return None
        if self.reference is not None:
            return self.ratio is not None and self.ratio >= self.bar
        return self.ours >= self.bar if self.higher else self.ours <= self.bar

    def to_json(self) -> dict[str, Any]:
        """The names that programs read."""
        return {
            "name": self.name,
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio,
            "unit": self.unit,
            "bar": self.bar,
            "holds": self.holds,
            "note": self.note,
        }


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
    sys.path.insert(0, str(FOLDER))
    # The benchmarks import Row from this file under its plain name: let both be one module.
    sys.modules["rows"] = sys.modules[__name__]
    found: list[Row] = []
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has room for the whole table
    for path in sorted(FOLDER.glob("bench_*.py")):
        topic = path.stem.removeprefix("bench_")
        if topics and topic not in topics:
            continue
        started = time.perf_counter()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
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
