"""Tables (standard output) and figures (docs/img/ablation-*.png) of docs/ablation.md from results/.

    python experiments/ablation_report.py [--data FOLDER]

Computes nothing anew but the embedding map; parts without results are left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gemkit.app.report import plots
from gemkit.search import ablation

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "results", ROOT / "docs"


def read(part: str) -> dict[str, Any]:
    """Results of a part, empty where there are none."""
    path = RESULTS / f"ablation-{part}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def table(heads: list[str], rows: list[list[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def strategy_table(report: dict[str, Any], marks: list[str], digits: int) -> None:
    """One row a strategy: regrets with intervals, queries to the best, Kendall's tau."""
    rows = []
    for name, one in report["strategies"].items():
        cells = []
        for mark in marks:
            low, high = one["regret_after_interval"].get(mark, (None, None))
            value = one["regret_after"].get(mark)
            text = (
                "" if value is None else f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
            )
            cells.append(text)
        median = one["median_queries_to_best"]
        found = (
            f"{'not found' if median is None else f'{median:g}'} ({one['found']}/{report['seeds']})"
        )
        taus = [
            f"{one['kendall_tau'][n]:.2f}" if n in one["kendall_tau"] else "" for n in ("50", "100")
        ]
        rows.append([name, *cells, found, *taus])
    heads = ["strategy", *(f"regret {m}" for m in marks), "queries to best", "tau 50", "tau 100"]
    table(heads, rows)


def print_tables() -> None:
    """All tables there are results for."""
    if report := read("strategies"):
        marks = ["20", "50", "100", "150"]
        print(f"{report['table']}, {report['metric']}, {report['seeds']} seeds\n")
        strategy_table(report, marks, 3)
        one = report["strategies"]["nasgem"]
        print("predictor\n")
        keys = ("kendall_tau", "spearman", "coverage")
        table(
            ["cells measured", "Kendall tau", "Spearman", "coverage of the 90 % interval"],
            [[n, *(f"{one[key][n]:.3f}" for key in keys)] for n in one["kendall_tau"]],
        )
    for name, report in read("small").items():
        if isinstance(report, dict) and "strategies" in report:
            marks = [m for m in ("10", "20", "30", "50", "100") if int(m) <= report["queries"]]
            print(
                f"{name}: {report['cells']} cells, {report['seeds']} seeds, {report['protocol']}\n"
            )
            strategy_table(report, marks, 4)
    for metric, report in read("encodings").items():
        if isinstance(report, dict) and "encodings" in report:
            print(f"{report['table']}, {metric}\n")
            counts = list(next(iter(report["encodings"].values()))["kendall_tau"])
            table(
                [
                    "what the predictor sees",
                    *(f"tau {n}" for n in counts),
                    *(f"coverage {n}" for n in counts),
                ],
                [
                    [
                        name,
                        *(f"{one['kendall_tau'][n]:.3f}" for n in counts),
                        *(f"{one['coverage'][n]:.2f}" for n in counts),
                    ]
                    for name, one in report["encodings"].items()
                ],
            )
    for where, report in read("tuning").items():
        if isinstance(report, dict) and "default" in report:
            print(f"{where}\n")
            marks = ["20", "40", "60"]
            table(
                ["configuration", *(f"regret {m}" for m in marks), "queries to best"],
                [
                    [
                        name,
                        *(f"{one['regret_after'][m]:.3f}" for m in marks),
                        f"{one['median_queries_to_best'] or 'not found'} "
                        f"({one['found']}/{len(one['queries_to_best'])})",
                    ]
                    for name, one in report.items()
                ],
            )
    for name, report in read("latency").items():
        if isinstance(report, dict) and "baselines" in report:
            rows = [["gemkit", report["spearman"], report["within_10_percent"]]]
            rows += [
                [m, b["spearman"], b["within_10_percent"]] for m, b in report["baselines"].items()
            ]
            print(f"{name}, {report['samples']} cells, {report['seeds']} seeds\n")
            table(
                ["model", "Spearman", "within 10 %"],
                [[str(m), f"{rho:.3f}", f"{100 * share:.1f} %"] for m, rho, share in rows],
            )
            low, high = report["spearman_interval"]
            print(f"interval of Spearman {low:.4f}-{high:.4f}, coverage {report['coverage']:.3f}\n")
    if full := read("fullsize"):
        table(
            ["what", "value"], [[k, str(v)] for k, v in full.items() if isinstance(v, int | float)]
        )


def draw(data: Path) -> None:
    """Regret curves, correlations and the embedding map."""
    report, path = read("strategies"), data / "nasbench201_cifar10.npz"
    if not report:
        return
    drawn = ablation.run(
        path,
        report["metric"],
        queries=report["queries"],
        seeds=report["seeds"],
        strategies=tuple(report["strategies"]),
        results=RESULTS / "ablation-strategies-runs.json",
    )["figures"]
    plots.save(
        plots.regret_figure(drawn["curves"], f"{report['metric']}, points"),
        DOCS / "img" / "ablation-regret.png",
    )
    plots.save(
        plots.correlation_figure(drawn["correlations"]), DOCS / "img" / "ablation-correlation.png"
    )
    at = drawn["map"]
    points = [list(point) for point in zip(at["x"], at["y"], strict=True)]
    picture = plots.embedding_figure(points, at["value"], at["title"], report["metric"])
    plots.save(picture, DOCS / "img" / "ablation-map.png")


def main() -> int:
    """Print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    given = parser.parse_args()
    print_tables()
    if given.data.is_dir():
        draw(given.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
