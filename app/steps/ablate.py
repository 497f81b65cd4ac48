"""`gemkit ablate`: strategies, or latency predictions, compared on a tabular benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.machine import usable_cores

from .. import formatting
from ..terminal.progress import bar

if TYPE_CHECKING:
    from rich.console import Console


def strategies(
    table: Path,
    metric: str,
    out: Path,
    console: "Console",
    *,
    queries: int,
    seeds: int,
    names: Sequence[str],
    unique: bool,
    workers: int | None,
) -> dict[str, Any]:
    """Compare strategies on a table; prints a table, writes figures and results to `out`.

    What is finished is kept in `out`, so that the same command goes on after an interruption.

    Returns:
        what `--json` writes.

    Raises:
        UserError: the table cannot be read, or has no such metric.
    """
    from gemkit.search import ablation
    from gemkit.search.tables import check_exists

    from ..report import plots

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
    _print_strategies(found, console)
    shown = [out / "results.json", *sorted(out.glob("*.png"))]
    console.print(f"results and figures: {', '.join(map(str, shown))}")
    return found


def _print_strategies(found: Mapping[str, Any], console: "Console") -> None:
    from ..terminal.show import table_of

    marks = [mark for mark in ("50", "100", "150", "200") if int(mark) <= found["queries"]]
    marks = marks or list(next(iter(found["strategies"].values()))["regret_after"])[-1:]
    rows = []
    for name, one in found["strategies"].items():
        median = one["median_queries_to_best"]
        rows.append(
            (
                name,
                *(_number(one["regret_after"].get(mark)) for mark in marks),
                "not found" if median is None else f"{median:g}",
                *(
                    _number((one.get("kendall_tau") or {}).get(samples), 2)
                    for samples in ("50", "100")
                ),
            )
        )
    heads = (
        "strategy",
        *(f"regret {mark}" for mark in marks),
        "queries to best",
        "tau 50",
        "tau 100",
    )
    console.print(table_of(f"{found['table']}, {found['metric']}", heads, rows))


def latency(
    table: Path,
    name: str,
    out: Path,
    console: "Console",
    *,
    samples: int,
    seeds: int,
    unique: bool,
    workers: int | None,
) -> dict[str, Any]:
    """Predict a device's latency from few measured cells of a table; prints a table.

    Returns:
        what `--json` writes.

    Raises:
        UserError: the table cannot be read, or has no such latency.
    """
    from gemkit.search import table_latency

    from ..terminal.show import table_of

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
    rows = [
        ("gemkit", _number(found["spearman"]), formatting.percent(found["within_10_percent"], 1))
    ]
    rows += [
        (model, _number(one["spearman"]), formatting.percent(one["within_10_percent"], 1))
        for model, one in found["baselines"].items()
    ]
    console.print(
        table_of(
            f"{found['table']}, {found['latency']} from {samples} cells, mean of "
            f"{formatting.number(seeds, 'seed')}",
            ("model", "Spearman", "within 10 %"),
            rows,
        )
    )
    return found


def _number(value: float | None, digits: int = 3) -> str:
    return formatting.NONE if value is None else f"{value:.{digits}f}"
