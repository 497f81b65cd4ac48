"""Search strategies and NASGEM's parts compared on the pool of `experiments/pool.py` as a table.

Writes `results/search_quality.json` and `docs/img/search-quality.png`; finished searches are
kept in `build/search_quality-CELLS.json`, so that a run that was stopped goes on.

    OMP_NUM_THREADS=1 python experiments/search_quality.py [--seeds 100] [--queries 60] [NAME ...]

A search pays for cells of the pool, `BATCH` at once, and is judged by the best accuracy it has
paid for. Random search without replacement is not drawn but computed exactly, so "as good as random
search at Q queries" has an error from the strategy's seeds alone. In the pool a mutant is a
relative (see `pool.py`: more than half of the cells descend by 1 to 4 edits from another one).

The accuracies are single short trainings and count as the truth here: a search is also asked to
find the luckiest cell, which no method can foresee. `python experiments/pool.py --noise` says how
much luck there is.
"""

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pool
from numpy.typing import NDArray
from scipy.special import gammaln

from gemkit.app.report.plots import save as save_figure
from gemkit.app.report.plots import strategies_figure
from gemkit.cell import OPERATIONS, CellArrays
from gemkit.files import write_json
from gemkit.machine import describe_machine, versions
from gemkit.search import ablation, encoder
from gemkit.search.interfaces import Candidates, Embedding, FloatArray, Graphs, Prediction
from gemkit.search.kept import Kept
from gemkit.search.predictor import STRUCTURE, GraphPredictor
from gemkit.search.strategies import STRATEGIES
from gemkit.search.tables import Table, TableSpace

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "search_quality.json"
PICTURE = ROOT / "docs" / "img" / "search-quality.png"
METRIC = "accuracy"
BATCH, INITIAL = 5, 10
FEW = {"random": 40, "mutants": 40, "crossovers": 0}
"""Candidates of a round where mutations shall matter: not the whole pool, as in a space that no
search can look at as a whole."""


class PoolSpace(TableSpace):
    """A table whose mutants are relatives: parent, children, siblings, then farther ones."""

    def __init__(self, table: Table, parents: list[int | None]) -> None:
        super().__init__(table)
        self._near: list[set[int]] = [set() for _ in parents]
        for child, parent in enumerate(parents):
            if parent is not None:
                self._near[child].add(parent)
                self._near[parent].add(child)

    def _bred(
        self, rng: np.random.Generator, parents: Candidates, count: int, crossed: bool
    ) -> Candidates:
        origins = set(np.asarray(parents.payload).tolist())
        found: list[int] = []
        seen, edge = set(origins), set(origins)
        while edge and len(found) < count:
            for _ in range(2):  # parent and children, then siblings and the next generation
                edge = {near for row in edge for near in self._near[row]} - seen
                seen |= edge
                found += rng.permutation(sorted(edge)).tolist()
        if not found:
            found = rng.choice(len(self), size=min(count, len(self)), replace=False).tolist()
        return self.candidates(np.array(found[:count]))


@dataclass(frozen=True)
class Blind:
    """In place of a predictor: knows nothing, so every candidate is as likely as any other."""

    def __call__(self, candidates: Candidates, values: FloatArray) -> "Blind":
        del candidates
        return Blind()

    def predict(self, candidates: Candidates) -> Prediction:
        lots = np.array([zlib.crc32(key) for key in candidates.keys.tolist()]) / 2**32
        ones = np.ones(len(lots))
        return Prediction(lots, ones, lots, ones, ones, ones)

    def covariance(self, candidates: Candidates) -> FloatArray:
        return np.eye(len(candidates))


@dataclass(frozen=True)
class Opened:
    """The pool with what all searches share."""

    table: Table
    space: PoolSpace
    trained: Embedding
    untrained: Embedding


@cache
def opened(path: str, cells: int) -> Opened:
    """The first so many cells of a pool, once a process."""
    entries = pool.trained(Path(path))[:cells]
    packed = CellArrays.from_cells([pool.unpacked(entry) for entry in entries])
    graphs = Graphs(packed.operations, packed.adjacency)
    values = np.array([entry["accuracy"] for entry in entries])
    table = Table(Path(path), graphs, OPERATIONS, packed.keys(), {METRIC: values}, {})
    space = PoolSpace(table, [entry["parent"] for entry in entries])

    def by(network: encoder.GraphEncoder) -> Embedding:
        def embedding(some: Graphs) -> NDArray[np.float32]:
            return encoder.embed(network, some.labels, some.adjacency)

        return embedding

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    untrained = encoder.GraphEncoder(encoder.EncoderConfig()).eval()
    return Opened(table, space, by(encoder.default_encoder()), by(untrained))


