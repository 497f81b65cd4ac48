"""Query efficiency on tabular benchmarks: the figures of docs/ablation.md.

    OMP_NUM_THREADS=1 python experiments/ablation.py [--data FOLDER] [--workers 1] [PART ...]

Parts: strategies (on ep200_cifar10_val), latency, encodings, small (tables of NAS-Bench-101 form),
tuning (every configuration tried, on ep12_cifar10_val and on the 5-vertex subspace). Every finished
search is kept in results/ablation-PART-runs.json and not done again; the figures go to
results/ablation-PART.json. As many cells as NAS-Bench-101 has: tests/benchmarks/bench_tables.py.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cell_encodings import encodings as correlations_by_encoding

from gemkit.files import write_json
from gemkit.machine import describe_machine, versions
from gemkit.search import ablation, table_latency
from gemkit.search.kept import Kept
from gemkit.search.predictor import STRUCTURE, GraphPredictor
from gemkit.search.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
NB201 = "nasbench201_cifar10.npz"
SMALL = "ecnas_nb101_5v.npz"
HARDWARE = "hw_nas_bench_cifar10.npz"
FULL = (*STRUCTURE, "embedding")

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "without the embedding": ({"groups": STRUCTURE}, {}),
    "embedding alone": ({"groups": ("embedding",)}, {}),
    "without roles": ({"roles": False}, {}),
    "plain random start": ({}, {"embedding": None}),
    "20 cells at the start": ({}, {"initial": 20}),
    "targets as they are": ({"warp": "none"}, {}),
    "stronger warp (0.1)": ({"warp": ("left", 0.1)}, {}),
    "weaker warp (1.0)": ({"warp": ("left", 1.0)}, {}),
    "upper bound": ({}, {"acquisition": lambda mean, std, best: mean + std - best}),
    "predicted mean": ({}, {"acquisition": lambda mean, std, best: mean - best}),
}
"""Configurations of NASGEM: changes of the predictor, changes of the proposal."""


def variant(path: str, metric: str, name: str, seed: int, queries: int) -> list[int]:
    """One search with a configuration; the rows it paid for."""
    at = ablation.opened(path, False, True)
    changed, options = VARIANTS[name]
    settings: dict[str, Any] = {"groups": FULL, **changed}
    predictor = GraphPredictor(embedding=at.embedding, memo=at.space.memo, **settings)
    start = options.get("embedding", at.embedding)
    options = {key: value for key, value in options.items() if key != "embedding"}
    return ablation.search(
        at.table, at.space, metric, "nasgem", seed, queries, start, predictor=predictor, **options
    )[0]


def tuning(data: Path, workers: int, runs: Path) -> dict[str, Any]:
    """Every configuration on the two tables that defaults are chosen on."""
    report: dict[str, Any] = {}
    for table, metric in ((NB201, "ep12_cifar10_val"), (SMALL, "val_acc_4ep")):
        path, seeds, queries = str(data / table), 5, 60
        kept = Kept(
            runs.with_name(f"{runs.stem}-{metric}.json"),
            {"table": table, "metric": metric, "queries": queries},
        )
        todo = [
            (f"{name}/{seed}", variant, (path, metric, name, seed, queries))
            for name in VARIANTS
            for seed in range(seeds)
        ]
        kept.complete(todo, workers, said)
        loaded = ablation.opened(path, False, True).table
        report[f"{table} {metric}"] = {
            name: ablation.summary(
                loaded, metric, [kept.found[f"{name}/{s}"] for s in range(seeds)], queries
            )[0]
            for name in VARIANTS
        }
    return report


def strategies(data: Path, workers: int, runs: Path) -> dict[str, Any]:
    """All strategies over 30 seeds on the table that is reported."""
    return without_figures(
        ablation.run(
            data / NB201,
            "ep200_cifar10_val",
            queries=150,
            seeds=30,
            strategies=STRATEGIES,
            workers=workers,
            results=runs,
            progress=said,
        )
    )


def encodings(data: Path, workers: int, runs: Path) -> dict[str, Any]:
    """What predictors see."""
    return {
        metric: correlations_by_encoding(
            data / table,
            metric,
            samples=(50, 100),
            seeds=3,
            workers=workers,
            results=runs.with_name(f"{runs.stem}-{metric}.json"),
            progress=said,
        )
        for table, metric in (
            (NB201, "ep200_cifar10_val"),
            (SMALL, "val_acc_4ep"),
            ("nasbench101_sample.npz", "val_acc_108_one_run"),
        )
    }


def latency(data: Path, workers: int, runs: Path) -> dict[str, Any]:
    """Latency of all cells from 100 of them."""
    return {
        name: table_latency.latency(
            data / HARDWARE,
            name,
            samples=100,
            seeds=30,
            workers=workers,
            results=runs.with_name(f"{runs.stem}-{name}.json"),
            progress=said,
        )
        for name in ("raspi4_latency", "edgegpu_latency")
    }


def small(data: Path, workers: int, runs: Path) -> dict[str, Any]:
    """Tables of NAS-Bench-101 form: the 5-vertex subspace, and the protocol of three runs."""
    report = {}
    for table, metric, queries in (
        (SMALL, "val_acc_4ep", 100),
        ("ecnas_nb101_4v_runs.npz", "val_acc_4ep", 40),
        ("nasbench101_runs.npz", "validation_accuracy", 30),
    ):
        report[f"{table} {metric}"] = without_figures(
            ablation.run(
                data / table,
                metric,
                queries=queries,
                seeds=5,
                strategies=("nasgem", "bo", "evolution", "local", "random"),
                samples=(20, 50, 100),
                correlation_seeds=5,
                workers=workers,
                results=runs.with_name(f"{runs.stem}-{Path(table).stem}.json"),
                progress=said,
            )
        )
    return report


def without_figures(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "figures"}


def said(what: str, done: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S')} {done}/{total} {what}", file=sys.stderr, flush=True)


PARTS: dict[str, Callable[[Path, int, Path], dict[str, Any]]] = {
    "strategies": strategies,
    "latency": latency,
    "encodings": encodings,
    "small": small,
    "tuning": tuning,
}


def main() -> int:
    """Run the parts asked for, all without arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if not given.data.is_dir():
        print(f"skipped: there is no folder {given.data} with tables (see docs/ablation.md)")
        return 0
    for part in given.parts or PARTS:
        begun = time.process_time()
        report = PARTS[part](given.data, given.workers, RESULTS / f"ablation-{part}-runs.json")
        report["cpu_seconds_of_this_call"] = round(time.process_time() - begun, 1)
        report["machine"], report["versions"] = describe_machine(), versions()
        write_json(RESULTS / f"ablation-{part}.json", report)
        print(f"results/ablation-{part}.json is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
