"""`gemkit ablate`: strategies, or latency predictions, compared on a tabular benchmark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.machine import usable_cores
from gemkit.search import ablation, table_latency
from gemkit.search.tables import check_exists

from .. import formatting
from ..report import plots
from ..terminal.progress import bar


def strategies(
    table: Path,
    metric: str,
    out: Path,
    console: Console,
    *,
    queries: int,
    seeds: int,
    names: Sequence[str],
    unique: bool,
    workers: int | None,
) -> dict[str, Any]:
    """Compare strategies on a table; figures and results go to `out`.

    What is finished is kept in `out`, so that the same command goes on after an interruption.

    Returns:
        what `--json` writes.

    Raises:
        UserError: the table cannot be read, or has no such metric.
    """
    check_exists(table)
    console.print(
        f"{len(names)} strategies, {formatting.number(seeds, 'seed')} each, "
        f"{formatting.number(queries, 'query', 'queries')} a search"
    )
    with bar(console, "searches", 1) as advance:
        found = ablation.run(
            table,
            metric,
            queries=queries,
            seeds=seeds,
            strategies=names,
            unique=unique,
            workers=workers or usable_cores(),
            results=out / "results.json",
            progress=lambda what, done, total: advance(completed=done, total=total, note=what),
        )
    drawn = found.pop("figures")
    plots.save(plots.regret_figure(drawn["curves"], found["reported"]), out / "regret.png")
    if drawn.get("correlations"):
        plots.save(plots.correlation_figure(drawn["correlations"]), out / "correlation.png")
    if drawn.get("map"):
        at = drawn["map"]
        points = [list(point) for point in zip(at["x"], at["y"], strict=True)]
        plots.save(
            plots.embedding_figure(points, at["value"], at["title"], found["metric"]),
            out / "map.png",
        )
    written = [out / "results.json", *sorted(out.glob("*.png"))]
    console.print(f"results and figures: {', '.join(map(str, written))}")
    return found


def latency(
    table: Path,
    name: str,
    out: Path,
    console: Console,
    *,
    samples: int,
    seeds: int,
    unique: bool,
    workers: int | None,
) -> dict[str, Any]:
    """Predict a device's latency from few measured cells of a table.

    Returns:
        what `--json` writes.

    Raises:
        UserError: the table cannot be read, or has no such latency.
    """
    with bar(console, "fits", seeds) as advance:
        found = table_latency.latency(
            table,
            name,
            samples=samples,
            seeds=seeds,
            unique=unique,
            workers=workers or usable_cores(),
            results=out / "results-latency.json",
            progress=lambda what, done, total: advance(completed=done, total=total),
        )
    return found