def _with(
    *groups: str, trained: bool = True, start: bool = True, roles: bool = False, **options: Any
) -> Any:
    """NASGEM whose predictor sees these groups; `start`: whether the first round is spread out."""

    def made(at: Opened) -> tuple[str, Embedding | None, dict[str, Any]]:
        embedding = at.trained if trained else at.untrained
        predictor = GraphPredictor(groups, embedding, at.space.memo, roles)
        return "nasgem", embedding if start else None, {"predictor": predictor, **options}

    return made


FULL = (*STRUCTURE, "embedding")
VARIANTS: dict[str, Callable[[Opened], tuple[str, Embedding | None, dict[str, Any]]]] = {
    "without the encoder (structure alone)": _with(*STRUCTURE, start=False),
    "without the encoder (flat features)": _with("flat", start=False),
    "without the WL term (untrained encoder)": _with(*FULL, trained=False),
    "encoder alone": _with("embedding"),
    "encoder alone, without the WL term": _with("embedding", trained=False),
    "plain random start": _with(*FULL, start=False),
    "roles of operations learned": _with(*FULL, roles=True),
    "few candidates": _with(*FULL, **FEW),
    "few candidates, without mutations": _with(*FULL, random=80, mutants=0, crossovers=0),
    "few candidates, without the predictor": lambda at: (
        "nasgem",
        at.trained,
        {"predictor": Blind(), **FEW},
    ),
}
"""NASGEM without a part. The whole pool is a round's candidates but for "few candidates"."""


def searched(path: str, cells: int, name: str, seed: int, queries: int) -> list[int]:
    """The rows that one search paid for."""
    at = opened(path, cells)
    # As in `gemkit search`: no operation of this space is dead or a wire.
    base, embedding, options = name, at.trained, dict[str, Any](roles=False)
    if name in VARIANTS:
        base, embedding, options = VARIANTS[name](at)  # type: ignore[assignment]
    if base != "random":
        options["initial"] = INITIAL
    return ablation.search(
        at.table, at.space, METRIC, base, seed, queries, embedding, BATCH, **options
    )[0]


def random_curve(values: FloatArray) -> FloatArray:
    """Expected best of 1, 2, ..., n values drawn without replacement."""
    ordered, total = np.sort(values), len(values)
    rank = np.arange(1, total + 1)
    found = []
    for drawn in range(1, total + 1):
        some = rank >= drawn
        # The best has rank r: the others are drawn from the r - 1 below.
        log = (
            gammaln(rank[some])
            - gammaln(drawn)
            - gammaln(rank[some] - drawn + 1)
            - (gammaln(total + 1) - gammaln(drawn + 1) - gammaln(total - drawn + 1))
        )
        found.append(float((np.exp(log) * ordered[some]).sum()))
    return np.array(found)


def curves(values: FloatArray, rows: list[list[int]], queries: int) -> FloatArray:
    """Best value after every query (searches, queries)."""
    best = [np.maximum.accumulate(values[np.array(one)])[:queries] for one in rows]
    return np.array([np.pad(b, (0, queries - len(b)), mode="edge") for b in best])


