"""What `gemkit compare` and `gemkit ablate` print."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from .. import formatting
from ..comparison import Comparison
from ..report import comparison
from .tables import table_of


def print_comparison(result: Comparison, console: Console) -> None:
    """Print the networks of a comparison, and how their figures are to be read."""
    rows = comparison.table_rows(result)
    console.print(table_of("accuracy on the test set", comparison.HEADS, rows))
    console.print(comparison.notes(result))


def print_strategies(found: Mapping[str, Any], console: Console) -> None:
    """Print how well the strategies of an ablation searched."""
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


def print_latency_predictions(found: Mapping[str, Any], console: Console) -> None:
    """Print how well a table's latency is predicted from few of its cells."""
    rows = [
        ("gemkit", _number(found["spearman"]), formatting.percent(found["within_10_percent"], 1))
    ]
    rows += [
        (model, _number(one["spearman"]), formatting.percent(one["within_10_percent"], 1))
        for model, one in found["baselines"].items()
    ]
    console.print(
        table_of(
            f"{found['table']}, {found['latency']} from {found['samples']} cells, mean of "
            f"{formatting.number(found['seeds'], 'seed')}",
            ("model", "Spearman", "within 10 %"),
            rows,
        )
    )


def _number(value: float | None, digits: int = 3) -> str:
    return formatting.NONE if value is None else f"{value:.{digits}f}"