def judged(
    found: FloatArray, full: FloatArray | None, luck: FloatArray, at: list[int]
) -> dict[str, Any]:
    """A strategy's figures: mean best, how much random search would need, against all parts."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(found), size=(2000, len(found)))
    report: dict[str, Any] = {"seeds": len(found), "after": {}}

    def interval(sample: FloatArray) -> list[float]:
        return [float(q) for q in np.quantile(sample, [0.025, 0.975])]

    def needed(mean: FloatArray) -> FloatArray:
        return np.interp(mean, luck, np.arange(1, len(luck) + 1))

    for query in at:
        best = found[:, query - 1]
        means = best[draws].mean(axis=1)
        twice = float(luck[min(2 * query, len(luck)) - 1])
        entry = {
            "best": float(best.mean()),
            "best_interval": interval(means),
            "random_at_twice": twice,
            "above_random_at_twice": float(best.mean()) - twice,
            "above_random_at_twice_interval": interval(means - twice),
            "random_needs": float(needed(np.array([best.mean()]))[0]),
            "random_needs_interval": interval(needed(means)),
        }
        if full is not None:
            lost = full[:, query - 1] - best
            entry["lost"] = float(lost.mean())
            entry["lost_interval"] = interval(lost[draws].mean(axis=1))
        report["after"][str(query)] = entry
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="strategies and variants (default: all)")
    parser.add_argument("--pool", type=Path, default=pool.RESULTS)
    parser.add_argument("--cells", type=int, help="the first so many (default: all in tens)")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.pool.exists():
        print(f"skipped: {options.pool} is not there, make it with experiments/pool.py")
        return
    entries = pool.trained(options.pool)
    cells = options.cells or len(entries) - len(entries) % 10
    queries = min(options.queries, cells // 2)
    names = options.names or [*(n for n in STRATEGIES if n != "random"), *VARIANTS]
    content = "".join(f"{entry['key']}{entry['accuracy']}" for entry in entries[:cells])
    settings = {"cells": cells, "queries": queries, "pool": zlib.crc32(content.encode())}
    kept = Kept(ROOT / "build" / f"search_quality-{cells}.json", settings)
    todo = [
        (f"{name}/{seed}", searched, (str(options.pool), cells, name, seed, queries))
        for name in names
        for seed in range(options.seeds)
    ]

    def said(what: str, done: int, total: int) -> None:
        if done % 50 == 0:
            print(f"{done}/{total} {what}", flush=True)

    kept.complete(todo, options.workers, said)
    values = np.array([entry["accuracy"] for entry in entries[:cells]])
    luck = random_curve(values)
    at = [q for q in (10, 15, 20, 30, 40, 60, 80, 100) if q <= queries]
    found = {
        name: curves(values, [kept.found[f"{name}/{s}"] for s in range(options.seeds)], queries)
        for name in names
    }
    report = {
        "cells": cells,
        "best": float(values.max()),
        "mean": float(values.mean()),
        "noise": pool.noise(entries[:cells]),
        "batch": BATCH,
        "initial": INITIAL,
        "random": {str(q): float(luck[q - 1]) for q in (*at, 2 * at[-1]) if q <= cells},
        "strategies": {},
        "machine": describe_machine(),
        "versions": versions(),
    }
    for name in names:
        whole = "few candidates" if name.startswith("few candidates,") else "nasgem"
        full = found.get(whole) if name in VARIANTS and name != whole else None
        report["strategies"][name] = judged(found[name], full, luck, at)
    write_json(options.out, report)
    print(f"{cells} cells, best {values.max():.4f}, mean {values.mean():.4f}")
    for query in at:
        print(f"after {query}: random {luck[query - 1]:.4f}, at {2 * query}: "
              f"{luck[min(2 * query, cells) - 1]:.4f}")  # fmt: skip
        for name in names:
            one = report["strategies"][name]["after"][str(query)]
            low, high = one["random_needs_interval"]
            lost = ""
            if "lost" in one:
                least, most = one["lost_interval"]
                lost = f", lost {one['lost']:+.4f} ({least:+.4f} to {most:+.4f})"
            print(f"  {name:42} {one['best']:.4f} = random at {one['random_needs']:.0f} "
                  f"({low:.0f} to {high:.0f}){lost}")  # fmt: skip
    drawn = [name for name in names if name not in VARIANTS]
    shown = {name: _band(found[name]) for name in drawn}
    shown["random"] = _band(luck[None, :queries].repeat(2, axis=0))
    save_figure(
        strategies_figure(
            shown, f"Best of {cells} thirty-node cells found so far", "accuracy (CIFAR-10 proxy)"
        ),
        PICTURE if options.out == RESULTS else options.out.with_suffix(".png"),
    )


def _band(found: FloatArray) -> dict[str, list[float]]:
    low, high = ablation.interval(found)
    return {
        "queries": list(range(1, found.shape[1] + 1)),
        "best": found.mean(axis=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


if __name__ == "__main__":
    main()
